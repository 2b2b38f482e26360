"""Figures of clips: what is heard, what is seen, the ground truth and the predictions; and what all figures share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from detectron2.utils.colormap import colormap
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from transavs.utils.atomic_files import atomic_write
from transavs.utils.errors import AVSInputError

# One color per class id from 1 on, over again where there are more classes.
CLASS_COLORS = np.vstack([[255, 70, 40], colormap(rgb=True)[1:]])
OVERLAY_OPACITY, BACKGROUND_BRIGHTNESS = 0.55, 0.55
NAME_PIXELS, NAME_SHARE = 10, 0.03  # height of a class's name, at least and of the image's
HEAT_COLORS, HEAT_OPACITY = "inferno", 0.7
SILENCE, LOUD = -4.6, 5.0  # range of a log-mel value, for its colors
SECONDS_PER_ROW = 10
CELL = 1.25  # inches, width of one second
FORMATS = ("png", "jpg", "webp", "pdf", "svg")  # jpg and webp are small where there are many frames
DPI = 100
QUALITY = 92  # of jpg and webp


@dataclass(frozen=True)
class ClipPicture:
    """One clip to draw; T frames of H x W pixels. Masks of another size are drawn at the frames'.

    Attributes:
        title: printed above.
        frames: T of uint8 (H, W, 3), RGB.
        log_mel: (T, 96, 64).
        truth: T of int (h, w) class ids, 0 = background; None for a frame without ground truth.
        predictions: int (T, h, w) by the name of their row.
    """

    title: str
    frames: list[np.ndarray]
    log_mel: np.ndarray
    truth: list[np.ndarray | None]
    predictions: dict[str, np.ndarray]

    def classes(self) -> set[int]:
        """Ids of the classes that are true or predicted somewhere, without the background."""
        masks = [mask for mask in self.truth if mask is not None] + list(self.predictions.values())
        return {int(number) for mask in masks for number in np.unique(mask)} - {0}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_figure_path(path: str | Path) -> Path:
    """``path``, if its suffix is one of FORMATS; else an AVSInputError, better before than after long work."""
    if Path(path).suffix.removeprefix(".") not in FORMATS:
        raise AVSInputError(f"the figure {path} ends in none of {', '.join(FORMATS)}: name such a file")
    return Path(path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the suffix of ``path`` names, whole or not at all.

    Raises:
        AVSInputError: the suffix is none of FORMATS, or the file cannot be written.
    """
    path = check_figure_path(path)
    kind = path.suffix.removeprefix(".")
    lossy: dict[str, Any] = {"pil_kwargs": {"quality": QUALITY}} if kind in ("jpg", "webp") else {}
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of clips and runs may hold a dollar sign
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            figure.savefig(partial, format=kind, dpi=DPI, **lossy)
    except OSError as error:
        raise AVSInputError(f"the figure {path} cannot be written ({error.strerror}): name another file") from error


