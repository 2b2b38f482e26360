"""VGGish (Hershey et al. 2017), the audio backbone of TransAVS section 2.2.1 and of AVSBench."""

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from transavs.data.audio import EXAMPLE_FRAMES, MEL_BANDS
from transavs.modeling.backbones.audio import AUDIO_BACKBONE_REGISTRY, AudioBackbone

STAGES = ((64,), (128,), (256, 256), (512, 512))  # channels of the convolutions between two poolings
HIDDEN = 4096


@AUDIO_BACKBONE_REGISTRY.register()
class VGGish(AudioBackbone):
    """VGG-style network on log-mel examples, with the parameter names of torchvggish.

    Its output is taken as the published audio-visual models take it: after the last ReLU, without PCA and without
    quantization.
    """

    @configurable
    def __init__(self, *, embed_dim: int):
        """
        Args:
            embed_dim: channels of the embedding; 128 in the published weights.
        """
        super().__init__()
        self.embed_dim = embed_dim
        layers: list[nn.Module] = []
        inputs = 1
        for stage in STAGES:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        shrunk = 2 ** len(STAGES)
        flat = inputs * (EXAMPLE_FRAMES // shrunk) * (MEL_BANDS // shrunk)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, embed_dim),
            nn.ReLU(inplace=True),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"embed_dim": cfg.MODEL.AUDIO_BACKBONE.EMBED_DIM}

    def forward(self, log_mel: Tensor) -> Tensor:
        """(M, 1, 96, 64) log-mel examples -> (M, embed_dim), not negative."""
        # The weights were trained in TensorFlow, which flattens time, frequency, channel in this order.
        return self.embeddings(self.features(log_mel).permute(0, 2, 3, 1).flatten(1))
