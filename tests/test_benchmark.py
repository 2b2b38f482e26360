"""The measuring itself: turns, memory, and the tool's table."""

import runpy
import sys

import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL
from detectron2.modeling import build_model

from transavs.config import load_config
from transavs.engine.benchmark import added_peak_memory, interleaved_times


def test_steps_take_turns_and_the_first_round_is_not_kept():
    calls: list[str] = []
    times = interleaved_times({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in times.values() for value in values)


def test_peak_memory_is_what_a_step_holds_at_once():
    mebibytes = 2**18  # floats of one

    def step() -> None:
        for _ in range(3):  # one after the other
            torch.ones(64 * mebibytes)

    assert 60 * 2**20 < added_peak_memory(step) < 100 * 2**20


def test_the_tool_compares_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    files = [str(REPOSITORY / "configs" / name) for name in ("quickstart.yaml", "comparison/ms3_tpavi.yaml")]
    options = ["--config-file", files[0], "--compare", files[1], "--rounds", "1", "--", *TINY_MODEL]
    monkeypatch.setattr(sys, "argv", ["tools/benchmark.py", *options])
    runpy.run_path(str(REPOSITORY / "tools/benchmark.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == files
    for row in rows[2:]:
        model = build_model(load_config(row[0], TINY_MODEL))
        assert float(row[1]) == round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
        assert all(float(cell) >= 0 for cell in row[2:])
    assert rows[2][4] == rows[2][7] == "1.00"
