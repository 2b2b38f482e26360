"""Loading checkpoints, so that a wrong one says so."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.hub import local_weights
from transavs.config.load import config_changes, load_config, parse_config
from transavs.config.validate import value_of
from transavs.modeling.optimize import optimize_for_inference
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.weight_files import read_checkpoint

# Parts of a model that may start from weights of their own, which are not needed where a checkpoint holds the part:
# the part's prefix, the keys that name its weights, and their values without any.
STARTING_WEIGHTS: dict[str, dict[str, Any]] = {
    "audio_backbone.": {"MODEL.AUDIO_BACKBONE.WEIGHTS": ""},
    "backbone.": {"MODEL.TIMM.WEIGHTS": "", "MODEL.TIMM.PRETRAINED": False},
}
# Files and folders of the machine that a model was trained on.
CACHES = {"DATALOADER.CLIP_CACHE": "", "MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE": ""}
PLACES = ("MODEL.WEIGHTS", "MODEL.DEVICE", *CACHES, *(key for keys in STARTING_WEIGHTS.values() for key in keys))


def without_starting_weights(cfg: CfgNode, checkpoint: Mapping[str, Any]) -> CfgNode:
    """Copy a config without the weights of parts that a checkpoint holds: they would be fetched for nothing."""
    cfg, weights = cfg.clone(), checkpoint.get("model", checkpoint)
    cfg.defrost()
    names = [str(name).removeprefix("module.") for name in weights] if isinstance(weights, Mapping) else []
    for prefix, keys in STARTING_WEIGHTS.items():
        if any(name.startswith(prefix) for name in names):
            _set_values(cfg, keys)
    return cfg


def _set_values(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    cfg.merge_from_list([item for pair in values.items() for item in pair])


def carried_config(checkpoint: Mapping[str, Any], path: str | Path) -> CfgNode:
    """Read the config that a checkpoint carries, without the files and folders of the machine it was trained on.

    Args:
        checkpoint: of :func:`transavs.utils.weight_files.read_checkpoint`.
        path: of its file, for messages.

    Raises:
        AVSInputError: it carries none, or a broken one.
    """
    if "config" not in checkpoint:
        raise AVSInputError(f"the checkpoint {path} carries no config: give --config-file, the one it was trained with")
    cfg = parse_config(checkpoint["config"], path)
    _set_values(cfg, CACHES)
    return cfg


def warn_of_other_config(cfg: CfgNode, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Warn of every MODEL and INPUT key whose value is not that of the config which the checkpoint carries."""
    if "config" not in checkpoint:
        return
    changes = config_changes(parse_config(checkpoint["config"], path), cfg, ("MODEL", "INPUT"), PLACES)
    if changes:
        logging.getLogger(__name__).warning("%s was trained with another config: %s", path, "; ".join(changes))


def load_for_evaluation(cfg: CfgNode, build: Callable[[CfgNode], nn.Module], resume: bool = False) -> nn.Module:
    """Build a model and load MODEL.WEIGHTS, or with ``resume`` the last checkpoint in OUTPUT_DIR.

    Args:
        cfg: the config; where the checkpoint carries another, a warning names the keys that differ.
        build: makes the model of a config.
        resume: see above.

    Raises:
        AVSInputError: there is no checkpoint, or it does not fit the model.
    """
    path = (AVSCheckpointer(nn.Module(), cfg.OUTPUT_DIR).get_checkpoint_file() if resume else "") or cfg.MODEL.WEIGHTS
    if not path:
        raise AVSInputError("there is nothing to evaluate: set MODEL.WEIGHTS to a checkpoint")
    checkpoint = read_checkpoint(local_weights(path))
    warn_of_other_config(cfg, checkpoint, path)
    model = build(without_starting_weights(cfg, checkpoint))
    AVSCheckpointer(model).load_all(path, _parts_with_weights(cfg))
    return model


def _parts_with_weights(cfg: CfgNode) -> list[str]:
    """Prefixes of the parts whose own weights the config names."""
    return [prefix for prefix, keys in STARTING_WEIGHTS.items() if any(map(partial(value_of, cfg), keys))]


class Trained(NamedTuple):
    """A model as it was trained.

    Attributes:
        model: with the weights of the checkpoint.
        cfg: its config, with the device and the file that it was loaded by, and no other file or folder.
        class_names: the background first.
        versions: that it was trained with; empty where the checkpoint does not say.
    """

    model: nn.Module
    cfg: CfgNode
    class_names: list[str]
    versions: dict[str, str]


def load_model(
    path: str | Path, device: str | torch.device, config_file: str | Path | None = None
) -> tuple[nn.Module, CfgNode, list[str]]:
    """Build the model that a checkpoint is of and load it, for inference.

    Args:
        path: of a checkpoint that the trainer has written, of a shared model's weights, or of converted weights.
        device: to put the model on.
        config_file: in place of the config that the checkpoint carries; converted weights carry none.

    Returns:
        the model as :func:`optimize_for_inference` makes it, its config, and the names of its classes, the background
        first.

    Raises:
        AVSInputError: see :func:`load_trained`.
    """
    model, cfg, class_names, _ = load_trained(path, device, config_file)
    return optimize_for_inference(model), cfg, class_names


def load_trained(path: str | Path, device: str | torch.device, config_file: str | Path | None = None) -> Trained:
    """Build the model that a checkpoint is of and load it; the arguments are those of :func:`load_model`.

    Raises:
        AVSInputError: the file is no checkpoint, carries no config and none is given, or holds another model.
    """
    found = read_checkpoint(path)
    if config_file is not None:
        cfg = load_config(config_file)
        warn_of_other_config(cfg, found, path)
        _set_values(cfg, CACHES)
    else:
        cfg = carried_config(found, path)
    loaded_elsewhere = _parts_with_weights(cfg)
    cfg = without_starting_weights(cfg, found)
    _set_values(cfg, {"MODEL.DEVICE": str(device), "MODEL.WEIGHTS": str(path)})
    unfrozen = cfg.clone()
    unfrozen.MODEL.AUDIO_BACKBONE.FREEZE = False
    try:
        model = build_model(unfrozen)
    except AVSInputError:
        raise
    except KeyError as error:  # detectron2's registries
        raise AVSInputError(f"{path}: {one_line(error)}: import the module that registers it first") from error
    except Exception as error:  # a config that fits no model can raise nearly anything
        raise AVSInputError(f"the config of {path} makes no model ({one_line(error)}): name another file") from error
    AVSCheckpointer(model).load_all(str(path), loaded_elsewhere)
    names = found.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AVSInputError(f"the class names in {path} are no list of names: name another")
    unnamed = ["background"] + [f"class {number}" for number in range(1, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    return Trained(model, cfg, [*names, *unnamed[len(names) :]], found.get("versions", {}))
