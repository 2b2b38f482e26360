"""Pixel decoders: backbone features -> the pyramid f_1, f_2, f_3 and the mask features f_4 of TransAVS section 2.2.1.

Shape legend: F = B * T frames. Registered in detectron2's SEM_SEG_HEADS_REGISTRY and chosen by
``MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME``; the registered object is called with ``obj(cfg, input_shape)`` and offers
``forward_features``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F


def build_pixel_decoder(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """Build ``MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME`` on the backbone's ``output_shape()``."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, input_shape)


def pyramid_convolution(inputs: int, outputs: int, kernel: int, norm: str, **options: Any) -> Conv2d:
    """A convolution of stride 1 that keeps the size, with a norm, or without one a bias, and ``Conv2d``'s options."""
    layer = Conv2d(
        inputs,
        outputs,
        kernel_size=kernel,
        padding=kernel // 2,
        bias=not norm,
        norm=get_norm(norm, outputs),
        **options,
    )
    weight_init.c2_xavier_fill(layer)
    return layer


@SEM_SEG_HEADS_REGISTRY.register()
class FPNPixelDecoder(nn.Module):
    """Feature pyramid: a lateral 1x1 convolution per level, added to the upsampled coarser level, then a 3x3 one."""

    @configurable
    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], conv_dim: int, norm: str):
        """
        Args:
            input_shape: channels and stride of the features to use, by name; at least two.
            conv_dim: d, channels of all that it gives.
            norm: normalization after each convolution, as detectron2's ``get_norm`` takes it.
        """
        super().__init__()
        self.in_features = sorted(input_shape, key=lambda name: -(input_shape[name].stride or 0))  # coarse to fine
        self.lateral = nn.ModuleList(
            pyramid_convolution(input_shape[name].channels, conv_dim, 1, norm) for name in self.in_features
        )
        self.output = nn.ModuleList(
            pyramid_convolution(conv_dim, conv_dim, 3, norm, activation=F.relu_) for _ in self.in_features
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        settings = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: input_shape[name] for name in settings.IN_FEATURES},
            "conv_dim": settings.CONVS_DIM,
            "norm": settings.NORM,
        }

    def forward_features(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """
        Args:
            features: by name, (F, channels, h, w).

        Returns:
            mask features f_4 (F, conv_dim, h, w) at the finest level, and the coarser levels (F, conv_dim, h_i, w_i),
            coarse to fine: f_1, f_2, f_3.
        """
        pyramid: list[Tensor] = []
        running = None
        for name, lateral, output in zip(self.in_features, self.lateral, self.output, strict=True):
            level = lateral(features[name])
            if running is not None:
                level = F.interpolate(running, size=level.shape[-2:], mode="nearest").add_(level)
            running = level
            pyramid.append(output(running))
        return pyramid[-1], pyramid[:-1]
