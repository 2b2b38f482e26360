"""AVSBench trees on disk -> detectron2 records, registered as ``avsbench_*``, ``synthetic_*``, ``photos_*`` and yours.

A record holds ``video_id``, which no other clip of its data set has, the name of its ``video`` alone, ``category``, the
classes that it ``sounds`` of and has ``in_view`` as far as the csv tells, ``file_names`` (T frame paths),
``mask_file_names`` (L paths below ``mask_root``), ``mask_encoding`` (see :func:`transavs.media.images.read_mask`),
``labeled_frames`` (L frame indices), ``audio_file``, and ``log_mel_file`` or None. Nothing else tells the subsets apart
downstream.
"""

import itertools
import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from transavs.utils.errors import AVSInputError, choose, one_line
from transavs.utils.text_files import read_csv, read_text

SPLITS = ("train", "val", "test")
# What any csv may say beside AVSBench's own columns: the classes that sound at some time, and all that are in view.
COLUMNS_OF_OURS = ("sounds", "in_view")
CLASS_SEPARATOR = "_"
IGNORED_ID = 255  # of a pixel that neither teaches nor counts, as other projects write it into masks of class ids
# What leads to another folder when it is put into a path, or is none.
NO_FILE_NAME = re.compile(r"\.{1,2}|.*[/\\\0].*", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """Places of the files of one AVSBench subset, relative to its root.

    A subset may have parts, named in a column of its csv, that differ in length and labels; else its one part is "".
    The templates take ``{video}``, ``{category}``, ``{split}``, ``{part}`` and, for frames and masks, ``{k}``.
    """

    meta: str
    frames: str
    masks: str
    audio: str
    columns: tuple[str, ...]  # of the csv
    num_frames: dict[str, int]  # T by part
    log_mel: str = ""  # AVSBench's own log-mel pickles
    video_column: int = 0  # position of the column that names the video, whatever it is called
    category_column: str = ""
    category_separator: str = ""  # of the classes that a category joins; "" where it is one class
    part_column: str = ""
    first_frame: int = 1  # what ``{k}`` is for the first frame
    labeled_frames: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)  # by part, split; else all
    mask_encoding: str = "binary"
    color_masks: str = ""  # the same masks again, in the colors of a palette
    class_names: str | tuple[str, ...] = ("background", "sounding")  # or a JSON file that numbers them
    sounds_in: tuple[str, str] | None = None  # subset and part whose categories say what sounds in the same videos

    def frame_indices(self, part: str, split: str) -> tuple[int, ...]:
        """Indices, from 0, of the frames that have a mask."""
        return self.labeled_frames.get((part, split), tuple(range(self.num_frames[part])))

    def frame_paths(self, root: Path, template: str, indices: Iterable[int], **names: str) -> list[str]:
        """One path per frame index."""
        return [str(root / template.format(k=k + self.first_frame, **names)) for k in indices]

    def classes(self, joined: str, category: str) -> list[str]:
        """The classes of one of COLUMNS_OF_OURS, or where it is empty those that the category names."""
        if joined:
            return joined.split(CLASS_SEPARATOR)
        if category and self.category_separator:
            return category.split(self.category_separator)
        return [category] if category else []

    def clip_id(self, names: dict[str, str]) -> str:
        """What tells a clip from all others of its split: the names that its frames' paths are made of, with slashes.

        That is "category/video" in S4, "video" in MS3 and "part/video" in AVSS.
        """
        fields = dict.fromkeys(field for _, field, _, _ in Formatter().parse(self.frames) if field)
        return "/".join(names[field] for field in fields if field not in ("split", "k"))

    def unsafe_name(self, names: dict[str, str]) -> str:
        """The first of a clip's names that would lead out of its folder, "" where all stay inside."""
        templates = "".join((self.frames, self.masks, self.audio, self.log_mel))
        used = [name for field, name in names.items() if f"{{{field}}}" in templates]
        return next((name for name in used if NO_FILE_NAME.fullmatch(name)), "")

    def mask_root(self, root: Path, split: str) -> Path:
        """The folder that all masks of a split lie below."""
        shared = itertools.takewhile(lambda name: "{" not in name.replace("{split}", ""), self.masks.split("/"))
        return root / "/".join(shared).format(split=split)

    def record(
        self,
        root: Path,
        *,
        video: str,
        category: str,
        split: str,
        part: str = "",
        sounds: str = "",
        in_view: str = "",
    ) -> dict[str, Any]:
        """The record of one clip; builds paths and does not touch the disk."""
        names = {"video": video, "category": category, "split": split, "part": part}
        labeled = self.frame_indices(part, split)
        return {
            "video_id": self.clip_id(names),
            "video": video,
            "category": category,
            "sounds": self.classes(sounds, category),
            "in_view": self.classes(in_view, category),
            "file_names": self.frame_paths(root, self.frames, range(self.num_frames[part]), **names),
            "mask_file_names": self.frame_paths(root, self.masks, labeled, **names),
            "mask_root": str(self.mask_root(root, split)),
            "mask_encoding": self.mask_encoding,
            "labeled_frames": list(labeled),
            "audio_file": str(root / self.audio.format(**names)),
            "log_mel_file": str(root / self.log_mel.format(**names)) if self.log_mel else None,
        }

    def read_class_names(self, root: Path) -> list[str]:
        """Class names in the order of their ids, background first.

        Raises:
            AVSInputError: the file that names them is missing, no JSON object, names a class twice, or numbers them in
                another order with gaps.
        """
        if not isinstance(self.class_names, str):
            return list(self.class_names)
        path = root / self.class_names
        try:
            pairs = json.loads(read_text(path), object_pairs_hook=tuple)
            names, numbers = [name for name, _ in pairs], [number for _, number in pairs]
            if not isinstance(pairs, tuple) or len(set(names)) < len(names):
                raise ValueError("a name stands there twice" if isinstance(pairs, tuple) else "it is no JSON object")
            if not all(type(number) is int for number in numbers) or numbers == sorted(numbers):
                return names  # copies of the file are about that number the classes from 1, in their order
            if sorted(numbers) not in (list(range(len(names))), list(range(1, len(names) + 1))):
                raise ValueError("its numbers are neither in order nor those from 0 or from 1 on")
            return [name for _, name in sorted(zip(numbers, names, strict=True))]
        except (ValueError, TypeError, RecursionError) as error:
            raise AVSInputError(f"{path} does not list the classes ({one_line(error)}): restore the file") from error


