"""The pool of Ray's workers, without a Ray; tests/bulk/test_ray_engine.py runs it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.tagging.ray_pool import DEATHS, Job, Ledger
from zsl_tagger.tagging.tagger import Tagger


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


def test_labels_that_scored_a_photo_can_be_sent(tagger: Tagger, examples: Path) -> None:
    """Without the states that they cached, which belong to a session of ONNX Runtime."""
    labels = tagger.label_set(["cat", "red"])
    encoded = tagger.encode(examples / "cat.jpg")
    expected = tagger.scores(encoded, labels)
    sent = pickle.loads(pickle.dumps(labels))
    assert tagger.scores(encoded, sent).tobytes() == expected.tobytes()


def test_a_job_is_as_large_as_its_model_and_its_arrays() -> None:
    """Ray's memory is made for it."""
    task: Any = np.zeros(1000)
    assert 8100 <= Job({"config.json": b"0123456789" * 10}, task).nbytes <= 8500
