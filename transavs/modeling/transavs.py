"""TransAVS (arXiv 2305.07223) as a detectron2 meta-architecture.

Shape legend: B clips, T frames of a clip, F = B * T frames, K classes, S x S the network input, H x W a clip's own
size. This is the one place where clips are flattened to frames and frames become clips again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from transavs.errors import AVSInputError
from transavs.modeling.audio_backbone import build_audio_backbone
from transavs.modeling.criterion import AVSCriterion
from transavs.modeling.pixel_decoder import build_pixel_decoder
from transavs.modeling.query_decoder import build_query_decoder


def class_scores(pred_logits: Tensor, pred_masks: Tensor) -> Tensor:
    """Inference by TransAVS eqs. (14) and (15), as scores.

    Each query stands for its most probable class c_i. The score of class c at a pixel is the best p_i(c_i) m_i(x, y)
    of the queries of that class, divided by the sum over the classes; so the argmax over classes is the class of the
    winning query, and with K = 2 a pixel is sounding exactly where its score exceeds 0.5.

    Args:
        pred_logits: (F, N, K).
        pred_masks: logits (F, N, h, w).

    Returns:
        float (F, K, h, w) in [0, 1], summing to 1 over K.
    """
    confidence, classes = pred_logits.float().softmax(-1).max(-1)
    votes = confidence[..., None, None] * pred_masks.float().sigmoid()
    scores = votes.new_zeros(len(votes), pred_logits.shape[-1], *votes.shape[2:])
    for number in classes.unique().tolist():  # few of many classes are any query's best
        scores[:, number] = votes.masked_fill((classes != number)[..., None, None], 0).amax(1)
    return scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


@META_ARCH_REGISTRY.register()
class TransAVS(nn.Module):
    """Audio queries attend to the image and decode into masks of the objects that sound."""

    pixel_decoder: Any  # an nn.Module with forward_features
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        audio_backbone: nn.Module,
        pixel_decoder: nn.Module,
        query_decoder: nn.Module,
        criterion: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        """
        Args:
            backbone: detectron2 backbone, (F, 3, S, S) -> features by name.
            audio_backbone: (M, 1, 96, 64) -> (M, C).
            pixel_decoder: see :mod:`transavs.modeling.pixel_decoder`.
            query_decoder: see :mod:`transavs.modeling.query_decoder`.
            criterion: (outputs, masks, objects) -> weighted losses.
            pixel_mean, pixel_std: per channel, on the scale 0 ... 255.
        """
        super().__init__()
        self.backbone = backbone
        self.audio_backbone = audio_backbone
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder
        self.criterion = criterion
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        audio_backbone = build_audio_backbone(cfg)
        return {
            "backbone": backbone,
            "audio_backbone": audio_backbone,
            "pixel_decoder": build_pixel_decoder(cfg, backbone.output_shape()),
            "query_decoder": build_query_decoder(cfg, audio_backbone.embed_dim),
            "criterion": AVSCriterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: clips as :class:`transavs.data.dataset_mapper.AVSDatasetMapper` makes them, all with the
                same S; shorter ones are padded to the longest T.

        Returns:
            when training, weighted losses by name; else per clip ``{"sem_seg": float (T, K, H, W) in [0, 1]}``.
        """
        images, audio_embedding = self.preprocess(batched_inputs)
        if not self.training:
            scores = self.segment(images, audio_embedding)
            return [
                {"sem_seg": self.resize(score[: len(clip["images"])], (clip["height"], clip["width"]))}
                for score, clip in zip(scores, batched_inputs, strict=True)
            ]
        # Frames without ground truth, padding among them, take no part in training: no work is done on them.
        num_frames = images.shape[1]
        labeled = torch.cat([i * num_frames + clip["labeled_frames"] for i, clip in enumerate(batched_inputs)])
        masks, objects = (torch.cat([clip[key] for clip in batched_inputs]) for key in ("masks", "objects"))
        outputs = self.predict(images, audio_embedding, labeled.to(self.device))
        return self.criterion(outputs, masks.to(self.device), objects.to(self.device))

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Normalised frames (B, T, 3, S, S) and audio embeddings (B, T, C), padded to the longest clip."""
        shapes = {tuple(clip["images"].shape[1:]) for clip in batched_inputs}
        if len(shapes) > 1:
            raise AVSInputError(f"a batch holds frames of the shapes {sorted(shapes)}: batch frames of one size")
        images = pad_sequence([clip["images"].to(self.device) for clip in batched_inputs], batch_first=True)
        # Padding comes after the audio backbone, whose norms it would disturb.
        log_mel = [clip["log_mel"].to(self.device) for clip in batched_inputs]
        embeddings = self.audio_backbone(torch.cat(log_mel)).split([len(examples) for examples in log_mel])
        return (images - self.pixel_mean) / self.pixel_std, pad_sequence(list(embeddings), batch_first=True)

    def predict(self, images: Tensor, audio_embedding: Tensor, frames: Tensor | None = None) -> dict[str, Any]:
        """(B, T, 3, S, S) normalised and (B, T, C) -> outputs of the query decoder, frames clip by clip.

        With ``frames``, int64 (F,) indices into the B * T frames, only those are looked at.
        """
        flat = images.flatten(0, 1)
        features = self.backbone(flat if frames is None else flat[frames])
        mask_features, pyramid = self.pixel_decoder.forward_features(features)
        return self.query_decoder(mask_features, pyramid, audio_embedding, frames)

    def segment(self, images: Tensor, audio_embedding: Tensor) -> Tensor:
        """
        Args:
            images: normalised frames (B, T, 3, S, S).
            audio_embedding: (B, T, C), one second per frame.

        Returns:
            scores in [0, 1], (B, T, K, S, S), summing to 1 over K.
        """
        outputs = self.predict(images, audio_embedding)
        masks = self.resize(outputs["pred_masks"], images.shape[-2:])
        return class_scores(outputs["pred_logits"], masks).unflatten(0, images.shape[:2])

    @staticmethod
    def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
        """Bilinear (F, C, h, w) -> (F, C, *size)."""
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
