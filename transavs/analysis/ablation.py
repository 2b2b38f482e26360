"""Runs a list of configs with several seeds each and tabulates what they reach."""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from transavs.config.load import config_changes, load_config
from transavs.data.avsbench import LAYOUTS
from transavs.engine.resume import NOT_TOLD
from transavs.evaluation.results import RESULTS_NAME
from transavs.utils.atomic_files import write_file
from transavs.utils.errors import AVSInputError
from transavs.visualization.charts import draw_bars
from transavs.visualization.runs import read_results

TABLES = ("table.txt", "table.md", "table.csv")
FINISHED_NAME = "finished"  # an empty file in a run's folder


@dataclass(frozen=True)
class AblationRun:
    """One config with one seed."""

    config: Path
    seed: int
    output: Path
    overrides: tuple[str, ...]

    @property
    def results(self) -> Path:
        return self.output / RESULTS_NAME

    @property
    def is_finished(self) -> bool:
        """True once its process has ended well; results alone may be of an evaluation in the middle of training."""
        return self._mark.exists() and self.results.exists()

    @property
    def _mark(self) -> Path:
        return self.output / FINISHED_NAME

    @property
    def row(self) -> str:
        """Name of the table's row: the config's, without the subset it begins with."""
        subset, _, rest = self.config.stem.partition("_")
        return rest if subset in LAYOUTS and rest else self.config.stem

    def check_config(self, cfg: CfgNode) -> None:
        """Raise an AVSInputError where the run has begun with other settings than those of its config now."""
        before = self.output / "config.yaml"  # written by detectron2 as a run begins
        but_for = (*NOT_TOLD, "SEED")  # which the folder's name tells
        if before.exists() and (changes := config_changes(load_config(before), cfg, but_for=but_for)):
            raise AVSInputError(
                f"{self.output} holds a run with another config ({'; '.join(changes)}): give another --output, or "
                "remove the folder"
            )

    def execute(self, train_net: Path, threads: int) -> None:
        """Train and test in a process of its own, going on from its last checkpoint; nothing if it has finished.

        Args:
            train_net: the script to run.
            threads: number of threads it may use.

        Raises:
            AVSInputError: the process failed; its log is named.
        """
        if self.is_finished:
            return
        self.output.mkdir(parents=True, exist_ok=True)
        self._mark.unlink(missing_ok=True)
        command = [sys.executable, str(train_net), "--config-file", str(self.config), "--resume", *self.overrides]
        command += ["SEED", str(self.seed), "OUTPUT_DIR", str(self.output)]
        log = self.output / "output.txt"
        with open(log, "a") as file:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
            )
        if done.returncode:
            last = (log.read_text().strip().splitlines() or ["no output"])[-1]
            raise AVSInputError(f"{self.config} with seed {self.seed} failed ({last}): see {log}, then run this again")
        write_file(self._mark, "")


def plan(configs: Sequence[Path], seeds: Sequence[int], output: Path, overrides: Sequence[str]) -> list[AblationRun]:
    """All runs, seed by seed, so that a first table is there early. Checks every config first.

    Raises:
        AVSInputError: a config cannot be used, or a run's folder holds what was trained with another one.
    """
    settings = {config: load_config(config, overrides) for config in configs}
    runs = [
        AblationRun(config, seed, output / config.stem / f"seed{seed}", tuple(overrides))
        for seed in seeds
        for config in configs
    ]
    for run in runs:
        run.check_config(settings[run.config])
    return runs


def execute(runs: Sequence[AblationRun], train_net: Path, jobs: int) -> None:
    """Run what has not finished by the script ``train_net``, ``jobs`` at a time, with a progress bar.

    Raises:
        AVSInputError: runs have failed, which does not stop the others.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failures = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="run") as progress:
        for future in [pool.submit(run.execute, train_net, threads) for run in runs]:
            try:
                future.result()
            except AVSInputError as error:
                failures.append(str(error))
            progress.update()
    if failures:
        raise AVSInputError("; ".join(failures))


Values = dict[tuple[str, str, str], list[float]]


def collect(runs: Sequence[AblationRun], metrics: Sequence[str]) -> Values:
    """Collect what the finished runs reached: a value per seed, by row, test set and metric, in the order of the runs.

    Raises:
        AVSInputError: a run has no such metric.
    """
    values: Values = {}
    for run in runs:
        if run.is_finished:
            test_set = load_config(run.config, run.overrides).DATASETS.TEST[0]
            found = read_results(run.output, test_set)
            for metric in metrics:
                if metric not in found:
                    raise AVSInputError(f"{run.results} has no {metric}: choose metrics from {', '.join(found)}")
                values.setdefault((run.row, test_set, metric), []).append(found[metric])
    return values


def tabulate_runs(
    runs: Sequence[AblationRun], values: Values, settings: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean ± standard deviation over the finished seeds, a column per test set and metric.

    Args:
        runs: finished or not; those of one row differ in seed and test set.
        values: of :func:`collect` for the same runs.
        settings: keys of the config whose values are shown in columns of their own.
    """
    test_sets, metrics = (list(dict.fromkeys(key[i] for key in values)) for i in (1, 2))
    columns = [(test_set, metric) for test_set in test_sets for metric in metrics]
    shown: dict[str, list[str]] = {}
    for run in runs:
        if run.row not in shown:
            cfg = load_config(run.config, run.overrides)
            shown[run.row] = [_setting(cfg, key) for key in settings]
    rows = []
    for row, chosen in shown.items():
        cells = [values.get((row, *column), []) for column in columns]
        rows.append([row, *chosen, str(max(map(len, cells), default=0)), *map(_cell, cells)])
    names = [key.rpartition(".")[-1] for key in settings]
    return ["run", *names, "seeds", *(f"{test_set} {metric}" for test_set, metric in columns)], rows


def _setting(cfg: CfgNode, key: str) -> str:
    value: Any = cfg
    for name in key.split("."):
        if name not in value:
            raise AVSInputError(f"{key} is no key of a config: see transavs/config/defaults.py")
        value = value[name]
    return str(value)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def draw_runs(values: Values, metric: str, output: Path) -> None:
    """Write ``metric`` out of what :func:`collect` found as the figure table.png into ``output``."""
    panels: dict[str, dict[str, list[float]]] = {}
    for (row, test_set, name), found in values.items():
        if name == metric:
            panels.setdefault(test_set, {})[row] = found
    if panels:
        draw_bars(panels, metric, output / "table.png")


def write_tables(header: list[str], rows: list[list[str]], output: Path) -> str:
    """Write table.txt, table.csv and table.md into ``output``; returns the text."""
    text = tabulate(rows, headers=header, disable_numparse=True)
    write_file(output / "table.txt", text + "\n")
    write_file(output / "table.md", tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True) + "\n")
    lines = io.StringIO()
    csv.writer(lines).writerows([header, *rows])
    write_file(output / "table.csv", lines.getvalue())
    return text
