"""A file of records that a stopped run can be resumed from: what all formats share."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from zsl_tagger.errors import UserError, difference
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.writers import as_utf8

logger = logging.getLogger(__name__)

Settings = dict[str, Any]  # names -> values that JSON can hold


class RecordFile:
    """A record file of any format. ``with file: file(record)``.

    Args:
        path: a regular file, or where one shall be; no link.
        settings: how this run makes records.
        resume: go on with what is there, else it is replaced.

    Raises:
        UserError: on entering: what is there cannot be gone on with.
    """

    def __init__(self, path: Path, settings: Settings, resume: bool):
        self.path, self.settings, self.resume = path, settings, resume
        self.output = path  # what a person calls it
        self._kept: list[Record] = []  # errors of images that have tags

    def __enter__(self) -> RecordFile:
        raise NotImplementedError

    def is_done(self, path: str, sha256: str) -> bool:
        """Return whether an earlier run tagged this path with this content, without an error. Thread-safe."""
        raise NotImplementedError

    def tags_of(self, sha256: str) -> list[Tag] | None:
        """Return the tags that an earlier run found for this content under any path; may be called from any thread."""
        raise NotImplementedError

    def sha256_of(self, path: str) -> str | None:
        """Return the hash of the content that an earlier run tagged under this path, without an error; else None."""
        raise NotImplementedError

    def error_of(self, path: str) -> str | None:
        """Why an image could not be read before; "" where it has tags, None where nothing is known of it."""
        raise NotImplementedError

    def add(self, record: Record) -> None:
        """Add a record, which takes the place of the one before of this path."""
        raise NotImplementedError

    def __call__(self, record: Record) -> None:
        """Add a record that is not there; but no error in the place of tags: a lost disk must not cost them."""
        if record.error is None and record.sha256 is not None and self.is_done(record.path, record.sha256):
            return
        before = None if record.error is None or record.tags else self.error_of(record.path)
        if before == "":
            self._kept.append(record)
        elif before is None or before != as_utf8(record.error or ""):  # else it says so already
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
                "give the same, another --output, or --overwrite"
            )


def ended_in_order(kind: type[BaseException] | None) -> bool:
    """Return whether a run finished or was asked to stop; after an error the file is left untouched."""
    return kind is None or issubclass(kind, KeyboardInterrupt)
