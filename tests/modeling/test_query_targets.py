"""The rules that say what each query is asked for, on scenes small enough to decide by hand."""

import itertools

import pytest
import torch

from transavs import AVSInputError
from transavs.modeling.transavs.criterion import AVSCriterion, SegmentationLosses
from transavs.modeling.transavs.query_targets import QUERY_TARGETS, QueryTargets, TargetInputs, deal_queries

SIZE = 8
LEFT, RIGHT = (slice(0, 4), slice(0, 3)), (slice(2, 6), slice(6, 8))  # rows and columns of two objects


def region(*boxes: tuple[slice, slice]) -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE)
    for box in boxes:
        mask[box] = 1
    return mask


def make_inputs(masks: list[torch.Tensor], sounding: list[float] | None = None) -> TargetInputs:
    """One frame of two classes with the objects LEFT and RIGHT, and an object slot that it lacks."""
    p = torch.tensor([sounding or [0.5] * len(masks)])
    truth = region(LEFT, RIGHT)
    return TargetInputs(
        probabilities=torch.stack([1 - p, p], -1),
        masks=torch.stack(masks)[None],
        shares=torch.stack([1 - truth, truth])[None],
        objects=torch.stack([region(LEFT), region(RIGHT), region()])[None],
        object_classes=torch.tensor([[1, 1, 0]]),
    )


def decide(rule: str, inputs: TargetInputs, queries_per_object: int = 1) -> tuple[list[int], list[list[int]]]:
    """Labels, and by query the regions that it should cover."""
    targets: QueryTargets = QUERY_TARGETS[rule](inputs, queries_per_object)
    labels = targets.labels[0].tolist()
    if targets.chosen is None:
        return labels, [[] for _ in labels]
    return labels, [row.nonzero().flatten().tolist() for row in targets.chosen[0]]


EVERYWHERE = torch.full((SIZE, SIZE), 0.5)
SILENT = region((slice(6, 8), slice(0, 4)))


def test_majority_and_density_differ_on_a_query_that_covers_everything_and_a_little_more_of_what_sounds():
    leaning = EVERYWHERE + 0.1 * region(LEFT, RIGHT)
    inputs = make_inputs([leaning, SILENT, region(LEFT)])
    assert decide("majority", inputs)[0] == [0, 0, 1]
    assert decide("density", inputs)[0] == [1, 0, 1]


def test_density_gives_no_query_a_class_that_is_not_there():
    inputs = make_inputs([EVERYWHERE, SILENT])
    empty = torch.stack([torch.ones(SIZE, SIZE), torch.zeros(SIZE, SIZE)])[None]
    silent = TargetInputs(
        inputs.probabilities, inputs.masks, empty, torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 3).long()
    )
    for rule in ("majority", "density", "nearest", "object"):
        assert decide(rule, silent) == ([0, 0], [[], []])
    labels, regions = decide("fixed", silent)
    assert (labels, regions) == ([0, 0], [[0], []])


def test_nearest_sends_each_sounding_query_to_the_object_most_like_it():
    mostly_right = 0.9 * region(RIGHT) + 0.3 * region(LEFT)
    labels, regions = decide("nearest", make_inputs([region(LEFT), mostly_right, SILENT, region(RIGHT)]))
    assert labels == [1, 1, 0, 1]
    assert regions == [[0], [1], [], [1]]


def test_object_gives_each_object_its_best_queries_and_no_query_to_two():
    half_left = region((slice(0, 2), slice(0, 3)))
    both = region(LEFT, RIGHT)
    inputs = make_inputs([half_left, region(LEFT), SILENT, both])
    labels, regions = decide("object", inputs, queries_per_object=1)
    assert (labels, regions) == ([1, 1, 1, 1], [[], [0], [1], []])  # most of the first and last lie on what sounds
    labels, regions = decide("object", inputs, queries_per_object=2)
    assert (labels, regions) == ([1, 1, 1, 1], [[0], [0], [1], [1]])


