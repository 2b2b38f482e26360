"""Costs of models as tables and curves."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from transavs.analysis.benchmark import Costs

# Header of a table's column -> key of a model's costs, factor to the header's unit, format.
COLUMNS = {
    "M parameters": ("parameters", 1e-6, ".1f"),
    "GFLOP": ("flops", 1e-9, ".0f"),
    "inference ms": ("inference", 1e3, ".0f"),
    "inference x ResNet-50": ("inference_ratio", 1, ".2f"),
    "clips/s": ("clips_per_second", 1, ".2f"),
    "inference MB": ("inference_peak_mb", 1, ".0f"),
    "training ms": ("train", 1e3, ".0f"),
    "training x ResNet-50": ("train_ratio", 1, ".2f"),
    "training MB": ("train_peak_mb", 1, ".0f"),
}
PANELS = ("inference ms", "training ms", "inference MB", "training MB")  # of a growth figure


def costs_table(found: Mapping[str, Costs], key: str = "") -> str:
    """Write a Markdown table of costs by value of ``key``, or without one of all costs that are found."""
    rows = [
        [*([value] if key else []), name, *_numbers(costs)]
        for value, models in found.items()
        for name, costs in models.items()
    ]
    names = [key, "model"] if key else ["model"]
    formats = [""] * len(names) + [digits for *_, digits in COLUMNS.values()]
    return tabulate(rows, [*names, *COLUMNS], tablefmt="pipe", floatfmt=formats)


def _numbers(costs: Mapping[str, Any]) -> list[float | None]:
    return [costs[column] * factor if column in costs else None for column, factor, _ in COLUMNS.values()]


def parts_table(models: Costs) -> str:
    """Write a Markdown table of the parts of each model and step in percent, the largest first."""
    rows = [
        (name, step, ", ".join(f"{part} {100 * share:.0f}" for part, share in Counter(parts).most_common()))
        for name, costs in models.items()
        for step, parts in costs["parts"].items()
    ]
    return tabulate(rows, ("model", "step", "percent"), tablefmt="pipe")


def growth_panels(found: Mapping[str, Costs]) -> dict[str, dict[str, dict[int, float]]]:
    """Turn costs by value into curves for :func:`transavs.visualization.charts.draw_growth`."""
    names = next(iter(found.values()))
    return {
        title: {
            name: {int(value): models[name][column] * factor for value, models in found.items()}
            for name in names
            if column in names[name]
        }
        for title, (column, factor, _) in COLUMNS.items()
        if title in PANELS
    }
