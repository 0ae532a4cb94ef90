"""How much one request, and all of them together, may ask of this machine."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000

#: Labels are short, and few enough that each photo's time stays that of its encoder.
LABELS, LABEL_LENGTH, LABELS_TEXT = 1_000, 100, 32_000
#: Heat maps a photo.
HEATMAPS = 50


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    photo_bytes: int = 32 * MB
    photos: int = 16  # a request
    pixels: int = 50 * MB  # a photo; decoding takes up to 20 bytes of memory for each, on every worker
    waiting: int = 64  # photos in the queue
    upload_seconds: float = 60.0  # until a request has arrived
    work_seconds: float = 60.0  # until it is answered after that
    review_seconds: float = 600.0  # the same of a search, a lesson, or sidecars that are written
    connections: int = 500

    @property
    def request_bytes(self) -> int:
        return 2 * self.photo_bytes

    @property
    def held_bytes(self) -> int:
        """Of all uploads that are in memory at a time."""
        return 8 * self.photo_bytes
