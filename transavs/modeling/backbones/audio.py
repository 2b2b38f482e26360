"""Audio backbones by name: examples of their front-end (M, ...) -> embeddings (M, C), one per second of audio."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, get_norm
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from transavs.data.audio import EXAMPLE_FRAMES, MEL_BANDS, VGGishLogMel
from transavs.data.front_ends import AUDIO_BACKBONE_REGISTRY, AudioFrontEnd
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.weight_files import read_pth


class AudioBackbone(nn.Module):
    """Base of audio backbones: examples of their front-end (M, ...) -> (M, embed_dim)."""

    embed_dim: int

    @classmethod
    def front_end(cls, cfg: CfgNode) -> AudioFrontEnd:
        """Declare what makes the examples; loaders ask for it where there is no model."""
        return VGGishLogMel(cfg.MODEL.AUDIO_BACKBONE.CONTEXT)

    def load_published(self, path: str) -> None:
        """Load published weights from a file; whatever is wrong with it is raised."""
        self.load_state_dict(read_pth(path))


def build_audio_backbone(cfg: CfgNode) -> AudioBackbone:
    """Build ``MODEL.AUDIO_BACKBONE.NAME``, load its own weights if any are named, and freeze it if asked to.

    Loading does not depend on freezing. Freezing stops gradients and the statistics of normalization layers.

    Raises:
        AVSInputError: the weight file is missing or does not fit.
    """
    settings = cfg.MODEL.AUDIO_BACKBONE
    backbone = AUDIO_BACKBONE_REGISTRY.get(settings.NAME)(cfg)
    if settings.WEIGHTS:
        load_audio_weights(backbone, settings.WEIGHTS)
    if not settings.FREEZE:
        return backbone
    backbone.requires_grad_(False)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(backbone)


def load_audio_weights(backbone: AudioBackbone, path: str) -> None:
    """Load a state dict (torchvggish's keys for VGGish) from a path or URL: all of it, or an AVSInputError."""
    try:
        backbone.load_published(PathManager.get_local_path(path))
    except Exception as error:  # missing, no network, no checkpoint, other keys or shapes: one hint for all
        raise AVSInputError(
            f"MODEL.AUDIO_BACKBONE.WEIGHTS: {path} does not load into {type(backbone).__name__} "
            f"({one_line(error)}): name a state dict of this audio backbone, or '' for none"
        ) from error


@AUDIO_BACKBONE_REGISTRY.register()
class SmallAudioNet(AudioBackbone):
    """A few strided convolutions, quick enough to train from nothing on a CPU.

    Time is averaged at the end and frequency is kept, since pitch tells sounds apart and their place in the second
    does not.
    """

    @configurable
    def __init__(self, *, channels: Sequence[int], embed_dim: int, norm: str):
        """
        Args:
            channels: of each convolution; each halves time and frequency.
            embed_dim: channels of the embedding, C.
            norm: normalization of the input and after each convolution, as detectron2's ``get_norm`` takes it.
        """
        super().__init__()
        self.embed_dim = embed_dim
        layers: list[nn.Module] = [get_norm(norm, 1)]
        for inputs, outputs in zip([1, *channels[:-1]], channels, strict=True):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, get_norm(norm, outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        with torch.no_grad():
            pooled = self.features.eval()(torch.zeros(1, 1, EXAMPLE_FRAMES, MEL_BANDS)).mean(2)
        self.embedding = nn.Linear(pooled.numel(), embed_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        settings = cfg.MODEL.AUDIO_BACKBONE
        return {"channels": settings.SMALL_CHANNELS, "embed_dim": settings.EMBED_DIM, "norm": settings.SMALL_NORM}

    def forward(self, log_mel: Tensor) -> Tensor:
        """(M, 1, 96, 64) -> (M, embed_dim), not negative, as VGGish's."""
        return self.embedding(self.features(log_mel).mean(2).flatten(1)).relu()
