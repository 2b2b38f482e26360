#!/usr/bin/env python
"""Parameters, inference and training time of models side by side, on clips of noise and with random weights.

tools/benchmark.py --config-file configs/tpavi/s4_r50.yaml --compare configs/s4_r50.yaml [KEY VALUE ...]
"""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from transavs.config import load_config
from transavs.engine.benchmark import Subject, compare
from transavs.engine.command_line import run_tool
from transavs.errors import AVSInputError

HEADER = ("config", "M parameters", "clip ms", "least", "ratio", "iteration ms", "least", "ratio")
DIGITS = ("", ".2f", ".0f", ".0f", ".2f", ".0f", ".0f", ".2f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, required=True, help="what the others are compared with")
    parser.add_argument("--compare", nargs="+", type=Path, default=[])
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each, after one that warms up")
    parser.add_argument("--labeled-frames", type=int, help="of a training clip, S4 has 1; by default all")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for every config; put -- before them")
    args = parser.parse_args()
    subjects = {}
    for path in (args.config_file, *args.compare):
        cfg = load_config(path, args.overrides)
        labeled = args.labeled_frames or cfg.INPUT.NUM_FRAMES
        if labeled > cfg.INPUT.NUM_FRAMES:
            raise AVSInputError(f"--labeled-frames {labeled}: clips of {path} have {cfg.INPUT.NUM_FRAMES} frames")
        subjects[str(path)] = Subject(cfg, labeled)
    rows = compare(subjects, args.rounds)
    sys.stdout.write(tabulate(rows, HEADER, tablefmt="pipe", floatfmt=DIGITS) + "\n")


if __name__ == "__main__":
    run_tool(main)
