"""Training that is ended by Ctrl-C or SIGTERM leaves a checkpoint from which it goes on as if nothing had been."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from helpers.repository import REPOSITORY, TINY_MODEL

from transavs.engine import AVSTrainer, trainer

ITERATIONS, LAST = 5, 2  # of a run, and the one in which it gets the signal
STARTED = "Starting training from iteration"
TOLD = re.compile(r"stopped by (\w+) after iteration (\d+): call the same command with --resume to go on")


@pytest.fixture
def cfg(tiny_cfg, tiny_catalog: None, tmp_path: Path) -> CfgNode:
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", ITERATIONS, "OUTPUT_DIR", str(tmp_path), "TEST.FIGURE_CLIPS", 0])
    tiny_cfg.merge_from_list(["TEST.AUDIO_CONDITIONS", ["true"], "INPUT.RANDOM_FLIP", "horizontal"])
    return tiny_cfg


class SignaledTrainer(AVSTrainer):
    """Sends itself signals while it trains an iteration, or while it evaluates after one."""

    signals: tuple[int, ...] = ()
    when = "train"

    def run_step(self) -> None:
        if self.when == "train" and self.iter == LAST:
            for number in self.signals:
                os.kill(os.getpid(), number)
        super().run_step()


def run(cfg: CfgNode, when: str = "train", *signals: int) -> AVSTrainer:
    torch.manual_seed(0)
    found = SignaledTrainer(cfg)
    found.signals, found.when = signals, when
    found.resume_or_load(resume=True)
    found.train()
    return found


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["model"]


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_the_iteration_ends_and_a_checkpoint_is_written(cfg: CfgNode, signals: list[int], tmp_path: Path, logged):
    """A launcher may send another signal on to a process that has had one."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as end:
        run(cfg, "train", *signals)
    assert end.value.code == 128 + signals[0]
    assert TOLD.findall(logged.text) == [(signal.Signals(signals[0]).name, str(LAST))]
    assert [path.name for path in tmp_path.glob("model_*")] == [f"model_{LAST:07d}.pth"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    Path(cfg.OUTPUT_DIR).mkdir()
    whole = run(cfg)
    cfg.OUTPUT_DIR = str(tmp_path)
    parts = run(cfg)
    assert parts.start_iter == LAST + 1
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("iteration", "left"), [(LAST, f"model_{LAST:07d}.pth"), (ITERATIONS - 1, "model_final.pth")])
def test_an_evaluation_is_broken_off(cfg: CfgNode, tmp_path: Path, monkeypatch, iteration: int, left: str, logged):
    """The one after a step, and that at the end; a resumed run makes it again."""
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 1])
    evaluate, evaluated = trainer.evaluate, []

    def interrupted(*arguments: object):
        evaluated.append(len(evaluated))
        if evaluated[-1] == iteration:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)  # of which nothing is waited for
        return evaluate(*arguments)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    with pytest.raises(SystemExit):
        run(cfg)
    assert TOLD.findall(logged.text) == [("SIGTERM", str(iteration))]
    assert (tmp_path / left).exists()
    run(cfg)
    assert (tmp_path / "results.json").exists()


def test_a_later_signal_ends_a_run_that_hangs(cfg: CfgNode, monkeypatch):
    monkeypatch.setattr("transavs.engine.hooks.REPEATED_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(cfg, "train", signal.SIGINT, signal.SIGINT)


def start(output: Path, datasets: Path, *command: str) -> subprocess.Popen:
    """A run in a process group of its own, as of a terminal or a job of SLURM."""
    options = (*TINY_MODEL, "SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(output))
    command += (str(REPOSITORY / "tools/train_net.py"), "--config-file", "configs/quickstart.yaml", *options)
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def output_after(process: subprocess.Popen, number: int) -> str:
    """What a run says once all of its processes have been sent a signal while they train."""
    while STARTED not in process.stdout.readline():
        assert process.poll() is None, "the run has ended before it trained"
    time.sleep(1)
    os.killpg(process.pid, number)
    return process.communicate(timeout=120)[0]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_to_all_processes_ends_a_run_with_one_line(tiny_datasets: Path, tmp_path: Path, number: int):
    """Its worker gets the signal too."""
    process = start(tmp_path, tiny_datasets)
    output = output_after(process, number)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    ((name, iteration),) = TOLD.findall(output)
    assert name == signal.Signals(number).name
    assert torch.load(tmp_path / f"model_{int(iteration):07d}.pth", weights_only=True)["iteration"] == int(iteration)


def test_all_ranks_end_after_the_same_iteration(tiny_datasets: Path, tmp_path: Path):
    """Torchrun tells of the signal by a traceback of its own."""
    process = start(tmp_path, tiny_datasets, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output = output_after(process, signal.SIGTERM)
    logs = [path.read_text() for path in sorted(tmp_path.glob("log.txt*"))]
    ends = [TOLD.findall(log) for log in logs]
    assert len(logs) == 2, output
    assert ends[0] == ends[1]
    assert len(ends[0]) == 1, output
    assert (tmp_path / f"model_{int(ends[0][0][1]):07d}.pth").exists()


LAUNCHED = """
import os, signal, sys, time
import torch.multiprocessing as mp
from transavs.engine import launch

def train(rank):
    def end(number, frame):
        time.sleep(rank)
        print("rank", rank, "has ended", flush=True)
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, end)
    print("rank", rank, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with launch._signals_left_to_processes():
        mp.spawn(train, nprocs=1)
"""


@pytest.mark.slow
def test_a_launcher_passes_the_signal_on_and_ends_as_its_processes_do(tmp_path: Path):
    """The part of detectron2's launcher that needs no GPU."""
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while "rank 0" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert output == "rank 0 has ended\n"
    assert process.returncode == 128 + signal.SIGTERM
