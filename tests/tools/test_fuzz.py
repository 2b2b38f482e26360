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


def splices(length: int) -> st.SearchStrategy[list[tuple[int, int, bytes]]]:
    """A few times what goes in between two places: it cuts, removes, inserts, overwrites and repeats."""
    place = st.one_of(
        *(st.integers(max(0, a), max(0, b)) for a, b in ((0, HEADER), (0, length), (length - HEADER, length)))
    )
    near = st.tuples(place, st.binary(max_size=40)).map(lambda drawn: (drawn[0], drawn[0] + len(drawn[1]), drawn[1]))
    far = st.tuples(place, place, st.binary(max_size=40))
    return st.lists(st.one_of(near, far), min_size=1, max_size=4)


def fuzz(name: str, good: Good, folder: Path, profile: settings) -> None:
    (read, make), path = READERS[name], folder / name
    contents = make(good)
    path.parent.mkdir(exist_ok=True)
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # FFmpeg tells of every broken packet
    for content in contents:
        path.write_bytes(content)
        read(path)

    @profile
    @given(st.data())
    def read_or_told(data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(contents))
        for start, end, fresh in data.draw(splices(len(content))):
            content = content[:start] + fresh + content[end:]
        path.write_bytes(content)
        told = "a word"
        try:
            read(path)
        except AVSInputError as error:
            told = str(error)
        assert told
        assert "\n" not in told

    read_or_told()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_told(name: str, good: Good, tmp_path: Path):
    fuzz(name, good, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_told(name: str, good: Good, tmp_path: Path):
    fuzz(name, good, tmp_path, MANY)
