"""J and F against AVSBench's definitions written out pixel count by pixel count."""

import numpy as np
import pytest
import torch

from transavs.evaluation.metrics import clip_fscore, clip_jaccard


def slow_jaccard(scores: np.ndarray, masks: np.ndarray) -> float:
    values = []
    for score, mask in zip(scores, masks, strict=True):
        predicted, target = score > 0.5, mask > 0
        if target.sum() == 0:
            values.append((~predicted & ~target).sum() / (target.size + 1e-7))
        else:
            values.append((predicted & target).sum() / ((predicted | target).sum() + 1e-7))
    return float(np.mean(values))


def slow_fscore(scores: np.ndarray, masks: np.ndarray) -> float:
    curves = []
    for score, mask in zip(scores, masks, strict=True):
        if mask.sum() == 0:
            continue
        curve = []
        for threshold in np.linspace(0, 1 - 1e-10, 255).astype(np.float32):
            predicted = score >= threshold
            hits = (predicted & (mask > 0)).sum()
            precision, recall = hits / (predicted.sum() + 1e-20), hits / ((mask > 0).sum() + 1e-20)
            value = 1.3 * precision * recall / (0.3 * precision + recall) if precision + recall else 0.0
            curve.append(value)
        curves.append(curve)
    return float(np.mean(curves, axis=0).max()) if curves else 0.0


@pytest.mark.parametrize("seed", range(8))
def test_equal_the_slow_definitions(seed: int):
    rng = np.random.default_rng(seed)
    scores = rng.random((5, 9, 7)).astype(np.float32)
    # Scores that sit on a threshold are where >= and > differ.
    scores[:, :3] = rng.choice(np.linspace(0, 1 - 1e-10, 255).astype(np.float32), (5, 3, 7))
    masks = rng.random((5, 9, 7)) < rng.choice([0.0, 0.3, 1.0], (5, 1, 1))
    scores, target = torch.from_numpy(scores), torch.from_numpy(masks)
    assert clip_jaccard(scores, target) == pytest.approx(slow_jaccard(scores.numpy(), masks), abs=1e-9)
    assert clip_fscore(scores, target) == pytest.approx(slow_fscore(scores.numpy(), masks), abs=1e-9)


def test_known_cases():
    masks = torch.zeros(2, 4, 4, dtype=torch.int64)
    masks[0, :2] = 1
    perfect = masks.float()
    assert clip_jaccard(perfect, masks) == pytest.approx(1, abs=1e-6)
    assert clip_fscore(perfect, masks) == pytest.approx(1, abs=1e-6)
    # Half of the empty frame predicted: half a point there; everything predicted in the other: 8 / 16.
    scores = torch.ones(2, 4, 4)
    scores[1, :2] = 0
    assert clip_jaccard(scores, masks) == pytest.approx((0.5 + 0.5) / 2, abs=1e-6)
    assert clip_jaccard(torch.zeros(2, 4, 4), masks) == pytest.approx((0 + 1) / 2, abs=1e-6)
    assert clip_fscore(perfect, torch.zeros_like(masks)) == 0


def test_mask_values_do_not_matter():
    scores, masks = torch.rand(3, 6, 6), torch.randint(0, 2, (3, 6, 6))
    assert clip_jaccard(scores, masks) == clip_jaccard(scores, masks * 255)
    assert clip_fscore(scores, masks) == clip_fscore(scores, masks * 255)
