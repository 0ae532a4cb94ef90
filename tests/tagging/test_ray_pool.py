"""The pool of Ray's workers, without a Ray; tests/bulk/test_ray_engine.py runs it."""

from __future__ import annotations

from zsl_tagger.tagging.ray_pool import DEATHS, Ledger


def test_the_ledger_knows_which_image_was_in_hand() -> None:
    ledger = Ledger()
    assert ledger.begin(0) == (False, set())  # and its worker dies
    for _ in range(DEATHS):
        assert ledger.begin(0) == (True, set())
        ledger.take(0, 4)
        ledger.take(0, 5)
    assert ledger.begin(0) == (True, {5})
    ledger.end(0)
    assert ledger.begin(0) == (False, {5})  # its records were lost with their machine, and nobody died of it
    assert ledger.deaths() == DEATHS + 1
