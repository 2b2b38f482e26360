#!/usr/bin/env python
"""Time and peak memory of a forward pass of TPAVI R50 on one clip, with its interaction in linear and in direct form.

python tests/benchmarks/tpavi_interaction.py --sizes 96 128 160 192 224 256 --output docs/images/interaction.png

Times of one size are taken in turn. Memory is what the pass adds to a process of its own. "linear" is the network as
the tools run it, "direct" the same one with its blocks in the published form, "plain" the linear one as it is trained,
"published" the network as it was published, without the branch that it never uses. "blocks" are the four blocks alone.
"""

import argparse
import functools
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.published_tpavi import CHANNELS, PublishedTPAVI, direct_interaction

from transavs.analysis.timing import interleaved_times, peak_memory
from transavs.config.load import load_config
from transavs.modeling.optimize import optimize_for_inference

CONFIG = Path(__file__).parents[2] / "configs/tpavi/s4_r50.yaml"
FRAMES, STRIDES, SMALLEST = 5, (4, 8, 16, 32), 32
WINDOW = torch.zeros(FRAMES, dtype=torch.int64)
FORMS = ("linear", "plain", "direct", "published", "blocks linear", "blocks direct")


class DirectBlock(nn.Module):
    """A block of ours that computes what it does in the published way."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, visual: Tensor, windows: Tensor, num_windows: int, audio: Tensor) -> tuple[Tensor, None]:
        clips = visual.unflatten(0, (num_windows, -1))
        return direct_interaction(self.block, clips, audio.unflatten(0, (num_windows, -1))), None


@functools.cache
def build(form: str) -> nn.Module:
    torch.manual_seed(0)
    if form == "published":
        return PublishedTPAVI(1, audio_bias=True).eval()
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.AUDIO_BACKBONE.WEIGHTS", ""]
    model = build_model(load_config(CONFIG, overrides)).eval()
    if form != "plain":
        optimize_for_inference(model)
    if form == "direct":
        model.blocks = nn.ModuleDict({name: DirectBlock(block) for name, block in model.blocks.items()})
    return model


def forward_pass(form: str, size: int) -> Callable[[], object]:
    """On one clip of noise."""
    model, audio = build(form.removeprefix("blocks ")), torch.rand(FRAMES, 128)
    if form.startswith("blocks"):
        levels = [torch.randn(FRAMES, CHANNELS, size // stride, size // stride) for stride in STRIDES]
        levels = [level.contiguous(memory_format=torch.channels_last) for level in levels]
        return lambda: [block(x, WINDOW, 1, audio) for block, x in zip(model.blocks.values(), levels, strict=True)]
    images = torch.randn(FRAMES, 3, size, size)
    if form == "published":
        return lambda: model(images, audio)
    return lambda: model.segment(images[None], audio[None])


def peak_elsewhere(form: str, size: int) -> int:
    """Bytes that a pass adds to a process of its own."""
    command = [sys.executable, __file__, "--peak", form, "--sizes", str(size)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def peak_here(form: str, size: int) -> int:
    forward_pass(form, SMALLEST)()  # what a first pass sets up once is not counted
    run = forward_pass(form, size)
    before = peak_memory(lambda: None)
    return peak_memory(run) - before


def draw(path: Path, times: dict[int, dict[str, float]], peaks: dict[int, dict[str, int]]) -> None:
    """Whole networks against the image size, as curves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for form in FORMS[:4]:
        left.plot(list(times), [found[form] for found in times.values()], "o-", label=form)
        right.plot(list(peaks), [found[form] / 2**30 for found in peaks.values()], "o-", label=form)
    left.set(xlabel="image size (pixels)", ylabel="seconds per clip", ylim=(0, None))
    right.set(xlabel="image size (pixels)", ylabel="peak memory of the pass (GiB)", ylim=(0, None))
    left.legend(frameon=False)
    figure.savefig(path, dpi=120)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[96, 128, 160, 192, 224, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="figure to draw")
    parser.add_argument("--peak", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        sys.stdout.write(f"{peak_here(args.peak, args.sizes[0])}\n")
        return
    times, peaks, rows = {}, {}, []
    for size in tqdm(args.sizes, unit="size"):
        taken = interleaved_times({form: forward_pass(form, size) for form in FORMS}, args.rounds)
        times[size] = {form: statistics.median(values) for form, values in taken.items()}
        peaks[size] = {form: peak_elsewhere(form, size) for form in FORMS}
        for form in FORMS:
            base = "blocks linear" if form.startswith("blocks") else "linear"
            time, least, peak = times[size][form], min(taken[form]), peaks[size][form]
            ratios = (time / times[size][base], least / min(taken[base]), peak / peaks[size][base])
            rows.append((size, form, time, ratios[0], least, ratios[1], peak / 2**20, ratios[2]))
    headers = ("size", "form", "median s", "ratio", "least s", "ratio", "peak MiB", "ratio")
    formats = ("", "", ".3f", ".2f", ".3f", ".2f", ".0f", ".2f")
    sys.stdout.write(tabulate(rows, headers, tablefmt="pipe", floatfmt=formats) + "\n")
    if args.output:
        draw(args.output, times, peaks)


if __name__ == "__main__":
    main()
