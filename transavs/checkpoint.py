"""Checkpoints that carry their config, and loading them so that a wrong one says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from transavs.config import load_config, parse_config
from transavs.errors import AVSInputError, one_line
from transavs.modeling.inference import optimize_for_inference


class AVSCheckpointer(DetectionCheckpointer):
    """detectron2's, whose files also hold ``config`` (YAML) and ``class_names``: what it takes to use the model."""

    def __init__(self, model: nn.Module, save_dir: str, cfg: CfgNode, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self._cfg = cfg

    def save(self, name: str, **kwargs: Any) -> None:
        # The names of AVSS's classes are read with the data, so they are asked for late.
        names = MetadataCatalog.get(self._cfg.DATASETS.TRAIN[0]).get("stuff_classes", [])
        super().save(name, config=self._cfg.dump(), class_names=list(names), **kwargs)


@contextmanager
def checked_loading(model: nn.Module, weights: str) -> Iterator[None]:
    """Within it, a checkpoint that cannot be read or that holds nothing of ``model`` raises an AVSInputError.

    detectron2's checkpointer takes any file, raises whatever the file provokes, and of missing parameters only logs.

    Args:
        model: that is loaded into.
        weights: MODEL.WEIGHTS or the checkpoint to resume from, for the message.
    """

    def refuse_strangers(module: nn.Module, incompatible_keys: Any) -> None:
        if module is model and set(incompatible_keys.missing_keys) >= dict(model.named_parameters()).keys():
            raise AVSInputError(f"the checkpoint {weights} holds no parameter of this model: name one of its own")

    handle = model.register_load_state_dict_post_hook(refuse_strangers)
    try:
        yield
    except AVSInputError:
        raise
    except Exception as error:  # missing, truncated, not a checkpoint, hostile: each raises something else
        raise AVSInputError(
            f"the checkpoint {weights} cannot be loaded ({one_line(error)}): name a good file"
        ) from error
    finally:
        handle.remove()


def checkpoint_to_load(checkpointer: DetectionCheckpointer, weights: str, resume: bool) -> str:
    """What ``checkpointer.resume_or_load(weights, resume=resume)`` will read."""
    return checkpointer.get_checkpoint_file() if resume and checkpointer.has_checkpoint() else weights


def load_weights(model: nn.Module, output_dir: str, weights: str, resume: bool = False) -> None:
    """Load a model for evaluation: ``weights``, or with ``resume`` the last checkpoint in ``output_dir``.

    Raises:
        AVSInputError: there is no checkpoint, or not one of this model.
    """
    checkpointer = DetectionCheckpointer(model, save_dir=output_dir)
    found = checkpoint_to_load(checkpointer, weights, resume)
    if not found:
        raise AVSInputError("there is nothing to evaluate: set MODEL.WEIGHTS to a checkpoint")
    with checked_loading(model, found):
        checkpointer.resume_or_load(weights, resume=resume)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a .pth file holds, on the CPU; no code in it is run.

    Raises:
        AVSInputError: the file is missing, broken, or holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise AVSInputError(f"the checkpoint {path} does not exist: train a model (make quickstart), or name its file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can raise nearly anything
        raise AVSInputError(f"{path} cannot be read as a checkpoint ({one_line(error)}): name a good file") from error
    if not isinstance(found, dict):
        raise AVSInputError(f"{path} holds a {type(found).__name__}: name a checkpoint that train_net.py has written")
    return found


def load_model(
    path: str | Path, device: str | torch.device, config_file: str | Path | None = None
) -> tuple[nn.Module, CfgNode, list[str]]:
    """Build the model that a checkpoint is of and load it, for inference.

    Args:
        path: of a checkpoint that the trainer has written, or of converted weights.
        device: to put the model on.
        config_file: in place of the config that the checkpoint carries; converted weights carry none.

    Returns:
        the model as :func:`optimize_for_inference` makes it, its config, and the names of its classes, the background
        first.

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
    cfg.merge_from_list(
        ["MODEL.TIMM.PRETRAINED", False, "MODEL.TIMM.WEIGHTS", "", "MODEL.AUDIO_BACKBONE.FREEZE", False]
    )
    # Folders of the machine that it was trained on.
    cfg.merge_from_list(["DATALOADER.CLIP_CACHE", "", "MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE", ""])
    try:
        model = build_model(cfg)
    except KeyError as error:  # detectron2's registries
        raise AVSInputError(f"{path}: {one_line(error)}: import the module that registers it first") from error
    with checked_loading(model, str(path)):
        DetectionCheckpointer(model).load(str(path))
    optimize_for_inference(model)
    names = found.get("class_names", [])
    unnamed = ["background"] + [f"class {number}" for number in range(1, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    return model, cfg, [*names, *unnamed[len(names) :]]
