"""Shared parts of the command line tools."""

import argparse
import errno
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from torch.multiprocessing import ProcessRaisedException

from transavs.utils.atomic_files import write_file
from transavs.utils.errors import AVSInputError

USAGE_ERROR = 2


class _InputErrorFilter(logging.Filter):
    """Drops the traceback that detectron2's trainer logs for an error that is the user's to put right."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], AVSInputError))


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; what is the user's to put right becomes one line on stderr, and in the run's log, and exit status 2.

    That is an AVSInputError, also one of a process that detectron2's launcher has started, a file that cannot be used,
    and a full disk.
    """
    logging.getLogger("detectron2.engine.train_loop").addFilter(_InputErrorFilter())
    try:
        main()
    except AVSInputError as error:
        _fail(error.summary)
    except ProcessRaisedException as error:
        if f"{AVSInputError.__name__}: " not in str(error):
            raise
        _fail(AVSInputError(str(error)).summary)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(f"the disk is full ({error.filename or 'of the output'}): make room, then call this again")
        if error.filename is None:  # not about a file, or about none that can be named
            raise
        _fail(f"{error.filename} cannot be used ({error.strerror}): name another, or make way")


def _fail(told: str) -> NoReturn:
    log = logging.getLogger("transavs")
    if log.handlers:  # of a run, which has a file for each rank
        log.error(told)
    sys.stderr.write(f"error: {told}\n")
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
        write_file(path, json.dumps(found, indent=2) + "\n")
