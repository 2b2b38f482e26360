"""What the processes of a run talk by, and how they use a CPU."""

import socket
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from helpers.repository import REPOSITORY

from transavs import AVSInputError
from transavs.engine.launch import launch

QUICKSTART = ("--config-file", str(REPOSITORY / "configs/quickstart.yaml"))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Backends that were asked for by this process, the only one of a job of torchrun; gloo takes the place of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    for name, value in {**variables, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    monkeypatch.setattr(torch.cuda, "set_device", Mock())
    found: list[str] = []
    start = dist.init_process_group
    monkeypatch.setattr(dist, "init_process_group", lambda backend: (found.append(backend), start("gloo")))
    return found


@pytest.mark.parametrize(
    ("device", "has_gpu", "backend"),
    [("cpu", False, "gloo"), ("cpu", True, "gloo"), ("cuda", True, "nccl"), ("cuda", False, "gloo")],
)
def test_it_follows_the_device_of_the_run(
    chosen: list[str], monkeypatch: pytest.MonkeyPatch, device: str, has_gpu: bool, backend: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    args = default_argument_parser().parse_args([*QUICKSTART, "MODEL.DEVICE", device])
    main = Mock()
    launch(main, args)
    main.assert_called_once_with(args)
    assert chosen == [backend]
    assert torch.cuda.set_device.called is (backend == "nccl")
    assert not dist.is_initialized()


def test_a_config_that_is_wrong_ends_a_process_before_it_waits_for_others(chosen: list[str]):
    with pytest.raises(AVSInputError, match=r"MODEL\.DEVICES"):
        launch(Mock(), default_argument_parser().parse_args([*QUICKSTART, "MODEL.DEVICES", "cpu"]))
    assert chosen == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc keeps memory")
def test_freed_memory_is_used_again_and_subnormal_numbers_are_0():
    code = """
import resource, torch
from transavs.engine.launch import prepare_cpu
prepare_cpu()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.ones(2**24)  # 64 MiB, 16384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, float(torch.full((), 1e-30) * 1e-10))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    pages, product = map(float, done.stdout.split())
    # Once, and a few times more where something small has been put into the gap.
    assert pages < 15 * 16384
    assert product == 0
