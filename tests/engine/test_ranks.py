"""Several processes of one run, started by torchrun on CPUs."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.repository import REPOSITORY, TINY_MODEL

# Everything that draws at random on each rank by itself is off; the order of the data is shared.
OPTIONS = [
    *("--config-file", "configs/quickstart.yaml", *TINY_MODEL, "INPUT.RANDOM_FLIP", "none", "SOLVER.MAX_ITER", "3"),
    *("SOLVER.IMS_PER_BATCH", "4", "TEST.FIGURE_CLIPS", "0", "TEST.AUDIO_CONDITIONS", "['true', 'silence']"),
    # AVSS: clips of one, five and ten labeled frames, so the ranks' shares are uneven.
    *("DATASETS.TRAIN", "('synthetic_avss_train',)", "DATASETS.TEST", "('synthetic_avss_test',)"),
    *("DATASETS.VAL", "('synthetic_avss_val',)"),
    *("INPUT.NUM_FRAMES", "10", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7"),
]


LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


TRAIN_NET = REPOSITORY / "tools/train_net.py"
TRAINING = "Starting training from iteration"


def start(
    datasets: Path, output: Path, *launcher: str, options: tuple[str, ...] = (), tool: Path = TRAIN_NET
) -> subprocess.Popen:
    command = [sys.executable, *launcher, str(tool), *OPTIONS, *options]
    command += ["OUTPUT_DIR", str(output)]
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def losses_and_results(folder: Path) -> tuple[list[float], dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["total_loss"] for row in rows if "total_loss" in row], json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def one_process(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, float]]:
    folder = tmp_path_factory.mktemp("one")
    finish(start(tiny_datasets, folder))
    return losses_and_results(folder)


def assert_same(found: tuple, expected: tuple) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1] == pytest.approx(expected[1], abs=0.05)


def test_two_processes_train_and_score_as_one(tiny_datasets: Path, tmp_path: Path, one_process: tuple):
    """The same global batch, batch norms included; three test clips over two ranks."""
    finish(start(tiny_datasets, tmp_path, *LAUNCHER))
    assert_same(losses_and_results(tmp_path), one_process)


def rank_of(process: subprocess.Popen, rank: int) -> int:
    """Process number of one of the ranks that torchrun has started."""
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"torchrun has no rank {rank}")


def assert_ends_with_an_error(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    return output


def test_a_rank_that_is_killed_ends_the_job(tiny_datasets: Path, tmp_path: Path):
    process = start(tiny_datasets, tmp_path, *LAUNCHER, options=("SOLVER.MAX_ITER", "100000"))
    while TRAINING not in process.stdout.readline():
        assert process.poll() is None, "the run has ended before it trained"
    time.sleep(1)
    os.kill(rank_of(process, 1), signal.SIGKILL)
    assert "Signal 9 (SIGKILL)" in assert_ends_with_an_error(process)


def test_a_rank_that_fails_ends_the_job_and_says_why(tiny_datasets: Path, tmp_path: Path):
    """Of the four clips that two ranks share one is broken."""
    datasets = shutil.copytree(tiny_datasets, tmp_path / "datasets")
    (wav,) = (datasets / "synthetic/AVSBench_semantic").glob("*/avss_train_0001_0/audio.wav")
    wav.write_bytes(wav.read_bytes()[:5000])
    output = assert_ends_with_an_error(start(datasets, tmp_path / "out", *LAUNCHER))
    told = f"{wav.parent.name}/{wav.name} is truncated (5000 of"
    assert told in output
    assert any(told in log.read_text() for log in (tmp_path / "out").glob("log.txt*"))


# Trains with a loss that is not finite on the second rank in the second iteration.
SPOILT = """\
import runpy
from detectron2.utils import comm
from transavs.engine import AVSTrainer

build_model = AVSTrainer.build_model

def build_spoilt_model(cfg):
    seen = []

    def spoil(model, inputs, losses):
        seen.append(inputs)
        spoilt = comm.get_rank() == 1 and len(seen) == 2
        return {name: loss * float("nan") for name, loss in losses.items()} if spoilt else losses

    model = build_model(cfg)
    model.register_forward_hook(spoil)
    return model

