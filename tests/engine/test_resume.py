"""Runs that go on from a checkpoint with another config: it decides, and the checkpoint brings what was learned."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from helpers.repository import read_metrics

from transavs import AVSInputError
from transavs.engine import AVSTrainer

DONE = 4  # iterations of the first run
pytestmark = pytest.mark.usefixtures("tiny_catalog")


@pytest.fixture
def cfg(tiny_cfg, tmp_path: Path) -> CfgNode:
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", DONE, "SOLVER.CHECKPOINT_PERIOD", 100, "OUTPUT_DIR", str(tmp_path)])
    tiny_cfg.merge_from_list(["TEST.FIGURE_CLIPS", 0, "TEST.AUDIO_CONDITIONS", ["true"], "SOLVER.WARMUP_ITERS", 0])
    return tiny_cfg


def resumed(cfg: CfgNode, *changes: object) -> AVSTrainer:
    """A trainer that has gone on from the last checkpoint, with some keys changed."""
    changed = cfg.clone()
    changed.merge_from_list(list(changes))
    trainer = AVSTrainer(changed, resume=True)
    trainer.resume_or_load(resume=True)
    return trainer


@pytest.fixture
def first(cfg: CfgNode) -> AVSTrainer:
    trainer = AVSTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def states_by_name(trainer: AVSTrainer) -> dict[str, torch.Tensor]:
    """First moment of every parameter that the optimizer knows."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {names[id(p)]: state["exp_avg"] for p, state in trainer._trainer.optimizer.state.items()}


def rate_by_name(trainer: AVSTrainer, key: str = "lr") -> dict[str, float]:
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer._trainer.optimizer.param_groups
    return {names[id(p)]: group[key] for group in groups for p in group["params"]}


def test_a_longer_schedule_is_followed_from_where_the_run_stands(cfg: CfgNode, first: AVSTrainer, logged):
    longer, rate = 10, 0.5
    trainer = resumed(cfg, "SOLVER.MAX_ITER", longer, "SOLVER.BASE_LR", rate)
    assert f"SOLVER.MAX_ITER: {DONE}, now {longer}" in logged.text
    assert f"SOLVER.BASE_LR: {cfg.SOLVER.BASE_LR}, now {rate}" in logged.text
    expected = rate * (1 - DONE / longer) ** cfg.SOLVER.POLY_LR_POWER
    assert rate_by_name(trainer)["query_decoder.query_positions"] == pytest.approx(expected)
    trainer.cfg.SOLVER.BASE_LR = rate
    trainer.train()
    rates = {row["iteration"]: row["lr"] for row in read_metrics(Path(cfg.OUTPUT_DIR)) if "lr" in row}
    assert rates[longer - 1] == pytest.approx(rate * (1 - (longer - 1) / longer) ** cfg.SOLVER.POLY_LR_POWER)
    assert trainer.iter == longer


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"])
def test_every_schedule_of_detectron2_is_the_configs(cfg: CfgNode, first: AVSTrainer, name: str):
    """The learning rate after a resume is that of a run which had this config from its first iteration on."""
    changes = ["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", 12, "SOLVER.STEPS", (3, 8), "SOLVER.BASE_LR", 0.3]
    trainer = resumed(cfg, *changes)
    whole = AVSTrainer(trainer.cfg)
    whole.max_iter = DONE
    with EventStorage():
        for hook in trainer._hooks + whole._hooks:
            if type(hook).__name__ == "LRScheduler":
                hook.before_train()
        for _ in range(DONE):
            whole._trainer.optimizer.step()
            whole.scheduler.step()
    assert rate_by_name(trainer) == pytest.approx(rate_by_name(whole))


