"""Mask2Former's pixel decoder at a small size, with weights at random everywhere."""

import torch
from detectron2.layers import ShapeSpec
from torch import nn

from transavs.modeling import MSDeformAttnPixelDecoder

CHANNELS = {"res2": 6, "res3": 10, "res4": 14, "res5": 18}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def randomize(module: nn.Module) -> None:
    """Draw what starts at zero or one too, so that all of it is seen in what comes out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def make_pixel_decoder(num_layers: int = 2) -> MSDeformAttnPixelDecoder:
    torch.manual_seed(0)
    shapes = {name: ShapeSpec(channels=channels, stride=STRIDES[name]) for name, channels in CHANNELS.items()}
    decoder = MSDeformAttnPixelDecoder(
        input_shape=shapes,
        conv_dim=32,
        norm="GN",
        num_layers=num_layers,
        num_heads=4,
        dim_feedforward=48,
        num_points=4,
    )
    randomize(decoder)
    return decoder


def make_visual_features(height: int, width: int) -> dict[str, torch.Tensor]:
    """Features of two frames of this size."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(2, channels, height // STRIDES[name], width // STRIDES[name], generator=generator)
        for name, channels in CHANNELS.items()
    }
