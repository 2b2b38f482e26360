"""The data doctor: looks at every csv, frame, mask and sound of AVSBench trees and says what is wrong with them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from transavs.data.avsbench import AVSBENCH_HINT, LAYOUTS, SOURCES, SPLITS, read_clip_names
from transavs.data.integrity.clip import Clip, check_clip
from transavs.data.integrity.report import Finding, Report, TreeCounts
from transavs.utils.errors import AVSInputError, one_line

# Clips in train, val and test, by subset and part: Zhou et al. 2022 and 2024.
PUBLISHED_CLIPS = {
    "s4": {"": (3452, 740, 740)},
    "ms3": {"": (296, 64, 64)},
    "avss": {"v1s": (3452, 740, 740), "v1m": (296, 64, 64), "v2": (4750, 500, 750)},
}
PUBLISHED_CLASSES = 71
BACKGROUND = "background"
# AVSBench names a clip after its YouTube video, of 11 characters, and a number or two; a few clips have none.
YOUTUBE_CLIP = re.compile(r"(.{11})(_\d+)*")
CHUNK = 8  # clips that a worker takes at a time


@dataclass(frozen=True)
class Tree:
    """One subset on disk."""

    subset: str  # key of LAYOUTS
    root: Path
    source: str  # key of SOURCES

    @property
    def meta(self) -> Path:
        return self.root / LAYOUTS[self.subset].meta

    def is_there(self) -> bool:
        """Tell whether any of its own files or folders exists, the csv or another."""
        layout = LAYOUTS[self.subset]
        own = [layout.meta, *(layout.frames.replace("{part}", part) for part in layout.num_frames)]
        return any((self.root / path.partition("/")[0]).exists() for path in own)


def _candidates(root: Path, subset: str) -> Iterator[Tree]:
    """List where the subset would be below ``root``, the likeliest first."""
    depths = []
    for source, (_, folders) in SOURCES.items():
        parts = Path(folders[subset]).parts
        for depth in range(len(parts) + 1):
            # ``root`` may be the folder above all, or end in so many of the names that follow it.
            if root.parts[len(root.parts) - depth :] == parts[:depth]:
                depths.append((depth, Tree(subset, root.joinpath(*parts[depth:]), source)))
    yield from (tree for _, tree in sorted(depths, key=lambda pair: -pair[0]))
    yield Tree(subset, root, "avsbench")  # a copy under another name


def find_trees(root: str | Path, subsets: Sequence[str] = ()) -> list[Tree]:
    """The subsets in a folder.

    Args:
        root: what DETECTRON2_DATASETS names, or a folder of one of SOURCES below it.
        subsets: keys of LAYOUTS, each of which must be there; by default those that are.

    Raises:
        AVSInputError: a subset that was asked for is not there, or none is.
    """
    root = Path(root).absolute()
    trees: dict[tuple[str, Path], Tree] = {}
    for subset in subsets or LAYOUTS:
        there = [tree for tree in _candidates(root, subset) if tree.is_there()]
        if subsets and not there:
            raise AVSInputError(f"{root} holds no {subset}: {AVSBENCH_HINT}, or name the folder that holds it")
        for tree in there:
            trees.setdefault((subset, tree.root), tree)
    if not trees:
        raise AVSInputError(f"{root} holds no AVSBench: {AVSBENCH_HINT}, or name the folder that holds it")
    return list(trees.values())


def _good_rows(tree: Tree, rows: dict[int, dict[str, str]], findings: list[Finding]) -> dict[int, dict[str, str]]:
    """The rows, by line, that name a clip which can be looked at."""
    layout, good, lines = LAYOUTS[tree.subset], {}, dict[str, int]()
    for line, names in rows.items():
        path, clip = f"{tree.meta}:{line}", layout.clip_id(names)
        if not names["video"]:
            findings.append(Finding("clip-unnamed", path, "names no clip"))
        elif names["split"] not in SPLITS:
            findings.append(Finding("split-unknown", path, f"has the split '{names['split']}'"))
        elif names["part"] not in layout.num_frames:
            message = f"has the {layout.part_column} '{names['part']}', known are {', '.join(layout.num_frames)}"
            findings.append(Finding("part-unknown", path, message))
        elif unsafe := layout.unsafe_name(names):
            findings.append(Finding("clip-name", path, f"names {unsafe!r}, which leads out of the data set"))
        elif clip in lines:
            findings.append(Finding("clip-duplicate", path, f"names {clip} again, as line {lines[clip]} does"))
        else:
            good[line], lines[clip] = names, line
    return good


def source_video(clip: str) -> str:
    """The video that a clip was cut from: the name without the numbers at its end."""
    youtube = YOUTUBE_CLIP.fullmatch(clip)
    return youtube[1] if youtube else re.sub(r"_\d+$", "", clip)


def _find_leaks(tree: Tree, rows: dict[int, dict[str, str]]) -> Iterator[Finding]:
    """Source videos with clips in several splits, told once each, where the second split comes up.

    A YouTube video is one wherever its name stands; other names are compared within a category.
    """
    first_lines: dict[tuple[str, str], dict[str, int]] = {}  # by source video and split
    for line, names in rows.items():
        scope = "" if YOUTUBE_CLIP.fullmatch(names["video"]) else names["category"]
        first_lines.setdefault((scope, source_video(names["video"])), {}).setdefault(names["split"], line)
    for (_, source), lines in first_lines.items():
        if len(lines) > 1:
            message = f"is of source video {source}, which has clips in {' and '.join(lines)}"
            yield Finding("source-leak", f"{tree.meta}:{sorted(lines.values())[1]}", message)


def _count(tree: Tree, names: Iterable[dict[str, str]], compare: bool, findings: list[Finding]) -> TreeCounts:
    """Clips by part and split, compared with the published ones."""
    found = Counter((row["part"], row["split"]) for row in names)
    parts = LAYOUTS[tree.subset].num_frames
    clips = {part: {split: found[part, split] for split in SPLITS} for part in parts}
    published = {
        part: dict(zip(SPLITS, counts, strict=True)) for part, counts in PUBLISHED_CLIPS[tree.subset].items() if compare
    }
    differing = [
        f"{clips[part][split]} of {count} clips in {part} {split}".replace("  ", " ")
        for part, counts in published.items()
        for split, count in counts.items()
        if clips[part][split] != count
    ]
    if differing:
        findings.append(Finding("counts-differ", str(tree.meta), f"lists {', '.join(differing)}"))
    return TreeCounts(tree.subset, str(tree.root), clips, published)


def _count_classes(tree: Tree, findings: list[Finding]) -> int:
    """Number of classes; AVSBench's own where the file that names them is of no use, which the findings then tell."""
    layout = LAYOUTS[tree.subset]
    path = tree.root / str(layout.class_names)
    if isinstance(layout.class_names, str) and not path.is_file():
        findings.append(Finding("classes-missing", str(path), "does not exist"))
        return PUBLISHED_CLASSES
    try:
        names = layout.read_class_names(tree.root)
    except AVSInputError as error:
        findings.append(Finding("classes-broken", str(path), f"cannot be read ({one_line(error.__cause__ or error)})"))
        return PUBLISHED_CLASSES
    if names[:1] != [BACKGROUND]:
        findings.append(Finding("classes-order", str(path), f"begins with {names[:1]}, not with {BACKGROUND}"))
        return PUBLISHED_CLASSES
    return len(names)