AVSTrainer.build_model = staticmethod(build_spoilt_model)
"""


@pytest.mark.slow
def test_ranks_skip_a_batch_together(tiny_datasets: Path, tmp_path: Path):
    tool = tmp_path / "spoilt.py"
    tool.write_text(f"{SPOILT}runpy.run_path({str(TRAIN_NET)!r}, run_name='__main__')\n")
    options = ("SOLVER.ON_NON_FINITE", "skip", "TEST.AUDIO_CONDITIONS", "['true']")
    finish(start(tiny_datasets, tmp_path, *LAUNCHER, options=options, tool=tool))
    told = [re.findall(r"iteration 1, clips (.*): not finite: .*: skipped", log.read_text())
            for log in sorted(tmp_path.glob("log.txt*"))]  # fmt: skip
    assert len(told) == 2
    assert told[0] == told[1]
    assert len(told[0][0].split(", ")) == 2  # of the second rank alone


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_two_processes_train_tpavi_with_avm_as_one(tiny_datasets: Path, tmp_path: Path, reduction: str):
    options = ("MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]")
    options += ("MODEL.TPAVI.AVM_WEIGHT", "0.5", "MODEL.TPAVI.AVM_REDUCTION", reduction)
    for name, launcher in (("one", ()), ("two", LAUNCHER)):
        finish(start(tiny_datasets, tmp_path / name, *launcher, options=options))
    assert_same(losses_and_results(tmp_path / "two"), losses_and_results(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.TRANSAVS.DEC_LAYERS", "1"),
        ("MODEL.TRANSAVS.DEC_LAYERS", "2"),
        ("MODEL.META_ARCHITECTURE", "TPAVI", "MODEL.TPAVI.AUDIO_VISUAL", "False", "MODEL.TPAVI.VISUAL_VISUAL", "True"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3', 'res4']"),
    ],
    ids=["one layer", "two layers", "visual only", "three levels"],
)
def test_two_processes_train_models_that_leave_parameters_unused(tiny_datasets: Path, tmp_path: Path, options: tuple):
    options = ("MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]", "TEST.AUDIO_CONDITIONS", "['true']", *options)
    for name, launcher in (("one", ()), ("two", LAUNCHER)):
        finish(start(tiny_datasets, tmp_path / name, *launcher, options=options))
    losses = [losses_and_results(tmp_path / name)[0] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


# Of the second of two clips half of the pixels are ignored.
IGNORING = """\
import runpy
from transavs.data.dataset_mapper import AVSDatasetMapper

call = AVSDatasetMapper.__call__

def ignore_half(self, record):
    clip = call(self, record)
    if self.is_train and sum(map(ord, clip["video_id"])) % 2:
        clip["masks"][:, : clip["masks"].shape[1] // 2] = 255
    return clip

AVSDatasetMapper.__call__ = ignore_half
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["TransAVS", "TPAVI"])
def test_ranks_weigh_pixels_alike_where_some_are_ignored(tiny_datasets: Path, tmp_path: Path, architecture: str):
    tool = tmp_path / "ignoring.py"
    tool.write_text(f"{IGNORING}runpy.run_path({str(TRAIN_NET)!r}, run_name='__main__')\n")
    options = ("MODEL.META_ARCHITECTURE", architecture, "MODEL.TPAVI.HEAD_CHANNELS", "[8, 8]")
    options += ("TEST.AUDIO_CONDITIONS", "['true']")
    for name, launcher in (("one", ()), ("two", LAUNCHER)):
        finish(start(tiny_datasets, tmp_path / name, *launcher, options=options, tool=tool))
    assert_same(losses_and_results(tmp_path / "two"), losses_and_results(tmp_path / "one"))


@pytest.mark.slow
def test_two_processes_accumulate_what_one_sees_at_once(tiny_datasets: Path, tmp_path: Path):
    """Where no norm and no loss looks at a batch as a whole; one labeled frame of each clip."""
    options = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN", "INPUT.TRAIN_FRAMES", "1")
    options += ("MODEL.AUDIO_BACKBONE.SMALL_NORM", "FrozenBN", "MODEL.TRANSAVS.ALIGNMENT_WEIGHT", "0.0")
    finish(start(tiny_datasets, tmp_path / "one", options=options))
    options += ("SOLVER.IMS_PER_BATCH", "2", "SOLVER.ACCUMULATE", "2")
    finish(start(tiny_datasets, tmp_path / "two", *LAUNCHER, options=options))
    assert_same(losses_and_results(tmp_path / "two"), losses_and_results(tmp_path / "one"))


def start_two_machines(datasets: Path, output: Path, *options: str) -> list[subprocess.Popen]:
    """Two torchrun agents of one process each that meet on loopback, as two machines would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test")
    launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting)
    return [start(datasets, output, *launcher, "--local-addr", "127.0.0.1", options=options) for _ in range(2)]


@pytest.mark.slow
def test_a_machine_whose_rank_is_killed_ends_the_job_on_both(tiny_datasets: Path, tmp_path: Path):
    machines = start_two_machines(tiny_datasets, tmp_path, "SOLVER.MAX_ITER", "100000")
    log = tmp_path / "log.txt"
    while not log.exists() or TRAINING not in log.read_text():
        assert all(machine.poll() is None for machine in machines), "a machine has ended before it trained"
        time.sleep(0.1)
    time.sleep(2)
    (killed,) = Path(f"/proc/{machines[1].pid}/task/{machines[1].pid}/children").read_text().split()
    os.kill(int(killed), signal.SIGKILL)
    for machine in machines:
        assert_ends_with_an_error(machine)


@pytest.mark.slow
def test_two_machines_train_and_score_as_one(tiny_datasets: Path, tmp_path: Path, one_process: tuple):
    machines = start_two_machines(tiny_datasets, tmp_path)
    for machine in machines:
        finish(machine)
    assert_same(losses_and_results(tmp_path), one_process)
