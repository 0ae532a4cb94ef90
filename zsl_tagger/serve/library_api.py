"""Define the forms of the library's API; its responses are dataclasses of :mod:`zsl_tagger.teach.review`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: Maximum length of a query, in characters.
QUERY_LENGTH = 1_000
#: Maximum number of photos of a search.
MAX_SHOWN = 1_000
#: Maximum number of photos marked by one request.
MAX_MARKED = 1_000

_SHA256 = re.compile("[0-9a-f]{64}")


def _photos(text: str) -> str:
    """Validate a list of photos.

    Raises:
        ValueError: there are too many, or one of them is not a SHA-256.
    """
    if len(names := text.split()) > MAX_MARKED:
        raise ValueError(f"expected at most {MAX_MARKED:,} photos")
    if not all(map(_SHA256.fullmatch, names)):
        raise ValueError("expected the SHA-256 of photos, separated by spaces")
    return text


PhotoHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of a photo, as returned by a search.")]
TagName = Annotated[
    str, Field(min_length=1, max_length=200, description="Name of the tag, one or more words.", examples=["our cat"])
]
PhotoList = Annotated[
    str,
    AfterValidator(_photos),
    Field(description=f"SHA-256 of photos, separated by spaces, at most {MAX_MARKED:,}."),
]


class Form(BaseModel):
    """A form that allows no unknown fields."""

    model_config = ConfigDict(extra="forbid")


class MarksForm(Form):
    """Form of POST /v1/library/marks."""

    tag: TagName
    yes: PhotoList = ""
    no: PhotoList = ""
    neither: PhotoList = ""


class TagForm(Form):
    """Form of POST /v1/library/teach and /v1/library/preview."""

    tag: TagName


class WriteForm(TagForm):
    """Form of POST /v1/library/write."""

    preview: Annotated[str, Field(max_length=64, description="Fingerprint of the preview.")]


class UndoForm(Form):
    """Form of POST /v1/library/undo."""

    sidecars: Annotated[int, Field(ge=1, description="Expected number of sidecars to undo: `undoable`.")]


@dataclass(frozen=True)
class LibrarySummary:
    """Summarise the library.

    Attributes:
        photos: number of photos in the index.
        tags: tags that were taught or have marks.
        undoable: number of sidecars that the next undo would change.
    """

    photos: int
    tags: list[str]
    undoable: int
