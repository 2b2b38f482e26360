"""The sum of dilated 3x3 convolutions as one product of spectra.

Shape legend: F frames of H x W pixels, C channels in, C' out; all dilations are multiples of a stride g. Pixels g apart
make g * g grids of h x w, on which the dilations are offsets of a few pixels. Their discrete Fourier transforms have
p x q frequencies, of which the u = p / 2 + 1 first down tell the others, since pixels are real.

A transform turns every convolution of a grid into one product per frequency, so one product serves all dilations. The
transforms themselves are so short that they are products of matrices as well. Spectra of the filters take far more
memory than the filters (325 frequencies for 33 taps at 56 x 56 pixels): they are made for one frequency down at a time,
and stay in the processor's cache.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.fusion_decoder import DilatedSum
from transavs.modeling.quick_forms.base import QuickForm

PRICE = 2  # of a product of spectra, in products of oneDNN's convolutions (docs/benchmarks.md)
HALF_THE_NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))  # the other half are their opposites


class Transforms(NamedTuple):
    """Real matrices; a complex number is two rows, its real part first."""

    down: Tensor  # (2 u, h): grid -> spectrum down
    across: Tensor  # (4 q, 2 w): -> spectrum X across, as the rows (Re X, Im X) for all q and then i X for all q
    back_across: Tensor  # (2 w, 2 q)
    back_down: Tensor  # (h, 2 u)


def angles(frequencies: int, places: Tensor, period: int) -> Tensor:
    """2 pi k x / period, (frequencies, len(places)); whole turns are left out, so that float32 is enough."""
    turns = torch.outer(torch.arange(frequencies), places) % period / period
    return 2 * math.pi * turns


def transforms(grid: tuple[int, int], periods: tuple[int, int]) -> Transforms:
    """Of grids of h x w pixels, filled up with zeros to p x q."""
    (height, width), (period_down, period_across) = grid, periods
    angle = angles(period_down // 2 + 1, torch.arange(height), period_down)
    down = torch.stack([angle.cos(), -angle.sin()], 1)  # (u, 2, h)
    counts = torch.full((len(down), 1, 1), 2.0)  # a frequency that is left out is the conjugate of one that is kept
    counts[0] = 1
    if period_down % 2 == 0:
        counts[-1] = 1
    angle = angles(period_across, torch.arange(width), period_across)
    cos, sin = angle.cos(), angle.sin()
    real, imaginary = torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)  # (q, 2, w): of e^-ia times a pair
    across = torch.stack([torch.stack([real, imaginary], 1), torch.stack([-imaginary, real], 1)])
    back_across = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)]) / period_across
    return Transforms(
        down=down.flatten(0, 1),
        across=across.flatten(0, 2).flatten(1),
        back_across=back_across.permute(0, 3, 1, 2).flatten(0, 1).flatten(1),
        back_down=(down * counts).flatten(0, 1).T / period_down,
    )


class SpectralDilatedSum(QuickForm):
    """Of a :class:`DilatedSum`; sums and differences of opposite taps are taken when they are first needed."""

    direct: DilatedSum

    def __init__(self, direct: DilatedSum):
        super().__init__(direct)
        dilations = [convolution.dilation[0] for convolution in self.convolutions]
        self.stride = math.gcd(*dilations)
        self.offsets = [dilation // self.stride for dilation in dilations]
        self.taps = torch.tensor([(o * y, o * x) for o in self.offsets for y, x in HALF_THE_NEIGHBOURS])
        self.register_buffer("even", None, persistent=False)
        self.register_buffer("odd", None, persistent=False)
        self.even: Tensor | None
        self.odd: Tensor | None

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        return cast(list[nn.Conv2d], list(self.direct.convolutions))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """h and w."""
        return -(-height // self.stride), -(-width // self.stride)

    def periods(self, grid: tuple[int, int]) -> tuple[int, int]:
        """p and q: long enough for no offset to reach around into the grid again."""
        down, across = [side + max([o for o in self.offsets if o < side], default=0) for side in grid]
        return down, across

    def pays(self, frames: int, channels: int, height: int, width: int) -> bool:
        grid = self.grid(height, width)
        period_down, period_across = self.periods(grid)
        # Per pair of channels: complex products and the making of the filters, against the taps that meet a pixel.
        spectra = (period_down // 2 + 1) * period_across * (4 * frames * self.stride**2 + 2 * len(self.taps) + 1)
        direct = 0
        for offset in self.offsets:
            down, across = [side + 2 * max(side - self.stride * offset, 0) for side in (height, width)]
            direct += frames * down * across
        return PRICE * spectra < direct

    def opposite_taps(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the N pairs of taps that do not reach beyond the grid: offsets, sums and differences.

        Returns:
            int64 (N, 2), (1 + N, C * C') with the centre first, and (N, C * C').
        """
        if self.even is None or self.odd is None:
            filters = [convolution.weight.permute(2, 3, 1, 0) for convolution in self.convolutions]
            pairs = [(w[1 + y, 1 + x], w[1 - y, 1 - x]) for w in filters for y, x in HALF_THE_NEIGHBOURS]
            centre = torch.stack([w[1, 1] for w in filters]).sum(0)
            self.even = torch.stack([centre, *(one + other for one, other in pairs)]).flatten(1)
            self.odd = torch.stack([one - other for one, other in pairs]).flatten(1)
        inside = (self.taps.abs() < torch.tensor(grid)).all(1)
        if inside.all():
            return self.taps, self.even, self.odd
        return self.taps[inside], self.even[F.pad(inside, (1, 0), value=True)], self.odd[inside]

    def compute(self, pixels: Tensor) -> Tensor:
        frames, *size, channels = pixels.shape
        grid = self.grid(*size)
        steps = transforms(grid, self.periods(grid))
        spectrum = (steps.down @ self.to_grids(pixels, grid).flatten(1)).unflatten(0, (-1, 2))
        lines = self.filtered(spectrum.view(len(spectrum), 2 * grid[1], -1), steps, channels, grid)
        grids = (steps.back_down @ lines.flatten(0, 1).view(steps.back_down.shape[1], -1)).view(
            *grid, self.stride, self.stride, frames, -1
        )
        result = self.from_grids(grids, size)
        for convolution in self.convolutions:
            result += cast(Tensor, convolution.bias)
        return result

    def filtered(self, spectrum: Tensor, steps: Transforms, channels: int, grid: tuple[int, int]) -> Tensor:
        """Spectra down (u, 2 w, R * C) of R grids -> those of the sum (u, 2, w, R * C')."""
        taps, even, odd = self.opposite_taps(grid)
        period, frequencies = self.periods(grid)
        down, across = angles(len(spectrum), taps[:, 0], period), angles(frequencies, taps[:, 1], frequencies)
        outputs, rows = even.shape[1] // channels, 2 * spectrum.shape[2] // channels
        filters = even.new_empty(frequencies, 2, even.shape[1])
        asked = even.new_empty(len(steps.across), spectrum.shape[2])
        answers = even.new_empty(frequencies, rows, outputs)
        lines = even.new_empty(len(spectrum), 2, grid[1], rows // 2 * outputs)
        for line, angle, result in zip(spectrum, down, lines, strict=True):
            phases = angle + across
            torch.mm(F.pad(phases.cos(), (1, 0), value=1), even, out=filters[:, 0])
            torch.mm(phases.sin(), odd, out=filters[:, 1])
            torch.mm(steps.across, line, out=asked)
            real, turned = asked.view(2, frequencies, rows, channels)  # X and i X
            parts = filters.view(frequencies, 2, channels, outputs)
            torch.bmm(real, parts[:, 0], out=answers)
            answers.baddbmm_(turned, parts[:, 1])
            torch.mm(steps.back_across, answers.view(2 * frequencies, -1), out=result.flatten(0, 1))
        return lines

    def to_grids(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """(F, H, W, C) -> (h, w, g, g, F, C), zero behind the last row and column."""
        grids = pixels.new_zeros(*grid, self.stride, self.stride, len(pixels), pixels.shape[3])
        for y in range(self.stride):
            for x in range(self.stride):
                part = pixels[:, y :: self.stride, x :: self.stride].permute(1, 2, 0, 3)
                grids[: part.shape[0], : part.shape[1], y, x] = part
        return grids

    def from_grids(self, grids: Tensor, size: list[int]) -> Tensor:
        """The way back: (h, w, g, g, F, C') -> (F, H, W, C')."""
        pixels = grids.new_empty(grids.shape[4], *size, grids.shape[5])
        for y in range(self.stride):
            for x in range(self.stride):
                part = pixels[:, y :: self.stride, x :: self.stride]
                part.copy_(grids[: part.shape[1], : part.shape[2], y, x].permute(2, 0, 1, 3))
        return pixels
