"""Loading checkpoints, so that a wrong one says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.config.load import load_config, parse_config
from transavs.modeling.optimize import optimize_for_inference
from transavs.utils.errors import AVSInputError, one_line
from transavs.utils.weight_files import read_checkpoint


@contextmanager
def checked_loading(model: nn.Module, weights: str) -> Iterator[set[str]]:
    """Turn what a bad checkpoint, or one of another model, raises within the context into an AVSInputError.

    detectron2's checkpointer takes any file, raises whatever the file provokes, and of missing parameters only logs.

    Args:
        model: that is loaded into.
        weights: MODEL.WEIGHTS or the checkpoint to resume from, for the message.

    Yields:
        the keys of ``model`` that the checkpoint lacks, once it has been loaded.
    """
    missing: set[str] = set()

    def refuse_strangers(module: nn.Module, incompatible_keys: Any) -> None:
        if module is model:
            missing.update(incompatible_keys.missing_keys)
        if module is model and missing >= dict(model.named_parameters()).keys():
            raise AVSInputError(f"the checkpoint {weights} holds no parameter of this model: name one of its own")

    handle = model.register_load_state_dict_post_hook(refuse_strangers)
    try:
        yield missing
    except AVSInputError:
        raise
    except Exception as error:  # missing, truncated, not a checkpoint, hostile: each raises something else
        raise AVSInputError(
            f"the checkpoint {weights} cannot be loaded ({one_line(error)}): name a good file"
        ) from error
    finally:
        handle.remove()


def load_weights(model: nn.Module, output_dir: str, weights: str, resume: bool = False) -> None:
    """Load a model for evaluation: ``weights``, or with ``resume`` the last checkpoint in ``output_dir``.

    Raises:
        AVSInputError: there is no checkpoint, or not one of this model.
    """
    checkpointer = AVSCheckpointer(model, output_dir)
    found = (checkpointer.get_checkpoint_file() if resume else "") or weights
    if not found:
        raise AVSInputError("there is nothing to evaluate: set MODEL.WEIGHTS to a checkpoint")
    with checked_loading(model, found):
        checkpointer.load(found)


class Trained(NamedTuple):
    """A model as it was trained.

    Attributes:
        model: with the weights of the checkpoint.
        cfg: its config, with the device and the file that it was loaded by, and no other file or folder.
        class_names: the background first.
        versions: that it was trained with; empty where the checkpoint does not say.
        missing: names of parameters that the checkpoint lacks.
    """

    model: nn.Module
    cfg: CfgNode
    class_names: list[str]
    versions: dict[str, str]
    missing: set[str]


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
    model, cfg, class_names, _, _ = load_trained(path, device, config_file)
    return optimize_for_inference(model), cfg, class_names


def load_trained(path: str | Path, device: str | torch.device, config_file: str | Path | None = None) -> Trained:
    """Build the model that a checkpoint is of and load it; the arguments are those of :func:`load_model`.

    Raises:
        AVSInputError: the file is no checkpoint, carries no config and none is given, or holds another model.
    """
    found = read_checkpoint(path)
    if config_file is not None:
        cfg = load_config(config_file)
    elif "config" in found:
        cfg = parse_config(found["config"], path)
    else:
        raise AVSInputError(f"the checkpoint {path} carries no config: name the one it was trained with")
    # Whatever else the network would be started from is in the checkpoint.
    cfg.merge_from_list(["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", str(path), "MODEL.AUDIO_BACKBONE.WEIGHTS", ""])
    cfg.merge_from_list(["MODEL.TIMM.PRETRAINED", False, "MODEL.TIMM.WEIGHTS", ""])
    # Folders of the machine that it was trained on.
    cfg.merge_from_list(["DATALOADER.CLIP_CACHE", "", "MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE", ""])
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
    with checked_loading(model, str(path)) as missing:
        AVSCheckpointer(model).load(str(path))
    names = found.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AVSInputError(f"the class names in {path} are no list of names: name another")
    unnamed = ["background"] + [f"class {number}" for number in range(1, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    lacking = missing & dict(model.named_parameters()).keys()
    return Trained(model, cfg, [*names, *unnamed[len(names) :]], found.get("versions", {}), lacking)
