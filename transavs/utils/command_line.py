"""Shared parts of the command line tools."""

import argparse
import errno
import io
import json
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from torch.multiprocessing import ProcessRaisedException

from transavs.utils.atomic_files import write_file
from transavs.utils.errors import AVSInputError

USAGE_ERROR = 2
INTERRUPTED = 130  # exit status of a process that Ctrl-C has ended
REPORT_SUFFIX = ".json"


class _InputErrorFilter(logging.Filter):
    """Drops the traceback that detectron2's trainer logs for an error that is the user's to put right."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], AVSInputError))


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; what is the user's to put right becomes one line on stderr, and in the run's log, and exit status 2.

    That is an AVSInputError, also one of a process that detectron2's launcher has started, a file that cannot be used,
    and a full disk. Ctrl-C ends it without a traceback. A name that the terminal cannot print is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("detectron2.engine.train_loop").addFilter(_InputErrorFilter())
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
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


def check_outputs(
    files: Iterable[str | Path | None],
    inputs: Iterable[str | Path | None] = (),
    *,
    folders: Iterable[str | Path | None] = (),
    makes_parents: bool = False,
) -> None:
    """Check where results are going to be written; to be called before anything is read, and before long work.

    Args:
        files, folders: to write; None is left out.
        inputs: files and folders that are read. None is left out, and an address does no harm.
        makes_parents: whether the folders of ``files`` are made where they are missing.

    Raises:
        AVSInputError: an output cannot be written, or two outputs are the same; or an output is an input, also by
            another name, or would replace a file in an input folder. There a report, .json, may be written again.
    """
    inputs_by_identity = {_identity(name): Path(name) for name in inputs if name is not None}
    outputs_by_identity: dict[object, Path] = {}
    file_paths, folder_paths = ([Path(name) for name in names if name is not None] for names in (files, folders))
    for output in (*file_paths, *folder_paths):
        if output in file_paths:
            _check_file(output, makes_parents)
        else:
            _check_folder(output, f"the folder {output}")
        if (source := inputs_by_identity.get(_identity(output))) is not None:
            raise AVSInputError(f"{output} is the input {source}, which would be destroyed: name another output")
        if (other := outputs_by_identity.setdefault(_identity(output), output)) is not output:
            raise AVSInputError(f"{output} and {other} are the same output: give each a name of its own")
    for file in file_paths:
        identities = [_identity(parent) for parent in Path(os.path.realpath(file)).parents]
        folder = next((inputs_by_identity[key] for key in identities if key in inputs_by_identity), None)
        if folder is not None and file.exists() and file.suffix.lower() != REPORT_SUFFIX:
            raise AVSInputError(f"{file} lies in the input {folder} and would be replaced: name another output")
        around = next((outputs_by_identity[key] for key in identities if key in outputs_by_identity), None)
        if around is not None and around in file_paths:
            raise AVSInputError(f"{around} is to be a file, and {file} is to lie in it: name another output")


def _identity(path: str | Path) -> object:
    """What all names of one file share: links lead to the file, and some file systems ignore case."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # there is no such file
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _check_file(path: Path, makes_parents: bool) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise AVSInputError(f"the file {path} cannot be written ({error.strerror}): name another") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise AVSInputError(f"the file {path} cannot be written, it is {what}: name another")
    _check_folder(path.parent, f"the file {path}", makes_parents)


def _check_folder(path: Path, output: str, makes_missing: bool = True) -> None:
    """Raise an AVSInputError, in which it is ``output``, where nothing can be written into a folder."""
    while makes_missing and not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        raise AVSInputError(f"{output} cannot be written, {path} is no folder: name another")
    if not os.access(path, os.W_OK | os.X_OK):
        raise AVSInputError(f"{output} cannot be written, {path} has no write permission: name another")


def write_json(path: Path | None, found: Any) -> None:
    """Write what was found, whole or not at all, if a file is named."""
    if path is not None:
        write_file(path, json.dumps(found, indent=2) + "\n")
