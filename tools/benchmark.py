#!/usr/bin/env python
"""What models cost, as multiples of plain ResNet-50 on the same frames in the same run; random weights.

tools/benchmark.py --config-file configs/s4_r50.yaml --compare configs/tpavi/s4_r50.yaml --json costs.json
tools/benchmark.py --config-file configs/s4_r50.yaml --vary INPUT.IMAGE_SIZE 224 384 512 --figure growth.png
tools/benchmark.py --report throughput.md --compile       # TransAVS and TPAVI in 16 and 32 bits, 1 to 32 clips a batch
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode

from transavs.analysis.benchmark import Workload, compare, pipeline
from transavs.analysis.cost_tables import costs_table, growth_panels, parts_table
from transavs.analysis.report import write_report
from transavs.config.load import load_config
from transavs.engine.launch import prepare_cpu
from transavs.modeling.meta_arch import check_device
from transavs.utils.command_line import check_outputs, run_tool, write_json
from transavs.utils.errors import AVSInputError
from transavs.utils.precision import find_precision
from transavs.visualization.charts import draw_growth
from transavs.visualization.clips import check_figure_path

CLIPS = "clips"  # what --vary calls the batch, which no key of a config holds
LARGEST_STRIDE = 32
REPORT_CONFIGS = [Path(f"configs/{name}.yaml") for name in ("s4_r50", "s4_r101", "s4_swinb", "tpavi/s4_r50")]
REPORT_CLIPS = ("1", "2", "4", "8", "16", "32")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, help="by default, for --report, those of both papers' models")
    parser.add_argument("--compare", nargs="+", type=Path, default=[], help="more configs of the same input size")
    parser.add_argument(
        "--report", type=Path, help=f"write a table of throughput to this file instead; --vary {CLIPS} sets the batches"
    )
    parser.add_argument("--json", type=Path, help="file to write everything to")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each step, after those that warm up")
    parser.add_argument("--clips", type=int, default=1, help="in a batch")
    parser.add_argument("--labeled-frames", type=int, help="of a training clip, S4 has 1; by default all")
    parser.add_argument("--amp", action="store_true", help="autocast, as SOLVER.AMP.ENABLED does")
    parser.add_argument("--compile", nargs="?", const="inductor", default="", metavar="BACKEND", help="torch.compile")
    parser.add_argument("--exported", action="store_true", help="measure each model as an ONNX graph besides")
    parser.add_argument(
        "--vary", nargs="+", metavar=("KEY", "VALUE"), help=f"measure at each value of a config key, or of {CLIPS}"
    )
    parser.add_argument("--figure", type=Path, help="file to draw what --vary found in")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for every config; put -- before them")
    args = parser.parse_args()
    if args.report and not args.config_file:
        args.config_file, *args.compare = REPORT_CONFIGS
    return args


def check_arguments(args: argparse.Namespace) -> None:
    if not args.config_file:
        raise AVSInputError("nothing to measure: give --config-file FILE, or --report FILE")
    if args.report and args.vary and args.vary[0] != CLIPS:
        raise AVSInputError(f"--report cannot --vary {args.vary[0]}: it can {CLIPS}")
    if args.exported and (args.report or args.amp):
        raise AVSInputError("--exported measures graphs in float32, in the tables: leave --report and --amp out")
    if args.figure and not args.vary:
        raise AVSInputError(f"--figure {args.figure} has nothing to draw: give --vary KEY VALUE VALUE as well")
    if args.figure:
        check_figure_path(args.figure)
    if args.vary and not (args.vary[1:] and all(value.isdecimal() and int(value) for value in args.vary[1:])):
        raise AVSInputError(f"--vary {' '.join(args.vary)}: give whole numbers from 1 on behind the key")
    if args.compile and args.compile not in (backends := torch.compiler.list_backends(exclude_tags=())):
        raise AVSInputError(f"torch.compile has no backend '{args.compile}' here: choose from {', '.join(backends)}")
    check_outputs([args.report, args.json, args.figure], [args.config_file, *args.compare])
    check_device(args.device)


def load_settings(args: argparse.Namespace, key: str, value: str) -> tuple[dict[str, CfgNode], Workload]:
    """Return the configs by name and the workload, with ``key`` at ``value`` if there is one."""
    # Weights cost nothing, and there is no network to fetch them from everywhere.
    overrides = ["MODEL.WEIGHTS", "", "MODEL.AUDIO_BACKBONE.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "False"]
    overrides += ["MODEL.DEVICE", args.device, *args.overrides]
    overrides += [key, value] if key not in ("", CLIPS) else []
    configs = {str(path): load_config(path, overrides) for path in (args.config_file, *args.compare)}
    sizes = {(cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE) for cfg in configs.values()}
    if len(sizes) > 1:
        raise AVSInputError(f"the configs take clips of {sorted(sizes)} frames and pixels: compare those of one size")
    frames, size = sizes.pop()
    if size % LARGEST_STRIDE:
        raise AVSInputError(f"INPUT.IMAGE_SIZE is {size}: the networks take multiples of {LARGEST_STRIDE} pixels")
    clips = int(value) if key == CLIPS else args.clips
    labeled = frames if args.labeled_frames is None else args.labeled_frames
    if not 1 <= labeled <= frames or args.rounds < 1 or clips < 1:
        raise AVSInputError(
            f"--labeled-frames {labeled} --rounds {args.rounds} --clips {clips}: give 1 or more, "
            f"and no more labeled frames than the {frames} of a clip"
        )
    precision = find_precision("" if args.amp else "float32", args.device)
    return configs, Workload(clips, labeled, precision, args.compile, args.exported)


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own log tells, as an error, where no GPU is
    prepare_cpu()
    if args.report:
        _, *clips = args.vary or (CLIPS, *REPORT_CLIPS)
        configs, workload = load_settings(args, CLIPS, clips[0])
        command = shlex.join(sys.argv)
        write_report(args.report, configs, workload, [int(number) for number in clips], args.rounds, command)
        return
    key, *values = args.vary or ("", "")
    settings = {value: load_settings(args, key, value) for value in values}  # what is wrong shows before long work
    costs = {value: compare(*setting, args.rounds) for value, setting in settings.items()}
    sys.stdout.write(costs_table(costs, key) + "\n\n")
    if args.figure:
        draw_growth(growth_panels(costs), key, args.figure)
    if args.vary:
        write_json(args.json, {"vary": key, "values": costs})
        return
    name, (configs, workload), models = str(args.config_file), settings[""], costs[""]
    around = pipeline(configs[name], args.rounds)
    loading, scoring = (
        f"{1e3 * around[key]:.1f} ms ({100 * around[key] * workload.clips / models[name][step]:.1f} % of {of})"
        for key, step, of in (("loading", "train", "a training step"), ("scoring", "inference", "inference"))
    )
    sys.stdout.write(f"{parts_table(models)}\n\n{name}: loading a clip takes {loading}, scoring it {scoring}\n")
    write_json(args.json, {"models": models, "pipeline": around})


if __name__ == "__main__":
    run_tool(main)
