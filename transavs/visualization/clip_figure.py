"""detectron2 evaluator that draws instead of counting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from transavs.data.audio import VGGishLogMel
from transavs.data.avsbench import IGNORED_ID
from transavs.evaluation.avs_evaluator import foreground_probabilities
from transavs.evaluation.metrics import clip_jaccard
from transavs.media.images import read_frame
from transavs.visualization.clips import ClipPicture, draw_clips

Clip = dict[str, Any]


def jaccard_label(clip: Clip, sem_seg: Tensor) -> str:
    """J in percent of the probabilities (T, K, H, W), on the CPU, that a model gave for a clip of the mapper's."""
    return f"J {100 * clip_jaccard(foreground_probabilities(sem_seg[clip['labeled_frames']]), clip['masks']):.1f}"


def heard_in(clip: Clip) -> np.ndarray:
    """Make the log-mel to draw of the audio that a clip names, (T, 96, 64), whatever front-end its model has."""
    files = clip["audio_file"], clip.get("log_mel_file")
    return VGGishLogMel().load(*files, len(clip["file_names"]), clip.get("noise_seed"))[:, 0].numpy()


def clip_picture(clip: Clip, title: str, predictions: Mapping[str, np.ndarray]) -> ClipPicture:
    """A clip as the test mapper makes it, with its frames and sound as they are on disk.

    Args:
        clip: of T frames.
        title: of the picture.
        predictions: int (T, h, w) by the name of their row.
    """
    masks = np.where(clip["masks"].numpy() == IGNORED_ID, 0, clip["masks"].numpy())
    truth = dict(zip(clip["labeled_frames"].tolist(), masks, strict=True))
    frames = [read_frame(path, "RGB") for path in clip["file_names"]]
    return ClipPicture(
        title=title,
        frames=frames,
        log_mel=heard_in(clip),
        truth=[truth.get(second) for second in range(len(frames))],
        predictions=dict(predictions),
    )


class ClipFigure(DatasetEvaluator):
    """Draws the first clips of an evaluation: sound, frames, ground truth and prediction."""

    def __init__(self, path: str | Path, num_clips: int, class_names: Sequence[str] = ()):
        """
        Args:
            path: of the PNG to write.
            num_clips: clips to draw; on several ranks, those of the main process.
            class_names: background first; more than two are explained in the figure.
        """
        self.path, self.num_clips, self.class_names = Path(path), num_clips, class_names
        self._pictures: list[ClipPicture] = []

    def reset(self) -> None:
        self._pictures = []

    def process(self, inputs: list[Clip], outputs: list[dict[str, Tensor]]) -> None:
        """Takes what :class:`AVSEvaluator` takes."""
        for clip, output in zip(inputs, outputs, strict=True):
            if len(self._pictures) < self.num_clips:
                sem_seg = output["sem_seg"].cpu()
                title = f"{clip['video_id']}   {jaccard_label(clip, sem_seg)}"
                self._pictures.append(clip_picture(clip, title, {"predicted": sem_seg.argmax(1).numpy()}))

    def evaluate(self) -> None:
        if comm.is_main_process() and self._pictures:
            draw_clips(self._pictures, self.path, self.class_names)
