"""Results of an evaluation as files and as a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from tabulate import tabulate

from transavs.data.audio_conditions import AUDIO_CONDITIONS, NEGATIVE_AUDIO
from transavs.evaluation.metrics import harmonic_mean
from transavs.evaluation.scores import GroupScore, Scores
from transavs.utils.atomic_files import write_file

RESULTS_NAME = "results.json"
TABLE_NAME = "results.md"
GROUPS_NAME = "groups.json"
LEFT_OUT = "clips_left_out"  # name of the number of clips that could not be read, where there were any
# The columns of the table; results.json has all.
METRICS = ("J", "F", "F_batch4", "F_half", "mIoU", "mF", "mIoU_fg", "mF_fg", "FPR")


def results_table(values: Mapping[str, float]) -> str:
    """Lay out the metrics of each audio condition as a Markdown table."""
    suffixes = {condition: suffix for condition, suffix in AUDIO_CONDITIONS.items() if "J" + suffix in values}
    metrics = [name for name in METRICS if any(name + suffix in values for suffix in suffixes.values())]
    rows = [(condition, *(values[name + suffix] for name in metrics)) for condition, suffix in suffixes.items()]
    table = tabulate(rows, headers=("audio", *metrics), tablefmt="pipe", floatfmt=".1f")
    left_out = max(values.get(LEFT_OUT + suffix, 0) for suffix in suffixes.values())
    return f"{table}\n\n{left_out:.0f} clips could not be read and are not in these numbers." if left_out else table


def breakdown_table(groups: Sequence[GroupScore]) -> str:
    """Lay out J, F and IoU by category, class, and size and number of objects, with the true audio, in Markdown."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for score in groups:
        if score.audio == "true":
            rows.setdefault((score.kind, score.group), {})[score.metric] = score.value
    metrics = [name for name in ("J", "F", "IoU") if any(name in found for found in rows.values())]
    cells = [
        (kind, group.replace("|", "\\|"), *(f"{found[name]:.1f}" if name in found else "-" for name in metrics))
        for (kind, group), found in rows.items()
    ]
    align = ("left", "left", *["right"] * len(metrics))
    return tabulate(cells, headers=("by", "of", *metrics), tablefmt="pipe", disable_numparse=True, colalign=align)


def combined_scores(values: Mapping[str, float]) -> dict[str, float]:
    """G_J, G_F and G_FPR of the negative audio conditions that were run, beside the true audio (AVSBench-Robust)."""
    suffixes = [AUDIO_CONDITIONS[name] for name in NEGATIVE_AUDIO if "J" + AUDIO_CONDITIONS[name] in values]
    if not suffixes or "J" not in values:
        return {}
    negative = {name: mean(values[name + suffix] for suffix in suffixes) for name in ("J", "F", "FPR")}
    found = {f"G_{name}": harmonic_mean(values[name], negative[name]) for name in ("J", "F")}
    return found | {"G_FPR": negative["FPR"]}


def write_results(results: Mapping[str, Mapping[str, Mapping[str, float]]], folder: Path) -> None:
    """Write ``results.json``, ``groups.json`` and ``results.md``.

    Args:
        results: by test set, ``{"sem_seg": {"J": ..., ...}}`` in percent; of :class:`Scores` also the groups.
        folder: to write into. With one test set its metrics stand at the top of ``results.json``, else below each set's
            name. ``groups.json`` has a row for each metric of a group, see :class:`GroupScore`, with its ``dataset``.
    """
    values = {name: found["sem_seg"] for name, found in results.items()}
    flat = next(iter(values.values())) if len(values) == 1 else values
    groups = {name: found.groups if isinstance(found, Scores) else [] for name, found in values.items()}
    tables = [f"{name}\n\n{results_table(values[name])}\n\n{breakdown_table(groups[name])}\n" for name in values]
    rows = [{"dataset": name} | asdict(score) for name, scores in groups.items() for score in scores]
    write_file(folder / TABLE_NAME, "\n".join(tables))
    write_file(folder / GROUPS_NAME, json.dumps(rows, indent=2) + "\n")
    write_file(folder / RESULTS_NAME, json.dumps(flat, indent=2) + "\n")
