#!/usr/bin/env python
"""Train or evaluate a model.

tools/train_net.py --config-file configs/s4_r50.yaml [--resume] [KEY VALUE ...]
tools/train_net.py --eval-only [--config-file configs/s4_r50.yaml] MODEL.WEIGHTS model_best.pth [KEY VALUE ...]
"""

import importlib
import logging
import re
import sys
from argparse import Namespace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from transavs.checkpoint.load import load_for_evaluation
from transavs.checkpoint.versions import versions
from transavs.config.load import find_config
from transavs.engine import AVSTrainer, check_registered
from transavs.engine.launch import config_of_run, launch
from transavs.modeling.optimize import optimize_for_inference
from transavs.utils.command_line import run_tool
from transavs.utils.errors import AVSInputError, one_line

CHECKPOINT_NAME = r"model_(final|best|\d{7})\.pth"  # of what training writes


def import_modules(names: list[str]) -> None:
    """Import modules of the user's, which may lie in the current folder."""
    sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise AVSInputError(
                f"--import {name}: {one_line(error)}: name a module of this folder or PYTHONPATH"
            ) from error


def setup(args: Namespace) -> CfgNode:
    import_modules(args.modules)
    if args.config_file:
        args.config_file = str(find_config(args.config_file))  # default_setup opens it again
    cfg = config_of_run(args)
    check_registered(cfg, training=not args.eval_only)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="transavs")
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    logging.getLogger("transavs").info("made with %s", made_with)
    return cfg


def check_start(cfg: CfgNode) -> None:
    """Raise an AVSInputError where training would replace the checkpoint that it starts from by its own."""
    weights = Path(cfg.MODEL.WEIGHTS)
    if re.fullmatch(CHECKPOINT_NAME, weights.name) and weights.is_file() and weights.parent.samefile(cfg.OUTPUT_DIR):
        raise AVSInputError(
            f"MODEL.WEIGHTS {weights} lies in OUTPUT_DIR, where training would overwrite it: set another OUTPUT_DIR, "
            "or go on with --resume"
        )


def main(args: Namespace) -> None:
    cfg = setup(args)
    if args.eval_only:
        model = load_for_evaluation(cfg, AVSTrainer.build_model, resume=args.resume)
        optimize_for_inference(model)
        results = AVSTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return
    if not args.resume:
        check_start(cfg)
    trainer = AVSTrainer(cfg, resume=args.resume)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="of yours, which registers data sets or parts of a model; may be given several times",
    )
    run_tool(lambda: launch(main, parser.parse_args()))
