"""Networks and losses; importing it registers every component with detectron2."""

from transavs.modeling.audio_backbone import AUDIO_BACKBONE_REGISTRY, SmallAudioNet
from transavs.modeling.backbone import TimmBackbone, build_basic_resnet_backbone, build_timm_backbone
from transavs.modeling.criterion import AVSCriterion
from transavs.modeling.pixel_decoder import FPNPixelDecoder
from transavs.modeling.query_decoder import TRANSFORMER_DECODER_REGISTRY, AudioQueryDecoder
from transavs.modeling.tpavi import TPAVI
from transavs.modeling.transavs import TransAVS
from transavs.modeling.vggish import VGGish

__all__ = [
    "AUDIO_BACKBONE_REGISTRY",
    "TPAVI",
    "TRANSFORMER_DECODER_REGISTRY",
    "AVSCriterion",
    "AudioQueryDecoder",
    "FPNPixelDecoder",
    "SmallAudioNet",
    "TimmBackbone",
    "TransAVS",
    "VGGish",
    "build_basic_resnet_backbone",
    "build_timm_backbone",
]
