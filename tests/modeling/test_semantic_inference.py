"""Class probabilities at full size, from the queries' classes and masks."""

import pytest
import torch
from torch.nn import functional as F

from transavs.modeling.transavs.semantic_inference import semantic_inference


def outputs(queries: int, num_classes: int, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(queries)
    masks = spread * torch.randn(2, queries, 9, 7, generator=generator)
    return torch.randn(2, queries, num_classes, generator=generator), masks


@pytest.mark.parametrize("num_classes", [2, 6])
def test_it_is_the_best_vote_of_each_class_upsampled_as_a_logarithm(num_classes: int):
    logits, masks = outputs(20, num_classes)
    confidence, classes = logits.softmax(-1).max(-1)
    votes = torch.full((2, num_classes, 9, 7), -1e4)
    for frame in range(2):
        for query in range(20):
            vote = (confidence[frame, query] * masks[frame, query].sigmoid()).log()
            number = classes[frame, query]
            votes[frame, number] = torch.maximum(votes[frame, number], vote)
    upsampled = torch.stack([F.interpolate(v[None], (36, 28), mode="bilinear")[0] for v in votes]).exp()
    found = semantic_inference(logits, masks, (36, 28))
    torch.testing.assert_close(found, upsampled / upsampled.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 36, 28))


def test_at_the_masks_own_size_the_winning_query_decides():
    """Eq. (14): the class of the query whose confidence times mask is greatest, pixel by pixel."""
    logits, masks = outputs(15, 4)
    confidence, classes = logits.softmax(-1).max(-1)
    winner = (confidence[..., None, None] * masks.sigmoid()).argmax(1)
    expected = classes.gather(1, winner.flatten(1)).view_as(winner)
    assert torch.equal(semantic_inference(logits, masks, (9, 7)).argmax(1), expected)


def test_a_class_that_no_query_stands_for_has_no_share():
    logits, masks = outputs(5, 3)
    logits[..., 2] = -9
    found = semantic_inference(logits, masks, (18, 14))
    assert not found[:, 2].any()
    assert found.isfinite().all()


def test_pixels_that_no_query_covers():
    """Votes of 1e-40 still have a winner, and their ratio is the probability."""
    logits, masks = outputs(30, 2, spread=1.0)
    near = semantic_inference(logits, masks - 60, (9, 7))
    torch.testing.assert_close(near, semantic_inference(logits, masks - 50, (9, 7)), rtol=1e-3, atol=1e-4)


def test_where_every_mask_is_0_the_classes_are_even():
    logits, masks = outputs(30, 2)
    found = semantic_inference(logits, masks - 500, (18, 14))
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype):
    logits, masks = (values.to(dtype) for values in outputs(40, 6))
    plain = semantic_inference(logits.float(), masks.float(), (36, 28))
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(semantic_inference(logits, masks, (36, 28)), plain)
