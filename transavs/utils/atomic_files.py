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


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path beside ``path``, of the same suffix, to write to; it is renamed at the end, or removed on an error.

    Its name begins with a dot and is new each time, so several processes may write the same file at once: the last one
    to end wins. A process that is killed leaves it behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{PARTIAL}{path.suffix}")
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
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
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
