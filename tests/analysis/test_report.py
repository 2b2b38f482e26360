"""Reports of throughput: what their rows say, and that they are there as soon as they are measured."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.repository import REPOSITORY, TINY_MODEL

from transavs.analysis import report
from transavs.analysis.benchmark import BenchmarkModel

QUICKSTART = str(REPOSITORY / "configs/quickstart.yaml")
OPTIONS = ["--config-file", QUICKSTART, "--rounds", "1", "--vary", "clips", "1", "2"]


def read_rows(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_each_row_is_measured_for_what_it_says(run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[int, bool, torch.dtype]] = []
    found: list[Iterator[object]] = []

    def measured(cfg, workload, step, rounds):
        subject = BenchmarkModel(cfg, workload)
        convolution = next(module for module in subject.model.backbone.modules() if isinstance(module, torch.nn.Conv2d))
        convolution.register_forward_hook(
            lambda module, inputs, output: seen.append((len(output) // 5, module.training, output.dtype))
        )
        getattr(subject, step)()
        found.append(read_rows(tmp_path / "a.md"))
        return 0.5 * workload.clips, 3_000_000

    monkeypatch.setattr(report, "_seconds_and_bytes", measured)
    monkeypatch.setitem(report.PEAKS, report.device_name(torch.device("cpu")), (4e-6, 2e-6))
    done = run_here("tools/benchmark.py", *OPTIONS, "--report", tmp_path / "a.md", "--", *TINY_MODEL)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "a.md")
    assert [len(before) for before in found] == list(range(len(rows)))
    assert {row["images/s"] for row in rows} == {"10.0"}
    assert [row["ms"] for row in rows] == ["500.0", "1000.0"] * 4
    said = [(int(row["clips"]), row["step"] == "train", getattr(torch, row["precision"])) for row in rows]
    assert said == seen
    # Twice the digits halve the peak. A training step takes about three times the operations.
    shares = {(row["step"], row["precision"]): float(row["% of peak"]) for row in rows}
    for step in ("train", "inference"):
        assert shares[step, "float32"] == pytest.approx(2 * shares[step, "bfloat16"], rel=0.1)
    assert 2 < shares["train", "float32"] / shares["inference", "float32"] < 4


def test_a_report_that_was_broken_off_goes_on(run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured: list[int] = []

    def measure(cfg, workload, step, rounds):
        measured.append(workload.clips)
        if len(measured) == 2:
            raise RuntimeError("the card is lost")
        if len(measured) == 4:
            raise KeyboardInterrupt
        return 0.5, 3_000_000

    monkeypatch.setattr(report, "_seconds_and_bytes", measure)
    command = ("tools/benchmark.py", *OPTIONS, "--report", tmp_path / "a.md", "--", *TINY_MODEL)
    assert run_here(*command).returncode == 130  # as a shell has it of a program that Ctrl-C has ended
    first = read_rows(tmp_path / "a.md")
    assert [row["images/s"] for row in first] == ["10.0", "failed: the card is lost", "10.0"]
    assert run_here(*command).returncode == 0
    rows = read_rows(tmp_path / "a.md")
    assert len(measured) == 4 + 6  # of eight rows two were good
    assert len({(row["step"], row["precision"], row["clips"]) for row in rows}) == len(rows) == 8
    assert {row["ms"] for row in rows} == {"500.0"}
    assert run_here(*command).returncode == 0
    assert len(measured) == 10
    assert read_rows(tmp_path / "a.md") == rows


def test_what_does_not_fit_is_told_and_the_report_goes_on(run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train = BenchmarkModel.train

    def train_one_clip(subject: BenchmarkModel) -> None:
        if len(subject.clips) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        train(subject)

    monkeypatch.setattr(BenchmarkModel, "train", train_one_clip)
    done = run_here("tools/benchmark.py", *OPTIONS, "--report", tmp_path / "a.md", "--", *TINY_MODEL)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "a.md")
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        if row["step"] == "train" and row["clips"] == "2":
            assert row["images/s"] == "out of memory"
        else:
            assert float(row["images/s"]) == pytest.approx(5e3 * int(row["clips"]) / float(row["ms"]), rel=0.1)
            assert float(row["peak MB"]) > 100  # Python and torch alone take more
        assert row["% of peak"] == ""
    told = (tmp_path / "a.md").read_text()
    assert "is not known, so there is no share of it" in told
    assert torch.__version__ in told
    assert f"--report {tmp_path}/a.md" in told


def test_compiled_rows_follow_the_others(run_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[tuple[str, str]] = []
    monkeypatch.setattr(BenchmarkModel, "compile", lambda subject, step: compiled.append((subject.compiler, step)))
    options = [*OPTIONS[:-1], "--compile", "eager", "--report", tmp_path / "a.md"]
    assert run_here("tools/benchmark.py", *options, "--", *TINY_MODEL).returncode == 0
    rows = read_rows(tmp_path / "a.md")
    assert [row["compiled"] for row in rows] == ["no"] * 4 + ["eager"] * 4
    assert compiled == [("" if row["compiled"] == "no" else "eager", row["step"]) for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to measure: give --config-file FILE, or --report FILE"),
        (["--report", "a.md", "--vary", "INPUT.IMAGE_SIZE", "64"], "--report cannot --vary INPUT.IMAGE_SIZE: it can"),
        (["--report", "nowhere/a.md"], "the file nowhere/a.md cannot be written, nowhere is no folder"),
    ],
)
def test_reports_that_cannot_be_made(run_here, options: list[str], message: str):
    done = run_here("tools/benchmark.py", *options)
    assert done.returncode == 2
    assert message in done.stderr
