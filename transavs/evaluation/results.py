"""Results of an evaluation as files and as a table."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from tabulate import tabulate

from transavs.data.audio_conditions import AUDIO_CONDITIONS, NEGATIVE_AUDIO
from transavs.evaluation.metrics import harmonic_mean
from transavs.utils.atomic_files import write_file

RESULTS_NAME = "results.json"
TABLE_NAME = "results.md"
LEFT_OUT = "clips_left_out"  # name of the number of clips that could not be read, where there were any
# The columns of the table; results.json has all.
METRICS = ("J", "F", "F_half", "mIoU", "mF", "mIoU_fg", "mF_fg", "FPR")


def results_table(values: dict[str, float]) -> str:
    """Lay out the metrics of each audio condition as a Markdown table."""
    suffixes = {condition: suffix for condition, suffix in AUDIO_CONDITIONS.items() if "J" + suffix in values}
    metrics = [name for name in METRICS if any(name + suffix in values for suffix in suffixes.values())]
    rows = [(condition, *(values[name + suffix] for name in metrics)) for condition, suffix in suffixes.items()]
    table = tabulate(rows, headers=("audio", *metrics), tablefmt="pipe", floatfmt=".1f")
    left_out = max(values.get(LEFT_OUT + suffix, 0) for suffix in suffixes.values())
    return f"{table}\n\n{left_out:.0f} clips could not be read and are not in these numbers." if left_out else table


def breakdown(values: dict[str, float], suffix: str = "") -> dict[str, dict[str, float]]:
    """J, F or IoU by category, class and size of object; ``suffix`` is that of the audio condition."""
    others = tuple(other for other in AUDIO_CONDITIONS.values() if other and other != suffix)
    groups: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        metric, dash, group = key.partition("-")
        if dash and key.endswith(suffix) and not key.endswith(others):
            groups.setdefault(group.removesuffix(suffix), {})[metric] = value
    return groups


def breakdown_table(values: dict[str, float]) -> str:
    """Lay out what :func:`breakdown` finds with the true audio as a Markdown table."""
    groups = breakdown(values)
    metrics = [name for name in ("J", "F", "IoU") if any(name in found for found in groups.values())]
    rows = [(group, *(found.get(name) for name in metrics)) for group, found in groups.items()]
    return tabulate(rows, headers=("of", *metrics), tablefmt="pipe", floatfmt=".1f", missingval="-")


def combined_scores(values: dict[str, float]) -> dict[str, float]:
    """G_J, G_F and G_FPR of the negative audio conditions that were run, beside the true audio (AVSBench-Robust)."""
    suffixes = [AUDIO_CONDITIONS[name] for name in NEGATIVE_AUDIO if "J" + AUDIO_CONDITIONS[name] in values]
    if not suffixes or "J" not in values:
        return {}
    negative = {name: mean(values[name + suffix] for suffix in suffixes) for name in ("J", "F", "FPR")}
    found = {f"G_{name}": harmonic_mean(values[name], negative[name]) for name in ("J", "F")}
    return found | {"G_FPR": negative["FPR"]}


def write_results(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write ``results.json`` and ``results.md``.

    Args:
        results: by test set, ``{"sem_seg": {"J": ..., ...}}`` in percent.
        folder: to write into. With one test set its metrics stand at the top of the JSON, else below each set's name.
    """
    values = {name: found["sem_seg"] for name, found in results.items()}
    flat = next(iter(values.values())) if len(values) == 1 else values
    tables = [f"{name}\n\n{results_table(found)}\n\n{breakdown_table(found)}\n" for name, found in values.items()]
    write_file(folder / TABLE_NAME, "\n".join(tables))
    write_file(folder / RESULTS_NAME, json.dumps(flat, indent=2) + "\n")
