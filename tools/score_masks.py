#!/usr/bin/env python
"""Score predicted PNG masks against ground truth, without a model.

tools/score_masks.py --pred my_masks --gt AVSBench_object/Single-source/s4_data/gt_masks/test --setting s4
tools/score_masks.py --pred my_masks --gt AVSBench_semantic --setting avss --dataset AVSBench_semantic --split test
"""

import argparse
import sys
from pathlib import Path

from transavs.data.avsbench import LAYOUTS, SPLITS, load_avsbench
from transavs.evaluation.mask_folders import SETTINGS, score_mask_folders
from transavs.evaluation.results import results_table
from transavs.utils.command_line import check_outputs, run_tool, write_json

CLASSES = "label2idx.json"


def files_of(root: Path, setting: str, split: str) -> dict[Path, None]:
    """The masks of a split, in the order of the csv."""
    records = load_avsbench(root.absolute(), setting, split)
    return dict.fromkeys(Path(path) for record in records for path in record["mask_file_names"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pred", type=Path, required=True, help="folder of predictions, at the ground truth's paths")
    parser.add_argument("--gt", type=Path, required=True, help="folder of the ground truth")
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="s4")
    parser.add_argument("--dataset", type=Path, default=Path(), help=f"avss: folder that holds {CLASSES}")
    parser.add_argument("--split", choices=SPLITS, help="of the csv in --dataset; by default all that is in --gt")
    parser.add_argument("--size", type=int, default=0, help="score at this side, AVSBench's is 224; by default as is")
    parser.add_argument("--json", type=Path, help="file to write all metrics to")
    args = parser.parse_args()
    check_outputs([args.json], [args.pred, args.gt, args.dataset / CLASSES])
    class_names = LAYOUTS[args.setting].read_class_names(args.dataset)
    only = files_of(args.dataset, args.setting, args.split) if args.split else None
    found = score_mask_folders(args.pred, args.gt.absolute(), args.setting, class_names, args.size, only)
    sys.stdout.write(results_table(found) + "\n")
    write_json(args.json, found)


if __name__ == "__main__":
    run_tool(main)