LAYOUTS = {
    "s4": Layout(
        meta="Single-source/s4_meta_data.csv",
        columns=("name", "start", "category", "split"),
        category_column="category",
        frames="Single-source/s4_data/visual_frames/{split}/{category}/{video}/{video}_{k}.png",
        masks="Single-source/s4_data/gt_masks/{split}/{category}/{video}/{video}_{k}.png",
        audio="Single-source/s4_data/audio_wav/{split}/{category}/{video}.wav",
        log_mel="Single-source/s4_data/audio_log_mel/{split}/{category}/{video}.pkl",
        num_frames={"": 5},
        labeled_frames={("", "train"): (0,)},
    ),
    "ms3": Layout(
        meta="Multi-sources/ms3_meta_data.csv",
        columns=("video_id", "split"),
        frames="Multi-sources/ms3_data/visual_frames/{video}/{video}.mp4_{k}.png",
        masks="Multi-sources/ms3_data/gt_masks/{split}/{video}/{video}_{k}.png",
        audio="Multi-sources/ms3_data/audio_wav/{split}/{video}.wav",
        log_mel="Multi-sources/ms3_data/audio_log_mel/{split}/{video}.pkl",
        num_frames={"": 5},
        sounds_in=("avss", "v1m"),
    ),
    "avss": Layout(
        meta="metadata.csv",
        columns=("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"),
        video_column=1,
        category_column="a_obj",
        category_separator=CLASS_SEPARATOR,
        part_column="label",
        first_frame=0,
        frames="{part}/{video}/frames/{k}.jpg",
        masks="{part}/{video}/labels_semantic/{k}.png",
        color_masks="{part}/{video}/labels_rgb/{k}.png",
        audio="{part}/{video}/audio.wav",
        num_frames={"v1s": 5, "v1m": 5, "v2": 10},
        labeled_frames={("v1s", "train"): (0,)},
        mask_encoding="class_ids",
        class_names="label2idx.json",
    ),
}

