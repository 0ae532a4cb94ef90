"""Progress on stderr while records are made."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from zsl_tagger.records.record import Record

#: Progress is shown from this many images on (on a terminal only).
LONG_RUN = 20


def with_progress(records: Iterable[Record | None]) -> Iterator[Record | None]:
    """Yield the records unchanged while showing progress on stderr (terminals only)."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    start = last = time.monotonic()
    number = 0
    for number, record in enumerate(records, 1):
        yield record
        now = time.monotonic()
        if shown and number >= LONG_RUN and now - last >= 0.2:
            sys.stderr.write(f"\r{_progress(number, now - start)}")
            last = now
    if shown and last > start:
        sys.stderr.write(f"\r{_progress(number, time.monotonic() - start)}\n")


def _progress(number: int, seconds: float) -> str:
    return f"{number:,} images, {number / seconds:.0f} a second"
