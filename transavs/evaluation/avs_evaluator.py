"""detectron2 evaluator of sounding-object masks."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from transavs.evaluation.metrics import clip_fscore, clip_jaccard, semantic_frame_scores


class AVSEvaluator(DatasetEvaluator):
    """J and F of what sounds over the labelled frames, one value per clip, averaged over clips; and, where sounding
    objects are of several classes, mIoU and mF over classes.

    Each clip is scored by itself, so batches, order and the split over ranks do not change the result.
    """

    def __init__(self, class_names: Sequence[str], suffix: str = ""):
        """
        Args:
            class_names: of the data set, background first.
            suffix: of the metrics' names, which tells the audio condition of this run.
        """
        self.class_names = class_names
        self.suffix = suffix
        self._clips: dict[str, tuple[float, float]] = {}
        self._classes: dict[str, Tensor] = {}

    @property
    def is_semantic(self) -> bool:
        return len(self.class_names) > 2

    def reset(self) -> None:
        self._clips, self._classes = {}, {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """
        Args:
            inputs: clips with ``video_id``, ``masks`` (L, H, W) and ``labeled_frames`` (L,).
            outputs: ``sem_seg`` (T, K, H, W) scores in [0, 1] of each; K may exceed the data set's classes.
        """
        for clip, output in zip(inputs, outputs, strict=True):
            sem_seg = output["sem_seg"][clip["labeled_frames"].to(output["sem_seg"].device)]
            scores, masks = foreground_scores(sem_seg), clip["masks"].to(sem_seg.device)
            self._clips[clip["video_id"]] = clip_jaccard(scores, masks), clip_fscore(scores, masks)
            if self.is_semantic:
                sums = torch.stack(semantic_frame_scores(sem_seg.argmax(1), masks, sem_seg.shape[1]))
                self._classes[clip["video_id"]] = sums[:, : len(self.class_names)].cpu()

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"sem_seg": {"J": ..., "F": ...}}`` in percent on the main process, None on others."""
        comm.synchronize()
        gathered = comm.gather((self._clips, self._classes))
        if not comm.is_main_process():
            return None
        clips = dict(itertools.chain.from_iterable(part.items() for part, _ in gathered))
        # fsum is exact, so the order of the clips cannot show in the last digits.
        jaccard, fscore = (100 * math.fsum(values) / len(clips) for values in zip(*clips.values(), strict=True))
        results = {"J": jaccard, "F": fscore}
        if self.is_semantic:
            classes = dict(itertools.chain.from_iterable(part.items() for _, part in gathered))
            results |= self._over_classes([classes[name] for name in sorted(classes)])
        return {"sem_seg": {f"{name}{self.suffix}": value for name, value in results.items()}}

    @staticmethod
    def _over_classes(sums: list[Tensor]) -> dict[str, float]:
        """Means over all classes (a class that never appears counts as 0) and, ``_fg``, over all but background."""
        iou, fscore, frames = torch.stack(sums).sum(0)
        means = {"mIoU": 100 * iou / frames.clamp(min=1), "mF": 100 * fscore / frames.clamp(min=1)}
        return {name: v.mean().item() for name, v in means.items()} | {
            f"{name}_fg": v[1:].mean().item() for name, v in means.items()
        }


def foreground_scores(sem_seg: Tensor) -> Tensor:
    """(T, K, H, W) scores -> (T, H, W) in [0, 1]: the best class that is not background against the background.

    Above 0.5 exactly where the best class of all is not background.
    """
    best = sem_seg[:, 1:].amax(1)
    return best / (best + sem_seg[:, 0]).clamp(min=torch.finfo(best.dtype).tiny)
