"""Shared: the repo's example photos, one loaded packaged tagger, a made data set, and torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_data import tagged_data

from zsl_tagger.tagging.tagger import Tagger

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """So that small runs don't crawl where others use the processor too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared multi-label data set, a new one for each module."""
    return tagged_data(tmp_path_factory.mktemp("tagged"))


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def tagger() -> Tagger:
    return Tagger()
