"""Time of steps taken in turn, memory of a step, and the share of each part of a model in one."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from transavs.modeling.transavs import meta_arch as transavs_meta_arch
from transavs.modeling.transavs.query_decoder import AudioQueries

Step = Callable[[], object]
CPU = torch.device("cpu")
WARM_UP = {"cpu": 1, "cuda": 5}  # rounds; a GPU's clocks, caches and choice of kernels take some to settle

# Child of a model -> its part and the method that does its work; other children are parts of their own names.
PARTS = {
    "backbone": ("encoder", "forward"),
    "audio_backbone": ("audio", "forward"),
    "pixel_decoder": ("pixel decoder", "forward_features"),
    "query_decoder": ("query decoder", "forward"),
    "avm": ("criterion", "forward"),
}
REST = "rest"


def _now(device: torch.device) -> float:
    """Read the clock, in seconds, once a GPU has done all that is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved_times(steps: Mapping[str, Step], rounds: int, device: torch.device = CPU) -> dict[str, list[float]]:
    """Measure the seconds of each step, once per round after some rounds that warm up.

    The steps take turns, so that other work on the machine meets all of them alike.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = WARM_UP[device.type]
    for _ in range(warm_up + rounds):
        for name, step in steps.items():
            begin = _now(device)
            step()
            taken[name].append(_now(device) - begin)
    return {name: values[warm_up:] for name, values in taken.items()}


def peak_memory(step: Step, device: torch.device = CPU) -> int:
    """Measure the most bytes that this process holds during a step, on Linux; on a GPU, that its tensors take there.

    Memory that the allocator keeps from earlier steps counts as well: measure in a fresh process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def part_shares(model: nn.Module, step: Step, rounds: int, device: torch.device = CPU) -> dict[str, float]:
    """Measure the share of each part of a model in a step, by the profiler, after one step that warms up.

    Args:
        model: that the step runs, not compiled.
        step: a forward pass.
        rounds: steps that are measured together.
        device: of the model; on a GPU the time of its kernels counts.

    Returns:
        by part, adding up to 1, with "rest" for all that is in none. What runs within another part counts for the inner
        one alone.
    """
    step()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    parts = {REST}
    with ExitStack() as patches:
        for part, owner, name in _part_functions(model):
            parts.add(part)
            patches.enter_context(patch.object(owner, name, record_function(part)(getattr(owner, name))))
        with profile(activities=activities) as profiler, record_function(REST):
            for _ in range(rounds):
                step()
    taken: Counter[str] = Counter()
    for event in profiler.events() or ():
        owner = event if event.device_type == DeviceType.CPU else None  # kernels are counted where they are launched
        while owner is not None and owner.name not in parts:
            owner = owner.cpu_parent
        if owner is not None:
            taken[owner.name] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return {part: time_taken / taken.total() for part, time_taken in taken.items()}


def _part_functions(model: nn.Module) -> Iterator[tuple[str, Any, str]]:
    """Part, owner and name of each function whose time is a part's."""
    yield "post-processing", transavs_meta_arch, "semantic_inference"
    for name in ("resize", "to_probabilities"):
        if hasattr(model, name):  # a registered meta-architecture need not be an AVSModel
            yield "post-processing", model, name
    for name, child in model.named_children():
        part, method = PARTS.get(name, (name, "forward"))
        for module in child.children() if isinstance(child, nn.ModuleList | nn.ModuleDict) else (child,):
            yield part, module, method
        if isinstance(child, AudioQueries):
            yield "masks", child, "predict"
