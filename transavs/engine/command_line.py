"""What the command line tools share."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transavs.errors import AVSInputError
from transavs.files import written_whole

USAGE_ERROR = 2


class _InputErrorFilter(logging.Filter):
    """Drops the traceback that detectron2's trainer logs for an error that is the user's to mend."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], AVSInputError))


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; an AVSInputError, or a file that cannot be used, becomes one line on stderr and exit status 2."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_InputErrorFilter())
    try:
        main()
    except AVSInputError as error:
        sys.stderr.write(f"error: {error.summary}\n")
        sys.exit(USAGE_ERROR)
    except OSError as error:
        if error.filename is None:  # not about a file, or about none that can be named
            raise
        sys.stderr.write(f"error: {error.filename} cannot be used ({error.strerror}): name another, or make way\n")
        sys.exit(USAGE_ERROR)


def whole_number(least: int) -> Callable[[str], int]:
    """The ``type`` of an argument that takes whole numbers from ``least`` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return parse


def check_output(path: Path | None) -> None:
    """Raise an AVSInputError where no file can be made of that name; better before than after long work."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        what = "it is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise AVSInputError(f"the file {path} cannot be written, {what}: name another")


def write_json(path: Path | None, found: Any) -> None:
    """Write what was found, whole or not at all, if a file is named."""
    if path is not None:
        with written_whole(path) as partial:
            partial.write_text(json.dumps(found, indent=2) + "\n")
