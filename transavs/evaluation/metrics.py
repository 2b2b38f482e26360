"""J and F as AVSBench defines them, as pure functions on tensors.

Shape legend: T frames of a clip, H x W pixels. Both functions take the clip as the batch over which AVSBench's own
code averages; so the mean over clips does not depend on how an evaluation batches them.
"""

import torch
from torch import Tensor

BETA_SQUARED = 0.3
NUM_THRESHOLDS = 255
THRESHOLD = 0.5
UNION_EPSILON = 1e-7
COUNT_EPSILON = 1e-20


def clip_jaccard(scores: Tensor, masks: Tensor) -> float:
    """Mean over frames of intersection over union at a threshold of 0.5 (AVSBench's M_J with one clip per batch).

    A frame whose ground truth is empty scores the share of its pixels that are predicted background.

    Args:
        scores: (T, H, W) in [0, 1].
        masks: (T, H, W), not 0 where an object sounds.

    Returns:
        a value in [0, 1].
    """
    predicted, target = (scores > THRESHOLD).flatten(1), (masks != 0).flatten(1)
    intersection = (predicted & target).sum(1).double()
    union = (predicted | target).sum(1).double()
    empty = ~target.any(1)
    intersection = torch.where(empty, (~predicted).sum(1).double(), intersection)
    union = torch.where(empty, torch.full_like(union, target.shape[1]), union)
    return (intersection / (union + UNION_EPSILON)).mean().item()


def clip_fscore(scores: Tensor, masks: Tensor) -> float:
    """Maximum over 255 thresholds of the mean F-measure of the frames (AVSBench's M_F with one clip per batch).

    beta^2 = 0.3. Frames whose ground truth is empty are left out; a clip of such frames alone scores 0, as in
    AVSBench's code.

    Args:
        scores: (T, H, W) in [0, 1].
        masks: (T, H, W), not 0 where an object sounds.

    Returns:
        a value in [0, 1].
    """
    target = (masks != 0).flatten(1)
    kept = target.any(1)
    if not kept.any():
        return 0.0
    scores, target = scores.flatten(1)[kept].float(), target[kept]
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS, device=scores.device)
    # A pixel is predicted at the first `level` thresholds, those not above its score; one histogram of levels and a
    # sum from the right count the predicted pixels at every threshold.
    level = torch.bucketize(scores, thresholds, right=True)
    counts = torch.zeros(2, len(scores), NUM_THRESHOLDS + 1, dtype=torch.float64, device=scores.device)
    counts[0].scatter_add_(1, level, torch.ones_like(level, dtype=torch.float64))
    counts[1].scatter_add_(1, level, target.double())
    predicted, hits = counts.flip(2).cumsum(2).flip(2)[..., 1:]
    precision = hits / (predicted + COUNT_EPSILON)
    recall = hits / (target.sum(1, keepdim=True) + COUNT_EPSILON)
    weighted = BETA_SQUARED * precision + recall
    curve = torch.where(weighted > 0, (1 + BETA_SQUARED) * precision * recall / weighted, torch.zeros_like(weighted))
    return curve.mean(0).max().item()
