"""TransAVS (arXiv 2305.07223) as a detectron2 meta-architecture.

Shape legend: B clips, T frames of a clip, F = B * T frames, K classes, S x S the network input, H x W a clip's own
size. This is the one place where clips are flattened to frames and frames become clips again.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from transavs.modeling.backbones.audio import build_audio_backbone
from transavs.modeling.meta_arch import AVSModel
from transavs.modeling.transavs.criterion import AVSCriterion
from transavs.modeling.transavs.pixel_decoder import build_pixel_decoder
from transavs.modeling.transavs.query_decoder import build_query_decoder
from transavs.modeling.transavs.semantic_inference import semantic_inference


@META_ARCH_REGISTRY.register()
class TransAVS(AVSModel):
    """Audio queries attend to the image and decode into masks of the objects that sound."""

    pixel_decoder: Any  # an nn.Module with forward_features
    network = "predict"

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, query_decoder: nn.Module, criterion: nn.Module, **parts: Any):
        """
        Args:
            pixel_decoder: see :mod:`transavs.modeling.transavs.pixel_decoder`.
            query_decoder: see :mod:`transavs.modeling.transavs.query_decoder`.
            criterion: (outputs, masks, objects) -> weighted losses.
            parts: of :class:`transavs.modeling.meta_arch.AVSModel`.
        """
        super().__init__(**parts)
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder
        self.criterion = criterion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        audio_backbone = build_audio_backbone(cfg)
        return cls.shared_arguments(cfg) | {
            "backbone": backbone,
            "audio_backbone": audio_backbone,
            "pixel_decoder": build_pixel_decoder(cfg, backbone.output_shape()),
            "query_decoder": build_query_decoder(cfg, audio_backbone.embed_dim),
            "criterion": AVSCriterion(cfg, audio_backbone.embed_dim),
        }

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        # Frames without ground truth take no part in training: no work is done on them.
        images = torch.cat([clip["images"][clip["labeled_frames"]] for clip in batched_inputs])
        audio = self.heard_embeddings(batched_inputs)
        labeled = self.labeled_indices(batched_inputs, range(0, audio.shape[0] * audio.shape[1], audio.shape[1]))
        masks, objects = (torch.cat([clip[key] for clip in batched_inputs]) for key in ("masks", "objects"))
        outputs = self.predict(self.normalize(images), audio, labeled)
        losses: dict[str, Tensor] = self.criterion(outputs, masks.to(self.device), objects.to(self.device))
        return losses

    def heard_embeddings(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Embeddings (B, T, C) of all seconds that labeled frames hear; others may be zeros, for which no work is done.

        A cache holds whole clips, so that each is found again.
        """
        if self.uses_temporal_context or self.embedding_cache is not None:
            return pad_sequence(self.audio_embeddings(batched_inputs), batch_first=True)
        heard = [clip | {"log_mel": clip["log_mel"][clip["labeled_frames"]]} for clip in batched_inputs]
        embeddings = torch.cat(self.audio_embeddings(heard))
        seconds = max(len(clip["log_mel"]) for clip in batched_inputs)
        places = self.labeled_indices(batched_inputs, range(0, len(batched_inputs) * seconds, seconds))
        every = embeddings.new_zeros(len(batched_inputs) * seconds, embeddings.shape[1])
        return every.index_copy(0, places, embeddings).unflatten(0, (-1, seconds))

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        images = pad_sequence([self.normalize(clip["images"]) for clip in batched_inputs], batch_first=True)
        probabilities = self.segment(images, pad_sequence(self.audio_embeddings(batched_inputs), batch_first=True))
        return [score[: len(clip["images"])] for score, clip in zip(probabilities, batched_inputs, strict=True)]

    @property
    def uses_temporal_context(self) -> bool:
        return getattr(self.query_decoder, "num_seconds", 0) != 1

    def predict(self, images: Tensor, audio_embedding: Tensor, frames: Tensor | None = None) -> dict[str, Any]:
        """Outputs of the query decoder; when training also ``mask_features`` and ``audio`` (F, C), each frame's own.

        Args:
            images: normalized, (F, 3, S, S).
            audio_embedding: of the whole clips, (B, T, C).
            frames: int64 (F,), which of the B * T frames the images are; None for all, clip by clip.
        """
        mask_features, pyramid = self.pixel_decoder.forward_features(self.visual_features(images))
        outputs: dict[str, Any] = self.query_decoder(mask_features, pyramid, audio_embedding, frames)
        if not self.training:
            return outputs
        seconds = audio_embedding.flatten(0, 1)
        return outputs | {"mask_features": mask_features, "audio": seconds if frames is None else seconds[frames]}

    def segment(self, images: Tensor, audio_embedding: Tensor) -> Tensor:
        """
        Args:
            images: normalized frames (B, T, 3, S, S).
            audio_embedding: (B, T, C), one second per frame.

        Returns:
            probabilities (B, T, K, S, S), summing to 1 over K.
        """
        frames = images.flatten(0, 1)
        numbers = torch.arange(frames.shape[0], device=self.device)
        probabilities = []
        for some in self.chunks(frames.shape[0]):
            outputs = self.predict(frames[some], audio_embedding, numbers[some])
            probabilities.append(semantic_inference(outputs["pred_logits"], outputs["pred_masks"], images.shape[-2:]))
        return self.concat_chunks(probabilities).unflatten(0, images.shape[:2])
