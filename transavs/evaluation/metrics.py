"""AVSBench's metrics as pure functions on tensors.

Shape legend: T frames of a clip, H x W pixels, K classes. ``clip_jaccard`` and ``clip_fscore`` take the clip as the
batch over which AVSBench's own code averages; so the mean over clips does not depend on how an evaluation batches them.
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


def semantic_frame_scores(pred: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """AVSBench's AVSS protocol before its means: scores per frame and class, summed over frames.

    mIoU is the mean over classes of the first sum divided by the count (0 where a class never appears); the F-score
    likewise from the second. The sums of several sets of frames may be added.

    Args:
        pred, target: int64 class ids below ``num_classes``, (N, H, W) each.
        num_classes: K.

    Returns:
        float64 (K,) each: sum of IoU, sum of F (beta^2 = 0.3), frames in which the class is predicted or true.
    """
    # Where they agree the id, elsewhere one class too many, which is cut off.
    hits = _areas(torch.where(pred == target, pred, num_classes), num_classes + 1)[:, :num_classes]
    predicted, true = _areas(pred, num_classes), _areas(target, num_classes)
    appears = (predicted + true) > 0
    iou = hits / (predicted + true - hits).clamp(min=1)
    # (1 + b) P R / (b P + R) with P = hits / predicted and R = hits / true.
    fscore = (1 + BETA_SQUARED) * hits / (BETA_SQUARED * true + predicted).clamp(min=BETA_SQUARED)
    return iou.sum(0), fscore.sum(0), appears.double().sum(0)


def _areas(ids: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in each frame: int64 (N, H, W) -> float64 (N, K)."""
    offsets = torch.arange(len(ids), device=ids.device)[:, None] * num_classes
    counts = torch.bincount((ids.flatten(1) + offsets).flatten(), minlength=len(ids) * num_classes)
    return counts.view(len(ids), num_classes).double()
