"""A label as a keyword of a sidecar, and when two keywords are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import AnyStr

from zsl_tagger.errors import PhotoError
from zsl_tagger.records.record import Tag

#: What XML cannot hold, not even escaped, and halves of characters, which no encoding can.
_NO_TEXT = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


#: Parts that a sidecar may have (elements and attributes, values, lines): each takes some hundred bytes of memory.
MAX_PARTS = 500_000

#: Labels above a label, the most general one first: animal and mammal for dog.
Parents = Mapping[str, Sequence[str]]


class SidecarError(PhotoError):
    """A sidecar that is left as it is. The message is one line and says why."""


def check_parts(parts: re.Pattern[AnyStr], content: AnyStr, what: str) -> None:
    """Raise a SidecarError where a pattern matches more than ``MAX_PARTS`` times."""
    if next(islice(parts.finditer(content), MAX_PARTS, None), None) is not None:
        raise SidecarError(f"has more than {MAX_PARTS:,} {what}: left as it is")


def keyword(label: str) -> str:
    """Return a label on one line, without what a file cannot hold."""
    return " ".join(_NO_TEXT.sub("\ufffd", label).split())


def keywords_of(tags: Sequence[Tag]) -> list[str]:
    """Of each tag; what is the same keyword comes once."""
    unique: dict[str, str] = {}
    for word in (keyword(tag.label) for tag in tags):
        unique.setdefault(folded(word), word)
    unique.pop("", None)
    return list(unique.values())


def folded(keyword: str) -> str:
    """Equal for keywords that a person takes for the same: "Dog" and " dog", an accent in one or two characters."""
    return unicodedata.normalize("NFC", keyword.strip()).casefold()


def without_known(keywords: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those that are not the same as one of ``known``."""
    have = set(map(folded, known))
    return [word for word in keywords if folded(word) not in have]
