"""A model that surely listens: where there is sound, the brighter a pixel, the higher its score."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from transavs.modeling.meta_arch import AVSModel

AUDIBLE = -4.5  # mean log-mel value; that of silence is -4.6


@META_ARCH_REGISTRY.register()
class LoudModel(AVSModel):
    def __init__(self, cfg: CfgNode):
        nn.Module.__init__(self)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)
        self.audio_backbone = nn.Identity()
        self.gain = nn.Parameter(torch.ones(()))

    @property
    def uses_temporal_context(self) -> bool:
        return False

    def forward_tensors(self, images: Tensor, log_mel: Tensor) -> Tensor:
        is_loud = log_mel.mean((2, 3, 4)) > AUDIBLE
        sounding = self.gain * images.mean(2) / 255 * is_loud[..., None, None]
        return torch.stack([1 - sounding, sounding], dim=2)
