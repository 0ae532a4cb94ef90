"""Print log messages of a command on stderr, one line each."""

from __future__ import annotations

import logging
import sys

from zsl_tagger.system import PACKAGES
from zsl_tagger.system.untrusted_text import printable


class OneLine(logging.Handler):
    """Logging handler that prints each message on one line of stderr, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "note" if record.levelno == logging.INFO else record.levelname.lower()
        say(f"{kind}: {record.getMessage()}")


def show_messages(level: int) -> None:
    """Print messages of both packages at ``level`` or above; programs using the library set up logging themselves."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [OneLine()]
        logger.setLevel(level)
        logger.propagate = False  # else a library that configures the root logger would print them twice


def say(line: str) -> None:
    """Print a message on one line of stderr, escaping line breaks and control characters."""
    if sys.stderr is None:
        return
    line = printable(line)
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
