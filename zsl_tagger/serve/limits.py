"""Limits on a single request and on all requests together."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000

#: Maximum number of labels, and characters of a label and of all; so few labels take less time than the encoder.
LABELS, LABEL_LENGTH, LABELS_TEXT = 1_000, 100, 32_000
#: Maximum number of heat maps per photo.
HEATMAPS = 50


@dataclass(frozen=True)
class Limits:
    """Hold sizes in bytes, times in seconds and counts."""

    photo_bytes: int = 32 * MB
    photos: int = 16  # per request
    pixels: int = 50 * MB  # per photo; decoding takes up to 20 bytes of memory per pixel on each worker
    waiting: int = 64  # photos in the queue
    upload_seconds: float = 60.0  # to receive a request
    work_seconds: float = 60.0  # to answer it after that
    review_seconds: float = 600.0  # to answer a request to the library
    connections: int = 500

    @property
    def request_bytes(self) -> int:
        return 2 * self.photo_bytes

    @property
    def held_bytes(self) -> int:
        """Return the maximum size of all uploads in memory."""
        return 8 * self.photo_bytes
