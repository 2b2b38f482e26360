"""Features enlarged twofold, as AVSBench's decoder does it."""

from torch import Tensor, nn
from torch.nn import functional as F


class EnlargedConv2d(nn.Conv2d):
    """Bilinear enlargement by two, then a 3x3 convolution with zero padding."""

    def __init__(self, in_channels: int, out_channels: int, *, align_corners: bool):
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.align_corners = align_corners

    def forward(self, features: Tensor) -> Tensor:
        """(F, C, h, w) -> (F, C', 2h, 2w)."""
        return super().forward(enlarge(features, align_corners=self.align_corners))


def enlarge(features: Tensor, *, align_corners: bool) -> Tensor:
    """(F, C, h, w) -> (F, C, 2h, 2w)."""
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=align_corners)
