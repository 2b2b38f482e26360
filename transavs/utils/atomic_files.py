"""Files that are whole or not there."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from transavs.utils.errors import AVSInputError

PARTIAL = ".partial"
STEM_CHARACTERS = 40  # of a file's name that a partial file keeps: file systems take 255 bytes in all


def partial_path(path: Path) -> Path:
    """A path beside ``path``, of the same suffix, to write to until the file is complete.

    The name begins with a dot and is new each time, so several processes may write the same file at once: the last one
    to end wins. A process that is killed leaves the file behind.
    """
    return path.with_name(f".{path.stem[:STEM_CHARACTERS]}.{secrets.token_hex(4)}{PARTIAL}{path.suffix}")


def finish_partial(partial: Path, path: Path, complete: bool) -> None:
    """Rename a file of :func:`partial_path` to ``path``, or remove it where it is not complete.

    Raises:
        AVSInputError: it cannot be renamed.
    """
    try:
        if complete:
            os.replace(partial, path)
    except OSError as error:
        raise AVSInputError(f"{path} cannot be written ({error.strerror}): name another file") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A :func:`partial_path` to write to; it is renamed at the end, or removed on an error."""
    path = Path(path)
    partial = partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; its folder is made where there is none.

    Raises:
        AVSInputError: it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            # A name that is not UTF-8 is escaped: the file as a whole stays readable.
            partial.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    except OSError as error:
        raise AVSInputError(f"{path} cannot be written ({error.strerror}): make room, or name another place") from error


def write_image(path: str | Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """Write an image likewise, uint8 (H, W), or (H, W, 3) in BGR, in the format that the suffix names.

    Args:
        path: of the file.
        image: its pixels.
        options: of cv2.imwrite.
    """
    _, encoded = cv2.imencode(Path(path).suffix, image, options)
    write_file(path, encoded.tobytes())
