"""Text sidecars: one tag per line, in a block of this tool at the top of the file; all other lines are the user's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars.encodings import decoded, encoding_of
from zsl_tagger.sidecars.keywords import SidecarError, check_parts, keywords_of, without_known

BEGIN = "# tags by zsl-tagger, which its next run replaces"
END = "# end of tags by zsl-tagger"
_BEGINS = re.compile(rf"(?:^|(?<=\ufeff)){BEGIN}[ \t]*\r?\n", re.MULTILINE)
#: Suffix of the last line in a file that existed but was empty.
WAS_EMPTY = ", in a file that was empty"
_ENDS = re.compile(rf"^{END}({WAS_EMPTY})?[ \t]*(?:\r?\n|\Z)", re.MULTILINE)
_LINES = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # like str.splitlines


class _Text(NamedTuple):
    """The text before our block, the tags in it (None without a block), and the text after it.

    Attributes:
        was_empty: the file existed before the block but was empty.
    """

    encoding: str
    before: str
    tags: list[str] | None
    after: str
    was_empty: bool


def merged(content: bytes | None, tags: Sequence[Tag]) -> bytes | None:
    """Return a sidecar in which these tags replace our previous ones (see the package).

    Raises:
        SidecarError: ``content`` is not text, or has an incomplete block.
    """
    text = _read(content or b"")
    rest = text.before + text.after
    wanted = without_known(keywords_of(tags), rest.removeprefix("\ufeff").splitlines())
    if wanted == (text.tags or []):
        return content
    if wanted:
        end = "\r\n" if "\r\n" in rest else "\n"
        was_empty = WAS_EMPTY if text.was_empty and content is not None else ""
        rest = text.before + end.join([BEGIN, *wanted, END + was_empty, ""]) + text.after
    elif not rest.strip("\ufeff") and not text.was_empty:
        return None
    return rest.encode(text.encoding, "surrogateescape" if text.encoding == "utf-8" else "strict")


def owned_keywords(content: bytes) -> list[str]:
    """Return the tags in the block.

    Raises:
        SidecarError: ``content`` is not text, or has an incomplete block.
    """
    return _read(content).tags or []


def _read(content: bytes) -> _Text:
    """Parse a sidecar; bytes that are not UTF-8 become lone surrogates. A new block goes to the top."""
    encoding = encoding_of(content)
    text = content.decode("utf-8", "surrogateescape") if encoding == "utf-8" else decoded(content, encoding)
    if "\0" in text:
        raise SidecarError("not a text file: left as it is")
    check_parts(_LINES, text, "lines")
    begin = _BEGINS.search(text)
    if begin is None:
        mark = 1 if text.startswith("\ufeff") else 0
        return _Text(encoding, text[:mark], None, text[mark:], was_empty=len(text) == mark)
    end = _ENDS.search(text, begin.end())
    if end is None:
        raise SidecarError(f"has the line {BEGIN!r} without {END!r} below: left as it is; restore that line")
    tags = text[begin.end() : end.start()].splitlines()
    return _Text(encoding, text[: begin.start()], tags, text[end.end() :], was_empty=end[1] is not None)
