"""The clips of training, in an order and with random numbers that follow from the seed and the iteration alone.

So a run that was stopped goes on with the very clips that it would have seen, whatever the number of workers.
detectron2's own loader deals single clips to its workers, and what a batch holds depends on how many there are.
"""

import itertools
import logging
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset

from transavs.utils.errors import AVSInputError

Record = dict[str, Any]
Draw = tuple[int, int]
WORKER_SECONDS = 10.0  # that a worker works on after SIGTERM


@contextmanager
def random_numbers_of(*entropy: int) -> Iterator[None]:
    """Seed the CPU's global random numbers by ``entropy`` within the context; after it they go on as before."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.default_generator.manual_seed(int(words[2]))
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)


def load_records(names: Sequence[str]) -> list[Record]:
    """The records of registered data sets, each with ``index``, its place among them.

    Raises:
        AVSInputError: a data set lists no clip, or two clips of one data set have the same ``video_id``; or what
            loading it raises.
    """
    records: list[Record] = []
    for name in names:
        found = list(DatasetCatalog.get(name))
        if not found:
            raise AVSInputError(f"the data set {name} lists no clip: add clips to it, or name another")
        ids = Counter(str(record["video_id"]) for record in found)
        if twice := [clip for clip, count in ids.items() if count > 1]:
            raise AVSInputError(
                f"{name} has {len(twice)} ids of several clips, such as {twice[0]!r}: give each clip its own video_id"
            )
        records += found
    return [record | {"index": index} for index, record in enumerate(records)]


class ResumableTrainingSampler(TrainingSampler):
    """detectron2's endless shuffle, seeded, as draws (number, index); it can leave out those of an earlier run."""

    def __init__(self, size: int, seed: int, consumed: int = 0):
        super().__init__(size, seed=seed)
        self._consumed = consumed

    def _infinite_indices(self) -> Iterator[Draw]:
        return itertools.islice(enumerate(super()._infinite_indices()), self._consumed, None)


class SeededClipDataset(Dataset):
    """Dataset of mapped clips, by the number of a draw, from which all that is left to chance follows."""

    def __init__(
        self, records: Sequence[Record], mapper: Callable[[Record], Any], *, seed: int, skip_broken: bool = False
    ):
        """
        Args:
            records: of all clips.
            mapper: makes of one of them what the model takes.
            seed: of the run, 0 or more.
            skip_broken: take the next clip in place of one that cannot be read, with a warning, and do not stop.
        """
        self._records = DatasetFromList(list(records), copy=False)
        self._mapper = mapper
        self._seed = seed
        self._skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, drawn: Draw) -> Any:
        """
        Raises:
            AVSInputError: the clip cannot be read, or with ``skip_broken`` none can.
        """
        draw, first = drawn
        for index in range(first, first + len(self)):
            record = self._records[index % len(self)]
            try:
                with random_numbers_of(self._seed, draw):
                    return self._mapper(record)
            except AVSInputError as error:
                if not self._skip_broken:
                    raise AVSInputError(f"clip {record['video_id']}: {error}") from error
                logging.getLogger(__name__).warning("clip %s is left out: %s", record["video_id"], error)
        raise AVSInputError("no clip of DATASETS.TRAIN can be read: repair those that the warnings above name")


class ReadableClips:
    """Batches of a test loader without the clips that cannot be read, which it counts.

    All ranks iterate over it to its end.

    Attributes:
        left_out: ids of the clips that this rank has left out so far.
    """

    def __init__(self, loader: Any):
        """
        Args:
            loader: of lists of what :func:`clip_or_error` gives.
        """
        self._loader = loader
        self.left_out: list[str] = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Record]]:
        """
        Raises:
            AVSInputError: no rank can read any clip; on all ranks.
        """
        read, reason = 0, ""
        for batch in self._loader:
            for clip in batch:
                if "error" in clip:
                    logging.getLogger(__name__).warning("clip %s is left out: %s", clip["video_id"], clip["error"])
                    self.left_out.append(clip["video_id"])
                    reason = reason or f"clip {clip['video_id']}: {clip['error']}"
            if readable := [clip for clip in batch if "error" not in clip]:
                read += len(readable)
                yield readable
        counts, reasons = comm.all_gather(read), comm.all_gather(reason)
        if not any(counts):
            raise AVSInputError(f"no clip of the test set can be read; {next(filter(None, reasons), 'it has none')}")


def clip_or_error(mapper: Callable[[Record], Record], record: Record) -> Record:
    """Map a clip; of one that cannot be read give ``video_id`` and the ``error`` in one line."""
    try:
        return mapper(record)
    except AVSInputError as error:
        return {"video_id": record["video_id"], "error": error.summary}


def start_worker(number: int) -> None:
    """Prepare a worker process, which signals to all processes of a run must not end before the main process.

    The main process decides what a signal means and may still wait for a clip. It sends SIGTERM itself to a worker that
    does not end, so the second one ends a worker at once, and the first after WORKER_SECONDS.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    signal.signal(signal.SIGALRM, _end_now)
    worker_init_reset_seed(number)


def _end_later(number: int, frame: FrameType | None) -> None:
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        os._exit(0)
    signal.setitimer(signal.ITIMER_REAL, WORKER_SECONDS)


def _end_now(number: int, frame: FrameType | None) -> None:
    os._exit(0)  # any other status is an error in the main process


def build_train_loader(
    clips: SeededClipDataset, *, seed: int, batch_size: int, num_workers: int, start_iter: int = 0
) -> Any:
    """Endless batches, lists of what ``clips`` gives, of which each process gets its share.

    Args:
        clips: to draw from.
        seed: of their order.
        batch_size: of all processes together.
        num_workers: per process.
        start_iter: batches that an earlier run has had.

    Raises:
        AVSInputError: the batch does not split evenly.
    """
    processes = comm.get_world_size()
    if batch_size % processes:
        raise AVSInputError(f"SOLVER.IMS_PER_BATCH is {batch_size} for {processes} processes: choose a multiple")
    sampler = ResumableTrainingSampler(len(clips), seed, consumed=start_iter * batch_size)
    return DataLoader(
        clips,
        batch_sampler=BatchSampler(sampler, batch_size // processes, drop_last=True),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        worker_init_fn=start_worker,
        # An iterator draws a seed as it is made, which is in the first iteration after a start on detectron2's main:
        # drawn from the global numbers, it would give that iteration of a resumed run another dropout.
        generator=torch.Generator().manual_seed(seed),
    )
