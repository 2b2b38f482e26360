"""A trained model made quick for inference alone, with the same outputs."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from transavs.modeling.tpavi.block import TPAVIBlock

BATCH_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Fold the batch norms of detectron2's convolutions into their weights, and lay weights out channels last.

    Outputs stay the same to rounding. Batch norms elsewhere, as in timm's models, stay as they are.

    Args:
        model: with its weights loaded; changed in place, in keys too, and not to be trained afterwards.

    Returns:
        the model in evaluation mode.
    """
    for module in model.modules():
        if isinstance(module, Conv2d) and isinstance(module.norm, BATCH_NORMS):
            _fold(fuse_conv_bn_weights, module, module.norm)
            module.norm = None
        if isinstance(module, TPAVIBlock) and isinstance(module.output_norm, BATCH_NORMS):
            _fold(fuse_linear_bn_weights, module.output, module.output_norm)
            module.output_norm = nn.Identity()
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _fold(fuse: Callable[..., Any], layer: Any, norm: Any) -> None:
    """Put a batch norm into the weights of the layer before it, by torch's ``fuse``."""
    layer.weight, layer.bias = fuse(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
