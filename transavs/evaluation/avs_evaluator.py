"""detectron2 evaluator of sounding-object masks."""

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from transavs.data.repairs import counts_told
from transavs.evaluation.clip_metrics import ClipMetrics, evaluate_clip, summarize


class AVSEvaluator(DatasetEvaluator):
    """Scores of the labeled frames: those of :func:`transavs.evaluation.clip_metrics.summarize`.

    Each clip is scored by itself, so batches, order and the split over ranks do not change the result.
    """

    def __init__(self, class_names: Sequence[str], suffix: str = "", is_negative: bool = False):
        """
        Args:
            class_names: of the data set, background first.
            suffix: of the metrics' names, which tells the audio condition of this run.
            is_negative: whether under that condition nothing of what is seen sounds.
        """
        self.class_names = class_names
        self.suffix = suffix
        self.is_negative = is_negative
        self._clips: dict[str, ClipMetrics] = {}
        self._repairs: Counter[str] = Counter()

    def reset(self) -> None:
        self._clips, self._repairs = {}, Counter()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """
        Args:
            inputs: clips with ``video_id``, ``masks`` (L, H, W), ``labeled_frames`` (L,) and perhaps ``category``.
            outputs: ``sem_seg`` (T, K, H, W) probabilities of each; K may exceed the data set's classes.
        """
        for clip, output in zip(inputs, outputs, strict=True):
            self._repairs.update(clip.get("repairs", ()))
            sem_seg = output["sem_seg"][clip["labeled_frames"].to(output["sem_seg"].device)]
            self._clips[clip["video_id"]] = evaluate_clip(
                foreground_probabilities(sem_seg),
                best_classes(sem_seg),
                clip["masks"].to(sem_seg.device),
                num_classes=len(self.class_names),
                category=clip.get("category", ""),
                is_negative=self.is_negative,
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"sem_seg": {"J": ..., "F": ..., ...}}`` in percent on the main process, None on others."""
        comm.synchronize()
        gathered, repairs = comm.gather(self._clips), comm.gather(self._repairs)
        if not comm.is_main_process():
            return None
        if told := counts_told(sum(repairs, Counter())):
            logging.getLogger(__name__).warning("of the clips that were scored, %s", told)
        clips = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        found = summarize(clips, self.class_names)
        return {"sem_seg": {f"{name}{self.suffix}": value for name, value in found.items()}}


def best_classes(sem_seg: Tensor) -> Tensor:
    """(T, K, H, W) probabilities -> int64 class ids (T, H, W), the first of equals."""
    return sem_seg.max(1).indices  # of argmax's values, in a thirtieth of its time on a CPU for K = 2


def foreground_probabilities(sem_seg: Tensor) -> Tensor:
    """(T, K, H, W) probabilities -> (T, H, W) in [0, 1]: the best class that is not background against the background.

    Above 0.5 exactly where the best class of all is not background.
    """
    best = sem_seg[:, 1:].amax(1)
    return best / (best + sem_seg[:, 0]).clamp(min=torch.finfo(best.dtype).tiny)