def _find_orphans(tree: Tree, rows: Iterable[dict[str, str]]) -> Iterator[Finding]:
    """Folders and files of clips that the csv does not name."""
    layout, rows = LAYOUTS[tree.subset], list(rows)
    orphans: set[Path] = set()
    for template in filter(None, (layout.frames, layout.masks, layout.audio, layout.log_mel)):
        folder, _, rest = template.partition("{video}")
        end = rest.partition("/")[0]  # ".wav" of a file, "" of a folder
        known = {
            tree.root / f"{folder.format(**names | {'split': split})}{names['video']}{end}"
            for names in rows
            for split in SPLITS  # a clip of another split than the csv has it in is told as missing there
        }
        for part in layout.num_frames:
            for split in SPLITS:
                pattern = folder.format(part=part, split=split, category="*") + f"*{end}"
                orphans |= {path for path in tree.root.glob(pattern) if end or path.is_dir()} - known
    for path in sorted(orphans):
        yield Finding("clip-orphan", str(path), f"belongs to a clip that {tree.meta.name} does not name")


def _look_at_tree(tree: Tree, compare_counts: bool, report: Report) -> list[Clip]:
    """Report what its csv and folders tell without opening a clip; returns the clips to look at."""
    findings = report.findings
    num_classes = _count_classes(tree, findings)
    if not tree.meta.is_file():
        findings.append(Finding("csv-missing", str(tree.meta), "does not exist"))
        return []
    try:
        rows = read_clip_names(tree.root, tree.subset)
    except AVSInputError as error:
        message = str(error).removeprefix(f"{tree.meta} ").rpartition(": ")[0]
        findings.append(Finding("csv-broken", str(tree.meta), message))
        return []
    good = _good_rows(tree, rows, findings)
    compare = compare_counts and tree.source != "synthetic"
    report.trees.append(_count(tree, good.values(), compare, findings))
    findings += _find_leaks(tree, good)
    findings += _find_orphans(tree, rows.values())
    return [Clip(tree.root, tree.subset, names, num_classes) for names in good.values()]


def check_avsbench(
    root: str | Path, subsets: Sequence[str] = (), *, compare_counts: bool = True, workers: int = 1
) -> Report:
    """Look at all files that the csv of each subset calls for.

    Args:
        root: see :func:`find_trees`.
        subsets: keys of LAYOUTS; by default those that are there.
        compare_counts: compare the number of clips with the published ones, except in synthetic trees.
        workers: processes; 1 = this one.

    Raises:
        AVSInputError: there is nothing to look at. What is broken is reported, and never raises.
    """
    report = Report()
    clips = [clip for tree in find_trees(root, subsets) for clip in _look_at_tree(tree, compare_counts, report)]
    with tqdm(total=len(clips), unit="clip") as progress:
        for findings in _check_clips(clips, workers):
            report.findings += findings
            progress.update()
    return report


def _check_clips(clips: list[Clip], workers: int) -> Iterator[list[Finding]]:
    if workers <= 1:
        yield from map(check_clip, clips)
    else:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(check_clip, clips, chunksize=CHUNK)
