"""Plain vision transformer in whose last blocks queries take part beside the patches.

Shape legend: F frames, N queries, D channels of the transformer, h x w its patches.
"""

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.models import Eva, VisionTransformer
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from transavs.modeling.backbones.simple_feature_pyramid import resize_to_patches
from transavs.modeling.backbones.timm import TimmModel
from transavs.utils.errors import AVSInputError

QueryState = tuple[Tensor, Tensor]  # queries (F, N, D) and patches (F, D, h, w)


class QueryViT(TimmModel):
    """A plain ViT of timm; queries enter its last blocks as tokens without a place, such as the class token.

    As in EoMT (Kerssies et al. 2025): queries and patches attend to each other and to themselves in the same attention.
    Positions are interpolated to each image's size, and rotary ones are for the patches alone.
    """

    @configurable
    def __init__(self, *, name: str, num_queries: int, query_blocks: int, frozen_stages: int, **model: Any):
        """
        Args:
            name, model: see :class:`TimmModel`.
            num_queries: N.
            query_blocks: last blocks that the queries enter.
            frozen_stages: leading blocks, with what comes before them, that are not trained.

        Raises:
            AVSInputError: the model is no such ViT, or has fewer blocks.
        """
        # timm leaves a model's last norm out of its features otherwise.
        super().__init__(name=name, feature_cls=partial(FeatureGetterNet, norm=True), **model)
        vit: Any = getattr(self.body, "model", None)
        if not _takes_queries(vit):
            raise AVSInputError(
                f"MODEL.TIMM.NAME: queries cannot enter {name!r}: choose a plain ViT that ends with a norm, such as "
                "vit_small_patch16_dinov3"
            )
        if query_blocks > len(vit.blocks):
            raise AVSInputError(
                f"MODEL.TRANSAVS.QUERY_BLOCKS is {query_blocks} and {name!r} has {len(vit.blocks)} blocks: "
                "give no more than these"
            )
        self.num_queries, self.query_blocks = num_queries, query_blocks
        self.patch_size: int = self.body.feature_info.reduction()[-1]
        self.channels: int = vit.embed_dim
        for block in vit.blocks[-query_blocks:]:
            if hasattr(block.attn, "num_prefix_tokens"):  # those that its rotary positions leave alone
                block.attn.num_prefix_tokens += num_queries
        if frozen_stages:
            self._freeze_layers(name, frozen_stages)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        settings = cfg.MODEL.TRANSAVS
        return super().from_config(cfg, input_shape) | {
            "num_queries": settings.NUM_OBJECT_QUERIES,
            "query_blocks": settings.QUERY_BLOCKS,
        }

    def forward(self, images: Tensor, queries: Tensor, every_block: bool = False) -> list[QueryState]:
        """
        Args:
            images: (F, 3, H, W), resized to the nearest whole number of patches.
            queries: of each frame, (F, N, D).
            every_block: also give what enters each of the last blocks.

        Returns:
            queries and patches behind the last norm; those that leave the last block come last.
        """
        vit = self.body.model
        images = resize_to_patches(images, self.patch_size)
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        tokens, options = self._embed(images)
        states, entry = [], len(vit.blocks) - self.query_blocks
        for number, (block, own) in enumerate(zip(vit.blocks, options, strict=True)):
            if number == entry:
                tokens = torch.cat([queries, tokens], 1)
            if number >= entry and every_block:
                states.append(self._read(tokens, grid))
            tokens = block(tokens, **own)
        return [*states, self._read(tokens, grid)]

    def _embed(self, images: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Tokens before the first block, and what each block takes beside them: its rotary positions, if it has any."""
        vit = self.body.model
        embedded = vit._pos_embed(vit.patch_embed(images))
        tokens, rope = embedded if isinstance(vit, Eva) else (embedded, None)
        if rope is None:
            options: list[dict[str, Tensor]] = [{}] * len(vit.blocks)
        elif vit.rope_mixed:  # each block has its own
            options = [{"rope": own} for own in rope]
        else:
            options = [{"rope": rope}] * len(vit.blocks)
        return vit.norm_pre(tokens), options

    def _read(self, tokens: Tensor, grid: tuple[int, int]) -> QueryState:
        tokens = self.body.model.norm(tokens)
        patches = tokens[:, -grid[0] * grid[1] :].transpose(1, 2)
        return tokens[:, : self.num_queries], patches.unflatten(2, grid)


def _takes_queries(model: Any) -> bool:
    """Tell whether :class:`QueryViT` knows how the model embeds images and calls its blocks."""
    plain = isinstance(model, VisionTransformer | Eva) and model.dynamic_img_size
    return plain and not isinstance(model.norm, nn.Identity)


@BACKBONE_REGISTRY.register()
def build_query_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> QueryViT:
    """The plain ViT that ``MODEL.TIMM`` describes, for EncoderTransAVS."""
    return QueryViT(cfg, input_shape)
