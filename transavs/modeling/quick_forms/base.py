"""What the quick forms share."""

import torch
from torch import Tensor, nn


class QuickForm(nn.Module):
    """Gives what a layer gives, by another way, where that way pays.

    Graphs (torch.export, ONNX, torch.compile) get the layer itself: the quick forms are many small steps over buffers
    of one size, which other compilers and other sizes have no use for. So do other types than float32, and autocast.
    Gradients do not pass through a quick form, and it stays on the CPU.
    """

    def __init__(self, direct: nn.Module):
        """
        Args:
            direct: the layer, whose parameters stay where they are.
        """
        super().__init__()
        self.direct = direct

    def forward(self, features: Tensor) -> Tensor:
        """Of the layer: (F, C, h, w) -> (F, C', h', w')."""
        other_type = features.dtype != torch.float32 or torch.is_autocast_enabled(features.device.type)
        if torch.compiler.is_compiling() or other_type or not self.pays(*features.shape):
            result: Tensor = self.direct(features)
            return result
        return self.compute(features.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)

    def pays(self, frames: int, channels: int, height: int, width: int) -> bool:
        """Whether features of this shape are quicker this way."""
        return True

    def compute(self, pixels: Tensor) -> Tensor:
        """(F, h, w, C), contiguous -> (F, h', w', C')."""
        raise NotImplementedError
