"""Measuring models side by side: times taken in turn, memory in a process of its own."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from transavs.engine.solver import build_optimizer

Step = Callable[[], object]


def interleaved_times(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, one value per round.

    The steps take turns, so that other work on the machine meets all of them alike. One round before warms up. GPUs are
    waited for.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in taken.items()}


def added_peak_memory(step: Step) -> int:
    """Bytes that a step adds to this process at its peak, on Linux and without a GPU.

    Memory that earlier steps have used and that the allocator keeps is not seen: measure in a fresh process.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory_status("VmRSS")
    step()
    return _memory_status("VmHWM") - before


def _memory_status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def random_clips(cfg: CfgNode, number: int, labeled: int) -> list[dict[str, Any]]:
    """Clips of noise as the mapper would make them, with the first ``labeled`` frames labelled."""
    frames, size = cfg.INPUT.NUM_FRAMES, cfg.INPUT.IMAGE_SIZE
    masks = torch.zeros(labeled, size, size, dtype=torch.int64)
    masks[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    return [
        {
            "images": torch.randint(0, 256, (frames, 3, size, size), dtype=torch.uint8),
            "log_mel": torch.randn(frames, 1, 96, 64),
            "labeled_frames": torch.arange(labeled),
            "masks": masks,
            "objects": masks,
            "height": size,
            "width": size,
        }
        for _ in range(number)
    ]


class Subject:
    """A config's model with the two steps that are measured."""

    def __init__(self, cfg: CfgNode, labeled: int):
        """``labeled``: frames per clip with ground truth in training."""
        self.model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, self.model)
        self.batch = random_clips(cfg, cfg.SOLVER.IMS_PER_BATCH, labeled)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @torch.no_grad()
    def infer(self) -> None:
        """One clip."""
        self.model.eval()(self.batch[:1])

    def train(self) -> None:
        """One iteration on SOLVER.IMS_PER_BATCH clips."""
        self.model.train()
        with EventStorage():
            losses = self.model(self.batch)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()


def compare(subjects: Mapping[str, Subject], rounds: int) -> list[list[Any]]:
    """Rows: name, million parameters, then for inference and training the median and the least milliseconds, and the
    median as a multiple of the first subject's."""
    rows = [[name, subject.parameters / 1e6] for name, subject in subjects.items()]
    for steps in ({n: s.infer for n, s in subjects.items()}, {n: s.train for n, s in subjects.items()}):
        times = interleaved_times(steps, rounds)
        first = statistics.median(next(iter(times.values())))
        for row, values in zip(rows, times.values(), strict=True):
            median = statistics.median(values)
            row += [median * 1e3, min(values) * 1e3, median / first]
    return rows
