"""The forms of the library's API; its answers are the dataclasses of :mod:`zsl_tagger.teach.review`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: A search has up to this many characters.
QUERY_LENGTH = 1_000
#: Photos of one search.
MOST_SHOWN = 1_000
#: Photos that are marked by one request.
MOST_MARKED = 1_000

_SHA256 = re.compile("[0-9a-f]{64}")


def _photos(text: str) -> str:
    """Raise ValueError where a text is not a list of photos."""
    if len(names := text.split()) > MOST_MARKED:
        raise ValueError(f"expected at most {MOST_MARKED:,} photos")
    if not all(map(_SHA256.fullmatch, names)):
        raise ValueError("expected SHA-256 numbers of photos, with spaces between")
    return text


PhotoNumber = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of a photo, from a search.")]
TagName = Annotated[
    str, Field(min_length=1, max_length=200, description="A name of one or several words.", examples=["our cat"])
]
PhotoList = Annotated[
    str,
    AfterValidator(_photos),
    Field(description=f"SHA-256 numbers of photos, with spaces between, at most {MOST_MARKED:,}."),
]


class Form(BaseModel):
    """A form without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class MarksForm(Form):
    """The form of POST /v1/library/marks."""

    tag: TagName
    yes: PhotoList = ""
    no: PhotoList = ""
    neither: PhotoList = ""


class TagForm(Form):
    """The form of POST /v1/library/teach and /v1/library/preview."""

    tag: TagName


class WriteForm(TagForm):
    """The form of POST /v1/library/write."""

    preview: Annotated[str, Field(max_length=64, description="The fingerprint of the preview.")]


class UndoForm(Form):
    """The form of POST /v1/library/undo."""

    sidecars: Annotated[int, Field(ge=1, description="How many sidecars are to be undone: `undoable`.")]


@dataclass(frozen=True)
class LibrarySummary:
    """Say what there is.

    Attributes:
        photos: in the index.
        tags: that were taught, or have marks.
        undoable: sidecars that undoing the last writing would change.
    """

    photos: int
    tags: list[str]
    undoable: int
