"""The arguments by which the demos are told which model to run."""

import argparse
from pathlib import Path
from typing import Any

from transavs.precision import PRECISIONS
from transavs.predictor import AVSPredictor

WEIGHTS = Path("output/quickstart/model_final.pth")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``, ``--config-file``, ``--device`` and ``--precision``."""
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="checkpoint or exported model; the quickstart's by default"
    )
    parser.add_argument("--config-file", type=Path, help="for weights that carry no config")
    parser.add_argument("--device", help="such as cpu or cuda:1; a GPU where there is one by default")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="that a checkpoint computes in; float32 by default"
    )


def load_predictor(args: argparse.Namespace, **options: Any) -> AVSPredictor:
    """The predictor that the arguments of :func:`add_model_arguments` name; ``options`` are of its constructor."""
    return AVSPredictor.from_checkpoint(
        args.weights, device=args.device, config_file=args.config_file, precision=args.precision, **options
    )
