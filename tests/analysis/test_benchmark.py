"""The measuring itself: turns, clocks, memory, parts, and the tool's tables."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from helpers.repository import REPOSITORY, TINY_MODEL
from PIL import Image

from transavs.analysis.pipeline import evaluation_steps, shares
from transavs.analysis.timing import interleaved_times, seconds, timed_parts
from transavs.analysis.workload import BenchmarkModel, PlainResNet50, Workload
from transavs.config.load import load_config

QUICKSTART = str(REPOSITORY / "configs/quickstart.yaml")
TPAVI = ["MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "MODEL.TPAVI.AVM_WEIGHT", "1.0"]


def test_steps_take_turns_and_the_rounds_that_warm_up_are_not_kept():
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = interleaved_times(steps, rounds=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in times.values() for value in values)


def test_a_gpu_is_timed_between_two_events_when_nothing_else_is_queued(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self, stream: str) -> None:
            calls.append(f"record on {stream}")

        def elapsed_time(self, end: "Event") -> float:
            assert end is not self
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("wait"))
    assert seconds(lambda: calls.append("step"), "cuda:1") == 1.5
    record = "record on stream of cuda:1"
    assert calls == ["wait", record, "step", record, "wait"]


def test_peak_memory_is_what_a_step_holds_at_once():
    """In a fresh process, as it is meant to be used: three times 64 MiB, one after the other."""
    code = """
