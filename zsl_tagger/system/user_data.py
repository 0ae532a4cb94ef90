"""Locate the user's data folder on this system."""

from __future__ import annotations

from pathlib import Path


def user_folder(name: str) -> Path:
    """Return a folder inside the user's data folder; it need not exist."""
    from platformdirs import user_data_path  # takes 5 ms, only needed for default folders

    return user_data_path("zsl-tagger", appauthor=False) / name
