"""PVT-v2-b5 (arXiv 2106.13797) written out with the parameter names of its authors' checkpoints.

The reference that converted weights must equal. Tokens are (F, H W, C).
"""

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS, DEPTHS, HEADS, REDUCTIONS = (64, 128, 320, 512), (3, 6, 40, 3), (1, 2, 5, 8), (8, 4, 2, 1)
MLP_RATIO = 4


def to_map(tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def to_tokens(features: torch.Tensor) -> torch.Tensor:
    return features.flatten(2).transpose(1, 2)


class PatchEmbedding(nn.Module):
    def __init__(self, inputs: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)


class Attention(nn.Module):
    """Keys and values come from the tokens of a grid made ``reduction`` times coarser."""

    def __init__(self, width: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        asked = tokens if self.reduction == 1 else self.norm(to_tokens(self.sr(to_map(tokens, size))))
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q(tokens), *self.kv(asked).chunk(2, dim=2))
        )
        weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class DepthwiseConvolution(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)
        self.dwconv = DepthwiseConvolution(MLP_RATIO * width)

    def forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        hidden = self.dwconv.dwconv(to_map(self.fc1(tokens), size))
        return self.fc2(F.gelu(to_tokens(hidden)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads, reduction), FeedForward(width)

    def forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), size)
        return tokens + self.mlp(self.norm2(tokens), size)


class PublishedPVT(nn.Module):
    def __init__(self):
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        for i, width in enumerate(WIDTHS):
            embedding = PatchEmbedding(inputs[i], width, *((7, 4) if i == 0 else (3, 2)))
            self.add_module(f"patch_embed{i + 1}", embedding)
            blocks = nn.ModuleList(Block(width, HEADS[i], REDUCTIONS[i]) for _ in range(DEPTHS[i]))
            self.add_module(f"block{i + 1}", blocks)
            self.add_module(f"norm{i + 1}", nn.LayerNorm(width, eps=1e-6))
        self.head = nn.Linear(WIDTHS[-1], 1000)  # never used

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(F, 3, S, S) -> features at strides 4, 8, 16, 32."""
        levels = []
        for number in range(1, len(WIDTHS) + 1):
            embedding = getattr(self, f"patch_embed{number}")
            x = embedding.proj(x)
            size = (x.shape[2], x.shape[3])
            tokens = embedding.norm(to_tokens(x))
            for block in getattr(self, f"block{number}"):
                tokens = block(tokens, size)
            x = to_map(getattr(self, f"norm{number}")(tokens), size).contiguous()
            levels.append(x)
        return levels
