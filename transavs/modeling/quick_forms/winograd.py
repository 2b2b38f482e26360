"""3x3 convolutions by Winograd's minimal filtering: 36 products for 16 outputs in place of 144.

Shape legend: F frames of H x W pixels, cut into h x w tiles of 4 x 4 outputs; C channels in, C' out.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), F(4x4, 3x3). Along one
axis the 4 outputs of a tile are A^T ((G g) * (B^T d)) of its 6 inputs d and the filter g. Both axes at once are
Kronecker products of these matrices with themselves, so that each step is one product of matrices.
"""

from typing import NamedTuple

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from transavs.modeling.quick_forms.base import QuickForm

TAPS, OUTPUTS = 3, 4
INPUTS = OUTPUTS + TAPS - 1
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and infinity; small, so that little is lost to rounding
SMALLEST_SIDE, FEWEST_CHANNELS = 24, 128  # below, oneDNN's direct form is as quick (docs/benchmarks.md)
TILES_AT_ONCE = 256  # rows enough for a quick product, few enough for the processor's cache


class Filtering(NamedTuple):
    """The matrices of F(4, 3), float64."""

    output: Tensor  # A^T, 4 x 6
    filter: Tensor  # G, 6 x 3
    input: Tensor  # B^T, 6 x 6


def minimal_filtering() -> Filtering:
    """By the transposition of Toom and Cook's product of polynomials, which are evaluated at POINTS and infinity."""

    def evaluation(terms: int) -> Tensor:
        powers = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(terms)
        infinity = torch.eye(terms, dtype=torch.float64)[-1:]
        return torch.cat([powers, infinity])

    return Filtering(evaluation(OUTPUTS).T, evaluation(TAPS), evaluation(INPUTS).inverse().T)


def takes(layer: nn.Module) -> bool:
    """Whether this form is made for a layer: torch's or detectron2's 3x3 convolution with channels enough."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer) in (nn.Conv2d, Conv2d)
        and layer.kernel_size == (TAPS, TAPS)
        and layer.padding == (1, 1)
        and (layer.stride, layer.dilation) == ((1, 1), (1, 1))
        and (layer.groups, layer.padding_mode) == (1, "zeros")
        and min(layer.in_channels, layer.out_channels) >= FEWEST_CHANNELS
    )


class WinogradConv2d(QuickForm):
    """Of a convolution that :func:`takes` accepts; the filters are transformed when they are first needed."""

    direct: nn.Conv2d

    def __init__(self, direct: nn.Conv2d):
        super().__init__(direct)
        followers = [getattr(direct, name, None) for name in ("norm", "activation")]  # of detectron2's
        self.followers = [follower for follower in followers if follower is not None]
        self.register_buffer("filters", None, persistent=False)
        self.filters: Tensor | None

    def pays(self, frames: int, channels: int, height: int, width: int) -> bool:
        return min(height, width) >= SMALLEST_SIDE

    def transformed_filters(self) -> Tensor:
        """G g G^T of all filters, (6 * 6, C, C')."""
        if self.filters is None:
            matrix = minimal_filtering().filter
            filters = torch.einsum("ia,ocab,jb->ijco", matrix, self.direct.weight.double(), matrix)
            self.filters = filters.flatten(0, 1).float().contiguous()
        return self.filters

    def compute(self, pixels: Tensor) -> Tensor:
        result = self.convolved(pixels).permute(0, 3, 1, 2)
        for follower in self.followers:
            result = follower(result)
        return result.permute(0, 2, 3, 1)

    def convolved(self, pixels: Tensor) -> Tensor:
        """(F, H, W, C) -> (F, H, W, C')."""
        filters, bias = self.transformed_filters(), 0 if self.direct.bias is None else self.direct.bias
        filtering = minimal_filtering()
        into, out_of = (torch.kron(matrix, matrix).float() for matrix in (filtering.input, filtering.output))
        frames, height, width, channels = pixels.shape
        tiles = [-(-side // OUTPUTS) for side in (height, width)]
        at_once = min(max(TILES_AT_ONCE // (tiles[0] * tiles[1]), 1), frames)
        sides = [OUTPUTS * count for count in tiles]
        padded = pixels.new_zeros(at_once, sides[0] + TAPS - 1, sides[1] + TAPS - 1, channels)
        result = pixels.new_empty(frames, tiles[0], OUTPUTS, tiles[1], OUTPUTS, filters.shape[2])
        for some, outputs in zip(pixels.split(at_once), result.split(at_once), strict=True):
            padded[: len(some), 1 : height + 1, 1 : width + 1] = some
            windows = padded[: len(some)].unfold(1, INPUTS, OUTPUTS).unfold(2, INPUTS, OUTPUTS)
            inputs = into @ windows.permute(4, 5, 0, 1, 2, 3).reshape(len(filters), -1)
            products = torch.bmm(inputs.view(len(filters), -1, channels), filters)
            answers = (out_of @ products.flatten(1)).view(OUTPUTS, OUTPUTS, len(some), *tiles, -1)
            torch.add(answers.permute(2, 3, 0, 4, 1, 5), bias, out=outputs)
        return result.flatten(3, 4).flatten(1, 2)[:, :height, :width]
