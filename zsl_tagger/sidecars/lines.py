"""Text: one tag a line, in a block of this tool's own at the head of the file; all other lines are the user's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars.encodings import decoded, encoding_of
from zsl_tagger.sidecars.keywords import SidecarError, keywords_of, without_known

BEGIN = "# tags by zsl-tagger, which its next run replaces"
END = "# end of tags by zsl-tagger"
_BEGINS = re.compile(rf"(?:^|(?<=\ufeff)){BEGIN}[ \t]*\r?\n", re.MULTILINE)
_ENDS = re.compile(rf"^{END}[ \t]*(?:\r?\n|\Z)", re.MULTILINE)


class _Text(NamedTuple):
    """What is before our block, the tags in it, and what is after it; without one ``tags`` is None."""

    encoding: str
    before: str
    tags: list[str] | None
    after: str


def merged(content: bytes | None, tags: Sequence[Tag]) -> bytes | None:
    """A sidecar with these tags in place of ours (see the package).

    Raises:
        SidecarError: ``content`` is not text, or has half a block.
    """
    text = _read(content or b"")
    rest = text.before + text.after
    wanted = without_known(keywords_of(tags), rest.removeprefix("\ufeff").splitlines())
    if wanted == (text.tags or []):
        return content
    if wanted:
        end = "\r\n" if "\r\n" in rest else "\n"
        rest = text.before + end.join([BEGIN, *wanted, END, ""]) + text.after
    elif not rest.strip("\ufeff"):
        return None
    return rest.encode(text.encoding, "surrogateescape" if text.encoding == "utf-8" else "strict")


def ours(content: bytes) -> list[str]:
    """The tags in the block.

    Raises:
        SidecarError: ``content`` is not text, or has half a block.
    """
    return _read(content).tags or []


def _read(content: bytes) -> _Text:
    """Bytes that are not UTF-8 stand as halves of characters. Without a block, it is to come at the head."""
    encoding = encoding_of(content)
    text = content.decode("utf-8", "surrogateescape") if encoding == "utf-8" else decoded(content, encoding)
    if "\0" in text:
        raise SidecarError("not a text file: left as it is")
    begin = _BEGINS.search(text)
    if begin is None:
        mark = 1 if text.startswith("\ufeff") else 0
        return _Text(encoding, text[:mark], None, text[mark:])
    end = _ENDS.search(text, begin.end())
    if end is None:
        raise SidecarError(f"has the line {BEGIN!r} without {END!r} below: left as it is, put that line back")
    return _Text(encoding, text[: begin.start()], text[begin.end() : end.start()].splitlines(), text[end.end() :])