# Data set name -> what to do where it is missing, and the root of each subset below $DETECTRON2_DATASETS.
AVSBENCH_HINT = "get AVSBench as datasets/README.md says"
ELSEWHERE = ", or point DETECTRON2_DATASETS at the folder that holds it"
SOURCES = {
    "avsbench": (AVSBENCH_HINT, {"s4": "AVSBench_object", "ms3": "AVSBench_object", "avss": "AVSBench_semantic"}),
    "synthetic": (
        "run datasets/prepare_synthetic.py (without a checkout transavs-prepare-synthetic)",
        {"s4": "synthetic", "ms3": "synthetic", "avss": "synthetic/AVSBench_semantic"},
    ),
    "photos": (
        "run datasets/prepare_photos.py (without a checkout transavs-prepare-photos)",
        {"s4": "photos", "ms3": "photos", "avss": "photos/AVSBench_semantic"},
    ),
}
# Folders of the same trees under other names: AVSegFormer has S4 and MS3 beside each other, and "AVSS".
RENAMED = {"AVSBench_object": (".",), "AVSBench_semantic": ("AVSS",)}


def read_clip_names(root: str | Path, subset: str, hint: str = AVSBENCH_HINT + ELSEWHERE) -> dict[int, dict[str, str]]:
    """Read the csv of one subset; no value is checked.

    Args:
        root: of the subset, the folder that its layout's paths begin in.
        subset: key of LAYOUTS.
        hint: what the user should do where the tree is missing; ends the error message.

    Returns:
        ``video, category, split, part, sounds, in_view`` by line number of the csv, without spaces around them; "" for
        what it does not say.

    Raises:
        AVSInputError: the csv is missing, no text, or lacks a column.
    """
    layout = choose(LAYOUTS, subset, "subset")
    meta = Path(root) / layout.meta
    if not meta.is_file():
        raise AVSInputError(f"{meta} does not exist: {hint}")
    return read_rows(meta, layout)


def read_rows(meta: Path, layout: Layout, **more: str) -> dict[int, dict[str, str]]:
    """Read a csv with the columns of a layout, wherever it lies; see :func:`read_clip_names`.

    Splits and parts may be written in upper or lower case.

    Args:
        meta: the file.
        layout: names the columns.
        more: columns to read beside them, by their key in the result.
    """
    columns, rows = read_csv(meta)
    needed = {"split", layout.category_column, layout.part_column} - {""}
    if needed - set(columns) or len(columns) <= layout.video_column:
        missing = sorted(needed - set(columns)) or layout.columns[layout.video_column]
        raise AVSInputError(f"{meta} lacks the column {missing} (it has {columns}): restore the file")
    column_of = {"video": columns[layout.video_column], "category": layout.category_column, "split": "split"}
    column_of |= {"part": layout.part_column} | {name: name for name in COLUMNS_OF_OURS} | more
    found = {}
    for line, row in rows.items():
        names = {name: row.get(column, "") for name, column in column_of.items()}
        found[line] = names | {name: names[name].lower() for name in ("split", "part")}
    return found


def load_avsbench(
    root: str | Path, subset: str, split: str, hint: str = AVSBENCH_HINT + ELSEWHERE
) -> list[dict[str, Any]]:
    """Read the csv of one subset and list the records of one split.

    Args:
        root: of the subset, the folder that its layout's paths begin in.
        subset: key of LAYOUTS.
        split: one of SPLITS.
        hint: what the user should do where the tree is missing; ends the error message.

    Returns:
        records, in the order of the csv.

    Raises:
        AVSInputError: the csv is missing or lacks a column; a row of any split names an unknown split or part, no clip
            or one that would lie elsewhere; two rows of this split name the same clip, or none does.
    """
    layout, root = choose(LAYOUTS, subset, "subset"), Path(root)
    meta = root / layout.meta
    rows = read_clip_names(root, subset, hint)
    for line, names in rows.items():
        check_row(meta, line, layout, names)
    clips = {line: names for line, names in rows.items() if names["split"] == split}
    if not clips:
        raise AVSInputError(f"{meta} lists no clip with split '{split}': restore the file")
    lines: dict[str, int] = {}
    for line, names in clips.items():
        clip = layout.clip_id(names)
        if clip in lines:
            raise AVSInputError(f"{meta} line {line} lists the clip {clip!r} again, as line {lines[clip]}: remove one")
        lines[clip] = line
    logging.getLogger(__name__).info("%d clips in split '%s' of %s", len(clips), split, meta)
    return [_with_masks_there_are(layout, root, names) for names in clips.values()]


def check_row(meta: Path, line: int, layout: Layout, names: dict[str, str]) -> None:
    """Raise an AVSInputError where a row of a csv names no clip, or one that would lie elsewhere."""
    row = f"{meta} line {line}"
    if not names["video"]:
        raise AVSInputError(f"{row} names no clip: write its name, or remove the row")
    for value, what, known in (
        (names["split"], "split", SPLITS),
        (names["part"], layout.part_column, layout.num_frames),
    ):
        if value not in known:
            raise AVSInputError(f"{row} has the {what} {value!r} (expected {', '.join(known)}): correct the row")
    if unsafe := layout.unsafe_name(names):
        raise AVSInputError(f"{row} names {unsafe!r}, which leads out of the data set: correct the row")


