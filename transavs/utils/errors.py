"""The one exception for everything that a user can put right."""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


class AVSInputError(ValueError):
    """A file, folder, key or value from outside is not usable; the message names it and says how to put it right.

    Raised in a data-loading worker it is re-raised in the main process with the worker's traceback as its message;
    :attr:`summary` is then still the one line that matters.
    """

    @property
    def summary(self) -> str:
        """The message as one line, without a worker's traceback around it."""
        last_line = str(self).strip().splitlines()[-1]
        return last_line.rsplit(f"{type(self).__name__}: ", 1)[-1]


def choose(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """The entry of that name; where there is none, an AVSInputError that says of what, and which there are."""
    if name not in table:
        raise AVSInputError(f"there is no {what} {name!r}: choose from {', '.join(table)}")
    return table[name]


def require(package: str, extra: str, made_of_it: str = "") -> Any:
    """Import a package that an extra of ours installs.

    Args:
        package: to import.
        extra: that installs it.
        made_of_it: what cannot be without it, for the message.

    Raises:
        AVSInputError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        reason = f", and {made_of_it} is made of it" if made_of_it else ""
        raise AVSInputError(f'{package} is not installed{reason}: pip install "transavs[{extra}]"') from error


def one_line(error: BaseException, limit: int = 200) -> str:
    """Tell what a caught error says, on one line of at most ``limit`` characters."""
    # A system's words stand after its number, those of an address or a text that cannot be read after other things.
    words = getattr(error, "strerror", None) or getattr(error, "reason", None)
    told = words or (error.args[0] if error.args else error)
    return " ".join(str(told).split())[:limit]
