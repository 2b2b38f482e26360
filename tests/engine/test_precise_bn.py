"""TEST.PRECISE_BN: the statistics of batch norms are measured before each evaluation."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.repository import REPOSITORY, TINY_MODEL
from torch import Tensor

from transavs.config.load import load_config
from transavs.engine import AVSTrainer

BATCHES = 2
OPTIONS = [
    *(*TINY_MODEL, "TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", str(BATCHES)),
    *("TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "4"),
    *("TEST.FIGURE_CLIPS", "0", "TEST.AUDIO_CONDITIONS", "['true']", "INPUT.NEGATIVE_AUDIO", "['silence', 'noise']"),
]


def train(output: Path, *options: str) -> AVSTrainer:
    """Go on from what ``output`` holds, or begin."""
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", [*OPTIONS, *options, "OUTPUT_DIR", str(output)])
    cfg.freeze()
    trainer = AVSTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_catalog")
def test_they_are_those_of_the_first_clips_by_the_last_weights(tmp_path: Path):
    trainer = train(tmp_path, "SEED", "5")
    norm = trainer.model.backbone.stem.conv1.norm
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    found = norm.running_mean.clone()
    with torch.no_grad():
        for batch, _ in zip(trainer.build_train_loader(trainer.cfg), range(BATCHES), strict=False):
            trainer.model(batch)
    assert len(seen) == BATCHES
    torch.testing.assert_close(found, torch.cat(seen).mean((0, 2, 3)))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_catalog")
def test_a_run_that_was_stopped_measures_what_one_left_alone_does(tmp_path: Path):
    """Also where the seed was drawn, which the checkpoint of the second iteration brings."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = train(whole, "SEED", "-1").model.state_dict()
    parts.mkdir()
    shutil.copy(whole / "model_0000001.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000001.pth")
    torch.testing.assert_close(train(parts, "SEED", "-1").model.state_dict(), expected, rtol=0, atol=1e-6)
