"""A ResNet small enough to be trained from nothing on a CPU."""

from collections.abc import Sequence
from itertools import pairwise

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

from transavs.utils.errors import AVSInputError


@BACKBONE_REGISTRY.register()
def build_basic_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """detectron2's ResNet of basic blocks with the widths of ``MODEL.RESNETS.BASIC_CHANNELS``, one block a stage.

    For runs from nothing on a CPU, where ResNet-18, the smallest of ``build_resnet_backbone``, is too slow.
    """
    settings = cfg.MODEL.RESNETS
    channels: Sequence[int] = settings.BASIC_CHANNELS
    if any(inputs == outputs for inputs, outputs in pairwise(channels)):
        # Its shortcut is a strided convolution only where the width changes.
        raise AVSInputError(f"MODEL.RESNETS.BASIC_CHANNELS is {list(channels)}: give each stage another width")
    stem = BasicStem(in_channels=input_shape.channels, out_channels=channels[0], norm=settings.NORM)
    stages = [
        ResNet.make_stage(
            BasicBlock,
            1,
            stride_per_block=[1 if inputs is None else 2],
            in_channels=inputs or channels[0],
            out_channels=outputs,
            norm=settings.NORM,
        )
        for inputs, outputs in zip([None, *channels[:-1]], channels, strict=True)
    ]
    return ResNet(stem, stages, out_features=settings.OUT_FEATURES).freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
