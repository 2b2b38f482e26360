"""AVSBench trees on disk -> detectron2 records, registered as ``avsbench_*`` and ``synthetic_*``.

A record holds ``video_id, category, file_names`` (T frame paths), ``mask_file_names`` (L paths), ``labeled_frames``
(L frame indices), ``audio_file``, ``log_mel_file``. Nothing else tells the subsets apart downstream.
"""

import csv
import logging
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from transavs.errors import AVSInputError

SPLITS = ("train", "val", "test")
CLASS_NAMES = ("background", "sounding")


@dataclass(frozen=True)
class Layout:
    """Where one subset of AVSBench-object keeps its files, relative to the root of the data set.

    The templates take ``{video}``, ``{category}``, ``{split}`` and, for frames and masks, ``{k}`` from 1 to T.
    """

    meta: str
    frames: str
    masks: str
    audio: str
    log_mel: str
    columns: tuple[str, ...]  # of the csv; the first names the video and may be called otherwise
    num_frames: int = 5
    labeled_frames: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by split; all frames where absent

    def frame_indices(self, split: str) -> tuple[int, ...]:
        """Indices, from 0, of the frames that have a mask in ``split``."""
        return self.labeled_frames.get(split, tuple(range(self.num_frames)))

    def record(self, root: Path, video: str, category: str, split: str) -> dict[str, Any]:
        """The record of one clip; builds paths and does not touch the disk."""
        names = {"video": video, "category": category, "split": split}
        labeled = self.frame_indices(split)
        return {
            "video_id": video,
            "category": category,
            "file_names": [str(root / self.frames.format(k=k + 1, **names)) for k in range(self.num_frames)],
            "mask_file_names": [str(root / self.masks.format(k=k + 1, **names)) for k in labeled],
            "labeled_frames": list(labeled),
            "audio_file": str(root / self.audio.format(**names)),
            "log_mel_file": str(root / self.log_mel.format(**names)),
        }


LAYOUTS = {
    "s4": Layout(
        meta="Single-source/s4_meta_data.csv",
        columns=("name", "start", "category", "split"),
        frames="Single-source/s4_data/visual_frames/{split}/{category}/{video}/{video}_{k}.png",
        masks="Single-source/s4_data/gt_masks/{split}/{category}/{video}/{video}_{k}.png",
        audio="Single-source/s4_data/audio_wav/{split}/{category}/{video}.wav",
        log_mel="Single-source/s4_data/audio_log_mel/{split}/{category}/{video}.pkl",
        labeled_frames={"train": (0,)},
    ),
    "ms3": Layout(
        meta="Multi-sources/ms3_meta_data.csv",
        columns=("video_id", "split"),
        frames="Multi-sources/ms3_data/visual_frames/{video}/{video}.mp4_{k}.png",
        masks="Multi-sources/ms3_data/gt_masks/{split}/{video}/{video}_{k}.png",
        audio="Multi-sources/ms3_data/audio_wav/{split}/{video}.wav",
        log_mel="Multi-sources/ms3_data/audio_log_mel/{split}/{video}.pkl",
    ),
}

# Data set name -> folder below $DETECTRON2_DATASETS, and what to do where it is missing.
ROOTS = {
    "avsbench": ("AVSBench_object", "get AVSBench-object as datasets/README.md says"),
    "synthetic": ("synthetic", "run datasets/prepare_synthetic.py"),
}


def load_avsbench(root: str | Path, subset: str, split: str, mend: str = ROOTS["avsbench"][1]) -> list[dict[str, Any]]:
    """Read the csv of one subset and list the records of one split.

    Args:
        root: folder that holds ``Single-source`` and ``Multi-sources``.
        subset: key of LAYOUTS.
        split: one of SPLITS.
        mend: what the user should do where the tree is missing; ends the error message.

    Returns:
        records, in the order of the csv.

    Raises:
        AVSInputError: the csv is missing, lacks a column, or lists no clip of this split.
    """
    layout = LAYOUTS[subset]
    meta = Path(root) / layout.meta
    if not meta.is_file():
        raise AVSInputError(f"{meta} does not exist: {mend}, or point DETECTRON2_DATASETS at the folder that holds it")
    with open(meta, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        missing = {"category", "split"} & set(layout.columns) - set(columns)
        if missing:
            raise AVSInputError(f"{meta} lacks the column {sorted(missing)} (it has {columns}): restore the file")
        rows = [(row[columns[0]], row.get("category") or "", row["split"]) for row in reader]
    records = [layout.record(Path(root), video, category, split) for video, category, of in rows if of == split]
    if not records:
        raise AVSInputError(f"{meta} lists no clip with split '{split}': restore the file")
    logging.getLogger(__name__).info("%d clips in split '%s' of %s", len(records), split, meta)
    return records


def register_all_avsbench(root: str | Path) -> None:
    """Register ``{avsbench,synthetic}_{s4,ms3}_{train,val,test}`` below ``root``; touches no file."""
    for source, (folder, mend) in ROOTS.items():
        for subset in LAYOUTS:
            for split in SPLITS:
                name = f"{source}_{subset}_{split}"
                DatasetCatalog.register(name, partial(load_avsbench, Path(root) / folder, subset, split, mend))
                MetadataCatalog.get(name).set(evaluator_type="avs", stuff_classes=list(CLASS_NAMES))


register_all_avsbench(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
