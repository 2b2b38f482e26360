"""The field's metrics as pure functions on tensors, on any device.

Shape legend: T frames of a clip, H x W pixels, K classes, L = 255 thresholds.

Two families are in use. AVSBench, AVSegFormer and COMBO score frame by frame and average (:func:`clip_jaccard`,
:func:`clip_fscore`, :func:`semantic_frame_scores`); CAVP and DDESeg count pixels over the whole data set first
(:func:`count_pixels`, :func:`dataset_scores`). AVSBench takes the maximum of M_F over thresholds batch by batch, so its
number changes with the batch; :func:`clip_fscore` takes the clip as the batch, and the mean of :func:`fscore_curves`
over all frames of a data set, or :func:`frame_fscore`, depend on no batch at all.
"""

import torch
from torch import Tensor

BETA_SQUARED = 0.3
NUM_THRESHOLDS = 255
THRESHOLD = 0.5
UNION_EPSILON = 1e-7
COUNT_EPSILON = 1e-20


def frame_jaccard(predicted: Tensor, target: Tensor) -> Tensor:
    """|P and G| / (|P or G| + 1e-7); where G is empty, the share of pixels left out of P (AVSBench's ``mask_iou``).

    Args:
        predicted, target: bool (T, H, W).

    Returns:
        float64 (T,) in [0, 1].
    """
    predicted, target = predicted.flatten(1), target.flatten(1)
    intersection = (predicted & target).sum(1).double()
    union = (predicted | target).sum(1).double()
    empty = ~target.any(1)
    intersection = torch.where(empty, target.shape[1] - union, intersection)
    union = torch.where(empty, torch.full_like(union, target.shape[1]), union)
    return intersection / (union + UNION_EPSILON)


def clip_jaccard(probabilities: Tensor, masks: Tensor) -> float:
    """Mean over frames of :func:`frame_jaccard` at probabilities > 0.5: AVSBench's M_J with one clip per batch.

    Args:
        probabilities: (T, H, W) in [0, 1].
        masks: (T, H, W), not 0 where an object sounds.

    Returns:
        a value in [0, 1].
    """
    return frame_jaccard(probabilities > THRESHOLD, masks != 0).mean().item()


def fscore_curves(probabilities: Tensor, masks: Tensor) -> Tensor:
    """F = 1.3 P R / (0.3 P + R) of probabilities >= t for 255 thresholds t from 0 to 1 (AVSBench's ``Eval_Fmeasure``).

    Args:
        probabilities: (T, H, W) in [0, 1].
        masks: (T, H, W), not 0 where an object sounds.

    Returns:
        float64 (T', L) of the T' frames whose ground truth is not empty, in their order.
    """
    target = (masks != 0).flatten(1)
    kept = target.any(1)
    probabilities, target = probabilities.flatten(1)[kept].float(), target[kept]
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS, device=probabilities.device)
    # A pixel is predicted at the first `level` thresholds, those not above its score; one histogram of levels, split by
    # truth, and a sum from the right count the predicted pixels at every threshold.
    level = torch.bucketize(probabilities, thresholds, right=True)
    width = NUM_THRESHOLDS + 1
    rows = torch.arange(len(probabilities), device=probabilities.device)[:, None] * 2 + target
    counts = torch.bincount((rows * width + level).flatten(), minlength=len(probabilities) * 2 * width)
    misses, hits = counts.view(-1, 2, width).double().flip(2).cumsum(2).flip(2)[..., 1:].unbind(1)
    return _fscore(hits / (hits + misses + COUNT_EPSILON), hits / (target.sum(1, keepdim=True) + COUNT_EPSILON))


def _fscore(precision: Tensor, recall: Tensor) -> Tensor:
    weighted = BETA_SQUARED * precision + recall
    return torch.where(weighted > 0, (1 + BETA_SQUARED) * precision * recall / weighted, torch.zeros_like(weighted))


