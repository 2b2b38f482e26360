"""The readers on good files that are damaged at random, and on anything: a good value or an AVSInputError of one line.

``make test`` tries a few files, always the same; ``make test-slow`` many, new each time.
"""

import io
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.bad_inputs import Good
from helpers.videos import make_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from transavs import AVSInputError
from transavs.checkpoint.load import read_checkpoint
from transavs.config.load import load_config
from transavs.data.audio import load_log_mel_pickle, log_mel_examples
from transavs.data.avsbench import LAYOUTS, load_avsbench
from transavs.evaluation.mask_folders import read_probability_map
from transavs.media.audio_file import load_audio
from transavs.media.audio_stream import SoundFile
from transavs.media.images import read_frame, read_mask
from transavs.media.video_reader import Video

UNHURRIED = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
FEW = settings(max_examples=60, derandomize=True, **UNHURRIED)
MANY = settings(max_examples=2000, **UNHURRIED)
HEADER = 256  # bytes at the start, and at the end, in which damage tells most

Change = tuple[str, float, bytes, float]


def share(least: float, most: float) -> st.SearchStrategy[float]:
    # Tools that have run in this process let the CPU take subnormal numbers for 0.
    return st.floats(least, most, allow_subnormal=False)


def changes(length: int) -> st.SearchStrategy[list[Change]]:
    """A few changes: what is done, where, with which bytes, over how much; places are shares of the file."""
    near = min(1.0, HEADER / length)
    place = st.one_of(share(0, near), share(0, 1), share(1 - near, 1))
    kinds = st.sampled_from(["flip", "overwrite", "cut", "insert", "remove", "repeat"])
    return st.lists(st.tuples(kinds, place, st.binary(min_size=1, max_size=8), share(0, 0.3)), min_size=1, max_size=4)


def damaged(content: bytes, done: list[Change]) -> bytes:
    for kind, place, fresh, share in done:
        at, end = int(place * len(content)), int((place + share) * len(content))
        if kind == "flip":
            flipped = bytes(a ^ b for a, b in zip(content[at:], fresh, strict=False))
            content = content[:at] + flipped + content[at + len(flipped) :]
        elif kind == "overwrite":
            content = content[:at] + fresh + content[at + len(fresh) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + fresh + content[at:]
        elif kind == "remove":
            content = content[:at] + content[end:]
        else:
            content = content[:end] + content[at:]
    return content


def wav(**options: str) -> bytes:
    file = io.BytesIO()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 2))
    soundfile.write(file, wave, 16000, **{"format": "WAV"} | options)
    return file.getvalue()


def picture(mode: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 2, (12, 16, 3), dtype=np.uint8) * 128  # as palettes have it
    Image.fromarray(values).convert(mode).save(file, format=kind)
    return file.getvalue()


def video(kind: str, folder: Path) -> bytes:
    return make_video(folder / f"a.{kind}", seconds=0.4, frame_rate=5).read_bytes()


def read_csv(path: Path) -> object:
    """The csv of MS3."""
    meta = path.parent / LAYOUTS["ms3"].meta
    meta.parent.mkdir(exist_ok=True)
    meta.write_bytes(path.read_bytes())
    return load_avsbench(path.parent, "ms3", "test")


def read_sound(path: Path) -> object:
    return log_mel_examples(*load_audio(path))


def read_video(path: Path) -> object:
    found = Video(path)
    return sum(frame.pixels().size for frame in found.frames()) + sum(block.size for block in found.sound(16000))


# Reader, and the good contents that damage begins with, made of the Good and a folder.
READERS: dict[str, tuple[Callable[[Path], object], Callable[[Good, Path], list[bytes]]]] = {
    "csv": (read_csv, lambda good, folder: [(good.tree / LAYOUTS["ms3"].meta).read_bytes()]),
    "wav": (
        read_sound,
        lambda good, folder: [wav(), wav(subtype="FLOAT"), wav(format="FLAC"), wav(subtype="IMA_ADPCM")],
    ),
    "frame": (lambda path: read_frame(str(path), "RGB"), lambda good, folder: [picture("RGB"), picture("L", "JPEG")]),
    "mask": (lambda path: read_mask(str(path), "class_ids"), lambda good, folder: [picture("L"), picture("P")]),
    "color mask": (
        lambda path: read_mask(str(path), "palette"),
        lambda good, folder: [picture("RGB"), picture("RGBA")],
    ),
    "scores": (
        lambda path: read_probability_map(str(path)),
        lambda good, folder: [picture("1"), picture("P"), picture("I;16")],
    ),
    "log-mel": (
        load_log_mel_pickle,
        lambda good, folder: [pickle.dumps(torch.zeros(1, 1, 96, 64), protocol=p) for p in (3, 4)],
    ),
    "checkpoint": (read_checkpoint, lambda good, folder: [good.weights.read_bytes()]),
    "config": (load_config, lambda good, folder: [good.config.read_bytes()]),
    "video": (read_video, lambda good, folder: [video("mp4", folder), video("mkv", folder), video("ts", folder)]),
    "sound": (lambda path: list(SoundFile(path, 1).sound(16000)), lambda good, folder: [wav(), video("mp4", folder)]),
}


def assert_read_or_told(read: Callable[[Path], object], path: Path) -> None:
    told = "a word"
    try:
        read(path)
    except AVSInputError as error:
        told = str(error)
    assert told
    assert "\n" not in told


def fuzz(name: str, good: Good, folder: Path, profile: settings) -> None:
    read, make = READERS[name]
    contents = make(good, folder)
    path = folder / "file"
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # FFmpeg tells of every broken packet

    @profile
    @given(st.data())
    def try_one(data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(contents))
        path.write_bytes(damaged(content, data.draw(changes(len(content)))))
        assert_read_or_told(read, path)

    @profile
    @given(st.binary(max_size=300), st.sampled_from([0, 4, 12, 40]))
    def try_anything(content: bytes, kept: int) -> None:
        path.write_bytes(contents[0][:kept] + content)
        assert_read_or_told(read, path)

    for content in contents:
        path.write_bytes(content)
        read(path)
    try_one()
    try_anything()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_told(name: str, good: Good, tmp_path: Path):
    fuzz(name, good, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_told(name: str, good: Good, tmp_path: Path):
    fuzz(name, good, tmp_path, MANY)
