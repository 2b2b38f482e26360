"""Checkpoints: whole or not there, the last good one found, nothing in them run."""

import os
import pickle
import resource
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from transavs import AVSInputError
from transavs.checkpoint.checkpointer import AVSCheckpointer


def checkpointer(folder: Path, value: float = 0.0) -> AVSCheckpointer:
    """Of a model of 4096 weights, all of one value."""
    model = nn.Linear(64, 64)
    with torch.no_grad():
        model.weight.fill_(value)
    return AVSCheckpointer(model, str(folder))


def save(folder: Path, iteration: int, name: str = "") -> Path:
    name = name or f"model_{iteration:07d}"
    checkpointer(folder, iteration).save(name, iteration=iteration)
    path = folder / f"{name}.pth"
    written = 10**9 * (1000 + len(list(folder.glob("*.pth"))))  # file systems may be too coarse to tell them apart
    os.utime(path, ns=(written, written))
    return path


def last(folder: Path) -> str:
    return Path(checkpointer(folder).get_checkpoint_file()).name


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil(path: Path) -> None:
    """Another value of a weight; the archive's directory stays as it is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_the_last_checkpoint_is_the_one_that_was_noted(tmp_path: Path):
    assert not checkpointer(tmp_path).has_checkpoint()
    assert last(tmp_path) == ""
    save(tmp_path, 1)
    save(tmp_path, 3)
    save(tmp_path, 2, "model_final")  # a run that was started again in the folder of another
    assert last(tmp_path) == "model_final.pth"


@pytest.mark.parametrize("harm", [cut, spoil, Path.unlink])
def test_a_broken_checkpoint_is_passed_over(tmp_path: Path, harm):
    paths = [save(tmp_path, iteration) for iteration in (1, 3, 5)]
    harm(paths[2])
    assert last(tmp_path) == "model_0000003.pth"
    cut(paths[1])
    assert last(tmp_path) == "model_0000001.pth"
    model = nn.Linear(64, 64)
    AVSCheckpointer(model).load_all(str(tmp_path / last(tmp_path)))
    assert (model.weight == 1).all()
    spoil(paths[0])
    assert last(tmp_path) == ""


def test_a_checkpoint_that_was_written_but_not_yet_noted_counts(tmp_path: Path):
    save(tmp_path, 1)
    note = (tmp_path / "last_checkpoint").read_text()
    save(tmp_path, 3)
    (tmp_path / "last_checkpoint").write_text(note)
    assert last(tmp_path) == "model_0000003.pth"
    (tmp_path / "last_checkpoint").unlink()
    assert last(tmp_path) == "model_0000003.pth"


@pytest.mark.parametrize("note", ["", "\0", "../{}/model_0000001.pth", "weights.pth", "\n/etc/passwd"])
def test_a_note_that_is_wrong_leads_nowhere(tmp_path: Path, note: str):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    for place in (outside, folder):
        place.mkdir()
        save(place, 3)
    save(outside, 1)
    (folder / "last_checkpoint").write_text(note.format(outside.name))
    assert checkpointer(folder).get_checkpoint_file() == str(folder / "model_0000003.pth")


def test_a_stranger_among_the_checkpoints_is_not_run(tmp_path: Path):
    save(tmp_path, 1)
    torch.save({"iteration": Payload(tmp_path / "ran")}, tmp_path / "model_0000009.pth")
    assert last(tmp_path) == "model_0000001.pth"
    assert not (tmp_path / "ran").exists()


def test_the_best_weights_are_not_what_a_run_goes_on_from(tmp_path: Path):
    save(tmp_path, 1)
    save(tmp_path, 5, "model_best")
    assert last(tmp_path) == "model_0000001.pth"
    (tmp_path / "last_checkpoint").unlink()
    assert last(tmp_path) == "model_0000001.pth"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, writing beyond it fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_cannot_be_written_leaves_the_checkpoint_before_it(tmp_path: Path):
    save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with files_of_at_most(8192), pytest.raises(AVSInputError, match=r"model_0000003\.pth cannot be written .* room"):
        checkpointer(tmp_path).save("model_0000003")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_process_has_left_is_no_checkpoint_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 1)

    def write_half(data: object, file) -> None:
        file.write(b"PK half of it")
        file.flush()
        for partial in tmp_path.glob(".*"):
            shutil.copy(partial, tmp_path / partial.name.replace("model", "model_killed"))
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(KeyboardInterrupt):
        checkpointer(tmp_path).save("model_0000003")
    assert len(list(tmp_path.glob(".model_killed*"))) == 1
    assert last(tmp_path) == "model_0000001.pth"
    checkpointer(tmp_path).remove_partial_files()
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000001.pth", "last_checkpoint"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, value: float):
    with pytest.raises(AVSInputError, match=r"model_0000001\.pth is not written, weight is not finite: lower"):
        checkpointer(tmp_path, value).save("model_0000001")
    assert list(tmp_path.iterdir()) == []


def load(path: Path) -> nn.Linear:
    model = nn.Linear(2, 2)
    AVSCheckpointer(model).load(str(path))
    return model


def test_weights_of_other_kinds_of_files(tmp_path: Path):
    weights = {"weight": torch.full((2, 2), 7.0), "bias": torch.zeros(2)}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "bare.pth")
    arrays = OrderedDict((name, value.numpy()) for name, value in weights.items())
    zoo = {"model": arrays, "__author__": "someone", "scale": np.float32(1.0)}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(zoo, protocol=2))
    caffe2 = {"blobs": arrays | {"weight_momentum": np.zeros(2)}}
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps(caffe2, protocol=2))
    for path in sorted(tmp_path.iterdir()):
        assert (load(path).weight == 7).all(), path.name


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["model.pkl", "model.pth", "model.pyth"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, name: str):
    marker, path = tmp_path / "ran", tmp_path / name
    hostile = {"model": {"weight": np.zeros((2, 2)), "bias": Payload(marker)}, "__author__": "someone"}
    with open(path, "wb") as file:
        (pickle.dump if name.endswith("pkl") else torch.save)(hostile, file)
    with pytest.raises(AVSInputError, match=rf"{name} cannot be read as a checkpoint \(.*\): name a good file"):
        load(path)
    assert not marker.exists()
