"""The measuring itself: turns, memory, and the tool's table."""

import subprocess
import sys

from conftest import REPOSITORY, TINY_MODEL
from detectron2.modeling import build_model

from transavs.config import load_config
from transavs.engine.benchmark import interleaved_times


def test_steps_take_turns_and_the_first_round_is_not_kept():
    calls: list[str] = []
    times = interleaved_times({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in times.values() for value in values)


def test_peak_memory_is_what_a_step_holds_at_once():
    """In a fresh process, as it is meant to be used: three times 64 MiB, one after the other."""
    code = """
import torch
from transavs.engine.benchmark import added_peak_memory
print(added_peak_memory(lambda: [torch.ones(2**24).sum() for _ in range(3)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert 60 * 2**20 < int(done.stdout) < 100 * 2**20


def test_the_tool_compares_models(run_here):
    files = [str(REPOSITORY / "configs" / name) for name in ("quickstart.yaml", "comparison/ms3_tpavi.yaml")]
    options = ["--config-file", files[0], "--compare", files[1], "--rounds", "1", "--", *TINY_MODEL]
    lines = run_here("tools/benchmark.py", *options).stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == files
    for row in rows[2:]:
        model = build_model(load_config(row[0], TINY_MODEL))
        assert float(row[1]) == round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
        assert all(float(cell) >= 0 for cell in row[2:])
    assert rows[2][4] == rows[2][7] == "1.00"
