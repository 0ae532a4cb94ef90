"""The packaged model: a model folder that comes with the installation."""

from __future__ import annotations

from pathlib import Path

PACKAGED = Path(__file__).parent / "packaged"
