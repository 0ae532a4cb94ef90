"""Parents and synonyms are said once; thresholds move together."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_tagger.tagging.class_evidence import ClassWord, LabelEvidence, Scoring
from zsl_tagger.tagging.label_set import LabelSet

LABELS = ["animal", "dog", "tv", "television", "puppy", "beach"]
IMPLIED = [set(), {"animal"}, {"television"}, {"tv"}, {"dog", "animal"}, set()]


def labels() -> LabelSet:
    count = len(LABELS)
    thresholds = np.linspace(0.2, 0.9, count).astype(np.float32)
    return LabelSet(
        LABELS, LABELS, np.eye(count), thresholds, np.zeros(count), implied=[frozenset(words) for words in IMPLIED]
    )


@pytest.mark.parametrize(
    ("passing", "said"),
    [
        (["animal", "dog"], ["dog"]),
        (["dog", "animal", "puppy"], ["puppy"]),
        (["tv", "television"], ["tv"]),
        (["television", "beach", "tv"], ["television", "beach"]),
        (["animal", "beach"], ["animal", "beach"]),
        ([], []),
    ],
)
def test_says_a_thing_once(passing: list[str], said: list[str]) -> None:
    numbers = np.array([LABELS.index(label) for label in passing], np.int64)
    scores = np.linspace(0.9, 0.8, len(passing))
    assert [passing[place] for place in labels().folded(numbers, scores)] == said
    assert labels().unfolded().folded(numbers, scores).tolist() == list(range(len(passing)))


def test_a_sure_parent_stays_beside_a_less_sure_child() -> None:
    numbers = np.array([LABELS.index(label) for label in ("dog", "puppy", "animal")])
    assert labels().folded(numbers, np.array([0.95, 0.7, 0.5])).tolist() == [0, 1]
    assert labels().folded(numbers, np.array([0.9, 0.7, 0.7])).tolist() == [1]


def test_an_unsure_child_gives_way_to_its_parent() -> None:
    numbers = np.array([LABELS.index(label) for label in ("dog", "puppy", "beach")])
    assert labels().folded(numbers, np.array([0.66, 0.64, 0.5])).tolist() == [0, 2]
    assert labels().folded(numbers[1:], np.array([0.64, 0.5])).tolist() == [0, 1]  # there is no parent
    assert labels().folded(numbers[::-1], np.array([0.64, 0.64, 0.6])).tolist() == [0, 2]  # "dog" is a parent here


def test_an_unsure_child_that_names_a_class_is_kept() -> None:
    made = labels()
    words = [ClassWord((0,), names=True) if label == "puppy" else None for label in LABELS]
    made.evidence = LabelEvidence(words, Scoring())
    numbers = np.array([LABELS.index(label) for label in ("dog", "puppy")])
    assert made.folded(numbers, np.array([0.64, 0.6])).tolist() == [1]
    assert made.folded(numbers, np.array([0.95, 0.6])).tolist() == [0, 1]


def test_some_labels_fold_as_among_all() -> None:
    some = labels().only([4, 0, 5])
    assert some.folded(np.array([1, 0]), np.array([0.9, 0.8])).tolist() == [1]


@pytest.mark.parametrize("shift", [-3.0, 0.0, 1.7])
def test_thresholds_move_in_log_odds(shift: float) -> None:
    def log_odds(p: np.ndarray) -> np.ndarray:
        return np.log(p / (1 - p))

    moved = labels().shifted(shift)
    np.testing.assert_allclose(log_odds(moved.thresholds), log_odds(labels().thresholds) + shift, atol=1e-5)
    assert moved.implied is not None
