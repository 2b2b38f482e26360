"""Contribution of one clip to an evaluation, and the metrics of all clips of a data set.

Shape legend: T labeled frames, H x W pixels, K classes of the data set, L thresholds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
from transavs.evaluation.scores import CATEGORY, CLASS, FRAMES, GroupScore, Scores
from transavs.media.images import connected_objects
from transavs.utils.errors import AVSInputError

BATCH = 4  # clips in a batch of AVSBench's test scripts
# Sounding area as a share of the frame, from the first up to the second.
SIZES = {"small": (0.0, 0.05), "medium": (0.05, 0.2), "large": (0.2, math.inf)}
ONE, SEVERAL, EMPTY = "one", "several", "empty"  # number of things that sound in a frame
FRAME_GROUPS = (*SIZES, ONE, SEVERAL, EMPTY)


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


def summarize(clips: Mapping[str, ClipMetrics], class_names: Sequence[str]) -> Scores:
    """All metrics in percent; docs/metrics.md says what each means.

    Args:
        clips: by name, in the order of the data set's csv, on which F_batch4 alone depends.
        class_names: background first; more than two make it semantic segmentation.

    Raises:
        AVSInputError: there is no clip.
    """
    if not clips:
        raise AVSInputError("no clip was scored: check that the data set lists clips and that they can be read")
    ordered = [clips[name] for name in sorted(clips)]
    names = ("jaccard", "fscore", "true_share", "true_parts", "false_share")
    frames = {name: torch.cat([getattr(clip, name) for clip in ordered]) for name in names}
    sounding = ~frames["fscore"].isnan()
    areas = torch.stack([clip.areas for clip in ordered]).sum(0)
    values = _clip_means(ordered) | {
        f"F_batch{BATCH}": _batch_fscore(list(clips.values())),
        "F_curve": _best_fscore(ordered),
        "F_half": frames["fscore"].nanmean().item() if sounding.any() else 0.0,
        "FPR": frames["false_share"].mean().item(),
    }
    values["mIoU_set"], values["mF_set"] = dataset_scores(areas)
    groups = list(_over_frames(frames, sounding))
    if len(class_names) > 2:
        sums = torch.stack([clip.semantic for clip in ordered]).sum(0)
        values |= _over_classes(sums)
        groups += _by_class(sums, class_names)
    else:
        iou, fscore = class_scores(areas)
        values |= {"J_set": iou[1].nan_to_num().item(), "F_set": fscore[1].nan_to_num().item()}
        groups += _by_category(ordered)
    percent = [replace(score, value=100 * score.value) for score in groups]
    return Scores({name: 100 * value for name, value in values.items()} | flat_names(percent), percent)


def flat_names(groups: Sequence[GroupScore]) -> dict[str, float]:
    """Values by names such as "J-small" and "J-dog". A category that is called as a group of frames is left out."""
    return {
        f"{score.metric}-{score.group}": score.value
        for score in groups
        if score.kind != CATEGORY or score.group not in FRAME_GROUPS
    }


def _clip_means(clips: Sequence[ClipMetrics]) -> dict[str, float]:
    """J and F, each clip's own value averaged over clips; F is 0 for a clip in which nothing ever sounds."""
    jaccard = [clip.jaccard.mean().item() for clip in clips]
    fscore = [_best_fscore([clip]) for clip in clips]
    # fsum is exact, so the order of the clips cannot show in the last digits.
    return {"J": math.fsum(jaccard) / len(clips), "F": math.fsum(fscore) / len(clips)}


def _best_fscore(clips: Sequence[ClipMetrics]) -> float:
    """AVSBench's M_F of one batch: F at the threshold that suits its frames best; 0 where nothing sounds in any."""
    frames = sum(int((~clip.fscore.isnan()).sum()) for clip in clips)
    return float(torch.stack([clip.curve for clip in clips]).sum(0).max()) / max(frames, 1)


def _batch_fscore(clips: Sequence[ClipMetrics]) -> float:
    """AVSBench's M_F in batches of BATCH clips, as its test scripts take it; a smaller last one counts alike."""
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    return math.fsum(map(_best_fscore, batches)) / len(batches)


def _over_frames(frames: Mapping[str, Tensor], sounding: Tensor) -> Iterator[GroupScore]:
    """J of the frames in which the sounding area has a certain size, in which one thing sounds, several, or nothing."""
    share, parts = frames["true_share"], frames["true_parts"]
    chosen = {size: sounding & (share >= least) & (share < below) for size, (least, below) in SIZES.items()}
    chosen |= {ONE: sounding & (parts == 1), SEVERAL: sounding & (parts > 1), EMPTY: ~sounding}
    for group, is_in in chosen.items():
        if is_in.any():
            yield GroupScore(FRAMES, group, "J", frames["jaccard"][is_in].mean().item())


def _by_category(clips: Sequence[ClipMetrics]) -> Iterator[GroupScore]:
    """J and F of each category, where there are several."""
    names = sorted({clip.category for clip in clips})
    for name in names if len(names) > 1 else ():
        means = _clip_means([clip for clip in clips if clip.category == name])
        yield from (GroupScore(CATEGORY, name, metric, value) for metric, value in means.items())


def _over_classes(sums: Tensor) -> dict[str, float]:
    """Means over all classes (a class that never appears counts as 0), and ``_fg`` over all but background."""
    iou, fscore = sums[:2] / sums[2].clamp(min=1)
    found = {"mIoU": iou.mean().item(), "mF": fscore.mean().item()}
    return found | {"mIoU_fg": iou[1:].mean().item(), "mF_fg": fscore[1:].mean().item()}


def _by_class(sums: Tensor, class_names: Sequence[str]) -> Iterator[GroupScore]:
    """IoU of each class that is predicted or true anywhere."""
    for name, iou, count in zip(class_names, sums[0].tolist(), sums[2].tolist(), strict=True):
        if count > 0:
            yield GroupScore(CLASS, name, "IoU", iou / count)
