"""The console commands of an installed transavs, each of which runs a script of tools/ or datasets/."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

# The one list of commands; setup.py reads it from here. tools/ and datasets/ lie in a wheel as these two packages.
COMMANDS = {
    "transavs-benchmark": "transavs_tools.benchmark",
    "transavs-check-avsbench": "transavs_datasets.check_avsbench",
    "transavs-convert-weights": "transavs_tools.convert_weights",
    "transavs-demo": "transavs_tools.demo",
    "transavs-export-model": "transavs_tools.export_model",
    "transavs-install-detectron2": "transavs_tools.install_detectron2",
    "transavs-prepare-avsbench": "transavs_datasets.prepare_avsbench",
    "transavs-prepare-photos": "transavs_datasets.prepare_photos",
    "transavs-prepare-synthetic": "transavs_datasets.prepare_synthetic",
    "transavs-prepare-video": "transavs_datasets.prepare_video",
    "transavs-run-ablations": "transavs_tools.run_ablations",
    "transavs-score-masks": "transavs_tools.score_masks",
    "transavs-train": "transavs_tools.train_net",
    "transavs-visualize": "transavs_tools.visualize",
    "transavs-web-demo": "transavs_tools.web_demo",
}
INSTALLER = "transavs-install-detectron2"


def main() -> None:
    """Run the tool of the command that was called; without detectron2 the installer alone."""
    command = Path(sys.argv[0]).stem  # on Windows it ends in .exe
    if command != INSTALLER and find_spec("detectron2") is None:
        sys.stderr.write(f"error: detectron2 is not installed: run {INSTALLER} once\n")
        sys.exit(2)
    runpy.run_module(COMMANDS[command], run_name="__main__", alter_sys=True)
