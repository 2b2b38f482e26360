"""The arguments by which the demos are told which model to run."""

import argparse
from pathlib import Path
from typing import Any

from transavs.inference.predictor import AVSPredictor
from transavs.utils.precision import PRECISIONS

WEIGHTS = "output/quickstart/model_final.pth"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``, ``--config-file``, ``--device``, ``--precision`` and ``--trust-program``."""
    parser.add_argument(
        "--weights",
        default=WEIGHTS,
        help="checkpoint, exported model, folder of save_pretrained, address or hf://owner/name; the quickstart's by "
        "default",
    )
    parser.add_argument("--config-file", type=Path, help="for weights that carry no config")
    parser.add_argument("--device", help="such as cpu or cuda:1; a GPU where there is one by default")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="that a checkpoint computes in; float32 by default"
    )
    parser.add_argument("--trust-program", action="store_true", help="load a .pt2 file, which may run code")


def load_predictor(args: argparse.Namespace, **options: Any) -> AVSPredictor:
    """Load the predictor that the arguments of :func:`add_model_arguments` name; ``options`` are of its constructor."""
    return AVSPredictor.from_checkpoint(
        args.weights,
        device=args.device,
        config_file=args.config_file,
        precision=args.precision,
        trust_program=args.trust_program,
        **options,
    )
