#!/usr/bin/env python
"""The data doctor: is my copy of AVSBench whole?

Looks at every csv, frame, mask and sound and lists what is missing or broken, with what to do.
Exit status: 0 = no fault, 1 = faults were found, 2 = there is nothing to look at.
"""

import argparse
import os
import sys
from pathlib import Path

from transavs.data.avsbench import LAYOUTS
from transavs.data.integrity.check import check_avsbench
from transavs.data.integrity.report import FAULT, summary
from transavs.utils.command_line import check_outputs, run_tool, whole_number, write_json

FAULTS_FOUND = 1
CLASSES = "label2idx.json"  # the one file of AVSBench that a report could replace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="what DETECTRON2_DATASETS names, or one of the folders in it")
    parser.add_argument("--subsets", nargs="+", choices=sorted(LAYOUTS), default=(), help="by default all in ROOT")
    parser.add_argument("--no-counts", action="store_true", help="a part of the data: do not count its clips")
    parser.add_argument("--list", action="store_true", help="print every finding before the summary")
    parser.add_argument("--json", type=Path, help="file to write the counts and every finding to")
    parser.add_argument("--workers", type=whole_number(1), default=os.cpu_count(), help="by default one per core")
    args = parser.parse_args()
    check_outputs([args.json], [args.root, args.json and args.json.with_name(CLASSES)])
    report = check_avsbench(args.root, args.subsets, compare_counts=not args.no_counts, workers=args.workers)
    if args.list:
        sys.stdout.writelines(f"{finding}\n" for finding in report.findings)
    sys.stdout.write(summary(report) + "\n")
    write_json(args.json, report.as_dict())
    if report.of_severity(FAULT):
        sys.exit(FAULTS_FOUND)


if __name__ == "__main__":
    run_tool(main)
