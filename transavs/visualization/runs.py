"""Results of training runs, read from their folders for charts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transavs.data.audio_conditions import AUDIO_CONDITIONS
from transavs.evaluation.results import GROUPS_NAME, RESULTS_NAME
from transavs.evaluation.scores import FRAMES
from transavs.utils.errors import AVSInputError
from transavs.visualization.charts import Curve

METRICS_NAME = "metrics.json"
GROUP_METRICS = ("J", "F", "IoU")
USUAL_CURVES = ("total_loss", "val/sem_seg/J", "sem_seg/J")


def read_curves(run: Path) -> dict[str, dict[int, float]]:
    """The metrics that detectron2 has logged in a run's folder: value by iteration, by metric, iterations ascending.

    Of an iteration that a resumed run has done again the later value is taken. A line that a stopped run has left
    unfinished is skipped, and so is what is no number.

    Raises:
        AVSInputError: there is no such file, or no metric in it.
    """
    path = run / METRICS_NAME
    curves: dict[str, dict[int, float]] = {}
    for line in _read(path).splitlines():
        try:
            values = json.loads(line)
            iteration = int(values.pop("iteration"))
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            continue
        for metric, value in numbers_of(values).items():
            curves.setdefault(metric, {})[iteration] = value
    if not curves:
        raise AVSInputError(f"{path} holds no metric: name the folder of a run that has logged some")
    return {metric: dict(sorted(curve.items())) for metric, curve in curves.items()}


def collect_curves(runs: Mapping[str, Path], metrics: Sequence[str] = ()) -> dict[str, dict[str, Curve]]:
    """The curves of several runs, by metric and name of the run.

    Args:
        runs: folders by name.
        metrics: as metrics.json names them; by default those of USUAL_CURVES that every run has.

    Raises:
        AVSInputError: a run has logged nothing, or not one of the metrics.
    """
    found = {name: read_curves(run) for name, run in runs.items()}
    chosen = metrics or [metric for metric in USUAL_CURVES if all(metric in curves for curves in found.values())]
    for name, run in runs.items():
        for metric in chosen or USUAL_CURVES:
            if metric not in found[name]:
                names = ", ".join(sorted(found[name]))
                raise AVSInputError(f"{run / METRICS_NAME} has no {metric}: choose metrics from {names}")
    return {metric: {name: curves[metric] for name, curves in found.items()} for metric in chosen}


def read_results(run: Path, dataset: str | None = None) -> dict[str, float]:
    """The metrics in a run's results.json; ``dataset`` says of which test set, where there are several.

    Raises:
        AVSInputError: there is no such file, it is broken, or does not have that one test set.
    """
    path = run / RESULTS_NAME
    try:
        values: dict[str, Any] = json.loads(_read(path))
        of_sets = {name: found for name, found in values.items() if isinstance(found, dict)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise AVSInputError(f"{path} cannot be read as results ({error}): evaluate the model again") from error
    if not of_sets:
        return numbers_of(values)
    if dataset not in of_sets:
        raise AVSInputError(f"{path} has the test sets {', '.join(of_sets)}: choose one with --dataset")
    return numbers_of(of_sets[dataset])


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Pick the numbers of a JSON object."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def read_groups(run: Path, metric: str, audio: str, dataset: str | None = None) -> dict[str, float]:
    """A metric of each category or class in a run's groups.json; ``dataset`` says of which test set, where several are.

    Raises:
        AVSInputError: there is no such file, it is broken, or does not have that one test set.
    """
    path = run / GROUPS_NAME
    try:
        rows = [dict(row) for row in json.loads(_read(path))]
        datasets = dict.fromkeys(str(row["dataset"]) for row in rows)
        if dataset not in datasets and len(datasets) > 1:
            raise AVSInputError(f"{path} has the test sets {', '.join(datasets)}: choose one with --dataset")
        return {
            str(row["group"]): float(row["value"])
            for row in rows
            if (row["metric"], row["audio"]) == (metric, audio) and row["kind"] != FRAMES
            if len(datasets) == 1 or row["dataset"] == dataset
        }
    except AVSInputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AVSInputError(f"{path} cannot be read as results ({error}): evaluate the model again") from error


def collect_categories(
    runs: Mapping[str, Path], metric: str, dataset: str | None = None
) -> dict[str, dict[str, float]]:
    """A metric of each category or class, by its name and the run's; in order of the first run's values, best first.

    Args:
        runs: folders by name.
        metric: "J", "F" or "IoU", with the suffix of an audio condition ("J_silence") or without.
        dataset: name of the test set, where runs have several.

    Raises:
        AVSInputError: a run has no results, or none of this metric by category.
    """
    names = {f"{base}{suffix}": (base, audio) for base in GROUP_METRICS for audio, suffix in AUDIO_CONDITIONS.items()}
    base, audio = names.get(metric, (metric, "true"))
    found: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        values = read_groups(run, base, audio, dataset)
        if not values:
            raise AVSInputError(
                f"{run / GROUPS_NAME} has no {metric} by category: choose J or F (S4), IoU (AVSS), or evaluate anew"
            )
        for group in sorted(values, key=values.__getitem__, reverse=True):
            found.setdefault(group, {})[name] = values[group]
    return found


def _read(path: Path) -> str:
    if not path.is_file():
        hint = "name the folder of a run (OUTPUT_DIR) that has one"
        made_later = path.name == GROUPS_NAME and path.with_name(RESULTS_NAME).is_file()
        raise AVSInputError(f"{path} does not exist: {'evaluate the model again' if made_later else hint}")
    return path.read_text(encoding="utf-8", errors="replace")
