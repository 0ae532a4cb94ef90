"""Text: one tag a line, in a block of this tool's own at the head of the file; all other lines are the user's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zsl_tagger.sidecars.encodings import decoded, encoding_of
from zsl_tagger.sidecars.keywords import SidecarError, keywords_of, without_known
from zsl_tagger.tag import Tag

BEGIN = "# tags by zsl-tagger, which its next run replaces"
END = "# end of tags by zsl-tagger"
_BLOCK = re.compile(rf"(?:^|(?<=\ufeff)){BEGIN}[ \t]*\r?\n(?P<tags>(?:.*\n)*?){END}[ \t]*(?:\r?\n|\Z)", re.MULTILINE)


def merged(content: bytes | None, tags: Sequence[Tag]) -> bytes | None:
    """A sidecar with these tags in place of ours (see the package).

    Raises:
        SidecarError: ``content`` is not text, or has half a block.
    """
    encoding, text = _read(content or b"")
    found = _BLOCK.search(text)
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    before, after = (text[: found.start()], text[found.end() :]) if found else (mark, text[len(mark) :])
    wanted = without_known(keywords_of(tags), (before + after).removeprefix("\ufeff").splitlines())
    if wanted == (_tags(found) if found else []):
        return content
    if not wanted:
        left = before + after
        return _bytes(left, encoding) if left.strip("\ufeff") else None
    end = "\r\n" if "\r\n" in text else "\n"
    return _bytes(before + end.join([BEGIN, *wanted, END, ""]) + after, encoding)


def ours(content: bytes) -> list[str]:
    """The tags in the block.

    Raises:
        SidecarError: ``content`` is not text, or has half a block.
    """
    found = _BLOCK.search(_read(content)[1])
    return _tags(found) if found else []


def _tags(block: re.Match[str]) -> list[str]:
    return block["tags"].splitlines()


def _read(content: bytes) -> tuple[str, str]:
    """(encoding, text), where bytes that are not UTF-8 stand as halves of characters."""
    encoding = encoding_of(content)
    text = content.decode("utf-8", "surrogateescape") if encoding == "utf-8" else decoded(content, encoding)
    if "\0" in text:
        raise SidecarError("not a text file: left as it is")
    if BEGIN in text and not _BLOCK.search(text):
        raise SidecarError(f"has the line {BEGIN!r} without {END!r} below: left as it is, put that line back")
    return encoding, text


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
