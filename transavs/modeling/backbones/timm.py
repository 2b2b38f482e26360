"""Visual backbones beside detectron2's own."""

import math
from collections.abc import Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import Format, LayerNorm2d
from timm.utils import freeze
from torch import Tensor, nn

from transavs.utils.errors import AVSInputError, one_line

FINEST_STRIDE = 4  # of the first stage; some models also offer their stem's features


class TimmBackbone(Backbone):
    """Any timm model that offers ``features_only``: Swin, PVT-v2, ConvNeXt, ViT and others.

    A feature of stride 2 ** i is called ``res{i}``, as detectron2's ResNet calls it, so pixel decoders need not know.
    """

    body: Any  # timm's FeatureListNet

    @configurable
    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        image_size: int,
        out_features: Sequence[str],
        pretrained: bool,
        weights: str,
        drop_path_rate: float,
        frozen_stages: int,
        out_norm: str = "",
    ):
        """
        Args:
            name: of a timm model, with or without the tag of its weights.
            in_channels: of the image.
            image_size: side of the input, for models that are built for one size.
            out_features: names of the features to return.
            pretrained: fetch the weights that timm has by that name.
            weights: file of weights for the whole timm model instead, .pth or .safetensors; "" = none.
            drop_path_rate: of stochastic depth; 0 leaves the model's own default.
            frozen_stages: leading stages, with what comes before them, that are not trained.
            out_norm: of each feature that is returned, a layer norm over its channels, "LN", or none, "".

        Raises:
            AVSInputError: timm has no such model, or none with stages to give or to freeze, or the weights cannot be
                loaded.
        """
        super().__init__()
        if weights and not Path(weights).is_file():  # timm would say nothing
            raise AVSInputError(
                f"MODEL.TIMM.WEIGHTS: {weights} does not exist: name another file, or make it (datasets/README.md)"
            )
        options: dict[str, Any] = {"in_chans": in_channels}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        if weights:
            options["pretrained_cfg_overlay"] = {"file": weights}
        settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if settings is not None and settings.fixed_input_size:
            options["img_size"] = image_size
        try:
            self.body = timm.create_model(name, features_only=True, pretrained=pretrained or bool(weights), **options)
        except Exception as error:  # unknown name, unreadable file, other shapes, no network
            raise AVSInputError(
                f"MODEL.TIMM: {name!r} with weights {weights!r} cannot be built ({one_line(error)}): "
                "correct NAME or WEIGHTS"
            ) from error
        info = self.body.feature_info
        if len(set(info.reduction())) < len(info.reduction()):
            raise AVSInputError(f"MODEL.TIMM.NAME: {name!r} gives no pyramid of features: choose a model with stages")
        # EfficientNet and MobileNet do not name their layout, which is the usual one.
        self._channels_last = getattr(self.body, "output_fmt", Format.NCHW) == Format.NHWC
        self._names = [f"res{int(math.log2(stride))}" for stride in info.reduction()]
        self._shapes = {
            feature: ShapeSpec(channels=channels, stride=stride)
            for feature, channels, stride in zip(self._names, info.channels(), info.reduction(), strict=True)
            if feature in out_features
        }
        norm = LayerNorm2d if out_norm == "LN" else nn.Identity
        self.norms = nn.ModuleDict({feature: norm(shape.channels) for feature, shape in self._shapes.items()})
        stages = [stage for stage, s in zip(info.module_name(), info.reduction(), strict=True) if s >= FINEST_STRIDE]
        self._freeze(name, stages[:frozen_stages])

    def _freeze(self, model: str, stages: list[str]) -> None:
        """Stop training of everything up to the last of ``stages``; its batch norms keep their statistics."""
        if not stages:
            return
        modules = dict(self.body.named_modules())
        flat = stages[-1].replace(".", "_")  # as timm names what it takes out of a list; some models keep theirs
        last = flat if flat in modules else stages[-1]
        if last not in modules:
            raise AVSInputError(f"MODEL.TIMM.NAME: {model!r} does not show its stages: set FROZEN_STAGES to 0")
        frozen = [last]
        for path in accumulate(last.split("."), "{}.{}".format):
            parent, _, child = path.rpartition(".")
            before = takewhile(child.__ne__, dict(modules[parent].named_children()))
            frozen += [f"{parent}.{other}".removeprefix(".") for other in before]
        freeze(self.body, frozen)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        settings = cfg.MODEL.TIMM
        return {
            "name": settings.NAME,
            "in_channels": input_shape.channels,
            "image_size": cfg.INPUT.IMAGE_SIZE,
            "out_features": cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
            "pretrained": settings.PRETRAINED,
            "weights": settings.WEIGHTS,
            "drop_path_rate": settings.DROP_PATH_RATE,
            "frozen_stages": settings.FROZEN_STAGES,
            "out_norm": settings.OUT_NORM,
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(F, 3, H, W) -> features by name, (F, channels, h, w)."""
        features = self.body(images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        named = dict(zip(self._names, features, strict=True))
        return {name: norm(named[name]) for name, norm in self.norms.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm model that ``MODEL.TIMM`` describes."""
    return TimmBackbone(cfg, input_shape)
