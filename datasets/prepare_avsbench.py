#!/usr/bin/env python
"""Turn AVSBench's raw videos, or any clips with such a csv, into its tree of frames, wavs and log-mel pickles.

Masks are not made: they come with AVSBench. Called again it goes on where it was stopped.
Exit status: 0 = all clips are there, 1 = some videos are broken, which are named, 2 = an argument is of no use.
"""

import argparse
import os
import sys
from pathlib import Path

from transavs.data.avsbench import LAYOUTS
from transavs.data.extract import extract_avsbench
from transavs.utils.command_line import run_tool, whole_number

BROKEN_FOUND = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subset", choices=sorted(LAYOUTS), required=True)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--csv", type=Path, required=True, help="s4_meta_data.csv, ms3_meta_data.csv or metadata.csv")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder that is to hold Single-source, Multi-sources or v1s, v1m, v2"
    )
    parser.add_argument(
        "--size", type=whole_number(0), help="side of the frames; 0 = that of the video; by default 224, for avss 0"
    )
    parser.add_argument("--log-mel", action="store_true", help="write AVSBench's log-mel pickles too")
    parser.add_argument("--workers", type=whole_number(1), default=os.cpu_count(), help="by default one per core")
    args = parser.parse_args()
    counts = extract_avsbench(
        args.raw, args.csv, args.output, args.subset, size=args.size, log_mel=args.log_mel, workers=args.workers
    )
    sys.stdout.write(f"{args.output}: {counts}\n")
    if counts.broken:
        sys.exit(BROKEN_FOUND)


if __name__ == "__main__":
    run_tool(main)
