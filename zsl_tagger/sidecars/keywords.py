"""Convert labels to keywords of a sidecar, and compare keywords."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import AnyStr

from zsl_tagger.errors import PhotoError
from zsl_tagger.records.record import Tag

#: Characters that XML cannot contain even if escaped, and lone surrogates, which no encoding can.
_NO_TEXT = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


#: Maximum number of parts of a sidecar (elements and attributes, values, lines), which take some hundred bytes each.
MAX_PARTS = 500_000

#: Parents of a label, most general first: animal and mammal for dog.
Parents = Mapping[str, Sequence[str]]


class SidecarError(PhotoError):
    """A sidecar is left unchanged. The message is one line with the reason."""


def check_parts(parts: re.Pattern[AnyStr], content: AnyStr, what: str) -> None:
    """Raise a SidecarError if a pattern matches more than ``MAX_PARTS`` times."""
    if next(islice(parts.finditer(content), MAX_PARTS, None), None) is not None:
        raise SidecarError(f"has more than {MAX_PARTS:,} {what}: left as it is")


def keyword(label: str) -> str:
    """Return a label on one line, without characters that a file cannot contain."""
    return " ".join(_NO_TEXT.sub("\ufffd", label).split())


def keywords_of(tags: Sequence[Tag]) -> list[str]:
    """Return the keyword of each tag, without duplicates."""
    unique: dict[str, str] = {}
    for word in (keyword(tag.label) for tag in tags):
        unique.setdefault(folded(word), word)
    unique.pop("", None)
    return list(unique.values())


def folded(keyword: str) -> str:
    """Return a form that is equal for equivalent keywords: "Dog" and " dog", composed and decomposed accents."""
    return unicodedata.normalize("NFC", keyword.strip()).casefold()


def without_known(keywords: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the keywords that are not equivalent to one of ``known``."""
    have = set(map(folded, known))
    return [word for word in keywords if folded(word) not in have]
