#!/usr/bin/env python
"""Print the table of a finished run: tools/show_results.py OUTPUT_DIR."""

import argparse
import json
from pathlib import Path

from transavs.engine.trainer import FIGURE_NAME
from transavs.evaluation.results import RESULTS_NAME, results_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, help="OUTPUT_DIR of the run")
    folder = parser.parse_args().output_dir
    print(results_table(json.loads((folder / RESULTS_NAME).read_text())))
    print(f"figure: {folder / FIGURE_NAME}")


if __name__ == "__main__":
    main()
