"""The result for one image. This module imports nothing else of zsl-tagger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Tag(NamedTuple):
    """A label that applies to an image, and its score."""

    label: str
    score: float  # 0..1


@dataclass(frozen=True)
class Record:
    """Result for one image: its tags, best first, or the error.

    Attributes:
        error: None on success. A photo that was tagged but whose sidecar could not be written has tags and an error.
        sha256: of the file's content, 64 hexadecimal digits; None if it was not requested or the file was unreadable.
    """

    path: str
    tags: list[Tag]
    error: str | None = None
    sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"path", "sha256", "tags": [{"label", "score"}]}`` or ``{"path", "error"}``; ``sha256`` if known.

        A photo that was tagged but whose sidecar could not be written has ``tags`` and ``error``.
        """
        tags = [{"label": tag.label, "score": round(tag.score, 4)} for tag in self.tags]
        known = {} if self.sha256 is None else {"sha256": self.sha256}
        if self.error is None:
            return {"path": self.path, **known, "tags": tags}
        return {"path": self.path, **known, **({"tags": tags} if tags else {}), "error": self.error}
