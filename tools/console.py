"""The console commands of an installed transavs: ``transavs-web-demo`` runs the tool ``web_demo.py`` of this folder."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

PREFIX = "transavs-"
INSTALLER = "install_detectron2"


def main() -> None:
    """Run the tool that the command is named after; without detectron2 the installer alone."""
    name = Path(sys.argv[0]).stem.removeprefix(PREFIX).replace("-", "_")
    if name != INSTALLER and find_spec("detectron2") is None:
        sys.stderr.write(f"error: detectron2 is not installed: run {PREFIX}install-detectron2 once\n")
        sys.exit(2)
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
