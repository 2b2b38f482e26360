"""Files of tensors that are whole whoever writes them at once and is killed when."""

import multiprocessing
import os
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from transavs.utils.tensor_cache import ABANDONED_SECONDS, SUFFIX, TensorCache


def test_what_killed_processes_left_is_removed_when_nobody_can_be_writing_it(tmp_path: Path):
    old, new = tmp_path / f".a.0.partial{SUFFIX}", tmp_path / f".b.0.partial{SUFFIX}"
    for path in (old, new):
        path.write_bytes(b"half")
    past = time.time() - 2 * ABANDONED_SECONDS
    os.utime(old, (past, past))
    cache = TensorCache(tmp_path, "KEY")
    cache.write("c", {"x": torch.ones(2)})
    assert {path.name for path in tmp_path.iterdir()} == {new.name, f"c{SUFFIX}"}


def test_a_checksum_does_not_make_a_foreign_file_one_of_ours(tmp_path: Path, logged: pytest.LogCaptureFixture):
    cache = TensorCache(tmp_path, "KEY")
    body = b"no tensors at all"
    cache.path("clip").write_bytes(zlib.crc32(body, zlib.crc32(b"clip")).to_bytes(4, "little") + body)
    assert cache.read("clip") is None
    assert "broken or foreign" in logged.text


def fork(function: Callable[[], None]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    return process


def test_two_processes_write_the_same_clip_at_once(tmp_path: Path, logged: pytest.LogCaptureFixture):
    """Each writes other values, slowly; a reader finds those of one of them, whole, at any time."""
    cache = TensorCache(tmp_path, "KEY")
    pages = 50

    def write(value: int) -> None:
        def slowly(path: Path, content: bytes) -> None:
            with open(path, "wb", buffering=0) as file:
                for start in range(0, len(content), len(content) // pages):
                    file.write(content[start : start + len(content) // pages])
                    time.sleep(0.0005)

        Path.write_bytes = slowly  # type: ignore[assignment]  # in a process of its own
        for _ in range(10):
            cache.write("clip", {"x": torch.full((pages, 1000), value)})

    processes = [fork(lambda value=value: write(value)) for value in (1, 2)]
    seen = set()
    try:
        while any(process.is_alive() for process in processes):
            found = cache.read("clip")
            assert found is not None or not seen
            if found is not None:
                assert found["x"].unique().numel() == 1
                seen.add(found["x"][0, 0].item())
    finally:
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert seen
    assert seen <= {1, 2}
    assert logged.records == []
    assert list(tmp_path.iterdir()) == [cache.path("clip")]


def test_a_killed_writer_leaves_nothing_broken(tmp_path: Path, logged: pytest.LogCaptureFixture):
    cache = TensorCache(tmp_path, "KEY")

    def write() -> None:
        for number in range(100_000):
            cache.write(f"clip{number % 3}", {"x": torch.full((300, 1000), number)})

    for wait in (0.05, 0.08, 0.11):
        process = fork(write)
        while not cache.path("clip2").exists():
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    found = [cache.read(f"clip{number}") for number in range(3)]
    assert all(tensors is not None and tensors["x"].unique().numel() == 1 for tensors in found)
    assert logged.records == []


def test_a_writer_killed_half_way_has_not_touched_the_file(tmp_path: Path):
    cache = TensorCache(tmp_path, "KEY")

    def die_half_way() -> None:
        def half(path: Path, content: bytes) -> None:
            with open(path, "wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        Path.write_bytes = half  # type: ignore[assignment]  # in a process of its own
        cache.write("clip", {"x": torch.ones(1000)})

    process = fork(die_half_way)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert cache.read("clip") is None
    assert not cache.path("clip").exists()
    cache.write("clip", {"x": torch.zeros(1000)})
    process = fork(die_half_way)
    process.join()
    found = cache.read("clip")
    assert found is not None
    assert not found["x"].any()
