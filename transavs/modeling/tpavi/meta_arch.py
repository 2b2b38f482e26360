"""TPAVI, the baseline of AVSBench (arXiv 2301.13190), as a detectron2 meta-architecture.

Shape legend: F frames of a batch, T of a clip, S x S the network input, K classes, C channels, A audio channels.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.backbones.audio import build_audio_backbone
from transavs.modeling.meta_arch import AVSModel
from transavs.modeling.tpavi.avm_loss import AVMLoss
from transavs.modeling.tpavi.block import TPAVIBlock
from transavs.modeling.tpavi.decoder import DilatedSum, FusionDecoder
from transavs.modeling.transavs.losses import rank_loss_weight


@META_ARCH_REGISTRY.register()
class TPAVI(AVSModel):
    """Every level of the image asks the sound of its window of frames, and a decoder fuses the levels."""

    network = "predict_windows"

    @configurable
    def __init__(
        self,
        *,
        dilated: Sequence[nn.Module],
        blocks: dict[int, TPAVIBlock],
        decoder: nn.Module,
        in_features: Sequence[str],
        window: int,
        audio_visual: bool,
        visual_visual: bool,
        avm: nn.Module | None,
        avm_weight: float,
        **parts: Any,
    ):
        """
        Args:
            dilated: one module per level, fine to coarse.
            blocks: by level, those that interact with the sound.
            decoder: levels, fine to coarse -> logits (F, K or 1, S, S).
            in_features: names of the backbone's features, fine to coarse.
            window: frames that share one interaction.
            audio_visual, visual_visual: what the blocks compute; both are averaged.
            avm: (logits, features, sounds) of labeled frames -> AVM loss of one level; None leaves it out.
            avm_weight: its weight.
            parts: of :class:`transavs.modeling.meta_arch.AVSModel`.
        """
        super().__init__(**parts)
        self.dilated = nn.ModuleList(dilated)
        self.blocks = nn.ModuleDict({str(level): block for level, block in blocks.items()})
        self.decoder = decoder
        self.in_features = in_features
        self.window = window
        self.audio_visual, self.visual_visual = audio_visual, visual_visual
        self.avm, self.avm_weight = avm, avm_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        settings, head = cfg.MODEL.TPAVI, cfg.MODEL.SEM_SEG_HEAD
        backbone, audio_backbone = build_backbone(cfg), build_audio_backbone(cfg)
        shapes = backbone.output_shape()
        channels = head.CONVS_DIM
        blocks = {
            level: TPAVIBlock(
                channels=channels,
                inner_channels=channels // 2,
                audio_dim=audio_backbone.embed_dim,
                audio_bias=settings.AUDIO_BIAS,
                norm=head.NORM,
            )
            for level in settings.STAGES
        }
        return cls.shared_arguments(cfg) | {
            "backbone": backbone,
            "audio_backbone": audio_backbone,
            "dilated": [DilatedSum(shapes[name].channels, channels, settings.DILATIONS) for name in head.IN_FEATURES],
            "blocks": blocks,
            "decoder": FusionDecoder(
                channels=channels,
                num_levels=len(head.IN_FEATURES),
                head_channels=settings.HEAD_CHANNELS,
                num_outputs=1 if head.NUM_CLASSES == 2 else head.NUM_CLASSES,
            ),
            "in_features": head.IN_FEATURES,
            "window": settings.WINDOW,
            "audio_visual": settings.AUDIO_VISUAL,
            "visual_visual": settings.VISUAL_VISUAL,
            "avm": AVMLoss(cfg) if settings.AVM_WEIGHT else None,
            "avm_weight": settings.AVM_WEIGHT,
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        lengths = [len(clip["images"]) for clip in batched_inputs]
        labeled = self.labeled_indices(batched_inputs, list(accumulate(lengths[:-1], initial=0)))
        masks = torch.cat([clip["masks"] for clip in batched_inputs]).to(self.device)
        logits, levels, sounds = self.predict_clips(batched_inputs)
        loss, pixels = segmentation_loss(logits[labeled], masks)
        losses = {"loss_mask": rank_loss_weight(pixels, self.device) * loss}
        if self.avm is not None and sounds:
            per_level = [
                self.avm(logits[labeled], levels[level][labeled], sound[labeled]) for level, sound in sounds.items()
            ]
            losses["loss_avm"] = self.avm_weight * torch.stack(per_level).mean()
        return losses

    def predict_clips(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, list[Tensor], dict[int, Tensor]]:
        """:meth:`predict` on all frames of the clips."""
        frames = torch.cat([self.normalize(clip["images"]) for clip in batched_inputs])
        audio = torch.cat(self.audio_embeddings(batched_inputs))
        return self.predict(frames, audio, [len(clip["images"]) for clip in batched_inputs])

    def predict(
        self, frames: Tensor, audio: Tensor, lengths: Sequence[int]
    ) -> tuple[Tensor, list[Tensor], dict[int, Tensor]]:
        """
        Args:
            frames: normalized, (F, 3, S, S), clip by clip.
            audio: (F, A).
            lengths: T of each clip.

        Returns:
            logits (F, K or 1, S, S), the levels that the decoder takes (F, C, h_i, w_i), fine to coarse, and by level
            the projected sound (F, C).
        """
        return self.predict_windows(frames, audio, *self.window_indices(lengths))

    def predict_windows(
        self, frames: Tensor, audio: Tensor, windows: Tensor, count: int
    ) -> tuple[Tensor, list[Tensor], dict[int, Tensor]]:
        """:meth:`predict` on frames whose windows, int64 (F,) below ``count``, are known."""
        chunks = self.chunks(frames.shape[0])
        parts = [self.frame_levels(frames[some]) for some in chunks]
        levels = [self.concat_chunks(level) for level in zip(*parts, strict=True)]
        sounds: dict[int, Tensor] = {}
        for name, block in self.blocks.items():
            level, results = int(name), []
            if self.visual_visual:
                results.append(block(levels[level], windows, count)[0])
            if self.audio_visual:
                result, sounds[level] = block(levels[level], windows, count, audio)
                results.append(result)
            levels[level] = results[0] if len(results) == 1 else torch.stack(results).mean(0)
        logits = [self.decoder([level[some] for level in levels]) for some in chunks]
        return self.concat_chunks(logits), levels, sounds

    def frame_levels(self, frames: Tensor) -> list[Tensor]:
        """Normalized frames (F, 3, S, S) -> what the blocks take, (F, C, h_i, w_i), fine to coarse."""
        features = self.visual_features(frames)
        return [layer(features[name]) for layer, name in zip(self.dilated, self.in_features, strict=True)]

    def window_indices(self, lengths: Sequence[int]) -> tuple[Tensor, int]:
        """The window of each frame, int64 (F,), and their number; no window holds frames of two clips."""
        windows: list[int] = []
        count = 0
        for length in lengths:
            windows += [count + frame // self.window for frame in range(length)]
            count = windows[-1] + 1
        return torch.tensor(windows, device=self.device), count

    def segment(self, images: Tensor, audio_embedding: Tensor) -> Tensor:
        """
        Args:
            images: normalized frames (B, T, 3, S, S).
            audio_embedding: (B, T, A), one second per frame.

        Returns:
            logits (B, T, K, S, S); for K = 2 the one logit of "sounding", (B, T, 1, S, S).
        """
        clips, length = images.shape[:2]
        # In tensors, not by window_indices: an exported graph takes any number of clips.
        per_clip = -(-length // self.window)
        windows = torch.arange(length, device=self.device) // self.window
        windows = (windows + per_clip * torch.arange(clips, device=self.device)[:, None]).flatten()
        frames, audio = images.flatten(0, 1), audio_embedding.flatten(0, 1)
        logits, _, _ = self.predict_windows(frames, audio, windows, clips * per_clip)
        return logits.unflatten(0, (clips, length))

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        logits, _, _ = self.predict_clips(batched_inputs)
        return list(self.to_probabilities(logits).split([len(clip["images"]) for clip in batched_inputs]))

    @staticmethod
    def to_probabilities(outputs: Tensor) -> Tensor:
        """Logits (..., K or 1, S, S) -> float probabilities (..., K, S, S)."""
        outputs = outputs.float()
        if outputs.shape[-3] > 1:
            return outputs.softmax(-3)
        sounding = outputs.sigmoid()
        return torch.cat([1 - sounding, sounding], -3)


def segmentation_loss(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of one logit, or cross-entropy of K: the mean over pixels that count.

    Args:
        logits: (F, K or 1, H, W).
        masks: int64 class ids (F, H, W); pixels of other ids are ignored.

    Returns:
        float (), the loss, 0 where all pixels are ignored; and int64 (), the number of pixels that count.
    """
    counts = masks < max(2, logits.shape[1])
    target = torch.where(counts, masks, 0)
    if logits.shape[1] == 1:
        loss = F.binary_cross_entropy_with_logits(logits[:, 0].float(), target.float(), reduction="none")
    else:
        loss = F.cross_entropy(logits.float(), target, reduction="none")
    pixels = counts.sum()
    return (loss * counts).sum() / pixels.clamp(min=1), pixels
