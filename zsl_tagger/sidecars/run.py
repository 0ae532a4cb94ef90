"""Write the sidecars of ``tag --sidecar``, and undo that with ``--remove``."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from zsl_tagger.errors import UserError
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.sidecars import json_key, lines, xmp
from zsl_tagger.sidecars.keywords import Parents, SidecarError
from zsl_tagger.sidecars.places import Places
from zsl_tagger.system.files import waited_lock, write_errors, write_whole
from zsl_tagger.system.untrusted_text import printable

#: Returns the new content of a sidecar; None for no file.
_Merge = Callable[[bytes | None], bytes | None]

MAX_BYTES = 64_000_000  # darktable sidecars with many drawn masks have several megabytes


class _Kind(NamedTuple):
    ending: str
    merged: Callable[[bytes | None, Sequence[Tag]], bytes | None]
    owned_keywords: Callable[[bytes], list[str]]


KINDS = {
    "xmp": _Kind(".xmp", xmp.merged, xmp.owned_keywords),
    "txt": _Kind(".txt", lines.merged, lines.owned_keywords),
    "json": _Kind(".tags.json", json_key.merged, json_key.owned_keywords),  # Google Takeout uses photo.jpg.json
}


@dataclass(frozen=True)
class Change:
    """Content of one sidecar before and after, as bytes; None for no file."""

    path: Path
    before: bytes | None
    after: bytes | None
    kind: _Kind

    @property
    def outcome(self) -> str:
        """Return "new", "changed", "deleted" or "unchanged"."""
        if self.before == self.after:
            return "unchanged"
        return "new" if self.before is None else "deleted" if self.after is None else "changed"

    def lines(self) -> list[str]:
        """Describe the change: the file and one line per added or removed tag; empty if unchanged."""
        if self.outcome == "unchanged":
            return []
        head = str(self.path) if self.outcome == "changed" else f"{self.path} ({self.outcome})"
        return [head, *(f"  + {word}" for word in self.gained), *(f"  - {word}" for word in self.lost)]

    @property
    def gained(self) -> list[str]:
        """Return the keywords of this tool that the sidecar gets."""
        return self._owned(self.after, but=self._owned(self.before))

    @property
    def lost(self) -> list[str]:
        """Return the keywords of this tool that the sidecar loses."""
        return self._owned(self.before, but=self._owned(self.after))

    def _owned(self, content: bytes | None, but: Sequence[str] = ()) -> list[str]:
        return [word for word in self.kind.owned_keywords(content) if word not in but] if content else []


class Sidecars:
    """Sidecars of one format.

    Args:
        kind: xmp, txt or json.
        by_stem: name new XMP sidecars ``photo.xmp`` instead of ``photo.jpg.xmp``.
        dry_run: write nothing.
        parents: parents of labels, for hierarchical keyword lists.
        show: called with each line that describes a change; None: no output.
    """

    def __init__(
        self,
        kind: str,
        by_stem: bool = False,
        dry_run: bool = False,
        show: Callable[[str], None] | None = None,
        parents: Parents = MappingProxyType({}),
    ):
        self._parents = parents
        self._kind, self._dry_run, self._show = KINDS[kind], dry_run, show
        self._places = Places(self._kind.ending, stem=kind == "xmp", new_by_stem=by_stem)
        self._counts: Counter[str] = Counter()

    def tagged(self, record: Record) -> Record:
        """Write a photo's tags to its sidecar; return the record, with an error if that failed."""
        if record.error is not None:
            return record
        try:
            self._change(record.path, lambda before: self._merged(before, record.tags), self._place)
        except SidecarError as error:
            return replace(record, error=str(error))
        return record

    def remove(self, photo: str) -> list[Tag]:
        """Remove what this tool wrote from a photo's sidecars, and return the remaining tags: none.

        The photo itself need not exist or be readable.

        Raises:
            SidecarError: a sidecar is left unchanged.
        """
        self._change(photo, lambda before: self._merged(before, []), self._places.all_of)
        return []

    def correct(self, photo: str, added: Sequence[str], dropped: Sequence[str]) -> Change:
        """Add some of this tool's keywords to a photo's XMP sidecar and remove others.

        The user's keywords are neither added again nor removed.

        Raises:
            SidecarError: the sidecar is left as it is.
        """

        def merge(before: bytes | None) -> bytes | None:
            return xmp.corrected(before, added, dropped, self._parents)

        return self._change(photo, merge, self._place)[0]

    def summary(self) -> str:
        """Return the number of sidecars by outcome."""
        counts = [f"{self._counts[kind]:,} {kind}" for kind in ("new", "changed", "deleted", "unchanged")]
        outcomes = ", ".join(count for count in counts if not count.startswith("0 ")) or "none"
        return f"sidecars{' would be' if self._dry_run else ''}: {outcomes}{self._places.avoided()}"

    def _place(self, photo: Path) -> list[Path]:
        return [self._places.of(photo)]

    def _change(self, path: str, merge: _Merge, places: Callable[[Path], list[Path]]) -> list[Change]:
        """Change the sidecars of a photo; show and count the changes, even those before an error."""
        photo = Path(path)
        changes: list[Change] = []
        try:
            for place in places(photo):
                with waited_lock(photo):
                    changes.append(self._changed(place, merge))
        except UserError as error:
            raise SidecarError(str(error)) from None
        except OSError as error:
            raise SidecarError(f"no sidecar: {error.strerror or error}") from None
        finally:
            self._counts.update(change.outcome for change in changes)
            if self._show is not None:
                for line in (line for change in changes for line in change.lines()):
                    self._show(printable(line))
        return changes

    def _changed(self, place: Path, merge: _Merge) -> Change:
        """Change a sidecar, unless this is a dry run.

        Raises:
            UserError: the sidecar is left unchanged.
        """
        try:
            file = self._file_of(place)
            before, status = read_sidecar(file)
            change = Change(place, before, merge(before), self._kind)
            if change.outcome == "unchanged" or self._dry_run:
                return change
            if status is not None and not os.access(file, os.W_OK):
                raise SidecarError("write-protected: left as it is")
        except SidecarError as error:
            raise SidecarError(f"sidecar {place}: {error}") from None
        if change.after is None:
            with write_errors(place):
                for path in {place, file}:
                    path.unlink()
        else:
            write_whole(file, change.after, like=status)
        return change

    def _merged(self, before: bytes | None, tags: Sequence[Tag]) -> bytes | None:
        return (
            xmp.merged(before, tags, self._parents) if self._kind is KINDS["xmp"] else self._kind.merged(before, tags)
        )

    def _file_of(self, place: Path) -> Path:
        """Resolve a link, whose target must be named like a sidecar: a link may come from an archive."""
        if not place.is_symlink():
            return place
        file = place.resolve()
        if not file.exists():
            raise SidecarError("links to nothing: left as it is")
        if not file.name.endswith(self._kind.ending):
            raise SidecarError(f"links to a file that does not end in {self._kind.ending}: left as it is")
        return file


def read_sidecar(file: Path) -> tuple[bytes | None, os.stat_result | None]:
    """Return (content, status); both None if there is no file.

    Raises:
        SidecarError: it is too large, not a regular file, or cannot be read.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SidecarError("not a regular file: left as it is")
        if status.st_size > MAX_BYTES:
            raise SidecarError(f"larger than {MAX_BYTES // 1_000_000} MB: left as it is")
        return file.read_bytes(), status
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise SidecarError(f"cannot be read: {error.strerror}") from None
