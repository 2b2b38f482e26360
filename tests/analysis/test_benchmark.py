"""The measuring itself: turns, memory, parts, and the tool's tables."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from helpers.repository import REPOSITORY, TINY_MODEL
from PIL import Image
from torch import nn

from transavs.analysis.benchmark import BenchmarkModel, Workload, reference_config
from transavs.analysis.timing import interleaved_times, part_shares
from transavs.config.load import load_config

QUICKSTART = str(REPOSITORY / "configs/quickstart.yaml")
TPAVI = ["MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "MODEL.TPAVI.AVM_WEIGHT", "1.0"]


def test_steps_take_turns_and_the_round_that_warms_up_is_not_kept():
    calls: list[str] = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.05 * (len(calls) > 2)))}
    times = interleaved_times(steps, rounds=3)
    assert calls == ["a", "b"] * 4
    assert [len(values) for values in times.values()] == [3, 3]
    assert min(times["b"]) >= 0.05 > min(times["a"])


def test_peak_memory_is_what_a_step_holds_at_once():
    """In a fresh process, as it is meant to be used: three times 64 MiB, one after the other."""
    code = """
import torch
from transavs.analysis.timing import peak_memory
before = peak_memory(lambda: None)
print(peak_memory(lambda: [torch.ones(2**24).sum() for _ in range(3)]) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert 60 * 2**20 < int(done.stdout) < 100 * 2**20


class Sleeper(nn.Module):
    def __init__(self, seconds: float, inner: nn.Module | None = None):
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self) -> None:
        time.sleep(self.seconds)
        if self.inner is not None:
            self.inner()


def test_a_part_within_another_counts_for_the_inner_one_alone():
    model = nn.Module()
    model.backbone, model.levels = Sleeper(0.1), nn.ModuleList([Sleeper(0.1), Sleeper(0.1)])
    model.decoder = Sleeper(0.1, inner=model.backbone)
    layers = [model.decoder, *model.levels]
    shares = part_shares(model, lambda: [layer() for layer in layers] and time.sleep(0.1), rounds=2)
    expected = {"encoder": 0.2, "levels": 0.4, "decoder": 0.2, "rest": 0.2}
    assert shares == pytest.approx(expected, abs=0.08)
    assert sum(shares.values()) == pytest.approx(1)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("overrides", [[], TPAVI], ids=["TransAVS", "TPAVI"])
def test_mixed_precision_works_in_bfloat16_and_learns_in_float32(overrides: list[str]):
    workload = Workload(labeled=5, precision=torch.bfloat16)
    subject = BenchmarkModel(load_config(QUICKSTART, [*TINY_MODEL, *overrides]), workload)
    convolution = next(module for module in subject.model.modules() if isinstance(module, nn.Conv2d))
    seen = []
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    before = convolution.weight.detach().clone()
    subject.inference()
    assert torch.equal(convolution.weight, before)
    subject.train()
    assert seen == [torch.bfloat16] * 2
    assert convolution.weight.dtype == torch.float32
    assert not torch.equal(convolution.weight, before)


def test_both_steps_run_compiled_code_once_it_is_asked_for(tiny_cfg):
    graphs: list[torch.fx.GraphModule] = []
    workload = Workload(compiler=lambda graph, inputs: graphs.append(graph) or graph.forward)
    subject = BenchmarkModel(reference_config(tiny_cfg), workload)
    subject.inference()
    assert not graphs
    for number, step in enumerate(("inference", "train"), start=1):
        subject.compile(step)
        getattr(subject, step)()
        assert len(graphs) == number


