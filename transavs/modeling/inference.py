"""A trained model made quick for inference alone, with the same outputs."""

from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

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
            norm: Any = module.norm
            module.weight, module.bias = fuse_conv_bn_weights(
                module.weight, module.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            module.norm = None
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
