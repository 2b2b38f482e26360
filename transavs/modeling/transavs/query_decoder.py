"""Audio queries and the transformer that turns them into masks, TransAVS eqs. (1) to (8).

Shape legend: B clips, T frames of a clip, F frames (B * T of them unless some are picked), N queries, d = hidden_dim,
C = audio channels, S seconds of audio that one frame's queries are mixed from, K classes, h x w the mask features'
size.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.utils.errors import AVSInputError

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Query decoders. The registered object is called with ``obj(cfg, audio_dim)`` and returns a module with
:class:`AudioQueryDecoder`'s ``forward``.
"""

QUERY_MODES = ("clip", "frame")
RESIDUAL_GAIN = 0.1  # of what a layer adds to its queries, at the start of training


def build_query_decoder(cfg: CfgNode, audio_dim: int) -> nn.Module:
    """Build ``MODEL.TRANSAVS.TRANSFORMER_DECODER_NAME`` for audio embeddings of ``audio_dim`` channels."""
    return TRANSFORMER_DECODER_REGISTRY.get(cfg.MODEL.TRANSAVS.TRANSFORMER_DECODER_NAME)(cfg, audio_dim)


def audio_windows(audio: Tensor, query_mode: str, seconds: int) -> Tensor:
    """The seconds of audio that the queries of each frame are mixed from.

    Args:
        audio: (B, T, C).
        query_mode: "clip", the whole clip for every frame, as eq. (1) is written; or "frame", with the frame's own
            second in the middle. Zeros stand beyond the clip.
        seconds: S; odd for "frame", at least T for "clip".

    Returns:
        (B * T, S, C).

    Raises:
        AVSInputError: a clip is longer than "clip" has weights for.
    """
    length = audio.shape[1]
    if query_mode == "clip":
        if length > seconds:
            raise AVSInputError(f"a clip of {length} s, INPUT.NUM_FRAMES is {seconds}: set it to the longest clip's")
        padded = F.pad(audio, (0, 0, 0, seconds - length))
        return padded[:, None].expand(-1, length, -1, -1).flatten(0, 1)
    padded = F.pad(audio, (0, 0, seconds // 2, seconds // 2))
    return padded.unfold(1, seconds, 1).transpose(2, 3).flatten(0, 1)


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sine and cosine position encoding of a grid (height * width, channels), rows in the first half of the channels.

    As in DETR, with coordinates normalized to 2 pi; ``channels`` must be a multiple of four.
    """
    frequencies = 10000 ** (-torch.arange(channels // 4, device=device) * 4 / channels)
    rows = torch.arange(1, height + 1, device=device) / height * 2 * math.pi
    columns = torch.arange(1, width + 1, device=device) / width * 2 * math.pi
    rows, columns = rows[:, None] * frequencies, columns[:, None] * frequencies
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)


class Attention(nn.MultiheadAttention):
    """torch's attention, batch first, with one product for the positions of all frames.

    torch's own turns its inputs to (M, F, d) by strides and then multiplies position by position, each with a copy of
    the same weights, which have a gradient each.
    """

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """query (F, N, d), key and value (F, M, d) -> (F, N, d), and the weights (F, N, M) if they are needed."""
        if need_weights:
            return super().forward(query, key, value)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        projected = (F.linear(*parts) for parts in zip((query, key, value), weights, biases, strict=True))
        queries, keys, values = (each.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for each in projected)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class AttentionLayer(nn.Module):
    """Attention with residual, eqs. (3) and (6), followed as in Mask2Former by a feed-forward network; post-norm."""

    def __init__(self, hidden_dim: int, num_heads: int, dim_feedforward: int, dropout: float):
        super().__init__()
        self.attention = Attention(hidden_dim, num_heads, dropout=dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        last = nn.Linear(dim_feedforward, hidden_dim)
        self.feedforward = nn.Sequential(nn.Linear(hidden_dim, dim_feedforward), nn.ReLU(inplace=True), last)
        self.feedforward_norm = nn.LayerNorm(hidden_dim)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        # A layer starts by handing its queries on nearly as they are: a deep stack then learns as a shallow one does.
        for branch_end in (self.attention.out_proj, last):
            nn.init.xavier_uniform_(branch_end.weight, gain=RESIDUAL_GAIN)
            nn.init.zeros_(branch_end.bias)

    def forward(self, queries: Tensor, query_positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """queries (F, N, d), their positions (N, d), keys and values (F, M, d) -> (F, N, d)."""
        attended, _ = self.attention(queries + query_positions, keys, values)
        queries = self.attention_norm(queries + attended)
        return self.feedforward_norm(queries + self.feedforward(queries))


class AudioQueries(nn.Module):
    """Audio is mixed into N queries that attend to each other; masks are read from what becomes of them."""

    @configurable
    def __init__(
        self,
        *,
        audio_dim: int,
        hidden_dim: int,
        conv_dim: int,
        num_queries: int,
        num_classes: int,
        num_seconds: int,
        query_mode: str,
        audio_context: int,
        content_std: float,
        enc_layers: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        deep_supervision: bool,
        dec_layers: int = 0,
        num_levels: int = 0,
    ):
        """
        Args:
            audio_dim: C.
            hidden_dim: d.
            conv_dim: channels of the image features; must equal ``hidden_dim``.
            num_queries: N.
            num_classes: K, background included.
            num_seconds: of the longest clip that ``query_mode`` "clip" mixes.
            query_mode: see :func:`audio_windows`.
            audio_context: seconds on each side of the frame's own that "frame" mixes.
            content_std: deviation at the start of the learned content that each query adds to the sound; 0: none.
            enc_layers: N_1.
            num_heads, dim_feedforward, dropout: of each attention layer.
            deep_supervision: also predict from earlier layers when training.
            dec_layers, num_levels: N_2 layers that attend to so many image features in round robin, eq. (4); 0 where
                queries meet the image elsewhere. They are made here to keep the order of the parameters, by which
                optimizers in checkpoints know them.
        """
        super().__init__()
        if query_mode not in QUERY_MODES:
            raise AVSInputError(f"MODEL.TRANSAVS.QUERY_MODE is '{query_mode}': choose from {', '.join(QUERY_MODES)}")
        if conv_dim != hidden_dim:
            raise AVSInputError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {conv_dim} and MODEL.TRANSAVS.HIDDEN_DIM {hidden_dim}: set them equal"
            )
        self.query_mode = query_mode
        self.deep_supervision = deep_supervision
        self.audio_projection = nn.Linear(audio_dim, hidden_dim)
        self.num_seconds = num_seconds if query_mode == "clip" else 2 * audio_context + 1
        self.query_mixer = nn.Linear(self.num_seconds, num_queries, bias=False)  # W_1
        if query_mode == "frame":
            with torch.no_grad():  # start from the frame's own second: a random mix of several learns not to listen
                self.query_mixer.weight[:, torch.arange(self.num_seconds) != audio_context] = 0
        # What is mixed from one second are multiples of one vector: with content of their own queries can differ.
        self.query_content = nn.Parameter(content_std * torch.randn(num_queries, hidden_dim)) if content_std else None
        self.query_positions = nn.Parameter(torch.randn(num_queries, hidden_dim))
        if num_levels:
            self.level_embedding = nn.Parameter(torch.randn(num_levels, hidden_dim))
        options = (hidden_dim, num_heads, dim_feedforward, dropout)
        self.encoder = nn.ModuleList(AttentionLayer(*options) for _ in range(enc_layers))
        self.decoder = nn.ModuleList(AttentionLayer(*options) for _ in range(dec_layers))
        self.classifier = nn.Linear(hidden_dim, num_classes)  # g
        self.mask_projection = nn.Linear(hidden_dim, hidden_dim)  # W_2
        weight_init.c2_xavier_fill(self.mask_projection)
        with torch.no_grad():  # mask logits are sums of d products: they start at a deviation of about 1, not sqrt(d)
            self.mask_projection.weight.mul_(hidden_dim**-0.5)

    @classmethod
    def from_config(cls, cfg: CfgNode, audio_dim: int) -> dict[str, Any]:
        settings, head = cfg.MODEL.TRANSAVS, cfg.MODEL.SEM_SEG_HEAD
        return {
            "audio_dim": audio_dim,
            "hidden_dim": settings.HIDDEN_DIM,
            "conv_dim": head.CONVS_DIM,
            "num_queries": settings.NUM_OBJECT_QUERIES,
            "num_classes": head.NUM_CLASSES,
            "num_seconds": cfg.INPUT.NUM_FRAMES,
            "query_mode": settings.QUERY_MODE,
            "audio_context": settings.AUDIO_CONTEXT,
            "content_std": settings.QUERY_CONTENT_STD,
            "enc_layers": settings.ENC_LAYERS,
            "num_heads": settings.NHEADS,
            "dim_feedforward": settings.DIM_FEEDFORWARD,
            "dropout": settings.DROPOUT,
            "deep_supervision": settings.DEEP_SUPERVISION,
        }

    def audio_queries(self, audio: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, T, C) -> the encoded audio queries A_q (F, N, d) of the given frames, eqs. (1) to (3)."""
        windows = audio_windows(audio, self.query_mode, self.num_seconds)
        windows = self.audio_projection(windows if frames is None else windows[frames])
        queries = self.query_mixer(windows.transpose(1, 2)).transpose(1, 2)
        if self.query_content is not None:
            queries = queries + self.query_content
        for layer in self.encoder:
            queries = layer(queries, self.query_positions, queries + self.query_positions, queries)
        return queries

    def predict(self, fused: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        """F_av (F, N, d) and f_4 -> class logits and mask logits: eqs. (7) and (8) before sigmoid and softmax."""
        # F_av (W_2 f_4 + b) = (F_av W_2) f_4 + F_av b: W_2 meets N queries in place of h w pixels.
        embeddings = fused @ self.mask_projection.weight
        offsets = fused @ self.mask_projection.bias
        masks = torch.baddbmm(offsets[..., None], embeddings, mask_features.flatten(2))
        return {"pred_logits": self.classifier(fused), "pred_masks": masks.unflatten(2, mask_features.shape[2:])}


@TRANSFORMER_DECODER_REGISTRY.register()
class AudioQueryDecoder(AudioQueries):
    """Audio queries attend to the image, layer by layer, and decode into masks."""

    @classmethod
    def from_config(cls, cfg: CfgNode, audio_dim: int) -> dict[str, Any]:
        return super().from_config(cfg, audio_dim) | {
            "dec_layers": cfg.MODEL.TRANSAVS.DEC_LAYERS,
            "num_levels": len(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES) - 1,
        }

    def forward(
        self, mask_features: Tensor, pyramid: Sequence[Tensor], audio: Tensor, frames: Tensor | None = None
    ) -> dict[str, Any]:
        """
        Args:
            mask_features: f_4, (F, d, h, w), frames ordered clip by clip.
            pyramid: f_1, f_2, f_3, each (F, d, h_i, w_i).
            audio: (B, T, C).
            frames: int64 (F,), which of the B * T frames are given; None: all.

        Returns:
            ``audio_queries`` (F, N, d), ``pred_logits`` (F, N, K), ``pred_masks`` (F, N, h, w) logits, and, when
            training with deep supervision, ``aux_outputs``: a list of ``pred_logits`` and ``pred_masks`` of the
            earlier layers.
        """
        audio_queries = self.audio_queries(audio, frames)
        values = [level.flatten(2).transpose(1, 2) + self.level_embedding[i] for i, level in enumerate(pyramid)]
        keys = [
            value + sine_positions(level.shape[-2], level.shape[-1], value.shape[-1], value.device)
            for value, level in zip(values, pyramid, strict=True)
        ]
        fused, per_layer = audio_queries, []
        for number, layer in enumerate(self.decoder, start=1):
            level = number % len(pyramid)  # eq. (4), counted from 0
            fused = layer(fused, self.query_positions, keys[level], values[level])  # eqs. (5), (6)
            if self.deep_supervision and self.training and number < len(self.decoder):
                per_layer.append(self.predict(fused, mask_features))
        outputs: dict[str, Any] = {"audio_queries": audio_queries, **self.predict(fused, mask_features)}
        return outputs | {"aux_outputs": per_layer} if per_layer else outputs
