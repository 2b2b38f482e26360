"""Measuring models side by side: times taken in turn, memory in a process of its own."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from transavs.data.audio import load_log_mel
from transavs.data.avsbench import load_avsbench
from transavs.data.dataset_mapper import AVSDatasetMapper
from transavs.data.synthetic import write_synthetic
from transavs.engine.launch import tune_process
from transavs.engine.subjects import PlainResNet50, Subject, generated_clips, synchronize
from transavs.evaluation.avs_evaluator import AVSEvaluator

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
            synchronize()
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


REFERENCE = "torchvision ResNet-50"
LOADED_CLIPS = 8  # that loading is measured on


def build_subject(cfg: CfgNode | None, like: CfgNode, clips: int, labeled: int) -> Subject:
    """The model of ``cfg``, or for None plain ResNet-50 on the clips of ``like``."""
    if cfg is not None:
        return Subject.from_config(cfg, clips, labeled)
    return PlainResNet50.on(generated_clips(like, clips, labeled), like.MODEL.DEVICE)


def train_peak(cfg: CfgNode | None, like: CfgNode, clips: int, labeled: int) -> int:
    """Most bytes that a process, or its GPU, holds during two training iterations; see :func:`build_subject`."""
    tune_process()
    subject = build_subject(cfg, like, clips, labeled)
    for _ in range(2):  # the first one makes the optimizer's state
        subject.train()
    synchronize()
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _memory_status("VmHWM")


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of this module returns in a process that has done nothing before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def compare(configs: Mapping[str, CfgNode], clips: int, labeled: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Costs of models, and as multiples of plain ResNet-50 on the same frames in the same run.

    Args:
        configs: by name.
        clips: in a batch.
        labeled: frames per clip with ground truth in training.
        rounds: measurements of each step.

    Returns:
        by name, that of ResNet-50 first: ``parameters``, ``flops`` of inference, seconds ``inference`` and ``train``
        (medians; ``_least`` the least), ``inference_ratio`` and ``train_ratio`` of the medians, ``clips_per_second``,
        ``train_peak_mb`` (10^6 bytes), and for models of ours ``parts``: shares of inference and of the training
        iteration's forward pass.
    """
    like = next(iter(configs.values()))
    builds: dict[str, CfgNode | None] = {REFERENCE: None, **configs}
    subjects = {name: build_subject(cfg, like, clips, labeled) for name, cfg in builds.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"parameters": subject.parameters, "flops": subject.flops()} for name, subject in subjects.items()
    }
    for key, step in (("inference", "infer"), ("train", "train")):
        times = interleaved_times({name: getattr(subject, step) for name, subject in subjects.items()}, rounds)
        reference = statistics.median(times[REFERENCE])
        for name, values in times.items():
            median = statistics.median(values)
            found[name] |= {key: median, f"{key}_least": min(values), f"{key}_ratio": median / reference}
    for name, subject in subjects.items():
        found[name]["clips_per_second"] = clips / found[name]["inference"]
        if builds[name] is not None:
            found[name]["parts"] = {"inference": subject.parts(subject.infer), "train": subject.parts(subject.loss)}
    del subjects
    for name, cfg in builds.items():
        found[name]["train_peak_mb"] = in_fresh_process(train_peak, cfg, like, clips, labeled) / 1e6
    return found


def surroundings(cfg: CfgNode, rounds: int) -> dict[str, float]:
    """Seconds per clip of what surrounds the network, on one core: ``loading`` (``log_mel`` a part of it) and
    ``evaluation`` (metrics)."""
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(folder, ["s4"], {"train": LOADED_CLIPS}, size=cfg.INPUT.IMAGE_SIZE)
        records = load_avsbench(Path(folder) / "synthetic", "s4", "train")
        mapper = AVSDatasetMapper(cfg, is_train=True)
        audio = [(record["audio_file"], None, cfg.INPUT.NUM_FRAMES) for record in records]
        evaluator = AVSEvaluator(["background", "sounding"])
        test_clips = generated_clips(cfg, 1, cfg.INPUT.NUM_FRAMES)
        size = cfg.INPUT.IMAGE_SIZE
        scores = torch.rand(cfg.INPUT.NUM_FRAMES, 2, size, size).softmax(1)

        def evaluate() -> None:
            evaluator.reset()
            evaluator.process([test_clips[0] | {"video_id": "clip"}], [{"sem_seg": scores}])

        steps: dict[str, tuple[Step, int]] = {
            "loading": (lambda: [mapper(record) for record in records], len(records)),
            "log_mel": (lambda: [load_log_mel(*names) for names in audio], len(records)),
            "evaluation": (evaluate, 1),
        }
        times = interleaved_times({name: step for name, (step, _) in steps.items()}, rounds)
    return {name: statistics.median(times[name]) / count for name, (_, count) in steps.items()}


def table(found: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Rows under :data:`HEADER` of what :func:`compare` returns."""
    return [
        [
            name,
            values["parameters"] / 1e6,
            values["flops"] / 1e9,
            *(1e3 * values["inference"], 1e3 * values["inference_least"], values["inference_ratio"]),
            *(1e3 * values["train"], 1e3 * values["train_least"], values["train_ratio"]),
            values["train_peak_mb"],
        ]
        for name, values in found.items()
    ]


HEADER = (
    *("model", "M parameters", "GFLOP", "inference ms", "least", "x ResNet-50"),
    *("training ms", "least", "x ResNet-50", "training MB"),
)
DIGITS = ("", ".1f", ".0f", ".0f", ".0f", ".2f", ".0f", ".0f", ".2f", ".0f")


def parts_table(found: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Rows: model, step, and "part share %" of its forward pass, the largest first."""
    rows = []
    for name, values in found.items():
        for step, parts in values.get("parts", {}).items():
            whole = sum(parts.values())
            shares: Sequence[tuple[str, float]] = sorted(parts.items(), key=lambda part: -part[1])
            rows.append([name, step, ", ".join(f"{part} {100 * taken / whole:.0f}" for part, taken in shares)])
    return rows
