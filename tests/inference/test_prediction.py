"""Masks and objects of many classes, without upsampling those that can be nowhere the best."""

import pytest
import torch
from torch.nn import functional as F

from transavs.inference.prediction import FramePrediction

NAMES = tuple(f"class {number}" for number in range(71))


def frame(spread: float) -> FramePrediction:
    generator = torch.Generator().manual_seed(0)
    coarse = spread * torch.randn(1, 71, 3, 4, generator=generator)
    coarse[:, 0] += spread  # mostly background
    probabilities = F.interpolate(coarse, (12, 16), mode="bilinear").softmax(1)[0]
    return FramePrediction(0, 0.0, -20.0, (30, 50), NAMES, probabilities)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_masks_and_objects_are_those_of_all_classes_upsampled(spread: float, threshold: float | None):
    found = frame(spread)
    full = F.interpolate(found.probabilities[None], (30, 50), mode="bilinear", align_corners=False)[0]
    sounding = (1 + full[1:].argmax(0)) * (1 - full[0] > (threshold or 0))
    expected = full.argmax(0) if threshold is None else sounding
    assert torch.equal(torch.from_numpy(found.mask(threshold)).long(), expected)
    objects = found.objects(threshold)
    assert [one.category_id for one in objects] == sorted(set(expected.flatten().tolist()) - {0})
    for one in objects:
        assert torch.equal(torch.from_numpy(one.mask), expected == one.category_id)
        assert one.name == NAMES[one.category_id]
        assert one.score == pytest.approx(full[one.category_id][expected == one.category_id].mean().item(), abs=1e-5)


def test_few_of_many_classes_are_upsampled(monkeypatch: pytest.MonkeyPatch):
    sizes = []

    def interpolate(maps: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(maps.shape[1])
        return torch.zeros(1, maps.shape[1], 30, 50)

    monkeypatch.setattr(F, "interpolate", interpolate)
    probabilities = torch.full((71, 12, 16), 1e-4)
    probabilities[0], probabilities[3] = 0.6, 0.4 - 69e-4
    FramePrediction(0, 0.0, -20.0, (30, 50), NAMES, probabilities).objects()
    assert sizes == [2]
