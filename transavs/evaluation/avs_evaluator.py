"""detectron2 evaluator of sounding-object masks."""

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
from transavs.evaluation.clip_store import ClipStore
from transavs.evaluation.scores import Scores


class AVSEvaluator(DatasetEvaluator):
    """Scores of the labeled frames: those of :func:`transavs.evaluation.clip_metrics.summarize`.

    Each clip is scored by itself, so batches, order and the split over ranks do not change the result. F_batch4 alone
    depends on the order of the data set, which the clips' ``index`` tells.
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
        self.reset()

    def reset(self) -> None:
        self._clips = ClipStore[ClipMetrics]()
        self._repairs: Counter[str] = Counter()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """
        Args:
            inputs: clips with ``video_id``, ``masks`` (L, H, W), ``labeled_frames`` (L,) and perhaps ``category`` and
                ``index``, the place in the data set; see :class:`transavs.evaluation.clip_store.ClipStore`.
            outputs: ``sem_seg`` (T, K, H, W) probabilities of each; K may exceed the data set's classes.

        Raises:
            AVSInputError: two clips have the same ``video_id``.
        """
        for clip, output in zip(inputs, outputs, strict=True):
            self._repairs.update(clip.get("repairs", ()))
            sem_seg = output["sem_seg"][clip["labeled_frames"].to(output["sem_seg"].device)]
            metrics = evaluate_clip(
                foreground_probabilities(sem_seg),
                best_classes(sem_seg),
                clip["masks"].to(sem_seg.device),
                num_classes=len(self.class_names),
                category=clip.get("category", ""),
                is_negative=self.is_negative,
            )
            self._clips.add(clip, metrics)

    def evaluate(self) -> dict[str, Scores] | None:
        """``{"sem_seg": {"J": ..., "F": ..., ...}}`` in percent on the main process, None on others.

        Raises:
            AVSInputError: no clip was scored, or two have the same ``video_id``.
        """
        comm.synchronize()
        clips, repairs = self._clips.gather(), comm.gather(self._repairs)
        if clips is None:
            return None
        if told := counts_told(sum(repairs, Counter())):
            logging.getLogger(__name__).warning("of the clips that were scored, %s", told)
        return {"sem_seg": summarize(clips, self.class_names).under(self.suffix)}


def best_classes(sem_seg: Tensor) -> Tensor:
    """(T, K, H, W) probabilities -> int64 class ids (T, H, W), the first of equals."""
    return sem_seg.max(1).indices  # of argmax's values, in a thirtieth of its time on a CPU for K = 2


def foreground_probabilities(sem_seg: Tensor) -> Tensor:
    """(T, K, H, W) probabilities -> (T, H, W) in [0, 1]: the best class that is not background against the background.

    Above 0.5 exactly where the best class of all is not background.
    """
    best = sem_seg[:, 1:].amax(1)
    return best / (best + sem_seg[:, 0]).clamp(min=torch.finfo(best.dtype).tiny)
