"""detectron2 evaluator that keeps predictions as files."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from transavs.evaluation.avs_evaluator import best_classes, foreground_probabilities
from transavs.media.images import encode_mask
from transavs.utils.atomic_files import write_file, write_image
from transavs.utils.errors import AVSInputError

RLE_NAME = "predictions.json"
FORMATS = ("rle", "png", "probabilities")
WHITE = 255


class PredictionWriter(DatasetEvaluator):
    """Writes what was predicted for the labeled frames, in up to three forms.

    * ``predictions.json`` ("rle"): for each frame and class that occurs in it ``video_id``, ``file_name`` of the ground
      truth, ``frame`` (from 0), ``category_id``, and COCO's ``segmentation`` (compressed run-length code), ``area`` and
      ``bbox``.
    * ``png/`` ("png"): masks at the ground truth's paths, 0 and 255, or class ids where there are several.
    * ``probabilities/`` ("probabilities"): the same with the probability of anything sounding as gray level.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str], num_classes: int):
        """
        Args:
            folder: to write into.
            formats: some of FORMATS.
            num_classes: K of the data set.

        Raises:
            AVSInputError: there is no such format.
        """
        if unknown := set(formats) - set(FORMATS):
            raise AVSInputError(f"TEST.SAVE_PREDICTIONS holds {sorted(unknown)}: choose from {', '.join(FORMATS)}")
        self.folder, self.formats, self.num_classes = Path(folder), formats, num_classes
        self._codes: dict[str, list[dict[str, Any]]] = {}

    def reset(self) -> None:
        self._codes = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Takes what :class:`AVSEvaluator` takes, with ``mask_file_names`` and ``mask_root``."""
        for clip, output in zip(inputs, outputs, strict=True):
            sem_seg = output["sem_seg"][clip["labeled_frames"].to(output["sem_seg"].device)]
            ids = best_classes(sem_seg).byte().cpu().numpy()
            names = [os.path.relpath(path, clip["mask_root"]) for path in clip["mask_file_names"]]
            if "rle" in self.formats:
                self._codes[clip["video_id"]] = self._encode(clip, names, ids)
            if "png" in self.formats:
                self._write("png", names, ids * WHITE if self.num_classes == 2 else ids)
            if "probabilities" in self.formats:
                self._write(
                    "probabilities", names, (foreground_probabilities(sem_seg) * WHITE).round().byte().cpu().numpy()
                )

    @staticmethod
    def _encode(clip: dict[str, Any], names: list[str], ids: np.ndarray) -> list[dict[str, Any]]:
        found = []
        for frame, name, mask in zip(clip["labeled_frames"].tolist(), names, ids, strict=True):
            for class_id in np.unique(mask[mask > 0]).tolist():
                about = {"video_id": clip["video_id"], "file_name": name, "frame": frame, "category_id": class_id}
                found.append(about | encode_mask(mask == class_id))
        return found

    def _write(self, kind: str, names: Sequence[str], images: np.ndarray) -> None:
        for name, image in zip(names, images, strict=True):
            if name.startswith(os.pardir):
                raise AVSInputError(f"the mask {name} is not below its mask_root: correct the record of its clip")
            write_image((self.folder / kind / name).with_suffix(".png"), image)

    def evaluate(self) -> None:
        if "rle" not in self.formats:
            return
        gathered = comm.gather(self._codes)
        if comm.is_main_process():
            clips = dict(itertools.chain.from_iterable(part.items() for part in gathered))
            codes = [code for name in sorted(clips) for code in clips[name]]
            write_file(self.folder / RLE_NAME, json.dumps(codes))
