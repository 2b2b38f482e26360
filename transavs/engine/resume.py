"""Going on from a checkpoint: it brings the iteration and the state of all parts, the config every setting."""

import logging
from typing import Any

from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from torch import nn

from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.load import PLACES
from transavs.config.load import config_changes, parse_config
from transavs.engine.solver import transferred_state
from transavs.utils.errors import AVSInputError, one_line

# Beside the places of files: what a run does with its machine.
NOT_TOLD = ("OUTPUT_DIR", "DATALOADER.NUM_WORKERS", *PLACES)


def last_checkpoint(folder: str) -> str:
    """Find the last whole checkpoint in a folder, "" where there is none; the main process looks for all ranks."""
    last = AVSCheckpointer(nn.Module(), folder).get_checkpoint_file() if comm.is_main_process() else ""
    return str(comm.all_gather(last)[0])


def restore(trainer: DefaultTrainer, checkpoint: dict[str, Any], path: str) -> None:
    """Give a trainer the iteration and the state of all parts that a checkpoint holds.

    Settings, such as learning rates, their schedule and weight decay, are those of the trainer's config; one warning
    names the keys in which the run's config was another one.

    Args:
        trainer: an AVSTrainer, whose model has the checkpoint's weights already.
        checkpoint: what :meth:`AVSCheckpointer.load` has left.
        path: of the file, for messages.

    Raises:
        AVSInputError: the state does not fit, or the run has had more iterations than SOLVER.MAX_ITER.
    """
    before = parse_config(checkpoint["config"], path) if "config" in checkpoint else trainer.cfg
    if changes := config_changes(before, trainer.cfg, but_for=NOT_TOLD):
        logging.getLogger(__name__).warning("the run goes on with another config: %s", "; ".join(changes))
    try:
        state = checkpoint["trainer"]
        if (done := state["iteration"] + 1) > trainer.max_iter:
            raise AVSInputError(
                f"SOLVER.MAX_ITER is {trainer.max_iter} (expected {done} or more, the iterations of {path}): raise it"
            )
        _restore_state(trainer, state, before)
    except AVSInputError:
        raise
    except Exception as error:  # of another model, or hostile: each raises something else
        raise AVSInputError(f"{path} cannot be resumed ({one_line(error)}): name another OUTPUT_DIR") from error


def _restore_state(trainer: DefaultTrainer, state: dict[str, Any], before: Any) -> None:
    inner, model = trainer._trainer, trainer.model
    # Which parameters share a group, and so the order in which an optimizer numbers them, depends on the settings.
    saved = trainer.build_optimizer(before, getattr(model, "module", model))
    saved.load_state_dict(state["_trainer"]["optimizer"])
    state["_trainer"]["optimizer"] = transferred_state(saved, inner.optimizer)
    done = state["iteration"] + 1
    state["hooks"]["LRScheduler"] = {"last_epoch": done, "_step_count": done + 1}
    trainer.load_state_dict(state)
    rates = trainer.scheduler._last_lr = trainer.scheduler.get_lr()
    for group, rate in zip(inner.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
