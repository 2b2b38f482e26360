"""detectron2 evaluator that keeps predictions as files."""

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
from transavs.evaluation.clip_store import ClipStore
from transavs.media.images import coco_annotation, coco_categories
from transavs.utils.atomic_files import write_file, write_image
from transavs.utils.command_line import check_outputs
from transavs.utils.errors import AVSInputError

RLE_NAME, COCO_NAME = "predictions.json", "coco.json"
FORMATS = ("rle", "coco", "png", "probabilities")
OBJECT_KEYS = ("category_id", "segmentation", "area", "bbox")
WHITE = 255


class PredictionWriter(DatasetEvaluator):
    """Writes what was predicted for the labeled frames, in up to four forms.

    * ``predictions.json`` ("rle"): for each frame and class that occurs in it ``video_id``, ``file_name`` of the ground
      truth, ``frame`` (from 0), ``category_id``, and COCO's ``segmentation`` (compressed run-length code), ``area`` and
      ``bbox``.
    * ``coco.json`` ("coco"): a COCO data set of the frames themselves, with or without anything predicted in them, that
      pycocotools and tools for labeling read. An image has its ``video_id`` and ``frame`` too, and its ``file_name``
      begins below the folder that all frames share.
    * ``png/`` ("png"): masks at the ground truth's paths, 0 and 255, or class ids where there are several.
    * ``probabilities/`` ("probabilities"): the same with the probability of anything sounding as gray level.

    At the end ``png/`` and ``probabilities/`` hold no image of an earlier evaluation any more.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str], class_names: Sequence[str]):
        """
        Args:
            folder: to write into.
            formats: some of FORMATS.
            class_names: K names, the background first.

        Raises:
            AVSInputError: there is no such format.
        """
        if unknown := set(formats) - set(FORMATS):
            raise AVSInputError(f"TEST.SAVE_PREDICTIONS holds {sorted(unknown)}: choose from {', '.join(FORMATS)}")
        self.folder, self.formats, self.class_names = Path(folder), formats, class_names
        self.reset()

    def reset(self) -> None:
        self._frames = ClipStore[list[dict[str, Any]]]()
        self._written: set[Path] = set()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Takes what :class:`AVSEvaluator` takes, with ``file_names``, ``mask_file_names`` and ``mask_root``."""
        for clip, output in zip(inputs, outputs, strict=True):
            sem_seg = output["sem_seg"][clip["labeled_frames"].to(output["sem_seg"].device)]
            ids = best_classes(sem_seg).byte().cpu().numpy()
            names = [os.path.relpath(path, clip["mask_root"]) for path in clip["mask_file_names"]]
            if {"rle", "coco"} & set(self.formats):
                self._frames.add(clip, self._encode(clip, names, ids))
            if "png" in self.formats:
                self._write("png", clip, names, ids * WHITE if len(self.class_names) == 2 else ids)
            if "probabilities" in self.formats:
                levels = (foreground_probabilities(sem_seg) * WHITE).round().byte().cpu().numpy()
                self._write("probabilities", clip, names, levels)

    @staticmethod
    def _encode(clip: dict[str, Any], names: list[str], ids: np.ndarray) -> list[dict[str, Any]]:
        """Each frame of a clip: where it and its ground truth lie, and an annotation per class that occurs in it."""
        return [
            {
                "about": {"video_id": clip["video_id"], "file_name": name, "frame": frame},
                "image": clip["file_names"][frame],
                "size": mask.shape,
                "objects": [
                    coco_annotation(0, 0, class_id, mask == class_id) for class_id in np.unique(mask[mask > 0]).tolist()
                ],
            }
            for frame, name, mask in zip(clip["labeled_frames"].tolist(), names, ids, strict=True)
        ]

    def _write(self, kind: str, clip: dict[str, Any], names: Sequence[str], images: np.ndarray) -> None:
        for name, image in zip(names, images, strict=True):
            if name.startswith(os.pardir):
                raise AVSInputError(f"the mask {name} is not below its mask_root: correct the record of its clip")
            path = (self.folder / kind / name).with_suffix(".png")
            check_outputs([path], clip["mask_file_names"], makes_parents=True)
            write_image(path, image)
            self._written.add(path)

    def _remove_earlier(self) -> None:
        """Remove the images that an earlier evaluation has written for other clips."""
        written = set().union(*comm.gather(self._written))
        if comm.is_main_process():
            for kind in {"png", "probabilities"} & set(self.formats):
                for path in set((self.folder / kind).rglob("*.png")) - written:
                    path.unlink()

    def evaluate(self) -> None:
        self._remove_earlier()
        if not {"rle", "coco"} & set(self.formats):
            return
        clips = self._frames.gather()
        if clips is None:
            return
        frames = [frame for name in sorted(clips) for frame in clips[name]]
        if "rle" in self.formats:
            codes = [
                frame["about"] | {key: found[key] for key in OBJECT_KEYS}
                for frame in frames
                for found in frame["objects"]
            ]
            write_file(self.folder / RLE_NAME, json.dumps(codes))
        if "coco" in self.formats:
            write_file(self.folder / COCO_NAME, json.dumps(self._coco_dataset(frames)))

    def _coco_dataset(self, frames: Sequence[dict[str, Any]]) -> dict[str, Any]:
        shared = os.path.commonpath([os.path.dirname(frame["image"]) for frame in frames]) if frames else ""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, frame in enumerate(frames, start=1):
            about = {"id": number, "file_name": os.path.relpath(frame["image"], shared)}
            about |= {"height": frame["size"][0], "width": frame["size"][1]}
            images.append(about | {key: frame["about"][key] for key in ("video_id", "frame")})
            for found in frame["objects"]:
                annotations.append(found | {"id": len(annotations) + 1, "image_id": number})
        categories = coco_categories(self.class_names)
        return {"info": {}, "images": images, "categories": categories, "annotations": annotations}