def test_object_gives_queries_to_an_object_that_no_query_draws_yet():
    """Four confident queries on one disc, and four unsure ones on nothing: the other disc gets its share of them."""
    sure, unsure = [region(LEFT)] * 4, [0.1 * SILENT] * 4
    regions = decide("object", make_inputs([*sure, *unsure], [0.9] * 4 + [0.4] * 4), queries_per_object=3)[1]
    assert [sum(index in taken for taken in regions) for index in (0, 1)] == [3, 3]
    assert all(0 in taken for taken in regions[:3])


@pytest.mark.parametrize("queries", [3, 7, 20])
def test_queries_are_dealt_as_by_hand(queries: int):
    """Against loops; with too few queries every object has one before any has two."""
    generator = torch.Generator().manual_seed(queries)
    score = torch.rand(6, queries, 4, generator=generator)
    present = torch.rand(6, 4, generator=generator) < 0.7
    present[0], present[1] = False, True
    chosen = deal_queries(score, present, queries_per_object=3)
    for values, here, found in zip(score, present, chosen, strict=True):
        free, expected = set(range(queries)), torch.zeros(queries, 4, dtype=torch.bool)
        for _ in range(3):
            waiting = {index for index in range(4) if here[index]}
            while waiting and free:
                query, index = max(itertools.product(free, waiting), key=lambda pair: values[pair].item())
                expected[query, index] = True
                free.remove(query)
                waiting.remove(index)
        assert torch.equal(found, expected)
    assert sorted(chosen[1].sum(0).tolist()) == {3: [0, 1, 1, 1], 7: [1, 2, 2, 2], 20: [3, 3, 3, 3]}[queries]


def test_object_prefers_queries_that_are_sure_of_the_class():
    alike = [region(LEFT), region(LEFT), region(RIGHT)]
    assert decide("object", make_inputs(alike, [0.2, 0.9, 0.5]))[1] == [[], [0], [1]]
    assert decide("object", make_inputs(alike, [0.9, 0.2, 0.5]))[1] == [[0], [], [1]]


def test_fixed_gives_query_i_class_i_mod_k():
    labels, regions = decide("fixed", make_inputs([SILENT, SILENT, region(LEFT), SILENT, SILENT]))
    assert labels == [0, 1, 0, 1, 0]
    assert regions == [[0], [1], [0], [1], [0]]
    with pytest.raises(AVSInputError, match=r"NUM_OBJECT_QUERIES is 1 and .* 2 classes"):
        decide("fixed", make_inputs([SILENT]))


@pytest.mark.parametrize("rule", sorted(QUERY_TARGETS))
@pytest.mark.parametrize("filling", ["nothing", "everything", "two objects"])
def test_every_rule_trains_queries_towards_the_truth(rule: str, filling: str):
    """Free logits and masks, stepped along the gradient, end with losses well below those at the start."""
    torch.manual_seed(0)
    names = ("ce", "mask", "dice", "query_mask", "query_dice", "aqdl", "aqml")
    criterion = AVSCriterion(
        segmentation=SegmentationLosses(
            query_target=rule, queries_per_object=2, focal_alpha=-1.0, focal_gamma=2.0, sharpness=8.0
        ),
        hidden_dim=4,
        num_classes=2,
        max_objects=3,
        loss_stride=2,
        weights={f"loss_{name}": 1.0 for name in names},
        aqdl_threshold=0.55,
        aqml_threshold=0.55,
        aqdl_distance=1.0,
        aqdl_floor=0.01,
    )
    objects = {"nothing": 0 * region(), "everything": torch.ones(SIZE, SIZE)}.get(
        filling, region(LEFT) + 2 * region(RIGHT)
    )
    objects = objects.long().repeat_interleave(4, 0).repeat_interleave(4, 1)[None]
    outputs = {
        "audio_queries": torch.randn(1, 6, 4),
        "pred_logits": torch.randn(1, 6, 2, requires_grad=True),
        "pred_masks": torch.randn(1, 6, SIZE, SIZE, requires_grad=True),
    }
    optimizer = torch.optim.Adam([outputs["pred_logits"], outputs["pred_masks"]], lr=0.2)
    totals = []
    for _ in range(60):
        losses = criterion(outputs, (objects > 0).long(), objects)
        totals.append((losses["loss_mask"] + losses["loss_dice"]).item())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(value.isfinite() for value in losses.values())
    assert totals[-1] < 0.2 * totals[0]
