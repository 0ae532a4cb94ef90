"""Shared: the repo's example photos and one loaded packaged tagger."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsl_tagger.tag import Tagger

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def tagger() -> Tagger:
    return Tagger()
