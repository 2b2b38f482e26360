"""detectron2 evaluator that draws instead of counting."""

from pathlib import Path
from typing import Any

import cv2
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from transavs.data.images import read_frame
from transavs.evaluation.avs_evaluator import foreground_scores
from transavs.evaluation.metrics import clip_jaccard
from transavs.visualizer import ClipPicture, draw_clips


class ClipFigure(DatasetEvaluator):
    """Draws the first clips of an evaluation: sound, frames, ground truth and prediction."""

    def __init__(self, path: str | Path, num_clips: int):
        """
        Args:
            path: of the PNG to write.
            num_clips: clips to draw; on several ranks, those of the main process.
        """
        self.path, self.num_clips = Path(path), num_clips
        self._pictures: list[ClipPicture] = []

    def reset(self) -> None:
        self._pictures = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Takes what :class:`AVSEvaluator` takes."""
        for clip, output in zip(inputs, outputs, strict=True):
            if len(self._pictures) < self.num_clips:
                self._pictures.append(self._picture(clip, output["sem_seg"].cpu()))

    @staticmethod
    def _picture(clip: dict[str, Any], sem_seg: Tensor) -> ClipPicture:
        labeled = clip["labeled_frames"].tolist()
        truth = dict(zip(labeled, clip["masks"].numpy(), strict=True))
        jaccard = 100 * clip_jaccard(foreground_scores(sem_seg[labeled]), clip["masks"])
        return ClipPicture(
            title=f"{clip['video_id']}   J {jaccard:.1f}",
            # Masks may be scored at another size than the frames have on disk.
            frames=[
                cv2.resize(read_frame(path, "RGB"), (clip["width"], clip["height"])) for path in clip["file_names"]
            ],
            log_mel=clip["log_mel"][:, 0].numpy(),
            truth=[truth.get(frame) for frame in range(len(sem_seg))],
            prediction=sem_seg.argmax(1).numpy(),
        )

    def evaluate(self) -> None:
        if comm.is_main_process() and self._pictures:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draw_clips(self._pictures, self.path)
