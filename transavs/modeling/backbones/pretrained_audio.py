"""Published audio transformers as audio backbones: AST, CLAP's audio encoder and AudioMAE.

Their size is that of the published base model with ``MODEL.AUDIO_BACKBONE.OPTIONS``, whatever weights are loaded, so
that a config alone builds them. Positions are interpolated from the length that the weights have them for.
"""

import importlib
import re
from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from transavs.data.filter_banks import ClapLogMel, KaldiFilterBank
from transavs.data.front_ends import AudioFrontEnd
from transavs.modeling.backbones.audio import AUDIO_BACKBONE_REGISTRY, AudioBackbone
from transavs.utils.errors import AVSInputError, one_line, require
from transavs.utils.weight_files import read_weights

# Values of a config of transformers that change nothing of what a trained model gives.
OF_TRAINING = re.compile("drop|initializer|max_length|num_classes|projection")
# Parameters of a timm model's checkpoint that only its pretraining and its classes need.
OF_PRETRAINING = ("head.", "decoder", "mask_token")


class PretrainedAudio(AudioBackbone):
    """Base of the audio backbones that are other libraries' models.

    Attributes:
        body: the model.
        options: how it differs from the published base model, also for the embedding cache.
    """

    body: Any

    def __init__(self, options: Mapping[str, Any], **size: Any):
        """
        Args:
            options: names and values of the library's own.
            size: of the examples, in the library's terms.

        Raises:
            AVSInputError: the library is missing, or an option is not one of its own.
        """
        super().__init__()
        self.options = dict(options)
        try:
            self.body = self.build_body(**size)
        except AVSInputError:
            raise
        except Exception as error:  # each library has its own ways to refuse a value
            raise AVSInputError(
                f"MODEL.AUDIO_BACKBONE.OPTIONS: {type(self).__name__} cannot be built with {self.options} "
                f"({one_line(error)}): correct them"
            ) from error

    def build_body(self, **size: Any) -> nn.Module:
        """Build the model that options and size describe, with random weights."""
        raise NotImplementedError

    def check_options(self, known: Collection[str]) -> None:
        """Raise a ValueError if an option is none of the ``known`` ones."""
        unknown = sorted(self.options.keys() - known)
        if unknown:
            raise ValueError(f"there is no {unknown[0]}")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


class TransformersAudio(PretrainedAudio):
    """Base of those from transformers.

    Attributes:
        config_name, model_name: of the classes there.
        key_mapping: patterns of names in whole models, which transformers does not find by itself -> here.
    """

    config_name: str
    model_name: str
    key_mapping: Mapping[str, str] = {}

    def make_config(self, **size: Any) -> Any:
        """Make the library's config of options and size."""
        transformers = require("transformers", "encoders", type(self).__name__)
        config_class = getattr(transformers, self.config_name)
        self.check_options(config_class().to_dict().keys())
        return config_class(**self.options | size)

    @property
    def model_class(self) -> Any:
        return getattr(require("transformers", "encoders", type(self).__name__), self.model_name)

    def read_published(self, path: str) -> dict[str, Tensor]:
        """Read a state dict of the body as published, from a file, a folder or the hub.

        Raises:
            ValueError: it lacks parameters, or is of another model than the options describe.
        """
        common = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
        common |= {"key_mapping": dict(self.key_mapping)}
        if Path(path).is_file():
            options = {"config": self.make_config(), "state_dict": read_weights(path)}
            model, found = self.model_class.from_pretrained(None, **options, **common)
        else:
            model, found = self.model_class.from_pretrained(path, local_files_only=Path(path).is_dir(), **common)
        for name, value in self.make_config().to_dict().items():
            if name in _architecture(model.config) and model.config.to_dict()[name] != value:
                published = model.config.to_dict()[name]
                raise ValueError(f"its {name} is {published} and not {value}: say so in MODEL.AUDIO_BACKBONE.OPTIONS")
        wrong = [*found["missing_keys"], *found["mismatched_keys"]]
        if wrong:
            raise ValueError(f"{len(wrong)} parameters are missing or of another shape, such as {wrong[0]}")
        state: dict[str, Tensor] = model.state_dict()
        return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _architecture(config: Any) -> set[str]:
    """Names of the values in a config of transformers that are the model's own and decide what it gives."""
    shared = importlib.import_module("transformers").PretrainedConfig().to_dict()
    return {name for name in config.to_dict() if name not in shared and not OF_TRAINING.search(name)}


