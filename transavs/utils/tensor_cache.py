"""Tensors by key on disk, in a folder that any number of processes and runs may share."""

import logging
import time
import zlib
from contextlib import suppress
from pathlib import Path

import safetensors
import safetensors.torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from transavs.utils.atomic_files import PARTIAL, atomic_write
from transavs.utils.errors import AVSInputError

SUFFIX = ".tensors"
CHECKSUM_BYTES = 4
ABANDONED_SECONDS = 3600.0  # after which nobody still writes a partial file


class TensorCache:
    """A file for each key: a CRC-32 of the key and of what follows, then tensors in the safetensors format.

    Files are renamed into place, so a reader sees all of a file or none of it, whoever is killed when. Whatever else
    stands under a key's name (a truncated file, another key's, anything foreign) is named in a warning and counts as
    missing. Once the folder takes no more files, because the disk is full for instance, this is said in one warning
    per process, nothing more is written, and what is there is still read.
    """

    def __init__(self, folder: str | Path, setting: str):
        """
        Args:
            folder: made where it is missing; what killed processes left in it an hour ago or earlier is removed.
            setting: the configuration key that names the folder, for messages.

        Raises:
            AVSInputError: the folder cannot be made.
        """
        self.folder, self.setting = Path(folder), setting
        self._writes = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AVSInputError(
                f"{setting}: the folder {folder} cannot be used ({error.strerror}): name another one, or '' for none"
            ) from error
        for partial in self.folder.glob(f".*{PARTIAL}{SUFFIX}"):
            with suppress(OSError):  # another process has removed it, or it is another user's
                if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                    partial.unlink()

    def path(self, key: str) -> Path:
        """Name the file of a key, a word of letters and digits."""
        return self.folder / f"{key}{SUFFIX}"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key by name, new in memory, or None where they are missing or broken."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path} cannot be read ({error.strerror}): what it holds is computed again")
            return None
        body = content[CHECKSUM_BYTES:]
        if content[:CHECKSUM_BYTES] == _checksum(key, body):
            with suppress(safetensors.SafetensorError):  # a checksum is no signature
                return safetensors.torch.load(body)
        self._warn(f"{path} is broken or foreign: what it should hold is computed and written again")
        return None

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors, contiguous and of any type, under a key."""
        if not self._writes:
            return
        body = safetensors.torch.save(tensors)
        try:
            with atomic_write(self.path(key)) as partial:
                partial.write_bytes(_checksum(key, body) + body)
        except OSError as error:
            self._writes = False
            self._warn(
                f"{self.setting}: {self.folder} takes no more files ({error.strerror}), this process goes on without "
                "adding to it: make room, or name another folder"
            )

    def _warn(self, message: str) -> None:
        """Once per process and message: a file that cannot be replaced is met again in every epoch."""
        log_first_n(logging.WARNING, message, name=__name__, key="message")


def _checksum(key: str, body: bytes) -> bytes:
    """Sum up body and key, so that another key's file, renamed or copied, is found out as well."""
    return zlib.crc32(body, zlib.crc32(key.encode())).to_bytes(CHECKSUM_BYTES, "little")
