"""Loading checkpoints so that a wrong one says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from transavs.errors import AVSInputError, one_line


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
