"""Findings of the data doctor, as a summary, a list and a JSON file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from transavs.data.avsbench import SPLITS

FAULT, WARNING = "fault", "warning"
PATHS_SHOWN = 3

# Kind of finding -> how bad it is, and what to do about it.
KINDS = {
    "csv-missing": (FAULT, "unpack the data as datasets/README.md says"),
    "csv-broken": (FAULT, "restore the csv"),
    "clip-unnamed": (FAULT, "write the clip's name, or remove the row"),
    "clip-name": (FAULT, "restore the row: names of clips and categories are names of files, without folders"),
    "clip-duplicate": (FAULT, "remove one of the rows"),
    "split-unknown": (FAULT, f"write one of {', '.join(SPLITS)}, or remove the row"),
    "part-unknown": (FAULT, "restore the row, or remove it"),
    "counts-differ": (FAULT, "restore the csv; for a part of the data on purpose give --no-counts"),
    "source-leak": (WARNING, "know it when you compare splits; AVSBench itself has such clips"),
    "clip-orphan": (WARNING, "remove it, or add its clip to the csv"),
    "classes-missing": (FAULT, "restore the file"),
    "classes-broken": (FAULT, "restore the file"),
    "classes-order": (FAULT, "restore the file: the order of its keys numbers the classes, background is 0"),
    "frame-missing": (FAULT, "extract the frames of this clip, or remove the clip from the csv"),
    "frame-empty": (FAULT, "extract the frame again"),
    "frame-broken": (FAULT, "extract the frame again"),
    "frame-size": (FAULT, "extract all frames of the clip again, in one size"),
    "mask-missing": (FAULT, "restore the mask, or remove the clip from the csv"),
    "mask-empty": (FAULT, "restore the mask"),
    "mask-broken": (FAULT, "restore the mask"),
    "mask-size": (FAULT, "restore the mask, or extract the frames in its size"),
    "mask-values": (FAULT, "restore the mask: black and one more value, resized by the nearest neighbor if at all"),
    "mask-class-id": (FAULT, "restore the mask, or label2idx.json if that lacks the class"),
    "color-empty": (FAULT, "restore the file, or remove labels_rgb, which is not needed"),
    "color-broken": (FAULT, "restore the file, or remove labels_rgb, which is not needed"),
    "color-size": (FAULT, "restore the file, in the size of the frames"),
    "color-unknown": (FAULT, "restore the file as a PNG, resized by the nearest neighbor if at all"),
    "color-disagrees": (FAULT, "restore both masks of the frame from one release"),
    "audio-missing": (FAULT, "extract the audio of this clip, or remove the clip from the csv"),
    "audio-empty": (FAULT, "extract the audio again"),
    "audio-broken": (FAULT, "extract the audio again"),
    "audio-short": (FAULT, "extract the audio again, over the whole clip; else its last second is repeated"),
    "audio-log-mel-only": (WARNING, "none is needed: the log-mel pickle is read in its place"),
    "audio-silent": (WARNING, "look whether the source has a sound track, and extract it again"),
    "log-mel-broken": (FAULT, "fetch the pickle again, or remove it where there is a wav"),
    "log-mel-short": (FAULT, "fetch the pickle again, or remove it where there is a wav"),
}


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one file."""

    kind: str  # key of KINDS
    path: str  # of the file; a row of a csv is "file:line"
    message: str  # what is wrong, to be read after the path

    @property
    def severity(self) -> str:
        return KINDS[self.kind][0]

    @property
    def hint(self) -> str:
        return KINDS[self.kind][1]

    def as_dict(self) -> dict[str, str]:
        fields = ("kind", "severity", "path", "message", "hint")
        return {name: getattr(self, name) for name in fields}

    def __str__(self) -> str:
        return f"{self.severity} {self.kind}: {self.path} {self.message}: {self.hint}"


@dataclass(frozen=True)
class TreeCounts:
    """Numbers of clips that the csv of one subset lists, by part and split."""

    subset: str
    root: str
    clips: dict[str, dict[str, int]]
    published: dict[str, dict[str, int]]  # empty where they are not compared


@dataclass
class Report:
    """All that was found."""

    trees: list[TreeCounts] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def of_severity(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def as_dict(self) -> dict[str, Any]:
        """Make it what JSON can hold."""
        return {
            "faults": len(self.of_severity(FAULT)),
            "warnings": len(self.of_severity(WARNING)),
            "subsets": [vars(tree) for tree in self.trees],
            "findings": [finding.as_dict() for finding in self.findings],
        }


def _count_rows(tree: TreeCounts) -> Iterator[tuple[str, ...]]:
    for part, splits in tree.clips.items():
        known = tree.published.get(part)
        cells = (f"{splits[split]} of {known[split]}" if known else str(splits[split]) for split in SPLITS)
        yield (f"{tree.subset} {part}".strip(), *cells, tree.root)


def _kind_lines(kind: str, findings: list[Finding]) -> Iterator[str]:
    severity, hint = KINDS[kind]
    yield f"{severity} {kind}: {len(findings)}, hint: {hint}"
    for finding in findings[:PATHS_SHOWN]:
        yield f"    {finding.path} {finding.message}"
    if len(findings) > PATHS_SHOWN:
        yield f"    and {len(findings) - PATHS_SHOWN} more"


def summary(report: Report) -> str:
    """One page: clips by subset and split, then each kind of finding with its hint and the first paths."""
    rows = [row for tree in report.trees for row in _count_rows(tree)]
    lines = [tabulate(rows, headers=("clips", *SPLITS, "in"), disable_numparse=True), ""]
    for kind in KINDS:  # faults and warnings about one kind of file stand together
        found = [finding for finding in report.findings if finding.kind == kind]
        if found:
            lines += [*_kind_lines(kind, found), ""]
    clips = sum(sum(splits.values()) for tree in report.trees for splits in tree.clips.values())
    faults, warnings = (len(report.of_severity(severity)) for severity in (FAULT, WARNING))
    return "\n".join([*lines, f"{clips} clips checked: {faults} faults, {warnings} warnings"])
