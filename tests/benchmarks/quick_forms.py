#!/usr/bin/env python
"""Time of layers in their quick forms beside the layers themselves, taken in turn: five frames on a CPU.

python tests/benchmarks/quick_forms.py --rounds 15
"""

import argparse
import statistics
import sys

import torch
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from transavs.engine.measuring import interleaved_times
from transavs.modeling.enlarged import EnlargedConv2d
from transavs.modeling.fusion_decoder import DilatedSum
from transavs.modeling.inference import quick_form
from transavs.modeling.quick_forms.base import QuickForm
from transavs.modeling.quick_forms.enlarged import QuickEnlargedConv2d
from transavs.modeling.quick_forms.spectral import SpectralDilatedSum
from transavs.modeling.quick_forms.winograd import WinogradConv2d

FRAMES, CHANNELS, DILATIONS = 5, 256, (3, 6, 12, 18)


def forms() -> list[tuple[str, QuickForm, int, int]]:
    """Name, form, channels and side of the input: those of TPAVI R50 at 224 pixels, and smaller ones."""
    sums = [(256, 56), (512, 28), (1024, 14), (2048, 7)]
    plain = [(256, 56), (256, 28), (256, 14), (128, 56), (128, 28), (64, 56)]
    enlarged = [(CHANNELS, CHANNELS // 2, 56, True), (CHANNELS // 2, CHANNELS // 8, 112, False)]
    return [
        *(("dilated sum", SpectralDilatedSum(DilatedSum(c, CHANNELS, DILATIONS)), c, side) for c, side in sums),
        *(("3x3", WinogradConv2d(nn.Conv2d(c, c, 3, padding=1)), c, side) for c, side in plain),
        *(
            ("enlarged, then 3x3", QuickEnlargedConv2d(EnlargedConv2d(c, outputs, align_corners=align)), c, side)
            for c, outputs, side, align in enlarged
        ),
    ]


def taken_by_models(form: QuickForm, features: torch.Tensor) -> bool:
    """Whether :func:`transavs.modeling.inference.optimize_for_inference` has such a layer go this way."""
    return isinstance(quick_form(form.direct), QuickForm) and form.pays(*features.shape)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rows = []
    for name, form, channels, side in tqdm(forms(), unit="layer"):
        form.to(memory_format=torch.channels_last)
        features = torch.randn(FRAMES, channels, side, side).contiguous(memory_format=torch.channels_last)
        pixels = features.permute(0, 2, 3, 1)
        steps = {"direct": lambda f=form, x=features: f.direct(x), "quick": lambda f=form, x=pixels: f.compute(x)}
        taken = interleaved_times(steps, args.rounds)
        middle, least = ({key: f(values) for key, values in taken.items()} for f in (statistics.median, min))
        ratios = [found["direct"] / found["quick"] for found in (middle, least)]
        times = [1e3 * middle[key] for key in ("direct", "quick")]
        rows.append((name, channels, side, *times, *ratios, "yes" if taken_by_models(form, features) else "no"))
    headers = ("layer", "channels", "side", "direct ms", "quick ms", "direct / quick", "of least", "taken")
    formats = ("", "", "", ".1f", ".1f", ".2f", ".2f", "")
    sys.stdout.write(tabulate(rows, headers, tablefmt="pipe", floatfmt=formats) + "\n")


if __name__ == "__main__":
    main()
