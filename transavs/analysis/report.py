"""Throughput of models on one card, as a Markdown table that grows while it is measured."""

import gc
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from transavs.analysis.benchmark import STEPS, BenchmarkModel, Workload
from transavs.analysis.timing import interleaved_times, peak_memory
from transavs.utils.errors import one_line

FAILED = "failed"  # begins what a row says that could not be run
PRECISIONS = (torch.bfloat16, torch.float32)
HEADER = ("model", "step", "precision", "compiled", "clips", "images/s", "ms", "% of peak", "peak MB")
# Most tera floating point operations a second of a card, by the maker's tables, for dense matrices: in bfloat16 with
# sums in float32, and in TF32, in which PyTorch's convolutions compute on float32 by default.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": (312.0, 156.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0),
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0),
    "NVIDIA A100 80GB PCIe": (312.0, 156.0),
    "NVIDIA GeForce RTX 3090": (71.2, 35.6),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA H100 80GB HBM3": (989.4, 494.7),
    "NVIDIA H100 PCIe": (756.5, 378.0),
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA L4": (121.0, 60.5),
    "NVIDIA L40S": (362.0, 183.0),
}


def write_report(
    path: Path, configs: Mapping[str, CfgNode], workload: Workload, clips: Sequence[int], rounds: int, command: str
) -> None:
    """Measure models one by one, with a progress bar, and write each row as soon as it is measured.

    A row that does not fit into memory, or cannot be run for another reason, says so, and the next one follows. Rows of
    a report that was broken off stay, and the others follow, where the same command is given again.

    Args:
        path: of the Markdown file.
        configs: by name, of one size of clips and one device.
        workload: of each row but for clips and precision; with a compiler, rows without it come first.
        clips: numbers of clips in a batch.
        rounds: measurements of each step.
        command: that the report was asked for by.
    """
    input_format, device = next((cfg.INPUT, torch.device(cfg.MODEL.DEVICE)) for cfg in configs.values())
    name = device_name(device)
    peaks = dict(zip(PRECISIONS, PEAKS[name], strict=True)) if name in PEAKS else {}
    measured = (
        f"`{command}`. Clips of {input_format.NUM_FRAMES} frames of {input_format.IMAGE_SIZE} pixels, "
        f"{workload.labeled} of them labeled in training, random weights; medians of {rounds} steps."
    )
    header = _header(name, peaks, measured)
    done = _rows_done(path, header)
    path.write_text("".join(f"{line}\n" for line in (*header, *done.values())), encoding="utf-8")

    @cache
    def flops(model: str, step: str) -> int:
        """Count the operations of one clip; a batch has as many times so many."""
        return BenchmarkModel(configs[model], replace(workload, clips=1, compiler="")).flops(step)

    compilers = dict.fromkeys(("", workload.compiler))
    rows = list(product(compilers, configs, STEPS, PRECISIONS, clips))
    with path.open("a", encoding="utf-8") as file, tqdm(rows, unit=" rows") as bar:
        for compiler, model, step, precision, number in bar:
            begin = (model, step, str(precision).removeprefix("torch."), compiler or "no", str(number))
            if begin in done:
                continue
            bar.set_postfix_str(", ".join(begin))
            row = replace(workload, clips=number, precision=precision, compiler=compiler)
            found = _measured(partial(_seconds_and_bytes, configs[model], row, step, rounds))
            cells: Sequence[str]
            if isinstance(found, str):
                cells = (found, "", "", "")
            else:
                seconds, memory = found
                images = number * configs[model].INPUT.NUM_FRAMES / seconds
                share = ""
                if precision in peaks:
                    share = f"{100 * flops(model, step) * number / seconds / (1e12 * peaks[precision]):.1f}"
                cells = (f"{images:.1f}", f"{1e3 * seconds:.1f}", share, f"{memory / 1e6:.0f}")
            file.write(_row((*begin, *cells)) + "\n")
            file.flush()


def _header(name: str, peaks: Mapping[torch.dtype, float], measured: str) -> list[str]:
    """Lines before the rows: the device, what was measured, what a share of the peak is, and the table's head."""
    note = f"The peak of this device ({name}) is not known, so there is no share of it."
    if peaks:
        note = (
            "Share of the peak: counted operations, those of one clip times the clips, by time and by the card's "
            f"{peaks[torch.bfloat16]:.0f} TFLOP/s in bfloat16 and {peaks[torch.float32]:.0f} in TF32."
        )
    columns = _row("---:" if column in HEADER[4:] else ":---" for column in HEADER)
    return [f"{name}, torch {torch.__version__}: {measured}", "", note, "", _row(HEADER), columns]


def _rows_done(path: Path, header: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Rows of an earlier run of the same report, by their first cells; those that failed are left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if lines[: len(header)] != header:
        return {}
    rows = [(line, [cell.strip() for cell in line.strip("|").split("|")]) for line in lines[len(header) :]]
    whole = [(line, cells) for line, cells in rows if len(cells) == len(HEADER)]
    return {tuple(cells[:5]): line for line, cells in whole if not cells[5].startswith(FAILED)}


def _seconds_and_bytes(cfg: CfgNode, workload: Workload, step: str, rounds: int) -> tuple[float, int]:
    """Median seconds of a step, and the most memory that it takes."""
    subject = BenchmarkModel(cfg, workload)
    run = subject.prepare(step)
    times = interleaved_times({step: run}, rounds, subject.device)
    return statistics.median(times[step]), peak_memory(run, subject.device)


def _measured(measure: Callable[[], tuple[float, int]]) -> tuple[float, int] | str:
    """Return what ``measure`` does, or why there is nothing; leave no memory taken."""
    try:
        return measure()
    except RuntimeError as error:  # also of compilers
        return "out of memory" if isinstance(error, torch.OutOfMemoryError) else f"{FAILED}: {one_line(error)}"
    finally:
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """Name a card as its driver does, and a CPU by its kind and the threads that are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}, {torch.get_num_threads()} threads"


def _row(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
