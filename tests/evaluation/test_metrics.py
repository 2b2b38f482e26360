"""J and F against AVSBench's definitions written out pixel count by pixel count."""

import numpy as np
import pytest
import torch

from transavs.evaluation.metrics import (
    clip_fscore,
    clip_jaccard,
    count_pixels,
    dataset_scores,
    frame_fscore,
    fscore_curves,
    harmonic_mean,
    semantic_frame_scores,
)


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


def slow_semantic(pred: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    sums = np.zeros((3, num_classes))
    for p, t in zip(pred, target, strict=True):
        for c in range(num_classes):
            hits, predicted, true = ((p == c) & (t == c)).sum(), (p == c).sum(), (t == c).sum()
            if predicted + true == 0:
                continue
            precision, recall = hits / predicted if predicted else np.nan, hits / true if true else np.nan
            with np.errstate(invalid="ignore"):
                fscore = 1.3 * precision * recall / (0.3 * precision + recall)
            sums[:, c] += hits / (predicted + true - hits + 2.2e-16), np.nan_to_num(fscore), 1
    return sums


def random_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true ids below 6, of which 5 never occurs."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 4, (6, 5, 7))
    pred = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 5, target.shape))
    pred[0], target[1], pred[2] = 3, 0, target[2]
    return pred, target


@pytest.mark.parametrize("seed", range(4))
def test_semantic_scores_equal_the_protocol_written_out(seed: int):
    pred, target = random_classes(seed)
    areas = count_pixels(torch.from_numpy(pred), torch.from_numpy(target), 6)
    found = semantic_frame_scores(areas)
    np.testing.assert_allclose(found.numpy(), slow_semantic(pred, target, 6), rtol=1e-9, atol=1e-12)
    halves = [semantic_frame_scores(areas[:, part]) for part in (slice(0, 2), slice(2, 6))]
    np.testing.assert_allclose(sum(halves).numpy(), found.numpy(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_dataset_scores_come_from_one_confusion_matrix(seed: int):
    pred, target = random_classes(seed)
    confusion = np.zeros((6, 6))
    for p, t in zip(pred.flat, target.flat, strict=True):
        confusion[t, p] += 1
    ious, fscores = [], []
    for c in range(6):
        predicted, true, hits = confusion[:, c].sum(), confusion[c].sum(), confusion[c, c]
        if predicted + true:
            ious.append(hits / (predicted + true - hits))
            precision, recall = hits / predicted if predicted else 0, hits / true if true else 0
            fscores.append(1.3 * precision * recall / (0.3 * precision + recall) if hits else 0)
    assert len(ious) == 5
    found = dataset_scores(count_pixels(torch.from_numpy(pred), torch.from_numpy(target), 6).sum(1))
    assert found == pytest.approx((np.mean(ious), np.mean(fscores)), abs=1e-12)


def test_fscore_of_a_decision_is_one_point_of_the_curve():
    """Scores of 0 and 1 give the decision's F at every threshold but the first, at which all is predicted."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 7, 8, generator=generator) < 0.3
    masks[2] = False
    predicted = masks ^ (torch.rand(6, 7, 8, generator=generator) < 0.2)
    predicted[4] = False
    found, curves = frame_fscore(predicted, masks), fscore_curves(predicted.float(), masks)
    assert found.isnan().tolist() == [False, False, True, False, False, False]
    torch.testing.assert_close(curves[:, 1:], found[~found.isnan()][:, None].expand(-1, curves.shape[1] - 1))
    assert found[4] == 0


@pytest.mark.parametrize(("positive", "negative", "expected"), [(80, 0, 800 / 9), (86.2, 86.2, 23.79), (0, 100, 0)])
def test_harmonic_mean(positive: float, negative: float, expected: float):
    assert harmonic_mean(positive, negative) == pytest.approx(expected, abs=5e-3)
