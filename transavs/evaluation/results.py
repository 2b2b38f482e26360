"""Results of an evaluation as a file and as a table."""

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from transavs.data.audio import AUDIO_CONDITIONS

RESULTS_NAME = "results.json"


def results_table(values: dict[str, float]) -> str:
    """J and F of each audio condition as a text table."""
    rows = [
        (condition, values["J" + suffix], values["F" + suffix])
        for condition, suffix in AUDIO_CONDITIONS.items()
        if "J" + suffix in values
    ]
    return tabulate(rows, headers=("audio", "J", "F"), tablefmt="pipe", floatfmt=".1f")


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON: the metrics at the top where there is one test set, else below each set's name."""
    flat = results["sem_seg"] if "sem_seg" in results else {name: value["sem_seg"] for name, value in results.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(flat, indent=2) + "\n")
