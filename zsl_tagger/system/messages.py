"""Messages of a command on stderr: what the loggers say, a line each."""

from __future__ import annotations

import logging
import sys

from zsl_tagger.system import PACKAGES
from zsl_tagger.system.untrusted_text import printable


class OneLine(logging.Handler):
    """Print each message on one line of stderr, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "note" if record.levelno == logging.INFO else record.levelname.lower()
        say(f"{kind}: {record.getMessage()}")


def show_messages(level: int) -> None:
    """Print the messages of both packages from a level on; a program that calls the library does this itself."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [OneLine()]
        logger.setLevel(level)
        logger.propagate = False  # a library that sets up the root logger would print them a second time


def say(line: str) -> None:
    """Print a message on one line of stderr, whatever a file name in it holds."""
    if sys.stderr is None:
        return
    line = printable(line)
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)
