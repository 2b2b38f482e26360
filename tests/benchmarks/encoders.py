#!/usr/bin/env python
"""The table of docs/models.md: strides, channels, parameters and operations of each encoder.

python tests/benchmarks/encoders.py
"""

import sys
from pathlib import Path

import torch
from detectron2.modeling import build_backbone
from tabulate import tabulate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.repository import REPOSITORY

from transavs.config.load import load_config

SIZE = 224
NAMES = [
    *("swin_base_patch4_window7_224", "pvt_v2_b5"),
    *("vit_small_patch16_dinov3", "vit_base_patch16_dinov3", "vit_large_patch16_dinov3"),
    *("vit_small_patch14_dinov2", "samvit_base_patch16", "hieradet_small", "sam2_hiera_tiny"),
    *("convnext_tiny", "convnext_tiny.dinov3_lvd1689m"),
    *("efficientnet_b0", "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small"),
]


def measure(*options: str) -> tuple[str, str, float, float]:
    """Strides, channels, parameters in millions, and operations in 10^9 on one image, of a config's backbone."""
    cfg = load_config(REPOSITORY / "configs/s4_r50.yaml", ["MODEL.DEVICE", "cpu", "INPUT.IMAGE_SIZE", SIZE, *options])
    backbone = build_backbone(cfg).eval()
    shapes = backbone.output_shape().values()
    # Fused attention hides its products from the counter.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, SIZE, SIZE))
    return (
        ", ".join(str(shape.stride) for shape in shapes),
        ", ".join(str(shape.channels) for shape in shapes),
        sum(parameter.numel() for parameter in backbone.parameters()) / 1e6,
        counter.get_total_flops() / 1e9,
    )


def main() -> None:
    *_, reference = plain = measure()
    rows = [("ResNet-50", *plain), *((name, *measure_timm(name)) for name in NAMES)]
    header = ("encoder", "strides", "channels", "M parameters", "x ResNet-50")
    table = tabulate(
        [(*row[:4], row[4] / reference) for row in rows], header, "github", floatfmt=(*3 * "g", ".1f", ".2f")
    )
    sys.stdout.write(f"{table}\n\nResNet-50: {reference:.2f} * 10^9 operations at {SIZE} x {SIZE}\n")


def measure_timm(name: str) -> tuple[str, str, float, float]:
    return measure("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name)


if __name__ == "__main__":
    main()
