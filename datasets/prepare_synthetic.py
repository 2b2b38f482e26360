#!/usr/bin/env python
"""Write the synthetic data set (moving shapes, each class with its own sound) in AVSBench-object's layout."""

import argparse
import os
from pathlib import Path

from transavs.data.avsbench import LAYOUTS, ROOTS, SPLITS
from transavs.data.synthetic import write_synthetic

DEFAULT_ROOT = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / ROOTS["synthetic"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_ROOT, help="folder to write into")
    parser.add_argument("--subsets", nargs="+", choices=sorted(LAYOUTS), default=sorted(LAYOUTS))
    parser.add_argument(
        "--clips", nargs=3, type=int, default=(400, 40, 80), metavar=tuple(SPLITS), help="clips in each split"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the frames in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    clips = dict(zip(SPLITS, args.clips, strict=True))
    write_synthetic(args.output, args.subsets, clips, args.size, args.seed, args.workers)
    print(f"wrote {', '.join(args.subsets)} to {args.output}")


if __name__ == "__main__":
    main()
