"""Models side by side: their costs, as multiples of plain ResNet-50 on the same frames in the same run."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from transavs.analysis.timing import in_fresh_process, interleaved_times, peak_memory
from transavs.analysis.workload import BenchmarkModel, PlainResNet50, Workload
from transavs.engine.launch import flush_subnormal_numbers

REFERENCE = "torchvision ResNet-50"
STEPS = {"inference": "infer", "train": "train"}  # methods of a BenchmarkModel
FORWARD_PASSES = {"inference": "infer", "train": "loss"}  # likewise
WARM_UP = {"cpu": 1, "cuda": 5}  # rounds; a GPU's clocks, caches and choice of kernels take some to settle


def build_model_under_test(cfg: CfgNode | None, like: CfgNode, workload: Workload) -> BenchmarkModel:
    """The model of ``cfg``, or for None plain ResNet-50 on the clips of ``like``."""
    if cfg is None:
        return PlainResNet50.from_config(like, workload)
    return BenchmarkModel.from_config(cfg, workload)


def step_peak(cfg: CfgNode | None, like: CfgNode, workload: Workload, step: str) -> int:
    """Most bytes that a process, or its GPU, holds during a step of :data:`STEPS`; see :func:`build_model_under_test`.

    A step before it makes the optimizer's state, and compiles where that is asked for.
    """
    flush_subnormal_numbers()
    subject = build_model_under_test(cfg, like, workload)
    if step == "inference":
        subject.deploy()
    if workload.compiler:
        subject.compile(workload.compiler)
    run = getattr(subject, STEPS[step])
    run()
    return peak_memory(run, subject.device)


def compare(configs: Mapping[str, CfgNode], workload: Workload, rounds: int) -> dict[str, dict[str, Any]]:
    """Costs of models, and as multiples of plain ResNet-50 on the same frames in the same run.

    Args:
        configs: by name, of one size of clips and one device.
        workload: the same for all.
        rounds: measurements of each step.

    Returns:
        by name, that of ResNet-50 first: ``parameters``, ``flops`` of inference, seconds ``inference`` and ``train`` of
        a batch (medians; ``_least`` the least), ``inference_ratio`` and ``train_ratio`` of the medians,
        ``clips_per_second`` of inference, ``inference_peak_mb`` and ``train_peak_mb`` (10^6 bytes, of :func:`step_peak`
        in a fresh process), and for models of ours ``parts``: seconds of each part in inference and in the training
        iteration's forward pass, never compiled.
    """
    like = next(iter(configs.values()))
    builds: dict[str, CfgNode | None] = {REFERENCE: None, **configs}
    subjects = {name: build_model_under_test(cfg, like, workload) for name, cfg in builds.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"parameters": subject.parameters, "flops": subject.flops(), "parts": {}}
        for name, subject in subjects.items()
    }
    for step in ("train", "inference"):  # what is made for inference cannot be trained
        if step == "inference":
            for subject in subjects.values():
                subject.deploy()
        _measure_step(subjects, step, workload, rounds, found)
    del subjects
    for name, cfg in builds.items():
        found[name]["clips_per_second"] = workload.clips / found[name]["inference"]
        for step in STEPS:
            found[name][f"{step}_peak_mb"] = in_fresh_process(step_peak, cfg, like, workload, step) / 1e6
    return found


def _measure_step(
    subjects: Mapping[str, BenchmarkModel], step: str, workload: Workload, rounds: int, found: dict[str, dict[str, Any]]
) -> None:
    """Add a step's median and least seconds, the multiple of ResNet-50's median and, of the others, the parts."""
    device = subjects[REFERENCE].device
    for name, subject in subjects.items():
        if name != REFERENCE:
            found[name]["parts"][step] = subject.parts(getattr(subject, FORWARD_PASSES[step]), rounds)
    if workload.compiler:
        torch.compiler.reset()  # what was compiled for another size would make this one's shapes variable
        for subject in subjects.values():
            subject.compile(workload.compiler)
    steps = {name: getattr(subject, STEPS[step]) for name, subject in subjects.items()}
    times = interleaved_times(steps, rounds, WARM_UP[device.type], device)
    reference = statistics.median(times[REFERENCE])
    for name, values in times.items():
        median = statistics.median(values)
        found[name] |= {step: median, f"{step}_least": min(values), f"{step}_ratio": median / reference}


HEADER = (
    *("model", "M parameters", "GFLOP", "inference ms", "least", "x ResNet-50", "clips/s", "inference MB"),
    *("training ms", "least", "x ResNet-50", "training MB"),
)
DIGITS = ("", ".1f", ".0f", ".0f", ".0f", ".2f", ".2f", ".0f", ".0f", ".0f", ".2f", ".0f")


def table(found: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Rows under :data:`HEADER` of what :func:`compare` returns."""
    return [
        [
            name,
            values["parameters"] / 1e6,
            values["flops"] / 1e9,
            *(1e3 * values["inference"], 1e3 * values["inference_least"], values["inference_ratio"]),
            *(values["clips_per_second"], values["inference_peak_mb"]),
            *(1e3 * values["train"], 1e3 * values["train_least"], values["train_ratio"]),
            values["train_peak_mb"],
        ]
        for name, values in found.items()
    ]


def parts_table(found: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Rows: model, step, and "part share %" of its forward pass, the largest first."""
    rows = []
    for name, values in found.items():
        for step, parts in values.get("parts", {}).items():
            whole = sum(parts.values())
            shares: Sequence[tuple[str, float]] = sorted(parts.items(), key=lambda part: -part[1])
            rows.append([name, step, ", ".join(f"{part} {100 * taken / whole:.0f}" for part, taken in shares)])
    return rows


# Panels of a growth figure: title, key of what compare returns, and the factor to the title's unit.
GROWTH_PANELS = (
    ("inference, ms", "inference", 1e3),
    ("training, ms", "train", 1e3),
    ("inference, peak MB", "inference_peak_mb", 1),
    ("training, peak MB", "train_peak_mb", 1),
)


def growth_table(found: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> list[list[Any]]:
    """Rows of :func:`table`, each behind the value that it was measured at.

    Args:
        found: what :func:`compare` returned, by value.
    """
    return [[value, *row] for value, models in found.items() for row in table(models)]


def growth_panels(found: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[int, float]]]:
    """The same as curves for :func:`transavs.visualization.charts.draw_growth`: by panel, model and value."""
    names = next(iter(found.values()))
    return {
        title: {name: {value: factor * models[name][key] for value, models in found.items()} for name in names}
        for title, key, factor in GROWTH_PANELS
    }
