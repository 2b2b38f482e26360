#!/usr/bin/env python
"""Write a model to one file that runs without this package: tools/export_model.py --weights CKPT --output FILE.

FILE.pt2: a torch.export program, for PyTorch. FILE.onnx: a graph for ONNX Runtime (pip install "transavs[export]").
Inputs: images (B, T, 3, S, S), float32 pixels 0 ... 255, and log_mel (B, T, 1, 96, 64), or what another
audio backbone takes, for any number of clips B.
Output: probabilities (B, T, K, S, S) in [0, 1].
"""

import argparse
import sys
from pathlib import Path

from transavs.inference.backends import PyTorchBackend
from transavs.inference.export import check_export_path, export_model
from transavs.utils.command_line import check_outputs, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint that train_net.py has written")
    parser.add_argument("--config-file", help="in place of the config that the checkpoint carries")
    parser.add_argument("--output", required=True, help="file to write (.pt2 or .onnx)")
    args = parser.parse_args()
    check_export_path(args.output)
    check_outputs([args.output], [args.weights, args.config_file])
    backend = PyTorchBackend.from_checkpoint(args.weights, "cpu", args.config_file)
    difference = export_model(backend, args.output)
    takes = backend.format
    sys.stdout.write(
        f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB, clips of {takes.num_frames} frames of "
        f"{takes.image_size} pixels ({takes.image_format}), {len(takes.class_names)} classes\n"
        f"largest difference from the checkpoint's probabilities: {difference:.1g}\n"
    )


if __name__ == "__main__":
    run_tool(main)