def test_settings_of_the_optimizer_are_the_configs_and_its_state_the_checkpoints(cfg: CfgNode, first: AVSTrainer):
    """Where decay is 0 everywhere parameters share other groups than before, and stand in another order."""
    trainer = resumed(cfg, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.BACKBONE_MULTIPLIER", 1.0, "SOLVER.MAX_ITER", 8)
    assert set(rate_by_name(trainer, "weight_decay").values()) == {0.0}
    assert len(set(rate_by_name(trainer).values())) == 1
    before, after = states_by_name(first), states_by_name(trainer)
    assert before.keys() == after.keys() == dict(trainer.model.named_parameters()).keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    trainer.train()  # the optimizer still knows which state belongs to which parameter


def test_clipping_average_thresholds_and_seed_are_the_configs(cfg: CfgNode, first: AVSTrainer):
    changes = ["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 7.0, "MODEL.EMA.ENABLED", True, "MODEL.EMA.DECAY", 0.25, "SEED", 77]
    trainer = resumed(cfg, *changes, "SOLVER.MAX_ITER", 18 * DONE, "MODEL.TRANSAVS.AQDL_THRESHOLD", [0.2, 0.2 + 0.18])
    assert trainer._trainer.optimizer.max_norm == 7.0
    assert trainer._random_numbers.seed == 77
    trainer.max_iter = DONE + 1
    before = trainer.model.query_decoder.query_positions.detach().clone()
    trainer.train()
    assert trainer.model.criterion.aqdl_threshold == pytest.approx(0.2 + 0.01 * (DONE // DONE))
    average, now = (model.query_decoder.query_positions for model in (trainer._kept_model, trainer.model))
    torch.testing.assert_close(average, now)  # the first weights that it sees
    assert not torch.equal(now, before)


def test_a_random_seed_is_kept(cfg: CfgNode, first: AVSTrainer):
    cfg.SEED = -1
    assert resumed(cfg)._random_numbers.seed == first._random_numbers.seed


def test_a_best_value_of_another_measure_does_not_count(cfg: CfgNode, tmp_path: Path):
    cfg.merge_from_list(["DATASETS.VAL", ("synthetic_ms3_val",), "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2])
    trainer = AVSTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    for changes, counts in (
        ([], True),
        (["TEST.SCORE_SIZE", 16], False),
        (["DATASETS.VAL", ("synthetic_ms3_test",)], False),
    ):
        hook = next(h for h in resumed(cfg, *changes)._hooks if type(h).__name__ == "BestWeights")
        assert (hook.best_metric is not None) is counts, changes


def test_a_shorter_schedule_than_the_run_has_had_is_told_before_any_work(cfg: CfgNode, first: AVSTrainer):
    with pytest.raises(
        AVSInputError, match=rf"^SOLVER\.MAX_ITER is {DONE - 1} \(expected {DONE} or more, .*model_final"
    ):
        resumed(cfg, "SOLVER.MAX_ITER", DONE - 1)


def test_the_state_of_another_model_is_told(cfg: CfgNode, first: AVSTrainer):
    path = Path(cfg.OUTPUT_DIR, "model_final.pth")
    found = torch.load(path, weights_only=True)
    del found["trainer"]["_trainer"]["optimizer"]["param_groups"][0]
    torch.save(found, path)
    with pytest.raises(AVSInputError, match=r"model_final\.pth cannot be resumed \(.*\): name another OUTPUT_DIR"):
        resumed(cfg)


def test_weights_that_the_checkpoint_holds_are_not_fetched(cfg: CfgNode, first: AVSTrainer):
    """A file that is not there stands for an address without a network."""
    changes = ["MODEL.AUDIO_BACKBONE.WEIGHTS", "https://nowhere.invalid/vggish.pth", "SOLVER.MAX_ITER", 6]
    trainer = resumed(cfg, *changes)
    assert changes[1] == trainer.cfg.MODEL.AUDIO_BACKBONE.WEIGHTS  # for the checkpoints that follow
    with pytest.raises(AVSInputError, match=r"nowhere\.invalid"):
        resumed(cfg, *changes, "OUTPUT_DIR", cfg.OUTPUT_DIR + "/empty")