def test_the_tool_compares_models_with_plain_resnet50(run_here, tmp_path: Path):
    tpavi = tmp_path / "tpavi.yaml"
    keys = "META_ARCHITECTURE: TPAVI, TPAVI: {HEAD_CHANNELS: [8, 8], AVM_WEIGHT: 1.0}"
    tpavi.write_text(f"_BASE_: {QUICKSTART}\nMODEL: {{{keys}}}\n")
    options = ["--config-file", QUICKSTART, "--compare", tpavi, "--rounds", "1", "--json", tmp_path / "a.json"]
    done = run_here("tools/benchmark.py", *options, "--exported", "--", *TINY_MODEL)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    reference, ours, theirs, graph, _ = found["models"].values()
    assert reference["inference_ratio"] == reference["train_ratio"] == 1
    # 4.1 billion multiplications and additions at 224 pixels, for 5 frames of 32.
    assert reference["flops"] == pytest.approx(2 * 4.09e9 * 5 * (32 / 224) ** 2, rel=0.1)
    # Parameters of 4 bytes; in training also their gradients and AdamW's two moments.
    more_in_training = reference["train_peak_mb"] - reference["inference_peak_mb"]
    assert 3 * 4 * 25.5 < more_in_training + 50 < 6 * 4 * 25.5  # a few million for its activations
    model = build_model(load_config(QUICKSTART, TINY_MODEL))
    assert ours["parameters"] == sum(p.numel() for p in model.parameters())
    assert ours["inference_ratio"] == pytest.approx(ours["inference"] / reference["inference"])
    assert ours["clips_per_second"] == pytest.approx(1 / ours["inference"])
    shared = {"encoder", "audio", "post-processing", "rest"}
    assert set(ours["parts"]["inference"]) == shared | {"pixel decoder", "query decoder", "masks"}
    assert set(theirs["parts"]["inference"]) == shared | {"dilated", "blocks", "decoder"}
    assert {"criterion", "encoder"} < set(ours["parts"]["train"]) & set(theirs["parts"]["train"])
    rows = [line.replace(" ", "").split("|") for line in done.stdout.splitlines() if line.startswith(f"| {QUICKSTART}")]
    assert f"{1e3 * ours['train']:.0f}" in rows[0]
    assert graph["inference_ratio"] == pytest.approx(graph["inference"] / reference["inference"])
    assert rows[1][1:3] == [f"{QUICKSTART},CPUExecutionProvider", rows[0][2]]  # of as many parameters
    assert f"{1e3 * graph['inference']:.0f}" in rows[1]
    assert rows[1][-5:] == [""] * 5  # no training, no memory
    loading = found["pipeline"]["loading"]
    assert f"{1e3 * loading:.1f} ms ({100 * loading / ours['train']:.1f} % of a training step)" in done.stdout


def test_costs_grow_with_what_is_varied(run_here, tmp_path: Path):
    options = ["--rounds", "1", "--vary", "clips", "1", "3", "--json", tmp_path / "a.json"]
    options += ["--figure", tmp_path / "a.png", "--", *TINY_MODEL]
    done = run_here("tools/benchmark.py", "--config-file", QUICKSTART, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    one, three = (found["values"][number][QUICKSTART] for number in ("1", "3"))
    assert three["flops"] == pytest.approx(3 * one["flops"], rel=0.02)
    assert three["parameters"] == one["parameters"]
    rows = [line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["clips", "model"],
        *([value, name] for value in ("1", "3") for name in ("torchvision ResNet-50", QUICKSTART)),
    ]
    with Image.open(tmp_path / "a.png") as figure:
        assert figure.width > figure.height > 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", REPOSITORY / "configs/s4_r50.yaml"], "compare those of one size"),
        (["--vary", "INPUT.IMAGE_SIZE"], "--vary INPUT.IMAGE_SIZE: give whole numbers"),
        (["--vary", "INPUT.IMAGE_SIZE", "64", "100"], "INPUT.IMAGE_SIZE is 100: the networks take multiples of 32"),
        (["--vary", "INPUT.NUM_FRAMES", "5", "2", "--labeled-frames", "3"], "than the 2 of a clip"),
        (["--figure", "a.png"], "--figure a.png has nothing to draw: give --vary"),
        (["--exported", "--amp"], "--exported measures graphs in float32, in the tables: leave --report and --amp out"),
        (["--compile", "fast"], "torch.compile has no backend 'fast' here: choose from"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(run_here, options: list[object], message: str):
    done = run_here("tools/benchmark.py", "--config-file", QUICKSTART, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
