"""Base class of record files from which a stopped run can be resumed."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from zsl_tagger.errors import UserError, difference
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import as_utf8

logger = logging.getLogger(__name__)

Settings = dict[str, Any]  # name -> JSON value


class RecordFile:
    """Record file of any format; use it as ``with file: file(record)``.

    Args:
        path: a regular file, which need not exist; not a link.
        settings: settings that this run's records depend on.
        resume: continue an existing file; otherwise it is replaced.

    Raises:
        UserError: on entering, if the existing file cannot be resumed.
    """

    def __init__(self, path: Path, settings: Settings, resume: bool):
        self.path, self.settings, self.resume = path, settings, resume
        self.output = path  # the path to show in messages
        self._kept: list[Record] = []  # errors of images that already have tags

    def __enter__(self) -> RecordFile:
        raise NotImplementedError

    def is_done(self, path: str, sha256: str) -> bool:
        """Return whether an earlier run tagged this path with this content, without an error. Thread-safe."""
        raise NotImplementedError

    def tags_of(self, sha256: str) -> list[Tag] | None:
        """Return the tags that an earlier run found for this content under any path. Thread-safe."""
        raise NotImplementedError

    def sha256_of(self, path: str) -> str | None:
        """Return the hash of the content that an earlier run tagged at this path without an error, or None."""
        raise NotImplementedError

    def error_of(self, path: str) -> str | None:
        """Return why an image could not be read before; "" if it has tags, None if it is not in the file."""
        raise NotImplementedError

    def add(self, record: Record) -> None:
        """Add a record, replacing any earlier one of the same path."""
        raise NotImplementedError

    def __call__(self, record: Record) -> None:
        """Add a record unless it is stored already; errors never replace tags: a missing disk must not erase them."""
        if record.error is None and record.sha256 is not None and self.is_done(record.path, record.sha256):
            return
        before = None if record.error is None or record.tags else self.error_of(record.path)
        if before == "":
            self._kept.append(record)
        elif before is None or before != as_utf8(record.error or ""):  # otherwise it is already stored
            self.add(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept:
            first, more = self._kept[0], ", ..." if len(self._kept) > 1 else ""
            logger.warning(
                "%s of the images that have tags cannot be read now; their tags are kept: %s (%s)%s",
                f"{len(self._kept):,}", as_utf8(first.path), first.error, more,
            )  # fmt: skip

    def _check_settings(self, held: Settings) -> None:
        if held != self.settings:
            raise UserError(
                f"{self.output} was written with other settings ({difference(held, self.settings)}): "
                "use the same settings, another --output, or --overwrite"
            )


def ended_in_order(kind: type[BaseException] | None) -> bool:
    """Return whether a run finished or was interrupted; after any other error the file is left untouched."""
    return kind is None or issubclass(kind, KeyboardInterrupt)