import torch
from transavs.analysis.timing import added_peak_memory
print(added_peak_memory(lambda: [torch.ones(2**24).sum() for _ in range(3)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert 60 * 2**20 < int(done.stdout) < 100 * 2**20


def test_the_tool_compares_models_with_plain_resnet50(run_here, tmp_path: Path):
    options = ["--config-file", QUICKSTART, "--rounds", "1", "--json", tmp_path / "a.json"]
    done = run_here("tools/benchmark.py", *options, "--", *TINY_MODEL)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    around, of_network = found["surroundings"], found["shares"]
    assert set(around) == {"loading", "loading_two_workers", "log_mel", "metrics", "mask_files"}
    assert all(taken > 0 for taken in around.values())
    reference = found["models"].pop("torchvision ResNet-50")
    assert reference["inference_ratio"] == reference["train_ratio"] == 1
    # 4.1 billion multiplications and additions at 224 pixels, for 5 frames of 32.
    assert reference["flops"] == pytest.approx(2 * 4.09e9 * 5 * (32 / 224) ** 2, rel=0.1)
    # Parameters of 4 bytes; in training also their gradients and AdamW's two moments.
    more_in_training = reference["train_peak_mb"] - reference["inference_peak_mb"]
    assert 3 * 4 * 25.5 < more_in_training + 50 < 6 * 4 * 25.5  # a few million for its activations
    values, model = found["models"][QUICKSTART], build_model(load_config(QUICKSTART, TINY_MODEL))
    assert values["parameters"] == sum(p.numel() for p in model.parameters())
    assert values["inference_ratio"] == pytest.approx(values["inference"] / reference["inference"])
    assert values["clips_per_second"] == pytest.approx(1 / values["inference"])
    assert {"encoder", "audio", "post-processing", "rest"} <= set(values["parts"]["inference"])
    assert "criterion" in values["parts"]["train"]
    evaluation = around["metrics"] + around["mask_files"]
    assert of_network["evaluation_of_inference"] == pytest.approx(evaluation / values["inference"])
    assert f"| {QUICKSTART}" in done.stdout
    assert f"evaluation (metrics, masks, files) {100 * of_network['evaluation_of_inference']:.1f} % of" in done.stdout


def test_a_batch_is_loaded_and_evaluated_clip_by_clip():
    around = {"loading_two_workers": 0.1, "metrics": 0.2, "mask_files": 0.3, "loading": 9.0, "log_mel": 9.0}
    found = shares(around, {"train": 4.0, "inference": 10.0}, Workload(clips=2))
    assert found == pytest.approx({"loading_of_training": 0.05, "evaluation_of_inference": 0.1})


def test_what_surrounds_the_network_scores_and_writes_every_frame(tiny_cfg, tmp_path: Path):
    steps = evaluation_steps(tiny_cfg, tmp_path)
    for step, _ in steps.values():
        step()
    assert len(list((tmp_path / "predictions/png").rglob("*.png"))) == 5
    assert len(np.unique(Image.open(tmp_path / "predictions/probabilities/clip/0.png"))) > 10
    codes = json.loads((tmp_path / "predictions/predictions.json").read_text())
    assert {code["frame"] for code in codes} == set(range(5))


@pytest.mark.parametrize(
    ("overrides", "in_inference", "in_training_alone"),
    [
        ([], {"pixel decoder", "query decoder", "masks", "post-processing"}, {"criterion"}),
        (TPAVI, {"dilated", "blocks", "decoder", "post-processing"}, {"criterion"}),
    ],
    ids=["TransAVS", "TPAVI"],
)
def test_the_parts_of_a_step_add_up_to_it_and_the_model_is_left_as_it_was(overrides, in_inference, in_training_alone):
    subject = BenchmarkModel.from_config(load_config(QUICKSTART, [*TINY_MODEL, *overrides]), Workload(labeled=5))
    parts = subject.parts(lambda: (subject.infer(), time.sleep(0.2)), rounds=2)
    assert set(parts) == {"encoder", "audio", "rest"} | in_inference
    assert 0.2 < parts["rest"] < 0.4
    assert all(taken > 0 for taken in parts.values())
    assert in_training_alone <= set(subject.parts(subject.loss))
    assert not any("forward" in vars(module) for module in subject.model.modules())
    assert "resize" not in vars(subject.model)


def test_a_part_within_another_counts_for_the_inner_one_alone():
    class Decoder(torch.nn.Module):
        def predict(self) -> None:
            time.sleep(0.1)

        def forward(self) -> None:
            time.sleep(0.05)
            self.predict()
            self.predict()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.query_decoder = Decoder()

        def forward(self) -> None:
            self.query_decoder()

    model = Model()
    with timed_parts(model) as taken:
        model()
    assert taken["masks"] == pytest.approx(0.2, abs=0.04)
    assert taken["query decoder"] == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize(("kind", "overrides"), [(BenchmarkModel, []), (BenchmarkModel, TPAVI), (PlainResNet50, [])])
def test_mixed_precision_works_in_bfloat16_and_learns_in_float32(kind: type[BenchmarkModel], overrides: list[str]):
    subject = kind.from_config(load_config(QUICKSTART, [*TINY_MODEL, *overrides]), Workload(labeled=5, amp=True))
    convolution = next(module for module in subject.model.modules() if isinstance(module, torch.nn.Conv2d))
    seen = []
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    before = convolution.weight.detach().clone()
    subject.infer()
    assert torch.equal(convolution.weight, before)
    subject.train()
    assert seen == [torch.bfloat16] * 2
    assert convolution.weight.dtype == torch.float32
    assert not torch.equal(convolution.weight, before)


class OneLayer(torch.nn.Module):
    """Takes clips and gives losses, as the models do."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, clips: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(clips[0]["images"]).sum()}


def test_both_steps_run_compiled_code_once_it_is_asked_for():
    model, graphs = OneLayer(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    subject = BenchmarkModel(model, optimizer, [{"images": torch.ones(1, 2)}], Workload())
    torch.compiler.reset()
    subject.infer()
    subject.compile(lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert not graphs
    subject.infer()
    assert len(graphs) == 1
    before = model.layer.weight.detach().clone()
    subject.train()
    assert len(graphs) == 2
    torch.testing.assert_close(model.layer.weight, before - 1)


def test_costs_grow_with_what_is_varied(run_here, tmp_path: Path):
    options = ["--rounds", "1", "--vary", "clips", "1", "3", "--json", tmp_path / "a.json"]
    done = run_here(
        *("tools/benchmark.py", "--config-file", QUICKSTART, *options, "--figure", tmp_path / "a.png"),
        *("--", *TINY_MODEL),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    one, three = (found["values"][number][QUICKSTART] for number in ("1", "3"))
    assert found["vary"] == "clips"
    assert three["flops"] == pytest.approx(3 * one["flops"], rel=0.02)
    assert three["parameters"] == one["parameters"]
    rows = [line.split("|")[1:3] for line in done.stdout.splitlines()]
    assert [(row[0].strip(), row[1].strip()) for row in rows if row and "-" not in row[0]] == [
        ("clips", "model"),
        *((value, name) for value in ("1", "3") for name in ("torchvision ResNet-50", QUICKSTART)),
    ]
    with Image.open(tmp_path / "a.png") as figure:
        assert figure.width > figure.height > 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", REPOSITORY / "configs/s4_r50.yaml"], "compare those of one size"),
        (["--vary", "INPUT.IMAGE_SIZE"], "--vary INPUT.IMAGE_SIZE has no values: give some"),
        (["--vary", "INPUT.IMAGE_SIZE", "64", "many"], "--vary INPUT.IMAGE_SIZE many: give whole numbers"),
        (["--vary", "INPUT.IMAGE_SIZE", "64", "100"], "INPUT.IMAGE_SIZE is 100: the networks take multiples of 32"),
        (["--vary", "INPUT.IMAGE", "64"], "INPUT.IMAGE"),
        (["--vary", "clips", "0"], "--vary clips 0: give whole numbers from 1 on"),
        (["--vary", "INPUT.NUM_FRAMES", "5", "2", "--labeled-frames", "3"], "than the 2 of a clip"),
        (["--figure", "a.png"], "--figure a.png has nothing to draw: give --vary"),
        (["--vary", "clips", "1", "--figure", "a.txt"], "the figure a.txt ends in none of png"),
        (["--compile", "fast"], "torch.compile has no backend 'fast' here: choose from"),
    ],
    ids=lambda value: " ".join(map(str, value[:3])) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_refused_in_one_line(run_here, options: list[object], message: str):
    done = run_here("tools/benchmark.py", "--config-file", QUICKSTART, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
