"""Mask2Former's pixel decoder (Cheng et al. 2022): deformable attention (Zhu et al. 2021) among the coarser levels.

Shape legend: F = B * T frames, L levels, coarse to fine, Q their pixels, level by level and row by row, d = conv_dim,
M heads, P points. Modules are called as in Mask2Former, so that its weights load (tools/convert_weights.py).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.transavs.pixel_decoder import pyramid_convolution
from transavs.modeling.transavs.query_decoder import sine_positions
from transavs.utils.errors import AVSInputError
from transavs.utils.precision import without_autocast


class Levels(NamedTuple):
    """Sizes of all levels, and the places of their pixels.

    Attributes:
        sizes: height and width of each level, in its pixels.
        extents: the same as a tensor (L, 2) of widths and heights.
        centers: x and y of each pixel's center (Q, 2), where 0 and 1 are the image's edges.
    """

    sizes: list[tuple[int, int]]
    extents: Tensor
    centers: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> "Levels":
        """Levels of feature maps (F, d, h, w)."""
        device = maps[0].device
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        centers = []
        for height, width in sizes:
            rows = (torch.arange(height, device=device) + 0.5) / height
            columns = (torch.arange(width, device=device) + 0.5) / width
            grid = [columns.expand(height, -1), rows[:, None].expand(-1, width)]
            centers.append(torch.stack(grid, 2).flatten(0, 1))
        extents = torch.tensor([(width, height) for height, width in sizes], device=device)
        return cls(sizes, extents, torch.cat(centers))

    def to_maps(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (F, Q, channels) -> feature maps (F, channels, h, w) of each level."""
        split = tokens.split([height * width for height, width in self.sizes], 1)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(split, self.sizes, strict=True)]


def paired_sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """:func:`sine_positions` (height * width, channels) in Mask2Former's order: each sine is followed by its cosine."""
    positions = sine_positions(height, width, channels, device)
    return positions.unflatten(1, (2, 2, channels // 4)).transpose(2, 3).flatten(1)


def sample_and_sum(values: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Sum of values at real-valued places, Zhu et al. 2021, eq. (3) without its projections; zero beyond the image.

    Args:
        values: of each level, (N, channels, h_l, w_l), N heads of all frames.
        locations: x and y (N, Q, L, P, 2), where 0 and 1 are the image's edges; read bilinearly.
        weights: (N, Q, L, P).

    Returns:
        (N, channels, Q).
    """
    grids = 2 * locations - 1  # grid_sample has the edges at -1 and 1
    total = torch.zeros((), device=weights.device)
    for level, value in enumerate(values):
        samples = F.grid_sample(value, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (samples * weights[:, None, :, level]).sum(-1)
    return total


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention, Zhu et al. 2021, eq. (3), without a kernel of its own."""

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int):
        """
        Args:
            dim: d, a multiple of ``num_heads``.
            num_levels, num_heads, num_points: L, M and P.
        """
        super().__init__()
        self.shape = (num_heads, num_levels, num_points)  # of what each query asks for
        self.sampling_offsets = nn.Linear(dim, 2 * math.prod(self.shape))
        self.attention_weights = nn.Linear(dim, math.prod(self.shape))
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Start as Zhu et al. do: head m looks in direction m, at 1, 2, ... P pixels, at all points alike."""
        heads, levels, points = self.shape
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], 1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        offsets = directions[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())

    def forward(self, queries: Tensor, tokens: Tensor, levels: Levels) -> Tensor:
        """
        Args:
            queries: (F, Q, d), which look around where they are.
            tokens: (F, Q, d), what they see.
            levels: of the pixels that queries and tokens are of.

        Returns:
            (F, Q, d).
        """
        heads = self.shape[0]
        values = self.value_proj(tokens)
        with without_autocast(queries.device):  # 16 bits know a place no better than to a pixel or so
            offsets = self.sampling_offsets(queries.float()).unflatten(2, (*self.shape, 2))
            locations = levels.centers[:, None, None, None] + offsets / levels.extents[:, None]
            weights = self.attention_weights(queries.float()).unflatten(2, (heads, -1)).softmax(3)
            weights = weights.unflatten(3, self.shape[1:])
            maps = [level.unflatten(1, (heads, -1)).flatten(0, 1) for level in levels.to_maps(values.float())]
            attended = sample_and_sum(
                maps, locations.transpose(1, 2).flatten(0, 1), weights.transpose(1, 2).flatten(0, 1)
            )
        return self.output_proj(attended.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2))


class MSDeformAttnLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with residual and norm after it."""

    def __init__(self, dim: int, dim_feedforward: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        self.self_attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, tokens: Tensor, positions: Tensor, levels: Levels) -> Tensor:
        """tokens (F, Q, d) and their positions (Q, d) -> (F, Q, d)."""
        tokens = self.norm1(tokens + self.self_attn(tokens + positions, tokens, levels))
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))