def overlay(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) frame with int (h, w) class ids in their colors and outlined, background (0) dimmed."""
    # In whole-image operations on bytes, which are several times as fast as indexing: videos have many frames.
    mask = cv2.resize(mask.astype(np.uint8), frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    image = cv2.convertScaleAbs(frame, alpha=BACKGROUND_BRIGHTNESS)
    for number in range(1, int(mask.max()) + 1):
        where = cv2.inRange(mask, number, number)
        if not cv2.countNonZero(where):
            continue
        left, top, width, height = cv2.boundingRect(where)
        part = np.s_[top : top + height, left : left + width]
        color = OVERLAY_OPACITY * CLASS_COLORS[(number - 1) % len(CLASS_COLORS)]
        painted = cv2.add(cv2.convertScaleAbs(frame[part], alpha=1 - OVERLAY_OPACITY), np.array([*color, 0.0]))
        image[part] = cv2.copyTo(painted, where[part], image[part])
    return _outlined(image, mask > 0)


def write_names(image: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> None:
    """Write the name of each class in int (H, W) into uint8 (H, W, 3), at its upper left; ``names`` by class id."""
    scale = max(NAME_PIXELS, len(image) * NAME_SHARE) / 21  # 21 pixels is the height of OpenCV's capitals
    for number in np.unique(mask[mask > 0]):
        left, top, _, _ = cv2.boundingRect((mask == number).astype(np.uint8))
        (width, height), below = cv2.getTextSize(names[number], cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        cv2.rectangle(image, (left, top), (left + width + height, top + 2 * height + below), (0, 0, 0), cv2.FILLED)
        place = (left + height // 2, top + height + height // 2)
        cv2.putText(image, names[number], place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _outlined(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) with a white line around bool (H, W)."""
    image = np.ascontiguousarray(image)
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, contours, -1, (255, 255, 255), max(1, len(image) // 150))
    return image


def heat(frame: np.ndarray, values: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """A frame in gray with values in HEAT_COLORS over it.

    Args:
        frame: uint8 (H, W, 3).
        values: float (h, w) in [0, 1], resized bilinearly.
        region: bool (h', w') to draw an outline of.
    """
    size = frame.shape[1::-1]
    values = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    colors = 255 * matplotlib.colormaps[HEAT_COLORS](values)[..., :3]
    gray = frame.mean(-1, keepdims=True)
    image = ((1 - HEAT_OPACITY) * gray + HEAT_OPACITY * colors).astype(np.uint8)
    if region is None:
        return image
    return _outlined(image, cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))


def show_sound(axis: Any, log_mel: np.ndarray) -> None:
    """Draw one second of log-mel (96, 64), time from left to right, high above low."""
    axis.imshow(log_mel.T, origin="lower", aspect="auto", cmap="magma", vmin=SILENCE, vmax=LOUD)


def show_truth(axis: Any, frame: np.ndarray, mask: np.ndarray | None) -> None:
    """Draw a frame with its ground truth as :func:`overlay` does, or say that there is none."""
    if mask is not None:
        axis.imshow(overlay(frame, mask))
        return
    axis.set_box_aspect(frame.shape[0] / frame.shape[1])
    axis.text(0.5, 0.5, "not labeled", ha="center", va="center", color="gray", fontsize=8, transform=axis.transAxes)


def draw_clips(clips: Sequence[ClipPicture], path: str | Path, class_names: Sequence[str] = ()) -> None:
    """Write a figure with a block per clip: log-mel, frames, ground truth and predictions, a column per second.

    Args:
        clips: with the same number of predictions.
        path: see :func:`save_figure`.
        class_names: background first; where there are more than two, the colors that occur are explained.
    """
    seconds = max(len(clip.frames) for clip in clips)
    columns = min(max(1, SECONDS_PER_ROW // seconds), len(clips))
    rows = -(-len(clips) // columns)
    shape = max(frame.shape[0] / frame.shape[1] for clip in clips for frame in clip.frames)
    heights = [0.7, *[shape] * (2 + len(clips[0].predictions))]
    height = (1.04 * CELL * sum(heights) + 0.35) * rows  # with gaps and a title
    figure = new_figure(CELL * (seconds + 0.4) * columns, height + 0.3 * (len(class_names) > 2))
    blocks = figure.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.02).flat
    for block, clip in zip(blocks, clips, strict=False):
        block.suptitle(clip.title, fontsize=10)
        _draw_clip(block.subplots(len(heights), seconds, squeeze=False, gridspec_kw={"height_ratios": heights}), clip)
    if len(class_names) > 2:
        _explain_colors(figure, sorted(set.union(*(clip.classes() for clip in clips))), class_names)
    save_figure(figure, path)


def _draw_clip(axes: np.ndarray, clip: ClipPicture) -> None:
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis in axes[:, len(clip.frames) :].flat:  # of a clip shorter than others
        axis.axis("off")
    for second, frame in enumerate(clip.frames):
        heard, seen, truth, *predicted = axes[:, second]
        show_sound(heard, clip.log_mel[second])
        seen.imshow(frame)
        show_truth(truth, frame, clip.truth[second])
        for axis, prediction in zip(predicted, clip.predictions.values(), strict=True):
            axis.imshow(overlay(frame, prediction[second]))
    for axis, name in zip(axes[:, 0], ("sound", "frame", "truth", *clip.predictions), strict=True):
        axis.set_ylabel(name, fontsize=9)


def _explain_colors(figure: Figure, classes: Sequence[int], class_names: Sequence[str]) -> None:
    """A legend of the given class ids below everything."""
    patches = [
        Patch(color=CLASS_COLORS[(number - 1) % len(CLASS_COLORS)] / 255, label=class_names[number])
        for number in classes
        if number < len(class_names)
    ]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=8, fontsize=9, frameon=False)
