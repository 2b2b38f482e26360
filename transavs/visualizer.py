"""Figures of clips: what is heard, what is seen, the ground truth and the prediction."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib.figure
import numpy as np
from detectron2.utils.colormap import colormap
from matplotlib.backends.backend_agg import FigureCanvasAgg

# One colour per class id from 1 on, over again where there are more classes.
CLASS_COLOURS = np.vstack([[255, 70, 40], colormap(rgb=True)[1:]])
OVERLAY_OPACITY, BACKGROUND_BRIGHTNESS = 0.55, 0.55
SILENCE, LOUD = -4.6, 5.0  # range of a log-mel value, for its colours
CLIPS_PER_ROW = 2


@dataclass(frozen=True)
class ClipPicture:
    """One clip to draw; T frames of H x W pixels.

    Attributes:
        title: printed above.
        frames: T of uint8 (H, W, 3), RGB.
        log_mel: (T, 96, 64).
        truth: T of int (H, W) class ids, 0 = background; None for a frame without ground truth.
        prediction: int (T, H, W).
    """

    title: str
    frames: list[np.ndarray]
    log_mel: np.ndarray
    truth: list[np.ndarray | None]
    prediction: np.ndarray


def overlay(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) frame with int (H, W) class ids in their colours and outlined, background (0) dimmed."""
    # In whole-image operations on bytes, which are several times as fast as indexing: videos have many frames.
    seen = (mask > 0).astype(np.uint8)
    image = cv2.convertScaleAbs(frame, alpha=BACKGROUND_BRIGHTNESS)
    for number in np.unique(mask[mask > 0]):
        colour = OVERLAY_OPACITY * CLASS_COLOURS[(number - 1) % len(CLASS_COLOURS)]
        painted = cv2.add(cv2.convertScaleAbs(frame, alpha=1 - OVERLAY_OPACITY), np.array([*colour, 0.0]))
        cv2.copyTo(painted, (mask == number).astype(np.uint8), image)
    contours, _ = cv2.findContours(seen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, contours, -1, (255, 255, 255), max(1, frame.shape[0] // 150))
    return image


def draw_clips(clips: list[ClipPicture], path: str | Path) -> None:
    """Write a figure (PNG) with a block per clip: log-mel, frames, ground truth, prediction, a column per second."""
    names = ("sound", "frame", "truth", "predicted")
    seconds = max(len(clip.frames) for clip in clips)
    columns = min(CLIPS_PER_ROW, len(clips))
    rows = -(-len(clips) // columns)
    figure = matplotlib.figure.Figure(figsize=(1.25 * (seconds + 0.4) * columns, 4.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    blocks = figure.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.02).flat
    for block, clip in zip(blocks, clips, strict=False):
        block.suptitle(clip.title, fontsize=10)
        axes = block.subplots(len(names), seconds, squeeze=False, gridspec_kw={"height_ratios": [0.7, 1, 1, 1]})
        for axis in axes[:, len(clip.frames) :].flat:  # of a clip shorter than others
            axis.axis("off")
        for second, frame in enumerate(clip.frames):
            heard, seen, truth, predicted = axes[:, second]
            heard.imshow(clip.log_mel[second].T, origin="lower", aspect="auto", cmap="magma", vmin=SILENCE, vmax=LOUD)
            seen.imshow(frame)
            mask = clip.truth[second]
            if mask is not None:
                truth.imshow(overlay(frame, mask))
            predicted.imshow(overlay(frame, clip.prediction[second]))
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for axis, name in zip(axes[:, 0], names, strict=True):
            axis.set_ylabel(name, fontsize=9)
    figure.savefig(path, dpi=110)


def draw_bars(values: dict[str, dict[str, list[float]]], label: str, path: str | Path) -> None:
    """Write a figure (PNG) of horizontal bars: a panel per test set, a bar per row at the mean, a dot per seed.

    Args:
        values: by test set and row, one per seed.
        label: of the value axis.
        path: of the PNG.
    """
    rows = list(dict.fromkeys(row for panel in values.values() for row in panel))[::-1]
    figure = matplotlib.figure.Figure(figsize=(2 + 4 * len(values), 1 + 0.28 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, (title, panel) in zip(axes, values.items(), strict=True):
        for place, row in enumerate(rows):
            found = panel.get(row, [])
            if found:
                axis.barh(place, sum(found) / len(found), color="#9db8d9")
                axis.plot(found, [place] * len(found), "o", color="#1f3b63", markersize=3)
        axis.set(title=title, xlabel=label, yticks=range(len(rows)), yticklabels=rows)
        axis.grid(axis="x", alpha=0.4)
        axis.set_axisbelow(True)
    figure.savefig(path, dpi=110)