class MSDeformAttnTransformer(nn.Module):
    """Layers of deformable self-attention among the pixels of several feature maps."""

    encoder: Any  # holds the layers, for the sake of their names

    def __init__(
        self, *, dim: int, num_levels: int, num_layers: int, num_heads: int, dim_feedforward: int, num_points: int
    ):
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(num_levels, dim))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            MSDeformAttnLayer(dim, dim_feedforward, num_levels, num_heads, num_points) for _ in range(num_layers)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (F, d, h_l, w_l), coarse to fine -> as many of the same shapes."""
        levels = Levels.of(maps)
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
        positions = torch.cat(
            [
                paired_sine_positions(*size, tokens.shape[2], tokens.device) + self.level_embed[number]
                for number, size in enumerate(levels.sizes)
            ]
        )
        for layer in self.encoder.layers:
            tokens = layer(tokens, positions, levels)
        return levels.to_maps(tokens)


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Mask2Former's pixel decoder: deformable attention among the coarser levels, added upsampled to the finest."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        conv_dim: int,
        norm: str,
        num_layers: int,
        num_heads: int,
        dim_feedforward: int,
        num_points: int,
    ):
        """
        Args:
            input_shape: channels and stride of the features to use, by name; at least two.
            conv_dim: d, channels of all that it gives.
            norm: normalization after each convolution, as detectron2's ``get_norm`` takes it; Mask2Former has "GN".
            num_layers: of deformable attention.
            num_heads, num_points: M and P, of each.
            dim_feedforward: channels within each feed-forward network.

        Raises:
            AVSInputError: d is no multiple of the heads, or of the four that its positions need.
        """
        super().__init__()
        if conv_dim % num_heads or conv_dim % 4:
            raise AVSInputError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {conv_dim} and MODEL.MSDEFORMATTN.NHEADS {num_heads}: "
                "set the first to a multiple of the second and of 4"
            )
        *self.coarse, self.finest = sorted(input_shape, key=lambda name: -(input_shape[name].stride or 0))
        self.input_proj = nn.ModuleList(
            self._projection(input_shape[name].channels, conv_dim, norm) for name in self.coarse
        )
        self.transformer = MSDeformAttnTransformer(
            dim=conv_dim,
            num_levels=len(self.coarse),
            num_layers=num_layers,
            num_heads=num_heads,
            dim_feedforward=dim_feedforward,
            num_points=num_points,
        )
        self.adapter_1 = pyramid_convolution(input_shape[self.finest].channels, conv_dim, 1, norm)
        self.layer_1 = pyramid_convolution(conv_dim, conv_dim, 3, norm, activation=F.relu_)
        self.mask_features = Conv2d(conv_dim, conv_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.mask_features)

    @staticmethod
    def _projection(inputs: int, outputs: int, norm: str) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=1)
        nn.init.xavier_uniform_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        return nn.Sequential(convolution, get_norm(norm, outputs) or nn.Identity())

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head, settings = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MSDEFORMATTN
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "conv_dim": head.CONVS_DIM,
            "norm": head.NORM,
            "num_layers": settings.ENC_LAYERS,
            "num_heads": settings.NHEADS,
            "dim_feedforward": settings.DIM_FEEDFORWARD,
            "num_points": settings.NUM_POINTS,
        }

    def forward_features(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """
        Args:
            features: by name, (F, channels, h, w).

        Returns:
            mask features f_4 (F, d, h, w) at the finest level, and the coarser levels (F, d, h_i, w_i), coarse to
            fine: f_1, f_2, f_3.
        """
        projected = [project(features[name]) for name, project in zip(self.coarse, self.input_proj, strict=True)]
        pyramid = self.transformer(projected)
        finest = self.adapter_1(features[self.finest])
        upsampled = F.interpolate(pyramid[-1], size=finest.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.layer_1(finest + upsampled)), pyramid
