"""TransAVS without decoders: the image's encoder is where audio queries meet the patches.

Shape legend: F frames, N queries, D channels of the encoder and of the queries, h x w its patches.
"""

import math
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from transavs.modeling.backbones.audio import build_audio_backbone
from transavs.modeling.backbones.query_vit import QueryViT
from transavs.modeling.transavs.criterion import AVSCriterion
from transavs.modeling.transavs.meta_arch import TransAVS
from transavs.modeling.transavs.query_decoder import AudioQueries
from transavs.utils.errors import AVSInputError

MASK_STRIDE = 4  # in pixels, to the nearest power of two


class PatchUpsampling(nn.Sequential):
    """Doubles the size of the map of patches up to stride 4, as in EoMT (Kerssies et al. 2025)."""

    def __init__(self, *, channels: int, patch_size: int):
        """
        Args:
            channels: D.
            patch_size: in pixels.
        """
        doublings = round(math.log2(patch_size / MASK_STRIDE))
        super().__init__(*(layer for _ in range(doublings) for layer in _doubling(channels)))

    def forward_features(self, patches: Tensor) -> Tensor:
        """(F, D, h, w) -> mask features f_4, (F, D, 4 h, 4 w) for patches of 16 pixels."""
        features: Tensor = self(patches)
        return features


def _doubling(channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.ConvTranspose2d(channels, channels, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        LayerNorm2d(channels),
    )


@META_ARCH_REGISTRY.register()
class EncoderTransAVS(TransAVS):
    """Audio queries enter the last blocks of a plain ViT and come out as masks; there is no cross-attention.

    Queries, criterion and inference are TransAVS's. Upsampled patches stand for what a pixel decoder gives.
    """

    query_decoder: AudioQueries

    @configurable
    def __init__(
        self, *, backbone: QueryViT, pixel_decoder: PatchUpsampling, query_decoder: AudioQueries, **parts: Any
    ):
        """
        Args:
            backbone: (images, queries, every block or not) -> queries and patches.
            pixel_decoder: of the patches.
            query_decoder: whose queries have the backbone's channels.
            parts: of :class:`TransAVS`.
        """
        super().__init__(backbone=backbone, pixel_decoder=pixel_decoder, query_decoder=query_decoder, **parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        if not isinstance(backbone, QueryViT):
            raise AVSInputError(
                f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}: EncoderTransAVS takes build_query_vit_backbone"
            )
        widths = (cfg.MODEL.TRANSAVS.HIDDEN_DIM, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM)
        if set(widths) != {backbone.channels}:
            raise AVSInputError(
                f"MODEL.TRANSAVS.HIDDEN_DIM and MODEL.SEM_SEG_HEAD.CONVS_DIM are {widths}: set both to "
                f"{backbone.channels}, the channels of {cfg.MODEL.TIMM.NAME!r}"
            )
        audio_backbone = build_audio_backbone(cfg)
        return cls.shared_arguments(cfg) | {
            "backbone": backbone,
            "audio_backbone": audio_backbone,
            "pixel_decoder": PatchUpsampling(channels=backbone.channels, patch_size=backbone.patch_size),
            "query_decoder": AudioQueries(cfg, audio_backbone.embed_dim),
            "criterion": AVSCriterion(cfg, audio_backbone.embed_dim),
        }

    def decode(self, images: Tensor, audio_embedding: Tensor, frames: Tensor | None) -> tuple[dict[str, Any], Tensor]:
        audio_queries = self.query_decoder.audio_queries(audio_embedding, frames)
        every_block = self.training and self.query_decoder.deep_supervision
        states = self.backbone(images, audio_queries + self.query_decoder.query_positions, every_block)
        upsampled = [self.pixel_decoder.forward_features(patches) for _, patches in states]
        *earlier, last = [
            self.query_decoder.predict(queries, features)
            for (queries, _), features in zip(states, upsampled, strict=True)
        ]
        outputs = {"audio_queries": audio_queries, **last} | ({"aux_outputs": earlier} if earlier else {})
        return outputs, upsampled[-1]
