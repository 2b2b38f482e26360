"""The readers on good files that are damaged at random: a good value or an AVSInputError of one line.

``make test`` tries a few files, always the same; ``make test-slow`` many, new each time.
"""

import logging
from pathlib import Path

import pytest
from helpers.bad_inputs import READERS, Good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transavs import AVSInputError

UNHURRIED = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
FEW = settings(max_examples=80, derandomize=True, **UNHURRIED)
MANY = settings(max_examples=2000, **UNHURRIED)
HEADER = 256  # bytes at the start, and at the end, in which damage tells most
SLOW = ("predictor", "timm weights", "timm backbone")  # which build a model, and read as others do

Change = tuple[str, float, bytes, float]


def share(least: float, most: float) -> st.SearchStrategy[float]:
    # Tools that have run in this process let the CPU take subnormal numbers for 0.
    return st.floats(least, most, allow_subnormal=False)


def changes(length: int) -> st.SearchStrategy[list[Change]]:
    """A few changes: what is done, where, with which bytes, over how much; places are shares of the file."""
    near = min(1.0, HEADER / length)
    place = st.one_of(share(0, near), share(0, 1), share(1 - near, 1))
    kinds = st.sampled_from(["flip", "cut", "insert", "remove", "repeat"])
    return st.lists(st.tuples(kinds, place, st.binary(min_size=1, max_size=40), share(0, 0.3)), min_size=1, max_size=4)


def damaged(content: bytes, done: list[Change]) -> bytes:
    for kind, place, fresh, share in done:
        at, end = int(place * len(content)), int((place + share) * len(content))
        if kind == "flip":
            flipped = bytes(a ^ b for a, b in zip(content[at:], fresh, strict=False))
            content = content[:at] + flipped + content[at + len(flipped) :]
        else:
            rest = {"cut": b"", "insert": fresh + content[at:], "remove": content[end:], "repeat": content[at:]}[kind]
            content = content[: end if kind == "repeat" else at] + rest
    return content


def fuzz(name: str, good: Good, folder: Path, profile: settings) -> None:
    reader = READERS[name]
    contents = reader.contents(good, folder)
    path = folder / reader.name
    path.parent.mkdir(exist_ok=True)
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # FFmpeg tells of every broken packet
    for content in contents:
        path.write_bytes(content)
        reader.read(path)

    @profile
    @given(st.data())
    def read_or_told(data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(contents))
        path.write_bytes(damaged(content, data.draw(changes(len(content)))))
        try:
            reader.read(path)
        except AVSInputError as error:
            assert str(error)
            assert "\n" not in str(error)

    read_or_told()


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
def test_damaged_files_are_read_or_told(name: str, good: Good, tmp_path: Path):
    fuzz(name, good, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_told(name: str, good: Good, tmp_path: Path):
    fuzz(name, good, tmp_path, MANY)
