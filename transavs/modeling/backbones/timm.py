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
from timm.models import group_parameters, is_model_in_modules
from timm.utils import freeze
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transavs.modeling.backbones.simple_feature_pyramid import SimpleFeaturePyramid, resize_to_patches
from transavs.utils.errors import AVSInputError, one_line

FINEST_STRIDE = 4  # of the first stage; some models also offer their stem's features
# timm's files of models that interpolate their positions to the size of each image, if asked to or anyway. Their
# parameters do not depend on the image's size.
DYNAMIC_IF_ASKED = ("deit", "eva", "vision_transformer")
DYNAMIC = ("vision_transformer_sam",)


class TimmModel(Backbone):
    """Base of backbones made of a timm model: its size, its weights, and learning rates by layer."""

    body: Any  # timm's FeatureListNet or FeatureGetterNet

    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        image_size: int,
        pretrained: bool,
        weights: str,
        drop_path_rate: float,
        layer_decay: float = 1.0,
        **options: Any,
    ):
        """
        Args:
            name: of a timm model, with or without the tag of its weights.
            in_channels: of the image.
            image_size: side of the input, for models that are built for one size.
            pretrained: fetch the weights that timm has by that name.
            weights: file of weights for the whole timm model instead, .pth or .safetensors; "" = none.
            drop_path_rate: of stochastic depth; 0 leaves the model's own default.
            layer_decay: factor of the learning rate from each layer to the one before it; 1 = the same for all.
            options: more for timm.

        Raises:
            AVSInputError: timm has no such model, or none with layers to tell apart, or the weights cannot be loaded.
        """
        super().__init__()
        if weights and not Path(weights).is_file():  # timm would say nothing
            raise AVSInputError(
                f"MODEL.TIMM.WEIGHTS: {weights} does not exist: name another file, or make it (datasets/README.md)"
            )
        options |= {"in_chans": in_channels, **_size_option(name, image_size)}
        self.body = _build_body(name, pretrained, weights, drop_path_rate, options)
        self.layer_decay = layer_decay
        if layer_decay != 1 and not self._layer_ids():
            raise AVSInputError(f"MODEL.TIMM.NAME: {name!r} does not show its layers: set LAYER_DECAY to 1.0")

    def _layer_ids(self) -> dict[str, int]:
        """Number the layers by the names of timm's parameters: 0 before the blocks, then one each; {} if not told."""
        model: Any = getattr(self.body, "model", None)
        if not hasattr(model, "group_matcher"):
            return {}
        return group_parameters(model, model.group_matcher(), reverse=True)

    def learning_rate_factors(self) -> dict[str, float]:
        """Give what the learning rate of each parameter is multiplied by, by its name; nothing if all are alike.

        It is ``layer_decay`` to the power of the layers that come after the parameter's own, as ViTDet (Li et al. 2022)
        trains. What follows timm's model, such as the pyramid, is the last layer.
        """
        if self.layer_decay == 1:
            return {}
        layers = {f"body.model.{name}": layer for name, layer in self._layer_ids().items()}
        last = max(layers.values()) + 1
        return {name: self.layer_decay ** (last - layers.get(name, last)) for name, _ in self.named_parameters()}

    def _freeze_layers(self, model: str, count: int) -> None:
        """Stop training of the first ``count`` stages of a whole model and of what comes before them."""
        stages = [stage["module"] for stage in self.body.model.feature_info]
        prefix = f"{stages[:count][-1]}."
        layers = self._layer_ids()
        last = max((layer for name, layer in layers.items() if name.startswith(prefix)), default=None)
        if last is None or any(isinstance(module, _BatchNorm) for module in self.body.modules()):
            raise _hidden_stages(model)
        for name, parameter in self.body.model.named_parameters():
            if layers[name] <= last:
                parameter.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read from the config what the constructors of all subclasses take."""
        settings = cfg.MODEL.TIMM
        return {
            "name": settings.NAME,
            "in_channels": input_shape.channels,
            "image_size": cfg.INPUT.IMAGE_SIZE,
            "pretrained": settings.PRETRAINED,
            "weights": settings.WEIGHTS,
            "drop_path_rate": settings.DROP_PATH_RATE,
            "frozen_stages": settings.FROZEN_STAGES,
            "layer_decay": settings.LAYER_DECAY,
        }


class TimmBackbone(TimmModel):
    """Any timm model that offers ``features_only``: Swin, PVT-v2, ConvNeXt, ViT, Hiera and others.

    A feature of stride 2 ** i is called ``res{i}``, as detectron2's ResNet calls it, so pixel decoders need not know.
    Models that keep one stride throughout, plain ViTs, get a :class:`SimpleFeaturePyramid`; each of their blocks is a
    stage.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        out_features: Sequence[str],
        frozen_stages: int,
        out_norm: str = "",
        **model: Any,
    ):
        """
        Args:
            name, image_size, model: see :class:`TimmModel`.
            out_features: names of the features to return.
            frozen_stages: leading stages, with what comes before them, that are not trained.
            out_norm: of each feature that is returned, a layer norm over its channels, "LN", or none, "".

        Raises:
            AVSInputError: the model has no stages to give or to freeze, or cannot take images of that size.
        """
        super().__init__(name=name, image_size=image_size, **model)
        strides = self.body.feature_info.reduction()
        # timm leaves some models whole, as ``body.model``; of others it keeps a list of stages.
        whole = hasattr(self.body, "model")
        self._plain = whole and len(strides) > 1 and len(set(strides)) == 1
        if self._plain:
            self._add_pyramid(name, image_size, out_features)
        else:
            self._name_features(name, image_size, out_features)
        norm = LayerNorm2d if out_norm == "LN" else nn.Identity
        self.norms = nn.ModuleDict({feature: norm(shape.channels) for feature, shape in self._shapes.items()})
        if frozen_stages and whole:
            self._freeze_layers(name, frozen_stages)
        elif frozen_stages:
            self._freeze_stages(name, frozen_stages)

    def _name_features(self, name: str, image_size: int, out_features: Sequence[str]) -> None:
        info = self.body.feature_info
        if len(set(info.reduction())) < len(info.reduction()):
            raise AVSInputError(f"MODEL.TIMM.NAME: {name!r} gives no pyramid of features: choose a model with stages")
        # SAM2's Hiera repeats these positions over the map of its first stage.
        window = getattr(getattr(self.body, "model", None), "pos_embed_window", None)
        if window is not None and image_size % (FINEST_STRIDE * window.shape[-1]):
            raise _bad_size(name, FINEST_STRIDE * window.shape[-1])
        # EfficientNet and MobileNet do not name their layout, which is the usual one.
        self._channels_last = getattr(self.body, "output_fmt", Format.NCHW) == Format.NHWC
        self._names = [f"res{int(math.log2(stride))}" for stride in info.reduction()]
        self._shapes = {
            feature: ShapeSpec(channels=channels, stride=stride)
            for feature, channels, stride in zip(self._names, info.channels(), info.reduction(), strict=True)
            if feature in out_features
        }

    def _add_pyramid(self, name: str, image_size: int, out_features: Sequence[str]) -> None:
        self.body.out_indices = self.body.out_indices[-1:]  # ViTDet takes the last map alone
        info = self.body.feature_info
        self._patch_size = info.reduction()[-1]
        if _size_option(name, image_size).get("img_size", 0) % self._patch_size:
            raise _bad_size(name, self._patch_size)
        self.pyramid = SimpleFeaturePyramid(
            in_channels=info.channels()[-1], patch_size=self._patch_size, out_features=out_features
        )
        self._shapes = self.pyramid.output_shape()

    def _freeze_stages(self, model: str, count: int) -> None:
        """Stop training of the first ``count`` stages and of what comes before them; batch norms keep statistics."""
        info = self.body.feature_info
        strides = zip(info.module_name(), info.reduction(), strict=True)
        stages = [stage for stage, stride in strides if stride >= FINEST_STRIDE][:count]
        modules = dict(self.body.named_modules())
        flat = stages[-1].replace(".", "_")  # as timm names what it takes out of a list; some models keep theirs
        last = flat if flat in modules else stages[-1]
        if last not in modules:
            raise _hidden_stages(model)
        frozen = [last]
        for path in accumulate(last.split("."), "{}.{}".format):
            parent, _, child = path.rpartition(".")
            before = takewhile(child.__ne__, dict(modules[parent].named_children()))
            frozen += [f"{parent}.{other}".removeprefix(".") for other in before]
        freeze(self.body, frozen)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return super().from_config(cfg, input_shape) | {
            "out_features": cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
            "out_norm": cfg.MODEL.TIMM.OUT_NORM,
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(F, 3, H, W) -> features by name, (F, channels, h, w)."""
        if self._plain:
            (tokens,) = self.body(resize_to_patches(images, self._patch_size))
            named = self.pyramid(tokens, tuple(images.shape[-2:]))
        else:
            features = self.body(images)
            if self._channels_last:
                features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
            named = dict(zip(self._names, features, strict=True))
        return {name: norm(named[name]) for name, norm in self.norms.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


def _size_option(name: str, image_size: int) -> dict[str, Any]:
    """Options that tell timm the size of images."""
    if is_model_in_modules(name, DYNAMIC_IF_ASKED):
        return {"dynamic_img_size": True}
    settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if settings is None or not settings.fixed_input_size or is_model_in_modules(name, DYNAMIC):
        return {}
    return {"img_size": image_size}


def _build_body(name: str, pretrained: bool, weights: str, drop_path_rate: float, options: dict[str, Any]) -> nn.Module:
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if weights:
        options["pretrained_cfg_overlay"] = {"file": weights}
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained or bool(weights), **options)
    except Exception as error:  # unknown name, unreadable file, other shapes, no network
        raise AVSInputError(
            f"MODEL.TIMM: {name!r} with weights {weights!r} cannot be built ({one_line(error)}): "
            "correct NAME or WEIGHTS"
        ) from error


def _bad_size(model: str, divisor: int) -> AVSInputError:
    return AVSInputError(
        f"MODEL.TIMM.NAME: {model!r} does not take images of any size: set INPUT.IMAGE_SIZE to a multiple of {divisor}"
    )


def _hidden_stages(model: str) -> AVSInputError:
    return AVSInputError(f"MODEL.TIMM.NAME: {model!r} does not show its stages: set FROZEN_STAGES to 0")


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm model that ``MODEL.TIMM`` describes."""
    return TimmBackbone(cfg, input_shape)
