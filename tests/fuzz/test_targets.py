"""The fuzz targets hold for their seeds, cut and changed; ``make fuzz`` looks further."""

from __future__ import annotations

import random

import pytest
from targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_small_changes_of_them_hold(name: str) -> None:
    draw = random.Random(7)
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)
        for _ in range(3):
            changed = bytearray(seed or b"x")
            changed[draw.randrange(len(changed))] = draw.randrange(256)
            TARGETS[name].run(bytes(changed[: draw.randrange(1, len(changed) + 1)]))
