"""A 3x3 convolution of features enlarged twofold, computed at the size that they had.

Shape legend: F frames of h x w pixels, C channels in, C' out; the result has 2h x 2w.

Both steps are linear, so their order may change: the 9 taps' products are taken at the small size, where they are a
quarter as many, and each is enlarged and shifted into its place. Enlarging and shifting is a product of matrices too,
one for each axis. The features are never enlarged themselves.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from transavs.modeling.enlarged import EnlargedConv2d
from transavs.modeling.quick_forms.base import QuickForm

SHIFTS = (-1, 0, 1)
ROWS_AT_ONCE = 32  # of an enlarged axis: few inputs reach into so many outputs, so that few zeros are multiplied


def shifted_enlargements(side: int, align_corners: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """The enlargement of one axis, as each of the 3 taps meets it, in groups of outputs.

    Yields:
        outputs, the inputs that reach into them, and the weights (outputs, 3, inputs).
    """
    identity = torch.eye(side, dtype=torch.float64)[None]
    enlargement = F.interpolate(identity, scale_factor=2, mode="linear", align_corners=align_corners)[0].T
    padded = F.pad(enlargement, (0, 0, 1, 1))
    weights = torch.stack([padded[1 + shift : 1 + shift + 2 * side] for shift in SHIFTS], 1)
    for start in range(0, 2 * side, ROWS_AT_ONCE):
        group = weights[start : start + ROWS_AT_ONCE]
        used = group.count_nonzero((0, 1)).nonzero()
        inputs = slice(int(used.min()), int(used.max()) + 1)
        yield slice(start, start + len(group)), inputs, group[..., inputs].float()


class QuickEnlargedConv2d(QuickForm):
    """Of an :class:`EnlargedConv2d`."""

    direct: EnlargedConv2d

    def compute(self, pixels: Tensor) -> Tensor:
        filters = self.direct.weight.permute(2, 1, 3, 0).flatten(2)  # 3 down, C, 3 across * C'
        frames, height, width, channels = pixels.shape
        down, across = (list(shifted_enlargements(side, self.direct.align_corners)) for side in (height, width))
        result = pixels.new_empty(frames, 2 * height, 2 * width, self.direct.out_channels)
        products = pixels.new_empty(len(SHIFTS), height * width, filters.shape[2])
        columns = pixels.new_empty(2 * height, width * filters.shape[2])
        for frame, place in zip(pixels, result, strict=True):
            torch.matmul(frame.view(-1, channels), filters, out=products)
            for outputs, inputs, weights in down:
                reached = products.view(len(SHIFTS), height, -1)[:, inputs].flatten(0, 1)
                torch.mm(weights.flatten(1), reached, out=columns[outputs])
            taps = columns.view(2 * height, width, len(SHIFTS), -1)
            for outputs, inputs, weights in across:
                place[:, outputs] = torch.matmul(weights.mT.flatten(1), taps[:, inputs].flatten(1, 2))
        return result if self.direct.bias is None else result.add_(self.direct.bias)