def _with_masks_there_are(layout: Layout, root: Path, names: dict[str, str]) -> dict[str, Any]:
    """The record of a clip; where its masks are there in colors alone, with those."""
    record = layout.record(root, **names)
    if layout.color_masks and not Path(record["mask_file_names"][0]).exists():
        color_masks = layout.frame_paths(root, layout.color_masks, record["labeled_frames"], **names)
        if Path(color_masks[0]).exists():
            return record | {"mask_file_names": color_masks, "mask_encoding": "palette"}
    return record


def _fill_sounds(records: list[dict[str, Any]], root: Path, subset: str, part: str) -> None:
    """Say of records that do not what sounds in them, by the categories of a part of another subset, if it is there."""
    layout = LAYOUTS[subset]
    if all(record["sounds"] for record in records) or not (root / layout.meta).is_file():
        return
    rows = read_clip_names(root, subset).values()
    categories = {names["video"]: names["category"] for names in rows if names["part"] == part}
    for record in records:
        if not record["sounds"]:
            classes = layout.classes("", categories.get(record["video"], ""))
            record |= {"sounds": classes, "in_view": record["in_view"] or classes}


def subset_root(datasets_root: str | Path, folder: str, subset: str) -> Path:
    """Find a subset below $DETECTRON2_DATASETS: its folder of SOURCES, or what another project calls it."""
    roots = [Path(datasets_root) / name for name in (folder, *RENAMED.get(folder, ()))]
    return next((root for root in roots if (root / LAYOUTS[subset].meta).is_file()), roots[0])


def _load_registered(
    name: str, root: Path, subset: str, split: str, hint: str, sounds_root: Path | None
) -> list[dict[str, Any]]:
    """The records of a registered data set; names its classes in the metadata, which may take reading a file."""
    found = subset_root(root.parent, root.name, subset)
    records = load_avsbench(found, subset, split, hint)
    if sounds_root is not None and (sounds_in := LAYOUTS[subset].sounds_in):
        other, part = sounds_in
        _fill_sounds(records, subset_root(sounds_root.parent, sounds_root.name, other), other, part)
    MetadataCatalog.get(name).set(stuff_classes=LAYOUTS[subset].read_class_names(found))
    return records


def register_avs_dataset(
    name: str,
    root: str | Path,
    layout: str,
    *,
    hint: str = "correct the root that the data set is registered with",
    sounds_root: str | Path | None = None,
) -> None:
    """Register the splits of a tree as ``{name}_train``, ``{name}_val`` and ``{name}_test``; touches no file.

    ``stuff_classes`` stands in the metadata once the data set has been loaded.

    Args:
        name: for DATASETS.TRAIN, VAL and TEST, before the split.
        root: folder that the layout's paths begin in.
        layout: key of LAYOUTS: "s4", "ms3" or "avss".
        hint: what the user should do where the tree is missing; ends the error message.
        sounds_root: root of an "avss" tree that says what sounds in the videos of an "ms3" tree whose csv does not.

    Raises:
        AVSInputError: there is no such layout, or the name is taken.
    """
    choose(LAYOUTS, layout, "layout")
    sounds = None if sounds_root is None else Path(sounds_root)
    for split in SPLITS:
        full_name = f"{name}_{split}"
        if full_name in DatasetCatalog.list():
            raise AVSInputError(f"the data set {full_name} is already registered: choose another name")
        loader = partial(_load_registered, full_name, Path(root), layout, split, hint, sounds)
        DatasetCatalog.register(full_name, loader)
        MetadataCatalog.get(full_name).set(evaluator_type="avs")


def register_all_avsbench(root: str | Path) -> None:
    """Register ``{avsbench,synthetic,photos}_{s4,ms3,avss}_{train,val,test}`` below ``root``; touches no file."""
    for source, (hint, folders) in SOURCES.items():
        sounds_root = Path(root, folders["avss"])
        for subset, folder in folders.items():
            name, tree = f"{source}_{subset}", Path(root, folder)
            register_avs_dataset(name, tree, subset, hint=hint + ELSEWHERE, sounds_root=sounds_root)


register_all_avsbench(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
