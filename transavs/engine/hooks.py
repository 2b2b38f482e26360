"""detectron2 hooks of transavs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.engine import BestCheckpointer, EvalHook, HookBase
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image
from torch import nn

from transavs.checkpoint.checkpointer import BEST, AVSCheckpointer
from transavs.data.repairs import counts_told
from transavs.modeling.transavs.criterion import AVSCriterion


def threshold_at(iteration: int, start: float, end: float, steps: int, period: int) -> float:
    """delta of TransAVS eq. (18): from ``start`` to ``end`` in ``steps`` steps, one every ``period`` iterations."""
    return start + (end - start) / steps * min(iteration // period, steps)


class RandomNumbersByIteration(HookBase):
    """Lets the random numbers of an iteration follow from the seed, the rank and the iteration alone.

    So a run that goes on from a checkpoint draws what it would have drawn, on every rank. The seed is kept in it.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self) -> None:
        sequence = np.random.SeedSequence((self.seed, comm.get_rank(), self.trainer.iter))
        seed_all_rng(int(sequence.generate_state(1)[0]))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seed = state_dict["seed"]


class ThresholdSchedule(HookBase):
    """Sets aqdl_threshold and aqml_threshold of a criterion before every iteration, TransAVS eq. (18)."""

    def __init__(
        self,
        criterion: AVSCriterion,
        *,
        aqdl_threshold: Sequence[float],
        aqml_threshold: Sequence[float],
        steps: int,
        period: int,
    ):
        """
        Args:
            criterion: whose ``aqdl_threshold`` and ``aqml_threshold`` are set.
            aqdl_threshold, aqml_threshold: first and last value of each.
            steps, period: see :func:`threshold_at`.
        """
        self._criterion = criterion
        self._ranges = {"aqdl_threshold": aqdl_threshold, "aqml_threshold": aqml_threshold}
        self._steps, self._period = steps, period

    def before_step(self) -> None:
        for name, (start, end) in self._ranges.items():
            delta = threshold_at(self.trainer.iter, start, end, self._steps, self._period)
            setattr(self._criterion, name, delta)
            self.trainer.storage.put_scalar(name, delta, smoothing_hint=False)


class PreciseStatistics(PreciseBN):
    """detectron2's precise statistics of batch norms, of the same clips each time.

    detectron2's own goes on with other clips, and which those are depends on when a run was stopped.
    """

    def __init__(self, period: int, model: nn.Module, make_loader: Callable[[], Any], num_iter: int):
        """
        Args:
            period, model, num_iter: as detectron2's.
            make_loader: gives a loader of training that stands at its beginning.
        """
        super().__init__(period, model, None, num_iter)
        self._make_loader = make_loader

    def update_stats(self) -> None:
        self._data_iter = iter(self._make_loader())
        super().update_stats()


class BestWeights(BestCheckpointer):
    """detectron2's, for runs that are stopped and go on: the best metric is kept in the checkpoints.

    It stands right after the hook that validates, on all ranks; only the main process writes.
    """

    def __init__(self, validation: EvalHook, *, period: int, checkpointer: AVSCheckpointer, metric: str):
        """
        Args:
            validation: puts ``metric`` into the event storage, of all ranks.
            period: of ``validation``, in iterations.
            checkpointer: of the weights alone.
            metric: the higher, the better.
        """
        super().__init__(period, checkpointer, metric, file_prefix=Path(BEST).stem)
        self._validation = validation
        self._path = Path(checkpointer.save_dir, BEST)

    @property
    def path(self) -> str:
        """File of the best weights; "" where there are none."""
        return str(self._path) if self.best_metric is not None else ""

    def before_train(self) -> None:
        """Validate the iteration that a run goes on from: its checkpoint was written before its validation."""
        if self.trainer.start_iter:
            self.trainer.iter = self.trainer.storage.iter = self.trainer.start_iter - 1
            for hook in (self._validation, self):
                hook.after_step()

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.best_metric, "iteration": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._path.exists():  # else the next ones are the best
            self.best_metric, self.best_iter = state_dict["metric"], state_dict["iteration"]


class RepairReport(HookBase):
    """Tells at the end how many clips, as often as they were drawn, had to be repaired; see transavs.data.repairs.

    Each rank tells of its own: the end is also where a rank that has failed comes by, alone.
    """

    def __init__(self, repairs: Mapping[str, int]):
        """
        Args:
            repairs: their number by kind, counted up meanwhile.
        """
        self._repairs = repairs

    def after_train(self) -> None:
        if told := counts_told(self._repairs):
            logging.getLogger(__name__).warning("of the clips that this process trained on, %s", told)


class FigureLogger(HookBase):
    """Hands the figure that the last evaluation drew to detectron2's event storage, and so to TensorBoard."""

    def __init__(self, path: Path, name: str = "evaluation"):
        """
        Args:
            path: of the figure.
            name: of the image in TensorBoard.
        """
        self._path, self._name = path, name
        self._shown = 0.0

    def before_train(self) -> None:
        self._shown = self._path.stat().st_mtime if self._path.exists() else 0.0

    def after_step(self) -> None:
        if not self._path.exists() or self._path.stat().st_mtime <= self._shown:
            return
        self._shown = self._path.stat().st_mtime
        with Image.open(self._path) as figure:
            pixels = np.asarray(figure.convert("RGB"))
        self.trainer.storage.put_image(self._name, pixels.transpose(2, 0, 1))

    def after_train(self) -> None:
        self.after_step()
