"""Scores at full size by looking at few queries equal those of all masks enlarged."""

from unittest.mock import Mock

import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from transavs.modeling.class_scores import class_scores, corner_weights, enlarged_class_scores, may_exceed


def reference(pred_logits: torch.Tensor, pred_masks: torch.Tensor, factor: int) -> torch.Tensor:
    size = [factor * side for side in pred_masks.shape[-2:]]
    return class_scores(pred_logits, F.interpolate(pred_masks, size=size, mode="bilinear", align_corners=False))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("num_classes", [2, 6])
@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
def test_it_equals_all_masks_enlarged(factor: int, num_classes: int, spread: float):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 40, num_classes, generator=generator)
    masks = spread * torch.randn(3, 40, 9, 7, generator=generator)
    expected = reference(logits, masks, factor)
    torch.testing.assert_close(enlarged_class_scores(logits, masks, factor), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 40, 6, generator=generator).to(dtype)
    masks = 3 * torch.randn(3, 40, 9, 7, generator=generator).to(dtype)
    plain, enlarged = class_scores(logits.float(), masks.float()), reference(logits.float(), masks.float(), 4)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(class_scores(logits, masks), plain)
        torch.testing.assert_close(enlarged_class_scores(logits, masks, 4), enlarged, rtol=0, atol=3e-5)


def test_queries_that_agree_and_queries_that_are_alone():
    masks = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1)).expand(-1, 5, -1, -1).clone()
    logits = torch.tensor([[2.0, -1], [2, -1], [2, -1], [2, -1], [-3, 1]]).expand(2, -1, -1)
    torch.testing.assert_close(enlarged_class_scores(logits, masks, 4), reference(logits, masks, 4), rtol=0, atol=3e-5)


def test_pixels_that_no_query_covers():
    """Votes of 1e-20 still have a winner, and their ratio is the score."""
    masks = -46 + torch.randn(1, 30, 5, 5, generator=torch.Generator().manual_seed(2))
    logits = torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(enlarged_class_scores(logits, masks, 4), reference(logits, masks, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("spread", [0.5, 5.0, 200.0])
def test_no_query_that_exceeds_another_at_a_pixel_is_left_out(spread: float):
    generator = torch.Generator().manual_seed(6)
    common = spread * torch.randn(4, 1, 20, 25, generator=generator)
    corners = common + torch.randn(4, 20, 20, 25, generator=generator)
    corners[:, 0] = common[:, 0] + 1  # mostly the best, not always
    confidence = 0.75 + 0.05 * torch.rand(20, generator=generator)
    marked = torch.zeros(20, 500, dtype=torch.bool)
    marked[may_exceed(list(corners), confidence, corners[:, 0], confidence[:1].expand(20, 25))] = True
    votes = torch.einsum("aqyx,ap->qyxp", corners, corner_weights(8)).sigmoid() * confidence[:, None, None, None]
    exceeds = (votes > votes[:1] * (1 + 2e-5)).any(-1).flatten(1)
    assert exceeds.any()
    assert not (exceeds & ~marked).any()
    assert spread > 100 or marked.float().mean() < 0.9  # else nothing would be saved


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_cpus_alone_take_the_short_cut(tiny_cfg, monkeypatch: pytest.MonkeyPatch, device: str):
    """Its gain is a CPU's; "meta" stands for any accelerator, none of which is here."""
    ways = {name: Mock() for name in ("class_scores", "enlarged_class_scores")}
    for name, way in ways.items():
        monkeypatch.setattr(f"transavs.modeling.transavs.{name}", way)
    logits, masks = torch.zeros(3, 5, 2, device=device), torch.zeros(3, 5, 8, 8, device=device)
    build_model(tiny_cfg).full_scores(logits, masks, (32, 32))
    assert ways["enlarged_class_scores"].called is (device == "cpu")
    assert ways["class_scores"].called is (device != "cpu")
