"""Repairs of data that is not quite as it should be, as AVSBench's own loaders make them, but told and counted."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from transavs.utils.errors import AVSInputError

# Kind -> what is done about it.
REPAIRS = {
    "frame-missing": "the frame before it, or the first there is, takes its place in training",
    "mask-missing": "its frame is not learned from",
    "mask-size": "resized to its frame by the nearest neighbor",
    "mask-ignored": "its pixels of class 255 neither teach nor count",
    "audio-truncated": "read as far as it goes",
    "audio-short": "its last second is repeated",
}


class ClipRepairs:
    """Repairs of one clip.

    Attributes:
        kinds: keys of REPAIRS.
    """

    def __init__(self, log: "RepairLog"):
        self._log = log
        self.kinds: set[str] = set()

    def add(self, kind: str, told: str) -> None:
        """Note a repair, with a warning if it is the first of its kind.

        Args:
            kind: key of REPAIRS.
            told: which file it is about and what is wrong with it.

        Raises:
            AVSInputError: the data is taken strictly.
        """
        self._log.tell(kind, told)
        self.kinds.add(kind)

    def to_tensor(self) -> Tensor:
        """Make it bool (len(REPAIRS),), as a cache keeps it."""
        return torch.tensor([kind in self.kinds for kind in REPAIRS])


class RepairLog:
    """Warns once of each kind of repair, or refuses all."""

    def __init__(self, strict: bool):
        """
        Args:
            strict: raise an error in place of a repair.
        """
        self._strict = strict
        self._told: set[str] = set()

    def tell(self, kind: str, told: str) -> None:
        """Warn, or raise an AVSInputError; see :meth:`ClipRepairs.add`."""
        if self._strict:
            raise AVSInputError(f"{told}: repair it, or set DATALOADER.STRICT to False")
        if kind not in self._told:
            self._told.add(kind)
            logging.getLogger(__name__).warning("%s: %s (%s; told once, counted at the end)", told, REPAIRS[kind], kind)


def kinds_of(flags: Tensor) -> list[str]:
    """Turn what :meth:`ClipRepairs.to_tensor` gives into keys of REPAIRS."""
    return [kind for kind, is_set in zip(REPAIRS, flags.tolist(), strict=True) if is_set]


def counts_told(counts: Mapping[str, int]) -> str:
    """Tell how many clips had each kind of repair, such as "2 clips: mask-size, resized to ..."."""
    return "; ".join(f"{count} clips: {kind}, {REPAIRS[kind]}" for kind, count in sorted(counts.items()))
