"""Good things that the tables of bad inputs begin with, and what makes bad ones of them."""

import logging
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from helpers.videos import make_video
from transavs.checkpoint.load import AVSCheckpointer
from transavs.data.avsbench import load_avsbench
from transavs.utils.errors import AVSInputError


@dataclass(frozen=True)
class Good:
    """Inputs that every tool takes (read only)."""

    config: Path
    weights: Path
    video: Path
    tree: Path  # synthetic data set
    frame: Path  # a PNG file of it
    masks: Path  # PNG files, predictions of themselves
    run: Path  # what training leaves behind

    @classmethod
    def make(cls, folder: Path, cfg: CfgNode, tree: Path) -> "Good":
        (folder / "config.yaml").write_text(cfg.dump())
        AVSCheckpointer(build_model(cfg), str(folder), cfg).save("weights")
        (folder / "run").mkdir()
        (folder / "run/metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
        (folder / "run/results.json").write_text('{"J": 1.0, "J-bell": 1.0}\n')
        masks = tree / "Single-source/s4_data/gt_masks/test"
        return cls(
            config=folder / "config.yaml",
            weights=folder / "weights.pth",
            video=make_video(folder / "video.mp4", seconds=1),
            tree=tree,
            frame=Path(load_avsbench(tree, "ms3", "test")[0]["file_names"][0]),
            masks=masks,
            run=folder / "run",
        )

    def record(self) -> dict:
        return load_avsbench(self.tree, "ms3", "test")[0]


Make = Callable[[Path, Good], object]


def nothing(path: Path, good: Good) -> None:
    """The bad thing is that there is none, or is not a file."""


def folder(path: Path, good: Good) -> None:
    path.mkdir()


def holds(content: bytes | str) -> Make:
    """A file of this content."""
    return lambda path, good: path.write_bytes(content.encode() if isinstance(content, str) else content)


def part_of(name: str, share: float = 0.5) -> Make:
    """A good file that ends too early."""

    def cut(path: Path, good: Good) -> None:
        content = getattr(good, name).read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return cut


def saves(value: object) -> Make:
    """torch.save's file of a value."""
    return lambda path, good: torch.save(value, path)


def changed_checkpoint(**changes: object) -> Make:
    """A good checkpoint with other entries; None takes one out."""

    def change(path: Path, good: Good) -> None:
        saved = torch.load(good.weights, weights_only=True) | changes
        torch.save({name: value for name, value in saved.items() if value is not None}, path)

    return change


def config_with(text: str) -> Make:
    """A good config and lines after it that override its keys."""
    return lambda path, good: path.write_text(f"_BASE_: {good.config}\n{text}\n")


def sound(
    samples: np.ndarray | float = 0.1, sample_rate: int = 16000, subtype: str = "PCM_16", seconds: float = 1.0
) -> Make:
    def write(path: Path, good: Good) -> None:
        wave = np.broadcast_to(samples, (round(seconds * 16000),)) if np.isscalar(samples) else samples
        soundfile.write(path, wave, sample_rate, subtype=subtype, format="WAV")

    return write


def wav_header(channels: int, sample_rate: int, samples: int = 1000) -> bytes:
    """A wav of silence whose header says so of its channels and rate."""
    data = bytes(2 * samples)
    about = struct.pack("<HHIIHH", 1, channels, sample_rate, 0, 2 * channels % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(about)) + about + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def pickled(value: object) -> Make:
    return lambda path, good: path.write_bytes(pickle.dumps(value))


def image(size: tuple[int, int] = (40, 40), value: int = 1, mode: str = "L") -> Make:
    return lambda path, good: Image.new(mode, size, value).save(path, format="PNG")


def tree_with(damage: Callable[[Path], object]) -> Make:
    """A copy of the data set in which something is damaged."""

    def copy(path: Path, good: Good) -> None:
        shutil.copytree(good.tree, path)
        damage(path)

    return copy


def masks_with(damage: Callable[[Path], object]) -> Make:
    """A copy of the masks of which the first is damaged."""

    def copy(path: Path, good: Good) -> None:
        shutil.copytree(good.masks, path)
        damage(min(path.rglob("*.png")))

    return copy


def row(subset_csv: str, line: str) -> Callable[[Path], object]:
    """One more row in a csv."""

    def add(tree: Path) -> None:
        with open(tree / subset_csv, "a") as file:
            file.write(line + "\n")

    return add


@dataclass(frozen=True)
class Bad:
    """A bad input to a tool.

    Attributes:
        tool: its path.
        arguments: words; {out} is a path to write to, {bad} one of the bad thing, the others are those of a Good.
        names: what the line must hold of the thing; "{bad}" and the others as in ``arguments``.
        mend: what the line must hold of the mend.
        make: makes the bad thing.
        file: its name.
    """

    tool: str
    arguments: str
    names: str
    mend: str
    make: Make = nothing
    file: str = "bad"

    def assert_told(self, good: Good, run_here: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The tool ends with status 2 and one line that names the thing and the mend, and nothing is written."""
        # Handlers of tools that have run in this process before write to streams that are closed by now.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        self.make(folder / self.file, good)
        paths = vars(good) | {"bad": folder / self.file, "out": folder / "out"}
        before = set(folder.rglob("*"))

        done = run_here(self.tool, *(word.format(**paths) for word in self.arguments.split()))

        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
        assert self.names.format(**paths) in line
        assert self.mend.format(**paths) in line
        assert set(folder.rglob("*")) <= before, "something was written"


def asks(tool: str, arguments: str, names: str, mend: str, make: Make = nothing, file: str = "bad") -> Bad:
    """Bad arguments."""
    return Bad(tool, arguments, names, mend, make, file)


def assert_raises(call: Callable[[], object], bad: Path, names: str, mend: str) -> None:
    """A function raises an AVSInputError of one line that names the thing and the mend, and writes nothing."""
    before = set(bad.parent.rglob("*"))
    with pytest.raises(AVSInputError) as caught:
        call()
    told = str(caught.value)
    assert "\n" not in told
    assert names.format(bad=bad) in told
    assert mend in told
    assert set(bad.parent.rglob("*")) <= before, "something was written"
