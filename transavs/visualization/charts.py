"""Charts of numbers: bars and curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transavs.visualization.clips import new_figure, save_figure

PANELS_PER_ROW = 3
SMOOTHING = 0.04  # reach of the smoothing to each side, as a share of the curve
Curve = Mapping[int, float]


def draw_bars(values: dict[str, dict[str, list[float]]], label: str, path: str | Path) -> None:
    """Write a figure of horizontal bars: a panel per test set, a bar per row at the mean, a dot per seed.

    Args:
        values: by test set and row, one per seed.
        label: of the value axis.
        path: see :func:`transavs.visualization.clips.save_figure`.
    """
    rows = list(dict.fromkeys(row for panel in values.values() for row in panel))
    figure = new_figure(2 + 4 * len(values), 1 + 0.28 * len(rows))
    axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, (title, panel) in zip(axes, values.items(), strict=True):
        for place, row in enumerate(rows):
            found = panel.get(row, [])
            if found:
                axis.barh(place, sum(found) / len(found), color="#9db8d9")
                axis.plot(found, [place] * len(found), "o", color="#1f3b63", markersize=3)
        axis.set_title(title)
        _label_bars(axis, rows, label)
    save_figure(figure, path)


def draw_groups(values: Mapping[str, Mapping[str, float]], label: str, path: str | Path) -> None:
    """Write a figure of horizontal bars: a group per row, in it a bar per run.

    Args:
        values: by row, then by run; a run may lack a row.
        label: of the value axis.
        path: see :func:`transavs.visualization.clips.save_figure`.
    """
    runs = list(dict.fromkeys(run for row in values.values() for run in row))
    thickness = 0.8 / len(runs)
    figure = new_figure(6.5, 1.1 + len(values) * (0.1 + 0.17 * len(runs)))
    axis = figure.subplots()
    for number, run in enumerate(runs):
        found = {place: row[run] for place, row in enumerate(values.values()) if run in row}
        places = [place + (number - (len(runs) - 1) / 2) * thickness for place in found]
        bars = axis.barh(places, list(found.values()), thickness, color=f"C{number}", label=run)
        axis.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    _label_bars(axis, list(values), label)
    axis.margins(x=0.08, y=0.01)
    if len(runs) > 1:
        figure.legend(loc="outside upper center", ncols=PANELS_PER_ROW, frameon=False)
    save_figure(figure, path)


def _label_bars(axis: Any, rows: Sequence[str], label: str) -> None:
    """Names of the rows, the first at the top, and the value axis."""
    axis.set(xlabel=label, yticks=range(len(rows)), yticklabels=rows)
    axis.yaxis.set_inverted(True)
    axis.grid(axis="x", alpha=0.4)
    axis.set_axisbelow(True)


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], path: str | Path) -> None:
    """Write a figure with a panel per metric and in it a line per run.

    Losses are drawn lightly as they are, and smoothed over it; results of evaluations ("sem_seg/J") with a dot each.

    Args:
        panels: value by iteration, by metric and run, the same runs in each.
        path: see :func:`transavs.visualization.clips.save_figure`.
    """
    columns = min(PANELS_PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.6 * columns, 0.4 + 3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (metric, runs) in zip(axes.flat, panels.items(), strict=False):
        for number, (run, curve) in enumerate(runs.items()):
            iterations, values = list(curve), np.array(list(curve.values()))
            if "loss" in metric:
                axis.plot(iterations, values, color=f"C{number}", alpha=0.3, linewidth=1)
                axis.plot(iterations, smoothed(values), color=f"C{number}", label=run)
            else:
                marker = "o" if "/" in metric else ""
                axis.plot(iterations, values, color=f"C{number}", marker=marker, markersize=4, label=run)
        axis.set(title=metric, xlabel="iteration")
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    save_figure(figure, path)


def draw_growth(panels: Mapping[str, Mapping[str, Curve]], label: str, path: str | Path) -> None:
    """Write a figure with a panel per cost, two in a row, and in it a line per model, from 0 on.

    Args:
        panels: cost by value, by title and model, the same models in each.
        label: what the value is.
        path: see :func:`transavs.visualization.clips.save_figure`.
    """
    rows = -(-len(panels) // 2)
    figure = new_figure(9.2, 0.6 + 2.8 * rows)
    axes = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for axis, (title, models) in zip(axes.flat, panels.items(), strict=True):
        for number, (model, curve) in enumerate(models.items()):
            axis.plot(list(curve), list(curve.values()), "o-", color=f"C{number}", markersize=4, label=model)
            axis.set_xticks(list(curve))
        axis.set(title=title, xlabel=label, ylim=(0, None))
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=PANELS_PER_ROW, frameon=False)
    save_figure(figure, path)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Mean of (n,) values over a window with each value in its middle, narrower towards the ends: it does not lag."""
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, places[::-1]), math.ceil(len(values) * SMOOTHING))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
