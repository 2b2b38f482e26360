"""Exported models against PyTorch, in turns on the same clips."""

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from transavs.analysis.timing import interleaved_times
from transavs.inference.backends import ClipFormat, InferenceBackend, PyTorchBackend, load_backend
from transavs.inference.export import export_model, random_clips
from transavs.modeling.optimize import optimize_for_inference

Found = dict[str, dict[str, float]]  # what compare_exported returns


def compare_exported(cfg: CfgNode, suffixes: Sequence[str], clips: int, rounds: int) -> Found:
    """Measure inference by a model and by the files that it is exported to, in one run.

    Args:
        cfg: of the model, with random weights.
        suffixes: of the files, see :func:`transavs.inference.export.export_model`.
        clips: in a batch.
        rounds: measurements of each.

    Returns:
        by "PyTorch" and suffix: median ``seconds``, ``ratio`` to PyTorch's, ``difference``, the largest one of
        probabilities, and ``bytes`` of the file.
    """
    model = optimize_for_inference(build_model(cfg))
    class_names = [str(number) for number in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    eager = PyTorchBackend(model, ClipFormat.from_config(cfg, class_names, model))
    backends: dict[str, InferenceBackend] = {"PyTorch": eager}
    found: Found = {"PyTorch": {"difference": 0.0, "bytes": 0.0}}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in suffixes:
            path = Path(folder) / f"model{suffix}"
            found[suffix] = {"difference": export_model(eager, path), "bytes": path.stat().st_size}
            backends[suffix] = load_backend(path, cfg.MODEL.DEVICE, trust_program=True)
        inputs = random_clips(eager.format, clips)
        steps = {name: partial(backend, *inputs) for name, backend in backends.items()}
        times = interleaved_times(steps, rounds, torch.device(cfg.MODEL.DEVICE))
    reference = statistics.median(times["PyTorch"])
    for name, values in times.items():
        median = statistics.median(values)
        found[name] |= {"seconds": median, "ratio": median / reference}
    return found


def exported_table(found: Found) -> str:
    """Write a Markdown table of what :func:`compare_exported` has found."""
    rows = [
        (name, 1e3 * each["seconds"], each["ratio"], f"{each['difference']:.1g}", 1e-6 * each["bytes"])
        for name, each in found.items()
    ]
    header = ("inference by", "ms", "x PyTorch", "largest difference", "file MB")
    return tabulate(rows, header, tablefmt="pipe", floatfmt=("", ".0f", ".2f", "", ".0f"))
