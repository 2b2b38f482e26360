"""Base of the meta-architectures: clips in, losses or probabilities per clip out.

Shape legend: T frames of a clip, S x S the network input, H x W a clip's own size, K classes, C audio channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from transavs.modeling.backbones.embedding_cache import EmbeddingCache, build_embedding_cache
from transavs.utils.errors import AVSInputError, one_line


def check_device(name: str | torch.device) -> None:
    """Raise an AVSInputError if tensors cannot be put on the device of this name, such as "cpu" or "cuda:1"."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # no device of a kind, or one that this machine lacks
        raise AVSInputError(
            f"the device {str(name)!r} cannot be used here ({one_line(error)}): name another, such as cpu"
        ) from error


class AVSModel(nn.Module):
    """Base of the meta-architectures; they offer ``losses``, ``inference`` and ``segment``."""

    pixel_mean: Tensor
    pixel_std: Tensor
    # Name of the method that is the network between tensors in training, which MODEL.COMPILE compiles; "" = none.
    network = ""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        audio_backbone: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        frames_per_chunk: int,
        embedding_cache: EmbeddingCache | None = None,
    ):
        """
        Args:
            backbone: detectron2 backbone, (F, 3, S, S) -> features by name.
            audio_backbone: examples of its front-end, (M, 1, 96, 64) for VGGish -> (M, C).
            pixel_mean, pixel_std: per channel, on the scale 0 ... 255.
            frames_per_chunk: that pass through the network together in inference, which bounds its memory.
            embedding_cache: used while the audio backbone is frozen.
        """
        super().__init__()
        if frames_per_chunk < 1:
            raise AVSInputError(f"TEST.FRAMES_PER_CHUNK is {frames_per_chunk}: set it to 1 or more")
        self.frames_per_chunk = frames_per_chunk
        self.embedding_cache = embedding_cache
        if embedding_cache is not None:
            audio_backbone.register_load_state_dict_post_hook(embedding_cache.forget_backbone)
        self.backbone = backbone
        self.audio_backbone = audio_backbone
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @staticmethod
    def shared_arguments(cfg: CfgNode) -> dict[str, Any]:
        """Read from the config what the constructor takes beside the backbones.

        Raises:
            AVSInputError: MODEL.DEVICE is not here.
        """
        check_device(cfg.MODEL.DEVICE)
        return {
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "frames_per_chunk": cfg.TEST.FRAMES_PER_CHUNK,
            "embedding_cache": build_embedding_cache(cfg),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def audio_is_frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.audio_backbone.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen audio backbone stays in evaluation mode: its embeddings follow from the audio."""
        super().train(mode)
        if self.audio_is_frozen:
            self.audio_backbone.eval()
        return self

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """
        Args:
            batched_inputs: clips as :class:`transavs.data.dataset_mapper.AVSDatasetMapper` makes them, of any T and all
                with the same S.

        Returns:
            when training, weighted losses by name; else per clip ``{"sem_seg": float (T, K, H, W) in [0, 1]}``.
        """
        shapes = {tuple(clip["images"].shape[1:]) for clip in batched_inputs}
        if len(shapes) > 1:
            raise AVSInputError(f"a batch holds frames of the shapes {sorted(shapes)}: batch frames of one size")
        if self.training:
            return self.losses(batched_inputs)
        return [
            {"sem_seg": self.resize(probabilities, (clip["height"], clip["width"]))}
            for probabilities, clip in zip(self.inference(batched_inputs), batched_inputs, strict=True)
        ]

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses by name, of clips with ``labeled_frames``, ``masks`` and ``objects``."""
        raise NotImplementedError

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        """Class probabilities (T, K, S, S) of each clip, summing to 1 over K."""
        raise NotImplementedError

    def segment(self, images: Tensor, audio_embedding: Tensor) -> Tensor:
        """Segment normalized frames (B, T, 3, S, S) by audio embeddings (B, T, C).

        Returns:
            probabilities, or logits for ``to_probabilities``, (B, T, K or 1, S, S).
        """
        raise NotImplementedError

    @staticmethod
    def to_probabilities(outputs: Tensor) -> Tensor:
        """Turn what ``segment`` gives, of K or 1 channels in the third last dimension, into K probabilities."""
        return outputs

    @property
    def uses_temporal_context(self) -> bool:
        """Tell whether what is predicted for a frame depends on the other seconds of its clip."""
        return True

    def forward_tensors(self, images: Tensor, log_mel: Tensor) -> Tensor:
        """Run inference on clips of one length, as tensors in and out: what is exported.

        Args:
            images: pixels 0 ... 255, (B, T, 3, S, S).
            log_mel: examples of the audio front-end, (B, T, 1, 96, 64) for VGGish, one second per frame.

        Returns:
            probabilities (B, T, K, S, S), summing to 1 over K.
        """
        audio = self.audio_backbone(log_mel.to(self.device).flatten(0, 1)).unflatten(0, log_mel.shape[:2])
        return self.to_probabilities(self.segment(self.normalize(images), audio))

    def normalize(self, frames: Tensor) -> Tensor:
        """Pixels 0 ... 255, (..., 3, S, S) -> what the backbone takes, on the model's device."""
        return (frames.to(self.device) - self.pixel_mean) / self.pixel_std

    def visual_features(self, frames: Tensor) -> Mapping[str, Tensor]:
        """Normalized frames (F, 3, S, S) -> the backbone's features, channels last: convolutions are faster so."""
        features: Mapping[str, Tensor] = self.backbone(frames.contiguous(memory_format=torch.channels_last))
        return features

    def audio_embeddings(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        """(T, C) of each clip; of a frozen audio backbone without a gradient, and from the cache if there is one."""
        if not self.audio_is_frozen:
            return self._compute_embeddings(batched_inputs)
        with torch.no_grad():
            if self.embedding_cache is None:
                return self._compute_embeddings(batched_inputs)
            return self.embedding_cache.look_up(
                batched_inputs, self.audio_backbone, self.device, self._compute_embeddings
            )

    def _compute_embeddings(self, clips: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        log_mel = [clip["log_mel"].to(self.device) for clip in clips]
        return list(self.audio_backbone(torch.cat(log_mel)).split([len(examples) for examples in log_mel]))

    def labeled_indices(self, batched_inputs: list[dict[str, Any]], starts: Sequence[int]) -> Tensor:
        """Find the labeled frames, int64 (F,), when the first frame of each clip stands at ``starts``."""
        placed = [start + clip["labeled_frames"] for start, clip in zip(starts, batched_inputs, strict=True)]
        return torch.cat(placed).to(self.device)

    def chunks(self, frames: int) -> list[slice]:
        """Split so many frames into parts to work on in turn; all at once in training and in a graph."""
        if self.training or torch.compiler.is_compiling():
            return [slice(None)]
        return [slice(start, start + self.frames_per_chunk) for start in range(0, frames, self.frames_per_chunk)]

    @staticmethod
    def concat_chunks(parts: Sequence[Tensor]) -> Tensor:
        """Concatenate what was worked out for each of :meth:`chunks`; a single part stays as it is."""
        return torch.cat(tuple(parts)) if len(parts) > 1 else parts[0]

    @staticmethod
    def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
        """Bilinear (F, C, h, w) -> (F, C, *size)."""
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
