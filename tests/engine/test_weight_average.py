"""MODEL.EMA: what is evaluated and written is the average of the weights, and training goes on with its own."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from transavs.checkpoint.checkpointer import AVSCheckpointer
from transavs.checkpoint.load import load_model
from transavs.engine import AVSTrainer

DECAY, ITERATIONS = 0.75, 4


@pytest.fixture
def cfg(tiny_cfg, tiny_catalog: None, tmp_path: Path):
    tiny_cfg.merge_from_list(["MODEL.EMA.ENABLED", True, "MODEL.EMA.DECAY", DECAY, "SOLVER.MAX_ITER", ITERATIONS])
    tiny_cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "TEST.FIGURE_CLIPS", 0, "SOLVER.BASE_LR", 0.01])
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINTING = ["backbone.res?"]  # whose modules must not stay those of training
    tiny_cfg.merge_from_list(["TEST.AUDIO_CONDITIONS", ["true"], "SEED", 3, "OUTPUT_DIR", str(tmp_path / "run")])
    return tiny_cfg


class WatchedTrainer(AVSTrainer):
    """Keeps the weights after each step, and what was tested."""

    def __init__(self, cfg):
        Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
        self.weights: list[dict] = []
        super().__init__(cfg)

    def run_step(self) -> None:
        super().run_step()
        self.weights.append(copy.deepcopy(self.model.state_dict()))

    def test(self, cfg, model) -> dict:
        self.tested = copy.deepcopy(model.state_dict())
        return super().test(cfg, model)


def train(cfg) -> WatchedTrainer:
    torch.manual_seed(0)
    trainer = WatchedTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_the_average_is_what_is_tested_and_kept(cfg, tmp_path: Path):
    trainer = train(cfg)
    output = Path(cfg.OUTPUT_DIR)
    shares = [DECAY ** (ITERATIONS - 1), *((1 - DECAY) * DECAY ** (ITERATIONS - 1 - i) for i in range(1, ITERATIONS))]
    assert sum(shares) == pytest.approx(1)
    weights = {name for name, _ in trainer.model.named_parameters()}
    for name, found in trainer.tested.items():
        expected = trainer.weights[-1][name]
        if name in weights:
            each = [step[name].double() for step in trainer.weights]
            expected = sum(share * value for share, value in zip(shares, each, strict=True)).float()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    final = load(output / "model_final.pth")
    assert all(torch.equal(value, trainer.tested[name]) for name, value in final["model"].items())
    kept = final["trainer"]["hooks"]["WeightAverage"]["weights"]
    assert all(torch.equal(value, trainer.weights[-1][name]) for name, value in kept.items())
    name = "query_decoder.query_positions"
    assert not torch.equal(kept[name], final["model"][name])

    model = AVSTrainer.build_model(cfg)
    AVSCheckpointer(model).load_all(str(output / "model_final.pth"))
    results = json.loads((output / "results.json").read_text())
    cfg.OUTPUT_DIR = str(tmp_path)
    assert AVSTrainer.test(cfg, model)["sem_seg"] == results
    assert torch.equal(
        load_model(output / "model_final.pth", "cpu")[0].query_decoder.query_positions, trainer.tested[name]
    )


def test_a_run_that_was_stopped_ends_as_one_left_alone(cfg, tmp_path: Path):
    train(cfg)
    whole, parts = Path(cfg.OUTPUT_DIR), tmp_path / "parts"
    parts.mkdir()
    shutil.copy(whole / "model_0000001.pth", parts)
    cfg.OUTPUT_DIR = str(parts)
    assert len(train(cfg).weights) == 2
    states = [load(folder / "model_final.pth") for folder in (whole, parts)]
    inner = [state["trainer"]["_trainer"]["optimizer"]["state"] for state in states]
    averages = [state["trainer"]["hooks"]["WeightAverage"] for state in states]
    assert [average["number"] for average in averages] == [ITERATIONS, ITERATIONS]
    for pair in (inner, averages, [state["model"] for state in states]):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-6)


def test_training_starts_at_the_weights_that_are_loaded(cfg, tmp_path: Path):
    """From a model's file, and where a run without an average goes on with one."""
    first = AVSTrainer.build_model(cfg)
    torch.save({"model": first.state_dict()}, tmp_path / "first.pth")
    cfg.merge_from_list(["MODEL.WEIGHTS", str(tmp_path / "first.pth"), "SOLVER.BASE_LR", 0.0, "SOLVER.MAX_ITER", 1])
    cfg.DATASETS.VAL = ("synthetic_ms3_val",)  # which writes the best, too
    trainer = train(cfg)
    best = load(Path(cfg.OUTPUT_DIR, "model_best.pth"))["model"]
    for name, parameter in first.named_parameters():
        assert torch.equal(trainer.weights[0][name], parameter)
        assert torch.equal(best[name], parameter)
