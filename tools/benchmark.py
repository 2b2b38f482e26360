#!/usr/bin/env python
"""What models cost, as multiples of plain ResNet-50 on the same frames in the same run; random weights.

tools/benchmark.py --config-file configs/s4_r50.yaml --compare configs/tpavi/s4_r50.yaml --json costs.json
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from transavs.config import load_config
from transavs.engine.benchmark import DIGITS, HEADER, compare, parts_table, surroundings, table
from transavs.engine.command_line import run_tool
from transavs.engine.launch import tune_process
from transavs.errors import AVSInputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--compare", nargs="+", type=Path, default=[], help="more configs of the same input size")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each step, after one that warms up")
    parser.add_argument("--clips", type=int, default=1, help="in a batch")
    parser.add_argument("--labeled-frames", type=int, help="of a training clip, S4 has 1; by default all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for every config; put -- before them")
    args = parser.parse_args()
    tune_process()
    # Weights cost nothing, and there is no network to fetch them from everywhere.
    bare = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", args.device, *args.overrides]
    configs = {str(path): load_config(path, bare) for path in (args.config_file, *args.compare)}
    sizes = {(cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE) for cfg in configs.values()}
    if len(sizes) > 1:
        raise AVSInputError(f"the configs take clips of {sorted(sizes)} frames and pixels: compare those of one size")
    frames, _ = sizes.pop()
    labeled = args.labeled_frames or frames
    if not 1 <= labeled <= frames or args.rounds < 1 or args.clips < 1:
        raise AVSInputError(
            f"--labeled-frames {labeled} --rounds {args.rounds} --clips {args.clips}: give 1 or more, "
            f"and no more labelled frames than the {frames} of a clip"
        )
    found = compare(configs, args.clips, labeled, args.rounds)
    around = surroundings(configs[str(args.config_file)], args.rounds)
    sys.stdout.write(tabulate(table(found), HEADER, tablefmt="pipe", floatfmt=DIGITS) + "\n\n")
    sys.stdout.write(tabulate(parts_table(found), ("model", "step", "percent"), tablefmt="pipe") + "\n\n")
    sys.stdout.write("per clip, one core: " + ", ".join(f"{n} {1e3 * t:.1f} ms" for n, t in around.items()) + "\n")
    if args.json:
        args.json.write_text(json.dumps(found | {"surroundings": around}, indent=2) + "\n")


if __name__ == "__main__":
    run_tool(main)
