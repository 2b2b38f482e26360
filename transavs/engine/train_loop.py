"""The training step: detectron2's, which looks at what came out before the weights learn from it."""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn

from transavs.data.audio import VGGishLogMel
from transavs.data.front_ends import AudioFrontEnd
from transavs.utils.errors import AVSInputError
from transavs.utils.precision import autocast

Batch = Sequence[Mapping[str, Any]]


@dataclass
class StopRequest:
    """Request to end a run early.

    Attributes:
        requested: whether this process has been asked to.
        agreed: whether any rank had been asked to when the last iteration was read; the same on all ranks.
    """

    requested: bool = False
    agreed: bool = False


class GuardedTrainer(SimpleTrainer):
    """detectron2's SimpleTrainer and AMPTrainer in one, which does not learn from a batch that is at fault.

    That is one whose losses or gradients are not finite, or in which things sound and no clip has any sound. The clips
    are named, and the run stops or goes on with the next batch: on all ranks alike, with weights, running statistics
    and the optimizer as they were.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype = torch.float32,
        on_non_finite: str = "stop",
        on_silent_batch: str = "train",
        max_skipped: int = 10,
        accumulate: int = 1,
        repairs: Counter[str] | None = None,
        front_end: AudioFrontEnd | None = None,
        stop: StopRequest | None = None,
    ):
        """
        Args:
            model, data_loader, optimizer: as detectron2's.
            precision: that the network computes in, under autocast. Gradients in float16 are scaled, and left to the
                scaler, which skips those that overflow.
            on_non_finite: "stop" or "skip".
            on_silent_batch: "stop", "skip" or "train", which warns.
            max_skipped: batches in a row; at one more the run stops.
            accumulate: batches whose mean gradient makes one step; they are skipped together, as one batch.
            repairs: counts up what was repaired in this rank's clips, by kind; see transavs.data.repairs.
            front_end: that made the clips' examples; None for VGGish's.
            stop: which all ranks agree on in each iteration; None for a run that nothing ends early.
        """
        super().__init__(model, data_loader, optimizer)
        self._device_type = next(model.parameters()).device.type
        self._precision = precision
        # Switched off, it hands everything on as it is: bfloat16 has float32's range.
        self.grad_scaler = torch.amp.GradScaler(self._device_type, enabled=precision == torch.float16)
        self._on_non_finite, self._on_silent_batch = on_non_finite, on_silent_batch
        self._max_skipped, self._skipped_in_a_row = max_skipped, 0
        self._accumulate = accumulate
        self._repairs = Counter[str]() if repairs is None else repairs
        self._front_end = front_end or VGGishLogMel()
        self._stop = stop or StopRequest()

    def run_step(self) -> None:
        """One iteration: a step of the optimizer.

        Raises:
            AVSInputError: a batch at fault is to stop the run, or too many in a row were skipped.
        """
        batches: list[Batch] = []
        found: list[dict[str, Tensor]] = []
        data_time = 0.0
        buffers = self._kept_buffers()
        self.optimizer.zero_grad()
        for number in range(1, self._accumulate + 1):
            start = time.perf_counter()
            batches.append(next(self._data_loader_iter))
            data_time += time.perf_counter() - start
            self._repairs.update(kind for clip in batches[-1] for kind in clip.get("repairs", ()))
            with self._reduction(number == self._accumulate):
                found.append(self._add_gradient(batches[-1]))
        losses, is_broken, some_heard = self._read(batches, found)
        if self._is_skipped(batches, losses, is_broken, some_heard):
            self.optimizer.zero_grad()
            for buffer, kept in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(kept)
            return
        mean = {name: torch.tensor(sum(each[name] for each in losses) / len(losses)) for name in losses[0]}
        self._write_metrics(mean, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _reduction(self, is_last: bool) -> AbstractContextManager[None]:
        """Context of a batch, in which ranks average what they have added up so far if it is the last of its step."""
        is_shared = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync() if is_shared and not is_last else nullcontext()

    def _add_gradient(self, batch: Batch) -> dict[str, Tensor]:
        """Add a batch's share to the gradient; returns its losses."""
        with autocast(self._precision, self._device_type):
            losses = self.model(batch)
        self.grad_scaler.scale(sum(losses.values()) / self._accumulate).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _kept_buffers(self) -> list[Tensor]:
        """Running statistics as they are before the batch; nothing where no batch is skipped."""
        if "skip" not in (self._on_non_finite, self._on_silent_batch):
            return []
        return [buffer.clone() for buffer in self.model.buffers()]

    def _read(
        self, batches: Sequence[Batch], found: Sequence[Mapping[str, Tensor]]
    ) -> tuple[list[dict[str, float]], bool, bool]:
        """Read what a step has given: the one place in it where the host waits for a GPU.

        Returns:
            this rank's losses of each batch; whether on any rank one of them, or the gradient, is not finite; and
            whether on any rank a clip has sound, or nothing sounds.
        """
        step = [clip for batch in batches for clip in batch]
        is_silent = self._front_end.is_silent
        silent = all(is_silent(clip["log_mel"]) for clip in step) and any(clip["masks"].any() for clip in step)
        values = torch.stack([loss.float() for each in found for loss in each.values()])
        if not self.grad_scaler.is_enabled():
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            values = torch.cat([values, nn.utils.get_total_norm(gradients)[None]])
        known = values.new_tensor([not silent, self._stop.requested])
        flags = torch.cat([1 - values.isfinite().all()[None].float(), known])
        if comm.get_world_size() > 1:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        *numbers, is_broken, some_heard, stops = torch.cat([values, flags]).tolist()
        self._stop.agreed = bool(stops)
        each = iter(numbers)
        return [{name: next(each) for name in losses} for losses in found], bool(is_broken), bool(some_heard)

    def _is_skipped(
        self, batches: Sequence[Batch], losses: Sequence[Mapping[str, float]], is_broken: bool, some_heard: bool
    ) -> bool:
        """Decide by :meth:`_read` whether a step is skipped; what is wrong with its batches is told or raised."""
        clips = [[str(clip["video_id"]) for clip in batch] for batch in batches]
        if is_broken:
            # A loss makes the gradient of all ranks like itself: where one is broken, its own batch is to blame.
            broken = [[name for name, value in each.items() if not math.isfinite(value)] for each in losses]
            found = [pair for rank in comm.all_gather(list(zip(clips, broken, strict=True))) for pair in rank]
            lost = sorted({name for _, some in found for name in some})
            blamed = [clip for some, theirs in found if theirs or not lost for clip in some]
            fault = f"not finite: {', '.join(lost) or 'the gradient'}"
            return self._report(fault, "look at them, or lower SOLVER.BASE_LR", self._on_non_finite, blamed)
        if not some_heard:
            blamed = [clip for rank in comm.all_gather(clips) for batch in rank for clip in batch]
            return self._report("no sound, and something sounds", "extract it again", self._on_silent_batch, blamed)
        self._skipped_in_a_row = 0
        return False

    def _report(self, fault: str, hint: str, word: str, clips: list[str]) -> bool:
        """Warn of a fault, or raise it where ``word`` says so; returns whether the batch is skipped."""
        if word == "skip":
            self._skipped_in_a_row += 1
        told = f"iteration {self.iter}, clips {', '.join(clips)}: {fault}"
        if word == "stop" or self._skipped_in_a_row > self._max_skipped:
            after = f" after {self._max_skipped} skipped batches" if word == "skip" else ""
            raise AVSInputError(f"{told}{after}: {hint}, then --resume")
        logging.getLogger(__name__).warning("%s: %s", told, "skipped" if word == "skip" else "trained on all the same")
        return word == "skip"

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if state_dict["grad_scaler"]:  # empty where the run was not in float16
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
