"""One image's result: its tags, best first, or why it could not be read. A leaf: it imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Tag(NamedTuple):
    label: str
    score: float  # 0..1


@dataclass(frozen=True)
class Record:
    """What came of one image: its tags, best first, or why it could not be read.

    Attributes:
        sha256: of the file's content, 64 hexadecimal digits; None where nobody asked, and with an error.
    """

    path: str
    tags: list[Tag]
    error: str | None = None
    sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """``{"path", "sha256", "tags": [{"label", "score"}]}`` or ``{"path", "error"}``; ``sha256`` where known."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        known = {} if self.sha256 is None else {"sha256": self.sha256}
        tags = [{"label": tag.label, "score": round(tag.score, 4)} for tag in self.tags]
        return {"path": self.path, **known, "tags": tags}
