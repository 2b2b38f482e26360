#!/usr/bin/env python
"""What models cost, as multiples of plain ResNet-50 on the same frames in the same run; random weights.

tools/benchmark.py --config-file configs/s4_r50.yaml --compare configs/tpavi/s4_r50.yaml --json costs.json
tools/benchmark.py --config-file configs/s4_r50.yaml --vary INPUT.IMAGE_SIZE 224 384 512 --figure growth.png
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from transavs.analysis.benchmark import DIGITS, HEADER, compare, growth_panels, growth_table, parts_table, table
from transavs.analysis.pipeline import shares, surroundings
from transavs.analysis.workload import Workload
from transavs.config.load import load_config
from transavs.engine.launch import flush_subnormal_numbers
from transavs.modeling.meta_arch import check_device
from transavs.utils.command_line import check_output, run_tool, write_json
from transavs.utils.errors import AVSInputError
from transavs.visualization.charts import draw_growth
from transavs.visualization.clips import check_figure_path

CLIPS = "clips"  # what --vary calls the batch, which no key of a config holds
LARGEST_STRIDE = 32
Settings = tuple[dict[str, CfgNode], Workload]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--compare", nargs="+", type=Path, default=[], help="more configs of the same input size")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each step, after those that warm up")
    parser.add_argument("--clips", type=int, default=1, help="in a batch")
    parser.add_argument("--labeled-frames", type=int, help="of a training clip, S4 has 1; by default all")
    parser.add_argument("--amp", action="store_true", help="autocast to float16 on a GPU, to bfloat16 on a CPU")
    parser.add_argument("--compile", nargs="?", const="inductor", default="", metavar="BACKEND", help="torch.compile")
    parser.add_argument(
        "--vary", nargs="+", metavar=("KEY", "VALUE"), help=f"measure at each value of a config key, or of {CLIPS}"
    )
    parser.add_argument("--figure", type=Path, help="file to draw what --vary found in")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for every config; put -- before them")
    return parser.parse_args()


def varied(args: argparse.Namespace) -> tuple[str, list[int]]:
    """Key and values of --vary, ("", []) without it."""
    if args.figure and not args.vary:
        raise AVSInputError(f"--figure {args.figure} has nothing to draw: give --vary KEY VALUE VALUE as well")
    if args.figure:
        check_figure_path(args.figure)
    key, *values = args.vary or [""]
    if key and not values:
        raise AVSInputError(f"--vary {key} has no values: give some, as in --vary INPUT.IMAGE_SIZE 224 384 512")
    for value in values:
        if not value.isdecimal() or int(value) < 1:
            raise AVSInputError(f"--vary {key} {value}: give whole numbers from 1 on")
    return key, [int(value) for value in values]


def settings(args: argparse.Namespace, key: str = "", value: int = 0) -> Settings:
    """The configs by name and the workload, with ``key`` at ``value`` if there is one; what is wrong is refused."""
    # Weights cost nothing, and there is no network to fetch them from everywhere.
    overrides = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", args.device, *args.overrides]
    overrides += [key, str(value)] if key not in ("", CLIPS) else []
    configs = {str(path): load_config(path, overrides) for path in (args.config_file, *args.compare)}
    sizes = {(cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE) for cfg in configs.values()}
    if len(sizes) > 1:
        raise AVSInputError(f"the configs take clips of {sorted(sizes)} frames and pixels: compare those of one size")
    frames, size = sizes.pop()
    if size < 1 or size % LARGEST_STRIDE:
        raise AVSInputError(f"INPUT.IMAGE_SIZE is {size}: the networks take multiples of {LARGEST_STRIDE} pixels")
    clips, labeled = value if key == CLIPS else args.clips, args.labeled_frames or frames
    if not 1 <= labeled <= frames or args.rounds < 1 or clips < 1:
        raise AVSInputError(
            f"--labeled-frames {labeled} --rounds {args.rounds} --clips {clips}: give 1 or more, "
            f"and no more labeled frames than the {frames} of a clip"
        )
    if args.compile and args.compile not in (backends := torch.compiler.list_backends(exclude_tags=())):
        raise AVSInputError(f"torch.compile has no backend '{args.compile}' here: choose from {', '.join(backends)}")
    return configs, Workload(clips, labeled, args.amp, args.compile)


def report_costs(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return everything."""
    configs, workload = settings(args)
    name = str(args.config_file)
    models = compare(configs, workload, args.rounds)
    around = surroundings(configs[name], args.rounds)
    of_network = shares(around, models[name], workload)
    loading, evaluation = (100 * of_network[key] for key in ("loading_of_training", "evaluation_of_inference"))
    sys.stdout.write(tabulate(table(models), HEADER, tablefmt="pipe", floatfmt=DIGITS) + "\n\n")
    sys.stdout.write(tabulate(parts_table(models), ("model", "step", "percent"), tablefmt="pipe") + "\n\n")
    sys.stdout.write("ms per clip: " + ", ".join(f"{n} {1e3 * taken:.1f}" for n, taken in around.items()) + "\n")
    sys.stdout.write(
        f"{name}: loading with two workers takes {loading:.1f} % of a training step, "
        f"evaluation (metrics, masks, files) {evaluation:.1f} % of inference\n"
    )
    return {"models": models, "surroundings": around, "shares": of_network}


def report_growth(args: argparse.Namespace, key: str, values: list[int]) -> dict[str, Any]:
    """Measure at each value, print, draw, and return everything."""
    every = {value: settings(args, key, value) for value in values}  # all that is wrong shows before the long work
    found = {value: compare(*setting, args.rounds) for value, setting in every.items()}
    sys.stdout.write(tabulate(growth_table(found), (key, *HEADER), tablefmt="pipe", floatfmt=("", *DIGITS)) + "\n\n")
    if args.figure:
        draw_growth(growth_panels(found), key, args.figure)
    return {"vary": key, "values": found}


def main() -> None:
    args = parse_arguments()
    key, values = varied(args)
    check_output(args.json)
    check_device(args.device)
    flush_subnormal_numbers()
    found = report_growth(args, key, values) if key else report_costs(args)
    write_json(args.json, found)


if __name__ == "__main__":
    run_tool(main)
