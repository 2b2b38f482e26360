"""A training run that is killed again and again ends as one that was left alone."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.repository import REPOSITORY, TINY_MODEL

KILLS = 10
# Before each kill: checkpoints that it has written at most, and seconds after that at most.
CHECKPOINTS, SECONDS = 3, 0.6
# Flips, dropout, noise in place of audio: all that a run leaves to chance. Checkpoints and evaluations all the time.
OPTIONS = [
    *("--config-file", "configs/quickstart.yaml", *TINY_MODEL, "DATALOADER.NUM_WORKERS", "2", "TEST.FIGURE_CLIPS", "1"),
    *("SOLVER.MAX_ITER", "300", "SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "15"),
    *("DATASETS.VAL", "('synthetic_ms3_val',)"),
    *("MODEL.TRANSAVS.DROPOUT", "0.1", "INPUT.NEGATIVE_AUDIO_PROB", "0.3"),
    *("INPUT.NEGATIVE_AUDIO", "['silence', 'noise']", "TEST.AUDIO_CONDITIONS", "['true']"),
]


def start(datasets: Path, output: Path) -> subprocess.Popen:
    """A run in a process group of its own, so that its workers are killed with it."""
    output.mkdir(exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "tools/train_net.py"), "--resume", *OPTIONS, "OUTPUT_DIR", str(output)]
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    with open(output / "output.txt", "a") as log:
        return subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def starts(output: Path) -> list[int]:
    """Iterations that training has begun at."""
    text = (output / "output.txt").read_text()
    return [int(found) for found in re.findall(r"Starting training from iteration (\d+)", text)]


def kill_while_training(run: subprocess.Popen, output: Path, chance: random.Random) -> bool:
    """Kill a run at a random moment after it has begun to train; False where it has ended before."""
    begun, written = len(starts(output)), len(list(output.glob("model_*")))
    written += chance.randint(0, CHECKPOINTS)
    while run.poll() is None and (len(starts(output)) == begun or len(list(output.glob("model_*"))) < written):
        time.sleep(0.02)
    time.sleep(chance.uniform(0, SECONDS))
    if run.poll() is not None:
        return False
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return True


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_weights_of_the_undisturbed_one(
    tiny_datasets: Path, tmp_path: Path
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(tiny_datasets, whole).wait(600) == 0
    chance = random.Random(0)
    kills = sum(kill_while_training(start(tiny_datasets, killed), killed, chance) for _ in range(KILLS))
    assert kills == KILLS, "the run ended before the last kill: make it longer"
    assert start(tiny_datasets, killed).wait(600) == 0, (killed / "output.txt").read_text()[-2000:]
    begun = starts(killed)
    assert len(set(begun)) > KILLS / 2, "the kills have left too few checkpoints to go on from"
    assert begun == sorted(begun)
    states = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, killed)]
    learnt = [(state["model"], state["trainer"]["_trainer"]["optimizer"]["state"]) for state in states]
    torch.testing.assert_close(*learnt, rtol=0, atol=1e-6)
    best = [torch.load(folder / "model_best.pth", weights_only=True) for folder in (whole, killed)]
    assert best[0]["iteration"] == best[1]["iteration"]
    torch.testing.assert_close(best[0]["model"], best[1]["model"], rtol=0, atol=1e-6)
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()
    assert list(killed.glob(".*")) == []
