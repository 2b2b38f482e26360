"""The decoder of AVSBench's baseline: dilated convolutions per level, fused from coarse to fine.

Shape legend: F frames, C channels; level i has a size of its own, h_i x w_i.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class DilatedSum(nn.Module):
    """Parallel 3x3 convolutions of several dilations, summed."""

    def __init__(self, in_channels: int, channels: int, dilations: Sequence[int]):
        super().__init__()
        convolutions = [nn.Conv2d(in_channels, channels, 3, padding=d, dilation=d) for d in dilations]
        for convolution in convolutions:
            nn.init.normal_(convolution.weight, std=0.01)
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, features: Tensor) -> Tensor:
        """(F, in_channels, h, w) -> (F, C, h, w)."""
        first, *others = self.convolutions
        total: Tensor = first(features)
        for convolution in others:
            total = total + convolution(features)
        return total


class ResidualUnit(nn.Module):
    """Two convolutions beside a skip that carries the rectified input, as AVSBench's in-place ReLU makes it."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(F, C, h, w) -> (F, C, h, w)."""
        rectified = features.relu()
        return self.conv2(self.conv1(rectified).relu_()).add_(rectified)  # nobody else looks at what changes in place


class FusionBlock(nn.Module):
    """Adds a level to the coarser ones."""

    def __init__(self, channels: int, takes_level: bool):
        """
        Args:
            channels: C.
            takes_level: whether there is a coarser result for the level to be added to.
        """
        super().__init__()
        self.level_unit = ResidualUnit(channels) if takes_level else None
        self.unit = ResidualUnit(channels)

    def forward(self, features: Tensor, level: Tensor | None = None) -> Tensor:
        """(F, C, h, w) and a level of the same shape -> (F, C, h, w)."""
        if self.level_unit is not None and level is not None:
            features = self.level_unit(level).add_(features)
        fused: Tensor = self.unit(features)
        return fused


class FusionDecoder(nn.Module):
    """Levels, coarse and fine -> logits at the full size of the image."""

    def __init__(self, *, channels: int, num_levels: int, head_channels: Sequence[int], num_outputs: int):
        """
        Args:
            channels: C of the levels.
            num_levels: levels, the finest of stride 4.
            head_channels: of the two convolutions before the last.
            num_outputs: channels of the logits.
        """
        super().__init__()
        self.blocks = nn.ModuleList(FusionBlock(channels, takes_level=number > 0) for number in range(num_levels))
        wide, narrow = head_channels
        head = {
            "0": UpsampledConv2d(channels, wide, align_corners=True),
            "2": UpsampledConv2d(wide, narrow, align_corners=False),
            "3": nn.ReLU(),
            "4": nn.Conv2d(narrow, num_outputs, 1),
        }
        self.head = nn.Sequential(OrderedDict(head))  # by the numbers that checkpoints have

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Fine to coarse, (F, C, h_i, w_i), each half the size of the one before -> (F, num_outputs, 4 h_0, 4 w_0)."""
        coarsest, *finer = reversed(levels)
        fused = self.blocks[0](coarsest)
        for block, level in zip(list(self.blocks)[1:], finer, strict=True):
            fused = block(upsample(fused, align_corners=True), level)
        logits: Tensor = self.head(fused)
        return logits


class UpsampledConv2d(nn.Conv2d):
    """Bilinear upsampling by two, then a 3x3 convolution with zero padding."""

    def __init__(self, in_channels: int, out_channels: int, *, align_corners: bool):
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        """(F, C, h, w) -> (F, C', 2h, 2w)."""
        return super().forward(upsample(features, align_corners=self.align_corners))


def upsample(features: Tensor, *, align_corners: bool) -> Tensor:
    """(F, C, h, w) -> (F, C, 2h, 2w)."""
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=align_corners)
