"""The measuring itself: turns, memory, and the tool's table."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY_MODEL
from detectron2.modeling import build_model

from transavs.config import load_config
from transavs.engine.benchmark import interleaved_times
from transavs.engine.subjects import Subject


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


def test_the_tool_compares_models_with_plain_resnet50(run_here, tmp_path: Path):
    name = str(REPOSITORY / "configs/quickstart.yaml")
    options = ["--config-file", name, "--rounds", "1", "--json", tmp_path / "a.json"]
    done = run_here("tools/benchmark.py", *options, "--", *TINY_MODEL)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found["surroundings"]) == {"loading", "log_mel", "evaluation"}
    reference = found.pop("torchvision ResNet-50")
    assert reference["inference_ratio"] == reference["train_ratio"] == 1
    # 4.1 billion multiplications and additions at 224 pixels, for 5 frames of 32.
    assert reference["flops"] == pytest.approx(2 * 4.09e9 * 5 * (32 / 224) ** 2, rel=0.1)
    values, model = found[name], build_model(load_config(name, TINY_MODEL))
    assert values["parameters"] == sum(p.numel() for p in model.parameters())
    assert values["inference_ratio"] == pytest.approx(values["inference"] / reference["inference"])
    assert values["train_peak_mb"] > 100
    assert {"backbone", "audio_backbone", "rest"} <= set(values["parts"]["inference"])
    assert "criterion" in values["parts"]["train"]
    assert f"| {name}" in done.stdout


def test_the_parts_of_a_step_add_up_to_it_and_the_model_is_left_as_it_was(tiny_cfg):
    subject = Subject.from_config(tiny_cfg, 1, 1)
    parts = subject.parts(lambda: (subject.infer(), time.sleep(0.2)))
    assert {"backbone", "audio_backbone", "pixel_decoder", "query_decoder"} <= set(parts)
    assert parts["rest"] > 0.2
    assert parts["backbone"] > 0
    assert "forward" not in vars(subject.model.backbone)


def test_configs_of_different_sizes_are_refused(run_here, tmp_path: Path):
    files = [REPOSITORY / "configs" / name for name in ("quickstart.yaml", "s4_r50.yaml")]
    done = run_here("tools/benchmark.py", "--config-file", files[0], "--compare", files[1])
    assert done.returncode == 2
    assert "of one size" in done.stderr
