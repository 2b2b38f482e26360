#!/usr/bin/env python
"""Run configs with several seeds each and print a table; called again, it goes on where it was stopped.

tools/run_ablations.py --configs configs/ablations/*.yaml --seeds 1 2 3 --output output/ablations [KEY VALUE ...]
"""

import argparse
import os
import sys
from pathlib import Path

from transavs.analysis.ablation import TABLES, collect, draw_runs, execute, plan, tabulate_runs, write_tables
from transavs.utils.command_line import check_outputs, run_tool, whole_number

TRAIN_NET = Path(__file__).with_name("train_net.py")  # lies beside this file in a checkout and in a wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=whole_number(0), default=[1, 2, 3])
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and the tables")
    parser.add_argument("--metrics", nargs="+", default=["J", "F"], help="columns, as results.json names them")
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY", help="keys of the config, as columns")
    parser.add_argument("--jobs", type=whole_number(1), default=1, help=f"at a time, sharing {os.cpu_count()} cores")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for every config; put -- before them")
    args = parser.parse_args()
    check_outputs([args.output / name for name in TABLES], args.configs, folders=[args.output], makes_parents=True)
    runs = plan(args.configs, args.seeds, args.output, args.overrides)
    tabulate_runs(runs, collect(runs, args.metrics), args.settings)  # a wrong name shows now and not after hours
    try:
        execute(runs, TRAIN_NET, args.jobs)
    finally:
        values = collect(runs, args.metrics)
        sys.stdout.write(write_tables(*tabulate_runs(runs, values, args.settings), args.output) + "\n")
        draw_runs(values, args.metrics[0], args.output)


if __name__ == "__main__":
    run_tool(main)
