"""Files that are whole or not there."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
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
