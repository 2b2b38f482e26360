"""Scores of anybody's masks, from folders of PNG files and without a model."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from transavs.data.avsbench import IGNORED_ID
from transavs.evaluation.clip_metrics import ClipMetrics, evaluate_clip, summarize
from transavs.evaluation.metrics import THRESHOLD
from transavs.evaluation.scores import Scores
from transavs.media.images import read_mask
from transavs.media.mask_encodings import probabilities
from transavs.media.pixels import open_image, readable
from transavs.utils.errors import AVSInputError, choose
from transavs.utils.limits import MAX_SIDE


@dataclass(frozen=True)
class MaskSetting:
    """Rules by which one setting's masks are read."""

    encoding: str  # of the ground truth, see transavs.media.images.read_mask
    read_prediction: Callable[[str], np.ndarray]
    category_level: int = 0  # folders above the clip's own whose name is the category; 0 = none
    folder: str = ""  # where it is given, only files in folders of this name are ground truth


def read_probability_map(path: str) -> np.ndarray:
    """float32 (H, W) in [0, 1], see :func:`transavs.media.mask_encodings.probabilities`.

    Raises:
        AVSInputError: the file is no such image.
    """
    with readable(path, "a mask", "write the prediction again"), open_image(path) as image:
        return probabilities(image)


def read_ids(path: str) -> np.ndarray:
    """int64 (H, W) class ids."""
    return read_mask(path, "class_ids")


SETTINGS = {
    "s4": MaskSetting("binary", read_probability_map, category_level=1),
    "ms3": MaskSetting("binary", read_probability_map),
    "avss": MaskSetting("class_ids", read_ids, folder="labels_semantic"),
}


def score_mask_folders(
    pred: Path,
    gt: Path,
    setting: str,
    class_names: Sequence[str],
    size: int = 0,
    only: Collection[Path] | None = None,
) -> Scores:
    """All metrics in percent, by name; those of :func:`transavs.evaluation.clip_metrics.summarize`.

    Files of one folder are the frames of one clip. Every ground truth needs a prediction at the same path; other files
    are not looked at.

    Args:
        pred: predicted PNG files: binary, gray levels as probabilities, or class ids.
        gt: folder of the ground truth's PNG files.
        setting: key of SETTINGS.
        class_names: background first.
        size: side to resize both to before scoring; 0 keeps them as they are, of one size.
        only: the ground truth's files to score, such as those of a split, in the order of its clips; None for all in
            the folder, in the order of their paths. F_batch4 depends on it.

    Raises:
        AVSInputError: a folder or file is missing, broken or of another size; or there is no such setting or size.
    """
    chosen = choose(SETTINGS, setting, "setting")
    if not 0 <= size <= MAX_SIDE:
        raise AVSInputError(f"the size to score at is {size}: give 0 (as they are) to {MAX_SIDE} pixels")
    clips: dict[str, list[Path]] = {}
    for path in _png_files(gt):
        if path in only if only is not None else chosen.folder in ("", path.parent.name):
            clips.setdefault(str(path.parent.relative_to(gt)), []).append(path)
    if not clips:
        raise AVSInputError(f"{gt} holds no PNG file of {setting}: name the folder of the ground truth")
    missing = [path for paths in clips.values() for path in paths if not (pred / path.relative_to(gt)).is_file()]
    if missing:
        raise AVSInputError(
            f"{len(missing)} predictions are missing, the first is {pred / missing[0].relative_to(gt)}: "
            "write one PNG for each ground truth, at the same path"
        )
    with tqdm(clips.items(), unit="clip") as progress:
        scored = {
            name: _score_folder(chosen, [(pred / path.relative_to(gt), path) for path in paths], class_names, size)
            for name, paths in progress
        }
    places = {path: place for place, path in enumerate(only or ())}
    ordered = sorted(scored, key=lambda name: places.get(clips[name][0], 0))
    return summarize({name: scored[name] for name in ordered}, class_names)


def _png_files(folder: Path) -> list[Path]:
    """All below a folder, sorted; hidden files and folders, which some systems leave beside others, are none of it."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _score_folder(
    setting: MaskSetting, files: Sequence[tuple[Path, Path]], class_names: Sequence[str], size: int
) -> ClipMetrics:
    predictions, masks = [], []
    for prediction_file, mask_file in files:
        prediction = torch.from_numpy(setting.read_prediction(str(prediction_file)))
        mask = torch.from_numpy(read_mask(str(mask_file), setting.encoding))
        if size:
            prediction, mask = _resize(prediction, size), _resize(mask, size)
        if prediction.shape != mask.shape:
            raise AVSInputError(
                f"{prediction_file} is {_size(prediction)} pixels and its ground truth {_size(mask)}: "
                "write it at that size, or resize both with --size"
            )
        if (unknown := mask[(mask >= len(class_names)) & (mask != IGNORED_ID)]).numel():
            raise AVSInputError(f"{mask_file} holds class {int(unknown[0])} of {len(class_names)}: restore the mask")
        predictions.append(prediction)
        masks.append(mask)
    if {mask.shape for mask in masks} != {masks[0].shape}:
        raise AVSInputError(f"{files[0][1].parent} holds frames of several sizes: resize all with --size")
    stacked = torch.stack(predictions)
    ids = stacked if not stacked.is_floating_point() else (stacked > THRESHOLD).long()
    probabilities = stacked if stacked.is_floating_point() else (stacked > 0).float()
    parts = files[0][1].parts
    category = parts[-2 - setting.category_level] if setting.category_level else ""
    return evaluate_clip(probabilities, ids, torch.stack(masks), num_classes=len(class_names), category=category)


def _resize(image: Tensor, size: int) -> Tensor:
    """Bilinear for probabilities, nearest for ids."""
    mode, options = ("bilinear", {"align_corners": False}) if image.is_floating_point() else ("nearest-exact", {})
    return F.interpolate(image[None, None].float(), size=(size, size), mode=mode, **options)[0, 0].to(image.dtype)


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
