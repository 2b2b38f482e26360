"""Networks and losses; importing it registers every component with detectron2."""

from transavs.modeling.backbones.audio import AUDIO_BACKBONE_REGISTRY, SmallAudioNet
from transavs.modeling.backbones.pretrained_audio import AST, CLAP, AudioMAE
from transavs.modeling.backbones.query_vit import QueryViT, build_query_vit_backbone
from transavs.modeling.backbones.resnet import build_basic_resnet_backbone
from transavs.modeling.backbones.timm import TimmBackbone, build_timm_backbone
from transavs.modeling.backbones.vggish import VGGish
from transavs.modeling.tpavi.meta_arch import TPAVI
from transavs.modeling.transavs.criterion import AVSCriterion
from transavs.modeling.transavs.encoder_only import EncoderTransAVS
from transavs.modeling.transavs.meta_arch import TransAVS
from transavs.modeling.transavs.msdeformattn import MSDeformAttnPixelDecoder
from transavs.modeling.transavs.pixel_decoder import FPNPixelDecoder
from transavs.modeling.transavs.query_decoder import TRANSFORMER_DECODER_REGISTRY, AudioQueryDecoder

__all__ = [
    "AST",
    "AUDIO_BACKBONE_REGISTRY",
    "CLAP",
    "TPAVI",
    "TRANSFORMER_DECODER_REGISTRY",
    "AVSCriterion",
    "AudioMAE",
    "AudioQueryDecoder",
    "EncoderTransAVS",
    "FPNPixelDecoder",
    "MSDeformAttnPixelDecoder",
    "QueryViT",
    "SmallAudioNet",
    "TimmBackbone",
    "TransAVS",
    "VGGish",
    "build_basic_resnet_backbone",
    "build_query_vit_backbone",
    "build_timm_backbone",
]
