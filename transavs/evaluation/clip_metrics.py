"""Contribution of one clip to an evaluation, and the metrics of all clips of a data set.

Shape legend: T labeled frames, H x W pixels, K classes of the data set, L thresholds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transavs.evaluation.metrics import (
    THRESHOLD,
    class_scores,
    count_pixels,
    dataset_scores,
    frame_fscore,
    frame_jaccard,
    fscore_curves,
    semantic_frame_scores,
)
from transavs.media.images import connected_objects

# Sounding area as a share of the frame, from the first up to the second.
SIZES = {"small": (0.0, 0.05), "medium": (0.05, 0.2), "large": (0.2, math.inf)}


@dataclass(frozen=True)
class ClipMetrics:
    """One clip: a few numbers per frame, and sums that may be added to those of other clips. On the CPU."""

    category: str
    jaccard: Tensor  # float64 (T,), what sounds against what does not
    fscore: Tensor  # float64 (T,) of the decision, NaN where nothing sounds
    curve: Tensor  # float64 (L,), F by threshold, summed over the frames in which something sounds
    true_share: Tensor  # float64 (T,), sounding share of the frame
    true_parts: Tensor  # float64 (T,), connected parts of one class that sound
    false_share: Tensor  # float64 (T,), share of the frame wrongly predicted as sounding
    areas: Tensor  # float64 (3, K), pixels agreed, predicted and true
    semantic: Tensor  # float64 (3, K), of semantic_frame_scores


def evaluate_clip(
    probabilities: Tensor,
    pred: Tensor,
    masks: Tensor,
    *,
    num_classes: int,
    category: str = "",
    is_negative: bool = False,
) -> ClipMetrics:
    """
    Args:
        probabilities: of anything sounding, (T, H, W) in [0, 1].
        pred: int64 class ids (T, H, W); ids from ``num_classes`` on are errors in every class.
        masks: int64 class ids (T, H, W), 0 = background; pixels of ids from ``num_classes`` on are ignored: they count
            as background that is predicted as such.
        num_classes: K.
        category: of the clip, for tables.
        is_negative: the audio was not the clip's own, so all that is predicted is false.
    """
    counted = masks < num_classes
    probabilities, pred, masks = probabilities * counted, pred * counted, masks * counted
    predicted, target = probabilities > THRESHOLD, masks != 0
    most = max(num_classes, int(pred.max()) + 1)
    areas = count_pixels(pred, masks, most)[..., :num_classes]
    wrong = predicted if is_negative else predicted & ~target
    parts = {
        "jaccard": frame_jaccard(predicted, target),
        "fscore": frame_fscore(predicted, target),
        "curve": fscore_curves(probabilities, masks).sum(0),
        "true_share": target.double().mean((1, 2)),
        "true_parts": torch.tensor([_count_parts(mask) for mask in masks], dtype=torch.float64),
        "false_share": wrong.double().mean((1, 2)),
        "areas": areas.sum(1),
        "semantic": semantic_frame_scores(areas),
    }
    return ClipMetrics(category=category, **{name: value.cpu() for name, value in parts.items()})


def _count_parts(mask: Tensor) -> int:
    """Connected parts of each class in int (H, W) class ids."""
    return int(connected_objects(mask.cpu().numpy(), max_objects=mask.numel()).max())


def summarize(clips: Mapping[str, ClipMetrics], class_names: Sequence[str]) -> dict[str, float]:
    """All metrics in percent, by name; README's "Evaluate" says what each means.

    The order of the clips does not matter.

    Args:
        clips: by name, at least one.
        class_names: background first; more than two make it semantic segmentation.
    """
    ordered = [clips[name] for name in sorted(clips)]
    names = ("jaccard", "fscore", "true_share", "true_parts", "false_share")
    frames = {name: torch.cat([getattr(clip, name) for clip in ordered]) for name in names}
    sounding = ~frames["fscore"].isnan()
    areas = torch.stack([clip.areas for clip in ordered]).sum(0)
    curve = torch.stack([clip.curve for clip in ordered]).sum(0) / sounding.sum().clamp(min=1)
    found = _clip_means(ordered) | {
        "F_curve": curve.max().item(),
        "F_half": frames["fscore"].nanmean().item() if sounding.any() else 0.0,
        "FPR": frames["false_share"].mean().item(),
    }
    found["mIoU_set"], found["mF_set"] = dataset_scores(areas)
    for size, (least, below) in SIZES.items():
        of_size = sounding & (frames["true_share"] >= least) & (frames["true_share"] < below)
        found |= _group(f"J-{size}", frames["jaccard"][of_size])
    found |= _group("J-one", frames["jaccard"][sounding & (frames["true_parts"] == 1)])
    found |= _group("J-several", frames["jaccard"][sounding & (frames["true_parts"] > 1)])
    found |= _group("J-empty", frames["jaccard"][~sounding])
    if len(class_names) > 2:
        found |= _over_classes(torch.stack([clip.semantic for clip in ordered]).sum(0), class_names)
    else:
        iou, fscore = class_scores(areas)
        found |= {"J_set": iou[1].nan_to_num().item(), "F_set": fscore[1].nan_to_num().item()}
        found |= _by_category(ordered)
    return {name: 100 * value for name, value in found.items()}


def _clip_means(clips: Sequence[ClipMetrics], of: str = "") -> dict[str, float]:
    """J and F, each clip's own value averaged over clips; F is 0 for a clip in which nothing ever sounds."""
    jaccard = [clip.jaccard.mean() for clip in clips]
    fscore = [clip.curve.max() / (~clip.fscore.isnan()).sum().clamp(min=1) for clip in clips]
    # fsum is exact, so the order of the clips cannot show in the last digits.
    return {
        f"{name}{of}": math.fsum(value.item() for value in values) / len(clips)
        for name, values in (("J", jaccard), ("F", fscore))
    }


def _group(name: str, values: Tensor) -> dict[str, float]:
    return {name: values.mean().item()} if len(values) else {}


def _by_category(clips: Sequence[ClipMetrics]) -> dict[str, float]:
    """J and F of each category, where there are several."""
    names = sorted({clip.category for clip in clips})
    if len(names) < 2:
        return {}
    found: dict[str, float] = {}
    for name in names:
        found |= _clip_means([clip for clip in clips if clip.category == name], f"-{name}")
    return found


def _over_classes(sums: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    """Means over all classes (a class that never appears counts as 0), ``_fg`` over all but background, and each."""
    iou, fscore = sums[:2] / sums[2].clamp(min=1)
    found = {"mIoU": iou.mean().item(), "mF": fscore.mean().item()}
    found |= {"mIoU_fg": iou[1:].mean().item(), "mF_fg": fscore[1:].mean().item()}
    return found | {f"IoU-{n}": v for n, v, c in zip(class_names, iou.tolist(), sums[2], strict=True) if c > 0}
