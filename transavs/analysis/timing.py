"""Time and memory of a step, whatever the step is: times taken in turn, memory in a process of its own."""

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

Step = Callable[[], object]
Device = str | torch.device


def seconds(step: Step, device: Device = "cpu") -> float:
    """Seconds that a step takes: by the clock, or on a GPU between two CUDA events."""
    if torch.device(device).type != "cuda":
        begin = time.perf_counter()
        step()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    synchronize(device)  # what is queued from before is not this step's
    start.record(stream)
    step()
    end.record(stream)
    synchronize(device)
    return start.elapsed_time(end) / 1e3


def synchronize(device: Device) -> None:
    """Wait for a GPU; on a CPU there is nothing to wait for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved_times(
    steps: Mapping[str, Step], rounds: int, warm_up: int = 1, device: Device = "cpu"
) -> dict[str, list[float]]:
    """:func:`seconds` of each step, one value per round.

    The steps take turns, so that other work on the machine meets all of them alike.

    Args:
        steps: by name.
        rounds: that are kept.
        warm_up: rounds before, which are not.
        device: that the steps run on.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(warm_up + rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step, device))
    return {name: values[warm_up:] for name, values in taken.items()}


def added_peak_memory(step: Step) -> int:
    """Bytes that a step adds to this process at its peak, on Linux and without a GPU.

    Memory that earlier steps have used and that the allocator keeps is not seen: measure in a fresh process.
    """
    before = _memory_status("VmRSS")
    return peak_memory(step) - before


def peak_memory(step: Step, device: Device = "cpu") -> int:
    """Most bytes that this process holds during a step, on Linux; with a GPU, most that tensors take there."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    return _memory_status("VmHWM")


def _memory_status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What a module's function returns in a process that has done nothing but import that module."""
    context = multiprocessing.get_context("forkserver")  # imports once, and every process starts from there
    context.set_forkserver_preload([function.__module__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


# Methods of a model, and of its children, by the part of its work that they do.
PARTS = {
    "encoder": ("backbone.forward",),
    "audio": ("audio_backbone.forward",),
    "pixel decoder": ("pixel_decoder.forward_features",),
    "query decoder": ("query_decoder.forward",),
    "masks": ("query_decoder.predict",),
    "criterion": ("criterion.forward", "avm.forward"),
    "post-processing": ("full_scores", "to_probabilities", "resize"),
}


@contextmanager
def timed_parts(model: nn.Module, device: Device = "cpu") -> Iterator[dict[str, float]]:
    """Within it, the seconds that ``model`` spends in each of its parts add up in the dict.

    A part is a row of :data:`PARTS`, or a child that no row names. What runs within another part counts for the inner
    one alone, so the parts never add up to more than the whole.
    """
    taken: dict[str, float] = defaultdict(float)
    inner = [0.0]  # seconds of the parts within each part that runs now, the innermost last

    def wrap(part: str, owner: nn.Module, method: str) -> None:
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            synchronize(device)
            start = time.perf_counter()
            result = original(*args, **kwargs)
            synchronize(device)
            whole = time.perf_counter() - start
            taken[part] += whole - inner.pop()
            inner[-1] += whole
            return result

        setattr(owner, method, timed)

    methods = list(part_methods(model))
    before = [vars(owner).get(method) for _, owner, method in methods]  # as activation checkpointing sets it
    for part, owner, method in methods:
        wrap(part, owner, method)
    try:
        yield taken
    finally:
        for (_, owner, method), own in zip(methods, before, strict=True):
            delattr(owner, method)  # the class's is seen again
            if own is not None:
                setattr(owner, method, own)


def part_methods(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Part, owner and name of every method whose time is a part's; what the model lacks is left out."""
    children = dict(model.named_children())
    for part, paths in PARTS.items():
        for path in paths:
            child, _, method = path.rpartition(".")
            owner = children.pop(child, getattr(model, child, None)) if child else model
            if isinstance(owner, nn.Module) and hasattr(owner, method):
                yield part, owner, method
    for name, owner in children.items():
        for module in owner.children() if isinstance(owner, nn.ModuleList | nn.ModuleDict) else (owner,):
            yield name, module, "forward"
