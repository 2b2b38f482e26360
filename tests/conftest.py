"""Small data on disk and small models that the tests share."""

import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.logger import setup_logger
from helpers.bad_inputs import Good
from helpers.repository import REPOSITORY, TINY_MODEL
from helpers.web_inputs import write_noise, write_video

from transavs.config.load import load_config
from transavs.data.avsbench import LAYOUTS, SOURCES, load_avsbench, register_all_avsbench
from transavs.data.synthetic.dataset import write_synthetic


@pytest.fixture(scope="session")
def tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A $DETECTRON2_DATASETS with every registered tree, of a few clips each (read only)."""
    root = tmp_path_factory.mktemp("datasets")
    for source in SOURCES:
        clips = {"train": 4, "val": 2, "test": 3}
        write_synthetic(root, sorted(LAYOUTS), clips, size=40, source=source, difficulty="easy", seed=3)
    return root


def register_again(root: Path | str) -> None:
    for name in DatasetCatalog.list():
        if name.partition("_")[0] in SOURCES:
            DatasetCatalog.remove(name)
    register_all_avsbench(root)


@pytest.fixture
def catalog_of() -> Iterator[Callable[[Path], None]]:
    """Lets the registered names mean the trees below a folder, until the test has ended."""
    yield register_again
    register_again(os.environ.get("DETECTRON2_DATASETS", "datasets"))


@pytest.fixture(scope="module")
def tiny_catalog(tiny_datasets: Path) -> Iterator[None]:
    """The registered names mean the tiny trees while this module runs."""
    register_again(tiny_datasets)
    yield
    register_again(os.environ.get("DETECTRON2_DATASETS", "datasets"))


@pytest.fixture
def ms3_records(tiny_datasets: Path) -> list[dict]:
    return load_avsbench(tiny_datasets / "synthetic", "ms3", "test")


@pytest.fixture
def tiny_cfg():
    """The quickstart's config, shrunk; a fresh copy per test."""
    torch.manual_seed(0)
    return load_config(REPOSITORY / "configs/quickstart.yaml", TINY_MODEL)


@pytest.fixture(scope="session")
def good(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Good:
    """Inputs to make bad ones of (read only)."""
    cfg = load_config(REPOSITORY / "configs/quickstart.yaml", TINY_MODEL)
    return Good.make(tmp_path_factory.mktemp("good"), cfg, tiny_datasets / "synthetic")


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """A tool that runs in this process sets up loggers that write to what pytest captures, which ends with the test."""
    loggers = [logging.getLogger(name) for name in ("transavs", "detectron2", "fvcore")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers = handlers
    setup_logger.cache_clear()  # it would not add them again


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What transavs logs, also after a tool that ran in this process has set up its logger."""
    monkeypatch.setattr(logging.getLogger("transavs"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def run_train_net(tiny_datasets: Path):
    """Runs tools/train_net.py with the given arguments in a process of its own, on the tiny data."""

    def run(*arguments: object, datasets: Path = tiny_datasets) -> subprocess.CompletedProcess:
        command = [sys.executable, REPOSITORY / "tools/train_net.py", *map(str, arguments)]
        environment = os.environ | {"DETECTRON2_DATASETS": str(datasets)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)

    return run


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs a tool in this process, which saves the seconds that a new one takes to import torch."""

    def run(tool: str, *arguments: object) -> subprocess.CompletedProcess:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        code: object = 0
        try:
            runpy.run_path(str(REPOSITORY / tool), run_name="__main__")
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated video of a few seconds, for the web demo (read only)."""
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound to give it in place of its own (read only)."""
    return write_noise(tmp_path_factory.mktemp("sounds") / "noise.flac")
