"""The losses against slow references that follow the paper's sums literally, gradients included."""

import pytest
import torch
from torch.nn import functional as F

from transavs.modeling.transavs.losses import (
    audio_query_distance_loss,
    audio_query_mask_loss,
    class_shares,
    dice_loss,
    focal_loss,
    one_hot_masks,
    pair_normalizer,
    query_mask_costs,
)


def slow_aqdl(queries: torch.Tensor, selected: torch.Tensor, max_distance: float, floor: float) -> torch.Tensor:
    """Eqs. (9) and (10) for one frame."""
    members = queries[selected]
    n, total = len(members), queries.sum() * 0
    for i in range(n):
        for j in range(i + 1, n):
            distance = (members[i] - members[j]).square().sum()
            if distance < max_distance:
                total = total + 1 / (distance + floor)
    return 2 / (n * (n + 1)) * total if n else total


def slow_aqml(masks: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
    """Eqs. (11) and (12) for one frame."""
    members = masks[selected]
    n, total = len(members), masks.sum() * 0
    for i in range(n):
        for j in range(i + 1, n):
            first, second = (members[i] > 0.5).float(), (members[j] > 0.5).float()
            total = total + (first * members[j] + members[i] * second).sum() / (2 * masks[0].numel())
    return 2 / (n * (n + 1)) * total if n else total


@pytest.mark.parametrize("seed", range(5))
def test_aqdl_equals_the_sum_over_pairs(seed: int):
    generator = torch.Generator().manual_seed(seed)
    queries = (0.3 * torch.randn(4, 7, 6, generator=generator)).requires_grad_()
    selected = torch.rand(4, 7, generator=generator) < 0.6
    selected[0], selected[1] = False, torch.arange(7) == 2  # n = 0 and n = 1
    fast = audio_query_distance_loss(queries, selected, max_distance=1.0, floor=0.01)
    slow = torch.stack([slow_aqdl(q, s, 1.0, 0.01) for q, s in zip(queries, selected, strict=True)])
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert fast[0] == fast[1] == 0
    assert slow[2:].sum() > 0
    gradients = [torch.autograd.grad(loss.sum(), queries)[0] for loss in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("squared_distance", [1e-6, 1e-4, 4e-3])
def test_aqdl_pushes_the_closest_pairs_apart(squared_distance: float):
    """Far from the origin, where squares of single precision cancel."""
    queries = torch.full((1, 2, 4), 30.0)
    queries[0, 1, 0] += squared_distance**0.5
    found = queries[0, 1, 0].double() - queries[0, 0, 0].double()  # the nearest that single precision has
    queries.requires_grad_()
    loss = audio_query_distance_loss(queries, torch.ones(1, 2, dtype=torch.bool), max_distance=1.0, floor=0.01)
    loss.sum().backward()
    assert loss.item() == pytest.approx(2 / (2 * 3) / (found.item() ** 2 + 0.01), rel=1e-4)
    expected = 2 / (2 * 3) * 2 * found.item() / (found.item() ** 2 + 0.01) ** 2
    assert queries.grad[0, :, 0].tolist() == pytest.approx([expected, -expected], rel=1e-3)


def test_aqdl_stays_finite_where_queries_coincide():
    queries = torch.ones(1, 3, 4, requires_grad=True)
    loss = audio_query_distance_loss(queries, torch.ones(1, 3, dtype=torch.bool), max_distance=1.0, floor=0.01)
    assert loss.item() == pytest.approx(2 / (3 * 4) * 3 / 0.01)
    loss.sum().backward()
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_aqml_equals_the_sum_over_pairs(seed: int):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(4, 6, 5, 3, generator=generator).requires_grad_()
    selected = torch.rand(4, 6, generator=generator) < 0.6
    selected[0], selected[1] = False, torch.arange(6) == 4
    fast = audio_query_mask_loss(masks, selected)
    slow = torch.stack([slow_aqml(m, s) for m, s in zip(masks, selected, strict=True)])
    torch.testing.assert_close(fast, slow)
    assert slow[2:].sum() > 0
    gradients = [torch.autograd.grad(loss.sum(), masks)[0] for loss in (fast, slow)]
    torch.testing.assert_close(*gradients)


def test_disjoint_masks_cost_nothing():
    masks = torch.zeros(1, 2, 4, 4)
    masks[0, 0, :2], masks[0, 1, 2:] = 1, 1
    everything = torch.ones(1, 2, dtype=torch.bool)
    assert audio_query_mask_loss(masks, everything).item() == 0
    masks[0, 1] = masks[0, 0]  # both on the same half: 2 / (2 * 3) * 1 / 2
    assert audio_query_mask_loss(masks, everything).item() == pytest.approx(1 / 6)


def test_the_order_of_queries_does_not_matter():
    queries, masks, selected = torch.randn(2, 8, 4), torch.rand(2, 8, 5, 5), torch.rand(2, 8) < 0.7
    order = torch.randperm(8)
    torch.testing.assert_close(
        audio_query_distance_loss(queries[:, order], selected[:, order], 9.0, 0.01),
        audio_query_distance_loss(queries, selected, 9.0, 0.01),
    )
    torch.testing.assert_close(
        audio_query_mask_loss(masks[:, order], selected[:, order]), audio_query_mask_loss(masks, selected)
    )


def test_normalizer_is_the_printed_one():
    counts = [0, 1, 2, 5]
    selected = torch.stack([torch.arange(5) < n for n in counts])
    assert pair_normalizer(selected).tolist() == pytest.approx([0, 1, 1 / 3, 2 / 30])


def test_focal_loss_is_cross_entropy_at_gamma_zero():
    logits, labels = torch.randn(3, 4, 6), torch.randint(0, 4, (3, 6))
    loss = focal_loss(logits.log_softmax(1), labels, alpha=-1, gamma=0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, reduction="none"))


def test_focal_loss_closed_form():
    probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # of classes 0 and 1, for labels 0 and 1
    loss = focal_loss(probabilities.log(), torch.tensor([0, 1]), alpha=0.25, gamma=2)
    expected = [0.75 * 0.1**2 * -torch.tensor(0.9).log(), 0.25 * 0.3**2 * -torch.tensor(0.7).log()]
    assert loss.tolist() == pytest.approx([float(value) for value in expected], rel=1e-5)


def test_dice_loss_over_present_classes():
    target = one_hot_masks(torch.tensor([[[0, 1], [1, 2]], [[0, 0], [0, 0]]]), 3)
    assert target.shape == (2, 3, 2, 2)
    assert dice_loss(target, target).tolist() == [0, 0]
    nothing = torch.zeros_like(target)
    # Class 1 has two pixels: 1 - 1 / 3; class 2 has one: 1 - 1 / 2. The second frame is background alone.
    assert dice_loss(nothing, target).tolist() == pytest.approx([(2 / 3 + 1 / 2) / 2, 0])


def test_query_mask_costs_equal_those_of_each_pair_alone():
    torch.manual_seed(0)
    masks = torch.randn(2, 3, 5, 4, requires_grad=True)
    regions = (torch.rand(2, 2, 5, 4) > 0.5).float()
    found = query_mask_costs(masks, regions, gamma=2.0)
    expected = [torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)]
    for f in range(2):
        for n in range(3):
            for r in range(2):
                p, t = masks[f, n].sigmoid(), regions[f, r]
                right = torch.where(t > 0, p, 1 - p)
                expected[0][f, n, r] = ((1 - right) ** 2 * -right.log()).mean()
                expected[1][f, n, r] = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(sum(c.square().sum() for c in costs), masks)[0] for costs in (found, expected)]
    torch.testing.assert_close(*gradients)
    extreme = query_mask_costs(torch.full((1, 1, 2, 2), -200.0, requires_grad=True), torch.ones(1, 1, 2, 2), gamma=2.0)
    assert all(cost.isfinite().all() for cost in extreme)


@pytest.mark.parametrize(
    ("pixels", "cells"), [((32, 48), (8, 12)), ((21, 30), (6, 8)), ((7, 5), (9, 5)), ((4, 4), (1, 1))]
)
def test_class_shares_are_adaptive_means_of_one_hot_masks(pixels: tuple[int, int], cells: tuple[int, int]):
    """At sizes that divide and sizes that do not; pixels of ids beyond the classes belong to none."""
    classes = 5
    masks = torch.randint(classes, (3, *pixels), generator=torch.Generator().manual_seed(0))
    masks[1, :2, :3], masks[2, 0, 0] = 255, classes
    one_hot = torch.stack([(masks == number).float() for number in range(classes)], 1)
    torch.testing.assert_close(class_shares(masks, classes, cells), F.adaptive_avg_pool2d(one_hot, cells))
