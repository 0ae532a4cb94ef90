"""Test benchmarks/released_loop.py, which compares the released training loop, reimplemented, with our trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import released_loop
from benchmarks.released_loop import RECIPES, final_map, loss_curves

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_torch_thread")]


@pytest.fixture(autouse=True)
def _few_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released_loop, "TRAIN", 40)
    monkeypatch.setattr(released_loop, "TEST", 24)


@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_equal_the_released_loop_step_by_step(recipe: str, tmp_path: Path) -> None:
    """Loss, optimiser, schedule and averaging of the recipe equal those of the released script."""
    figures = loss_curves(recipe, RECIPES[recipe], tmp_path, steps=10)
    assert figures["steps"] == 10
    assert figures["last loss"] < figures["first loss"]
    assert figures["largest relative difference of losses"] < 1e-6
    assert figures["largest difference of averaged logits"] < 1e-6


def test_both_loops_run_with_augmentation(tmp_path: Path) -> None:
    figures = final_map("nus-wide-zsl", RECIPES["nus-wide-zsl"], tmp_path, seed=0, epochs=2)
    assert set(figures) == {"ours", "ours, averaged", "released", "released, averaged"}
    assert all(5 < value < 60 for value in figures.values())  # 17 is chance, and 10 steps teach little