@AUDIO_BACKBONE_REGISTRY.register()
class AST(TransformersAudio):
    """Audio Spectrogram Transformer (Gong et al. 2021), transformers' ``ASTModel``."""

    config_name, model_name = "ASTConfig", "ASTModel"

    @configurable
    def __init__(self, *, frames: int, options: Mapping[str, Any]):
        """
        Args:
            frames: of an example.
            options: values of transformers' ``ASTConfig``.
        """
        super().__init__(options, max_length=frames)
        self.embed_dim = self.body.config.hidden_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"frames": cls.front_end(cfg).shape[1], "options": cfg.MODEL.AUDIO_BACKBONE.OPTIONS}

    @classmethod
    def front_end(cls, cfg: CfgNode) -> AudioFrontEnd:
        return KaldiFilterBank(cfg.MODEL.AUDIO_BACKBONE.CONTEXT)

    def build_body(self, **size: Any) -> nn.Module:
        model: nn.Module = self.model_class(self.make_config(**size))
        return model

    def load_published(self, path: str) -> None:
        state = self.read_published(path)
        name = "embeddings.position_embeddings"
        state[name] = fit_positions(state[name], self.body.embeddings.get_shape(self.body.config), time=1, prefix=2)
        self.body.load_state_dict(state)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(M, 1, frames, 128) -> (M, embed_dim), the mean of its two tokens."""
        pooled: Tensor = self.body(log_mel[:, 0]).pooler_output
        return pooled


@AUDIO_BACKBONE_REGISTRY.register()
class CLAP(TransformersAudio):
    """Audio encoder of CLAP (Wu et al. 2023), an HTSAT, transformers' ``ClapAudioModel``, without fusion.

    The batch norm of its input keeps the statistics that it has.
    """

    config_name, model_name = "ClapAudioConfig", "ClapAudioModel"
    key_mapping = {r"^audio_model\.": ""}

    @configurable
    def __init__(self, *, options: Mapping[str, Any]):
        """
        Args:
            options: values of transformers' ``ClapAudioConfig``.
        """
        super().__init__(options)
        self.embed_dim = self.body.audio_encoder.num_features

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"options": cfg.MODEL.AUDIO_BACKBONE.OPTIONS}

    @classmethod
    def front_end(cls, cfg: CfgNode) -> AudioFrontEnd:
        return ClapLogMel(cfg.MODEL.AUDIO_BACKBONE.CONTEXT)

    def build_body(self, **size: Any) -> nn.Module:
        if self.options.get("enable_fusion"):
            raise ValueError("fusion mixes pieces drawn at random")
        model: nn.Module = FrozenBatchNorm2d.convert_frozen_batchnorm(self.model_class(self.make_config(**size)))
        return model

    def load_published(self, path: str) -> None:
        self.body.load_state_dict(self.read_published(path))

    def forward(self, log_mel: Tensor) -> Tensor:
        """(M, 1, 1001, 64) -> (M, embed_dim)."""
        pooled: Tensor = self.body(log_mel).pooler_output
        return pooled


@AUDIO_BACKBONE_REGISTRY.register()
class AudioMAE(PretrainedAudio):
    """Encoder of AudioMAE (Huang et al. 2022), timm's ViT-B/16 on one channel, the mean of its tokens."""

    @configurable
    def __init__(self, *, frames: int, options: Mapping[str, Any]):
        """
        Args:
            frames: of an example.
            options: arguments of timm's ``VisionTransformer``.
        """
        super().__init__(options, img_size=(frames, KaldiFilterBank.bands))
        self.embed_dim = self.body.num_features

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"frames": cls.front_end(cfg).shape[1], "options": cfg.MODEL.AUDIO_BACKBONE.OPTIONS}

    @classmethod
    def front_end(cls, cfg: CfgNode) -> AudioFrontEnd:
        return KaldiFilterBank(cfg.MODEL.AUDIO_BACKBONE.CONTEXT, multiple=16)

    def build_body(self, **size: Any) -> nn.Module:
        # timm's create_model takes others as well, with which a stranger's config would read files.
        self.check_options(signature(timm.models.VisionTransformer).parameters.keys())
        settings: dict[str, Any] = {"in_chans": 1, "num_classes": 0, "global_pool": "avg", "fc_norm": False}
        model: nn.Module = timm.create_model("vit_base_patch16_224", **settings | self.options | size)
        return model

    def load_published(self, path: str) -> None:
        if Path(path).is_file():
            state = read_weights(path)
        else:
            source = "local-dir" if Path(path).is_dir() else "hf-hub"
            state = timm.create_model(f"{source}:{path}", pretrained=True).state_dict()
        state = {name: value for name, value in state.items() if not name.startswith(OF_PRETRAINING)}
        state["pos_embed"] = fit_positions(state["pos_embed"], self.body.patch_embed.grid_size, time=0, prefix=1)
        self.body.load_state_dict(state)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(M, 1, frames, 128) -> (M, embed_dim)."""
        embedding: Tensor = self.body(log_mel)
        return embedding


def fit_positions(positions: Tensor, grid: tuple[int, int], time: int, prefix: int) -> Tensor:
    """Interpolate position embeddings (1, prefix + tokens, C) to a grid of the same bands and another length.

    Args:
        positions: of the published model.
        grid: tokens along frequency and time, in the order of the model.
        time: place of the length in ``grid``.
        prefix: tokens that have no place in it.
    """
    published = list(grid)
    published[time] = (positions.shape[1] - prefix) // grid[1 - time]
    return resample_abs_pos_embed(positions, list(grid), published, num_prefix_tokens=prefix)
