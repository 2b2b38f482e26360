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
from conftest import REPOSITORY, TINY_MODEL

KILLS = 10
LONGEST = 1.5  # seconds of training before a kill
# Flips, dropout, noise in place of audio: all that a run leaves to chance. Checkpoints and evaluations all the time.
OPTIONS = [
    *("--config-file", "configs/quickstart.yaml", *TINY_MODEL, "DATALOADER.NUM_WORKERS", "2", "TEST.FIGURE_CLIPS", "1"),
    *("SOLVER.MAX_ITER", "150", "SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "9"),
    *("MODEL.TRANSAVS.DROPOUT", "0.1", "INPUT.NEGATIVE_AUDIO_PROB", "0.3"),
    *("INPUT.NEGATIVE_AUDIO", "['silence', 'noise']", "TEST.AUDIO_CONDITIONS", "['true']"),
]


def start(datasets: Path, output: Path) -> subprocess.Popen:
    """A run in a process group of its own, so that its workers are killed with it."""
    output.mkdir(exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "tools/train_net.py"), *OPTIONS, "--resume", "OUTPUT_DIR", str(output)]
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    with open(output / "output.txt", "a") as log:
        return subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def starts(output: Path) -> list[int]:
    """Iterations that training has begun at."""
    text = (output / "output.txt").read_text()
    return [int(found) for found in re.findall(r"Starting training from iteration (\d+)", text)]


def kill_while_training(run: subprocess.Popen, output: Path, seconds: float) -> bool:
    """Kill a run some seconds after it has begun to train; False where it has ended before."""
    begun = len(starts(output))
    while len(starts(output)) == begun and run.poll() is None:
        time.sleep(0.05)
    time.sleep(seconds)
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
    moments = [chance.uniform(0, LONGEST) for _ in range(KILLS)]
    kills = sum(kill_while_training(start(tiny_datasets, killed), killed, moment) for moment in moments)
    assert kills == KILLS, "the run ended before the last kill: make it longer"
    assert start(tiny_datasets, killed).wait(600) == 0, (killed / "output.txt").read_text()[-2000:]
    begun = starts(killed)
    assert begun[-1] > 0, "no kill has left a checkpoint to go on from"
    assert begun == sorted(begun)
    states = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (whole, killed)]
    for part in ("model", "trainer"):
        torch.testing.assert_close(states[1][part], states[0][part], rtol=0, atol=1e-6)
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()
    assert list(killed.glob(".*")) == []
