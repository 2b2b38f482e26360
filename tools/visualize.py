#!/usr/bin/env python
"""Draw figures of models and of training runs.

tools/visualize.py grid --dataset avsbench_s4_test --weights output/s4_r50/model_best.pth --output grid.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog

from transavs.checkpoint.load import load_model
from transavs.data.audio_conditions import AUDIO_CONDITIONS
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.utils.command_line import check_outputs, run_tool
from transavs.visualization.charts import draw_curves, draw_groups
from transavs.visualization.clips import FORMATS, check_figure_path, draw_clips
from transavs.visualization.model_grid import compare_models, model_sources
from transavs.visualization.queries import draw_queries
from transavs.visualization.records import distinct_names, load_records, pick_records
from transavs.visualization.runs import collect_categories, collect_curves


def files_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """The images of records, which a figure must not replace."""
    return [path for record in records for path in (*record["file_names"], *record["mask_file_names"])]


def grid(args: argparse.Namespace) -> None:
    names = distinct_names(args.weights, args.names, lambda path: path.absolute().parent.name)
    sources = dict(zip(names, model_sources(args.weights, args.config_file), strict=True))
    records = pick_records(load_records(args.dataset, args.audio), args.clips, args.num)
    check_outputs([args.output], files_of(records), makes_parents=True)
    note = "" if args.audio == "true" else f"   audio: {args.audio}"
    pictures = compare_models(sources, records, args.device, note)
    draw_clips(pictures, args.output, MetadataCatalog.get(args.dataset).stuff_classes)


def queries(args: argparse.Namespace) -> None:
    record = pick_records(load_records(args.dataset), args.clip)[0]
    check_outputs([args.output], files_of([record]), makes_parents=True)
    model, cfg, class_names = load_model(args.weights, args.device, args.config_file)
    clip = AVSDatasetMapper(cfg, is_train=False)(record)
    # The data set knows its classes also where the checkpoint carries no names, if both are semantic or both are not.
    known = MetadataCatalog.get(args.dataset).stuff_classes
    known = known if (len(known) > 2) == (len(class_names) > 2) else []
    draw_queries(model, clip, args.frame - 1, args.top, [*known, *class_names[len(known) :]], args.output)


def curves(args: argparse.Namespace) -> None:
    runs = dict(zip(distinct_names(args.runs, args.names, run_name), args.runs, strict=True))
    draw_curves(collect_curves(runs, args.metrics), args.output)


def bars(args: argparse.Namespace) -> None:
    runs = dict(zip(distinct_names(args.runs, args.names, run_name), args.runs, strict=True))
    draw_groups(collect_categories(runs, args.metric, args.dataset), f"{args.metric} in percent", args.output)


def run_name(path: Path) -> str:
    return path.absolute().name


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figures = parser.add_subparsers(required=True, metavar="FIGURE")
    of_models, of_runs = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    of_models.add_argument("--dataset", required=True, help="a name such as avsbench_s4_test")
    of_models.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    of_runs.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="OUTPUT_DIR of a run")
    of_runs.add_argument("--names", nargs="+", default=[], help="of the runs; by default their folders'")
    for shared in (of_models, of_runs):
        shared.add_argument(
            "--output", type=Path, required=True, metavar="FILE", help=f"of a kind of {', '.join(FORMATS)}"
        )

    command = figures.add_parser("grid", parents=[of_models], help="several models on the same clips")
    command.set_defaults(draw=grid)
    command.add_argument("--weights", nargs="+", type=Path, required=True, metavar="CHECKPOINT")
    command.add_argument("--config-file", nargs="+", type=Path, default=[], help="of the checkpoints that carry none")
    command.add_argument("--names", nargs="+", default=[], help="of the models; by default their folders'")
    command.add_argument("--clips", nargs="+", default=[], metavar="VIDEO_ID")
    command.add_argument("--num", type=int, default=4, help="without --clips: so many, evenly spread over the data set")
    command.add_argument("--audio", choices=list(AUDIO_CONDITIONS), default="true", help="what the models hear")

    command = figures.add_parser("queries", parents=[of_models], help="masks and attention of a TransAVS's queries")
    command.set_defaults(draw=queries)
    command.add_argument("--weights", type=Path, required=True, metavar="CHECKPOINT")
    command.add_argument("--config-file", type=Path, help="of a checkpoint that carries none")
    command.add_argument("--clip", nargs=1, default=[], metavar="VIDEO_ID", help="by default the first")
    command.add_argument("--frame", type=int, default=1, help="second of the clip, from 1")
    command.add_argument("--top", type=int, default=4, help="queries to draw, those that decide most of the frame")

    command = figures.add_parser("curves", parents=[of_runs], help="training curves")
    command.set_defaults(draw=curves)
    command.add_argument("--metrics", nargs="+", default=[], help="of metrics.json; by default total_loss and J")

    command = figures.add_parser("bars", parents=[of_runs], help="a metric by category or class")
    command.set_defaults(draw=bars)
    command.add_argument("--metric", default="J", help="J, F or IoU, also with another audio, such as J_shuffled")
    command.add_argument("--dataset", help="where runs have several test sets: which")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_figure_path(args.output)
    check_outputs([args.output], makes_parents=True)
    args.draw(args)


if __name__ == "__main__":
    run_tool(main)
