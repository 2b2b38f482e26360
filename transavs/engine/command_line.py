"""What the command line tools share."""

import logging
import sys
from collections.abc import Callable

from transavs.errors import AVSInputError

USAGE_ERROR = 2


class _InputErrorFilter(logging.Filter):
    """Drops the traceback that detectron2's trainer logs for an error that is the user's to mend."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], AVSInputError))


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; an AVSInputError becomes one line on stderr, and in the run's log, and exit status 2."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_InputErrorFilter())
    try:
        main()
    except AVSInputError as error:
        log = logging.getLogger("transavs")
        if log.handlers:  # of a run, which has a file for each rank
            log.error(error.summary)
        sys.stderr.write(f"error: {error.summary}\n")
        sys.exit(USAGE_ERROR)
