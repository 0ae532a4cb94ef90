"""One image's result: its tags, best first, or why it could not be read. A leaf: it imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Tag(NamedTuple):
    """Hold a label that is true of an image, and its score."""

    label: str
    score: float  # 0..1


@dataclass(frozen=True)
class Record:
    """What came of one image: its tags, best first, or why it could not be read.

    Attributes:
        error: None where all went well. A photo that was tagged, but whose sidecar could not be written, has both.
        sha256: of the file's content, 64 hexadecimal digits; None where nobody asked, and where it could not be read.
    """

    path: str
    tags: list[Tag]
    error: str | None = None
    sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"path", "sha256", "tags": [{"label", "score"}]}`` or ``{"path", "error"}``; ``sha256`` where known.

        A photo that was tagged, but whose sidecar could not be written, has ``tags`` and ``error``.
        """
        tags = [{"label": tag.label, "score": round(tag.score, 4)} for tag in self.tags]
        known = {} if self.sha256 is None else {"sha256": self.sha256}
        if self.error is None:
            return {"path": self.path, **known, "tags": tags}
        return {"path": self.path, **known, **({"tags": tags} if tags else {}), "error": self.error}
