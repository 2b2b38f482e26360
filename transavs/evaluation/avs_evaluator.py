"""detectron2 evaluator of sounding-object masks."""

import itertools
import math
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from transavs.evaluation.metrics import clip_fscore, clip_jaccard


class AVSEvaluator(DatasetEvaluator):
    """J and F over the labelled frames, one value per clip, averaged over clips.

    Each clip is scored by itself, so batches, order and the split over ranks do not change the result.
    """

    def __init__(self, suffix: str = ""):
        """
        Args:
            suffix: of the metrics' names, which tells the audio condition of this run.
        """
        self.suffix = suffix
        self._clips: dict[str, tuple[float, float]] = {}

    def reset(self) -> None:
        self._clips = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """
        Args:
            inputs: clips with ``video_id``, ``masks`` (L, H, W) and ``labeled_frames`` (L,).
            outputs: ``sem_seg`` (T, K, H, W) scores in [0, 1] of each.
        """
        for clip, output in zip(inputs, outputs, strict=True):
            scores = foreground_scores(output["sem_seg"])[clip["labeled_frames"].to(output["sem_seg"].device)]
            masks = clip["masks"].to(scores.device)
            self._clips[clip["video_id"]] = clip_jaccard(scores, masks), clip_fscore(scores, masks)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"sem_seg": {"J": ..., "F": ...}}`` in percent on the main process, None on others."""
        comm.synchronize()
        gathered = comm.gather(self._clips)
        if not comm.is_main_process():
            return None
        clips = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        # fsum is exact, so the order of the clips cannot show in the last digits.
        jaccard, fscore = (100 * math.fsum(values) / len(clips) for values in zip(*clips.values(), strict=True))
        return {"sem_seg": {f"J{self.suffix}": jaccard, f"F{self.suffix}": fscore}}


def foreground_scores(sem_seg: Tensor) -> Tensor:
    """(T, K, H, W) scores that sum to 1 over K -> (T, H, W): the score of anything but background."""
    return torch.clamp(1 - sem_seg[:, 0], 0, 1)
