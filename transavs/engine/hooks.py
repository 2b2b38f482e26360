"""detectron2 hooks of transavs."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
from detectron2.engine import BestCheckpointer, EvalHook, HookBase
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image
from torch import nn

from transavs.checkpoint.checkpointer import BEST, AVSCheckpointer
from transavs.data.repairs import counts_told
from transavs.engine.train_loop import StopRequest
from transavs.modeling.transavs.criterion import AVSCriterion

REPEATED_SECONDS = 5.0  # for which further signals are taken for the first one
SIGNALED = 128  # added to a signal's number in the exit status of the process that it has ended


def threshold_at(iteration: int, start: float, end: float, steps: int, period: float) -> float:
    """Compute delta of TransAVS eq. (18): ``start`` to ``end`` in ``steps`` steps, one every ``period`` iterations."""
    return start + (end - start) / steps * min(iteration // period, steps)


class RandomNumbersByIteration(HookBase):
    """Lets the random numbers of an iteration follow from the seed, the rank and the iteration alone.

    So a run that goes on from a checkpoint draws what it would have drawn, on every rank. The seed is kept in it.
    """

    def __init__(self, seed: int, is_chosen: bool):
        """
        Args:
            seed: of the run, 0 or more.
            is_chosen: whether the config sets it; else it is that of the checkpoint that the run goes on from.
        """
        self.seed, self._is_chosen = seed, is_chosen

    def before_step(self) -> None:
        sequence = np.random.SeedSequence((self.seed, comm.get_rank(), self.trainer.iter))
        seed_all_rng(int(sequence.generate_state(1)[0]))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        if not self._is_chosen:
            self.seed = state_dict["seed"]


class StopOnSignal(HookBase):
    """Ends training on Ctrl-C (SIGINT) or SIGTERM, which SLURM sends, after the iteration that runs, with a checkpoint.

    All ranks end after the same iteration: the training step shares the request, see
    :class:`transavs.engine.train_loop.GuardedTrainer`. An evaluation of a single process ends at once and is repeated
    by ``--resume``; with several ranks it runs to its end first.
    """

    def __init__(self, checkpointer: AVSCheckpointer, request: StopRequest):
        """
        Args:
            checkpointer: writes the state of the run.
            request: what a signal sets, and the training step shares with all ranks.
        """
        self._checkpointer, self._stop_request = checkpointer, request
        self._first_request = math.inf  # time of the first signal
        self._signal: int = signal.SIGTERM
        self._evaluates = False
        self._stopped_after: set[int] = set()  # iterations; an evaluation at the end may be broken off twice

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle both signals within the context; those of other threads than the main one cannot."""
        signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        previous = {number: signal.signal(number, self._request) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() > self._first_request + REPEATED_SECONDS:
            raise KeyboardInterrupt
        # A terminal signals all processes, and a launcher passes the signal on to those that have had it already.
        if not self._stop_request.requested:
            self._stop_request.requested = True
            self._first_request, self._signal = time.monotonic(), number
            if self._evaluates and comm.get_world_size() == 1:
                raise StoppedEvaluationError

    @contextmanager
    def during_evaluation(self) -> Iterator[None]:
        """Let a signal break off what is evaluated within the context."""
        self._evaluates = True
        try:
            if self._stop_request.requested and comm.get_world_size() == 1:
                raise StoppedEvaluationError
            yield
        except StoppedEvaluationError:
            self.stop()
        finally:
            self._evaluates = False

    def after_step(self) -> None:
        if self._stop_request.agreed and self.trainer.iter + 1 < self.trainer.max_iter:
            self.stop()

    def stop(self) -> NoReturn:
        """Write a checkpoint and end the process, with the exit status of a process that the signal has ended."""
        last = min(self.trainer.iter, self.trainer.max_iter - 1)
        if last not in self._stopped_after:
            self._stopped_after.add(last)
            if last + 1 < self.trainer.max_iter:  # else it is model_final
                self._checkpointer.save(f"model_{last:07d}", iteration=last)
            logging.getLogger(__name__).warning(
                "stopped by %s after iteration %d: call the same command with --resume to go on",
                *(signal.Signals(self._signal).name, last),
            )
            comm.synchronize()  # a launcher ends all processes once one has ended, and one of them writes
        raise SystemExit(SIGNALED + self._signal)


class StoppedEvaluationError(BaseException):
    """An evaluation is broken off by a signal; no handler of errors may take it for one."""


class ThresholdSchedule(HookBase):
    """Sets aqdl_threshold and aqml_threshold of a criterion before every iteration, TransAVS eq. (18)."""

    def __init__(
        self,
        criterion: AVSCriterion,
        *,
        aqdl_threshold: Sequence[float],
        aqml_threshold: Sequence[float],
        steps: int,
        period: float,
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

    def __init__(
        self, validation: EvalHook, *, period: int, checkpointer: AVSCheckpointer, metric: str, measured_on: str
    ):
        """
        Args:
            validation: puts ``metric`` into the event storage, of all ranks.
            period: of ``validation``, in iterations.
            checkpointer: of the weights alone.
            metric: the higher, the better.
            measured_on: data set and settings of ``metric``; a best value of others does not count after a resume.
        """
        super().__init__(period, checkpointer, metric, file_prefix=Path(BEST).stem)
        self._validation, self._measured_on = validation, measured_on
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
        return {"metric": self.best_metric, "iteration": self.best_iter, "measured_on": self._measured_on}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        is_comparable = state_dict.get("measured_on", self._measured_on) == self._measured_on
        if is_comparable and self._path.exists():  # else the next ones are the best
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