def clip_fscore(probabilities: Tensor, masks: Tensor) -> float:
    """Maximum over thresholds of the mean of :func:`fscore_curves`: AVSBench's M_F with one clip per batch.

    A clip without ground truth in any frame scores 0, as in AVSBench's code.

    Args:
        probabilities: (T, H, W) in [0, 1].
        masks: (T, H, W), not 0 where an object sounds.

    Returns:
        a value in [0, 1].
    """
    curves = fscore_curves(probabilities, masks)
    return curves.mean(0).max().item() if len(curves) else 0.0


def frame_fscore(predicted: Tensor, target: Tensor) -> Tensor:
    """F of a decision, without a threshold to choose; NaN where the ground truth is empty.

    Args:
        predicted, target: bool (T, H, W).

    Returns:
        float64 (T,) in [0, 1] or NaN.
    """
    hits, positives, true = ((x.flatten(1).sum(1).double()) for x in (predicted & target, predicted, target))
    fscore = _fscore(hits / (positives + COUNT_EPSILON), hits / (true + COUNT_EPSILON))
    return torch.where(true > 0, fscore, torch.full_like(fscore, torch.nan))


def count_pixels(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in each frame, where :func:`dataset_scores` and :func:`semantic_frame_scores` start.

    Args:
        pred, target: int64 class ids below ``num_classes``, (N, H, W) each.
        num_classes: K.

    Returns:
        float64 (3, N, K): agreed, predicted, true.
    """
    # Where they agree the id, elsewhere one class too many, which is cut off.
    hits = _areas(torch.where(pred == target, pred, num_classes), num_classes + 1)[:, :num_classes]
    return torch.stack([hits, _areas(pred, num_classes), _areas(target, num_classes)])


def _areas(ids: Tensor, num_classes: int) -> Tensor:
    """int64 (N, H, W) -> float64 (N, K)."""
    offsets = torch.arange(len(ids), device=ids.device)[:, None] * num_classes
    counts = torch.bincount((ids.flatten(1) + offsets).flatten(), minlength=len(ids) * num_classes)
    return counts.view(len(ids), num_classes).double()


def class_scores(areas: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and F (beta^2 = 0.3) of counted pixels.

    Args:
        areas: (3, ..., K) of :func:`count_pixels` or sums of it.

    Returns:
        float64 (..., K) each, NaN where a class is neither predicted nor true.
    """
    hits, predicted, true = areas
    union = predicted + true - hits
    # (1 + b) P R / (b P + R) with P = hits / predicted and R = hits / true.
    weighted = BETA_SQUARED * true + predicted
    nothing = torch.full_like(union, torch.nan)
    iou = torch.where(union > 0, hits / union, nothing)
    return iou, torch.where(weighted > 0, (1 + BETA_SQUARED) * hits / weighted, nothing)


def semantic_frame_scores(areas: Tensor) -> Tensor:
    """AVSBench's AVSS protocol before its means: scores per frame and class, summed over frames.

    mIoU is the mean over classes of the first sum divided by the count, 0 where a class never appears; mF likewise from
    the second. AVSBench, AVSegFormer, COMBO and CAVP report these; their "without background" leaves out the last class
    in place of the first. The sums of several sets of frames may be added.

    Args:
        areas: (3, N, K) of :func:`count_pixels`.

    Returns:
        float64 (3, K): sum of IoU, sum of F, frames in which the class is predicted or true.
    """
    iou, fscore = class_scores(areas)
    return torch.stack([iou.nansum(0), fscore.nansum(0), (~iou.isnan()).double().sum(0)])


def dataset_scores(areas: Tensor) -> tuple[float, float]:
    """Mean IoU and mean F over the classes that occur, from pixels counted over a whole data set (CAVP, DDESeg).

    Args:
        areas: (3, K), :func:`count_pixels` summed over all frames.

    Returns:
        two values in [0, 1].
    """
    iou, fscore = class_scores(areas)
    return iou.nanmean().item(), fscore.nanmean().item()


def harmonic_mean(positive: float, negative: float) -> float:
    """Compute AVSBench-Robust's G of a score that should be high and of one that should be low, in percent.

    It is the harmonic mean of the one and of what the other leaves to 100. G-J takes J with the true audio and the mean
    J with negative audio; a model that ignores audio gets at most 50.
    """
    rest = 100 - negative
    return 2 * positive * rest / (positive + rest) if positive + rest > 0 else 0.0
