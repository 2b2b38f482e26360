#!/usr/bin/env python
"""Write the synthetic data set (moving shapes, each class with its own sound) in AVSBench's layouts."""

import argparse
import os
import sys
from pathlib import Path

from transavs.data.avsbench import LAYOUTS, SOURCES, SPLITS
from transavs.data.synthetic.dataset import DIFFICULTIES, write_synthetic
from transavs.utils.command_line import check_outputs, run_tool

DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder that DETECTRON2_DATASETS is to name")
    parser.add_argument(
        "--source",
        choices=("avsbench", "synthetic"),
        default="synthetic",
        help="names to write it under; 'avsbench' puts it where AVSBench itself is looked for, as a rehearsal",
    )
    parser.add_argument("--subsets", nargs="+", choices=sorted(LAYOUTS), default=sorted(LAYOUTS))
    parser.add_argument(
        "--clips", nargs=3, type=int, default=(400, 40, 80), metavar=tuple(SPLITS), help="clips in each split"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the frames in pixels")
    parser.add_argument("--difficulty", choices=sorted(DIFFICULTIES), default="hard", help="see docs/results.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-mel", action="store_true", help="log-mel pickles too, of S4 and MS3, as AVSBench has")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    check_outputs([], folders=[args.datasets])
    clips = dict(zip(SPLITS, args.clips, strict=True))
    write_synthetic(
        args.datasets,
        args.subsets,
        clips,
        args.size,
        source=args.source,
        difficulty=args.difficulty,
        seed=args.seed,
        log_mel=args.log_mel,
        workers=args.workers,
    )
    written = ", ".join(f"{SOURCES[args.source][1][subset]} ({subset})" for subset in args.subsets)
    sys.stdout.write(f"wrote {written} into {args.datasets}\n")


if __name__ == "__main__":
    run_tool(main)
