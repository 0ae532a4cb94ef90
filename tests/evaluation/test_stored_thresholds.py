"""Thresholds and biases travel with the scores of a model: a file of scores has the figures of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.run import EvaluateRun, Result, _save_scores, evaluate
from zsl_tagger.evaluation.score_files import read_levels
from zsl_tagger.evaluation.scores import Scores

IMAGES, LABELS = ["1.jpg", "2.jpg", "3.jpg"], ["cat", "dog"]
SCORES = np.array([[-1, -3], [-2, 2], [3, -0.5]], np.float32)
TARGETS = np.array([[1, 0], [1, 1], [0, 1]], bool)
THRESHOLDS, BIASES = np.array([-2, -1], np.float32), np.array([0, 1.5], np.float32)


def save(path: Path, **more: Any) -> Path:
    np.savez(path, scores=SCORES, images=np.array(IMAGES), labels=np.array(LABELS), kind=np.array("logits"), **more)
    return path


def evaluated(path: Path, **options: Any) -> Result:
    targets = path.with_name("targets.npz")
    np.savez(targets, targets=TARGETS, images=np.array(IMAGES), labels=np.array(LABELS))
    return evaluate(EvaluateRun(scores=path, targets=targets, resamples=0, ks=(1,), **options))


def at_threshold(path: Path, **options: Any) -> tuple[float, float]:
    tags = evaluated(path, **options).report.tasks["seen"].at_threshold
    assert tags is not None
    return tags.precision, tags.recall


def test_a_file_is_evaluated_at_its_own_thresholds(tmp_path: Path) -> None:
    assert at_threshold(save(tmp_path / "old.npz")) == (1 / 2, 1 / 4)  # dog on 2 and cat on 3, at logits of 0
    stored = save(tmp_path / "s.npz", thresholds=THRESHOLDS)
    assert at_threshold(stored) == (4 / 5, 1)
    assert at_threshold(stored, threshold=0.5) == (1 / 2, 1 / 4)


def test_thresholds_are_matched_by_label(tmp_path: Path) -> None:
    stored = save(tmp_path / "s.npz", thresholds=THRESHOLDS, biases=BIASES)
    for labels in (["dog"], ["dog", "cat"]):
        thresholds, biases = read_levels(stored, labels)
        columns = [LABELS.index(label) for label in labels]
        np.testing.assert_array_equal(thresholds, THRESHOLDS[columns])
        np.testing.assert_array_equal(biases, BIASES[columns])


def test_files_without_thresholds(tmp_path: Path) -> None:
    assert read_levels(save(tmp_path / "s.npz"), LABELS) == (None, None)
    assert read_levels(tmp_path / "s.csv", LABELS) == (None, None)


def test_what_is_saved_is_read_again_bit_by_bit(tmp_path: Path) -> None:
    thresholds = np.array([-np.inf, 0.1], np.float32)  # a threshold of 0 as a score
    data = EvaluationData("made", "test", IMAGES, LABELS, np.ones(2, bool), TARGETS)
    _save_scores(tmp_path / "s.npz", data, Scores(SCORES, "logits", thresholds, BIASES))
    for found, expected in zip(read_levels(tmp_path / "s.npz", LABELS), (thresholds, BIASES), strict=True):
        assert found is not None
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("thresholds", np.zeros(3)), ("thresholds", np.zeros((2, 1))), ("thresholds", np.array(["a", "b"])),
        ("thresholds", np.array([0, np.nan])), ("biases", np.array([0, np.inf])),
    ],
)  # fmt: skip
def test_levels_that_are_not_a_number_a_label(tmp_path: Path, name: str, values: np.ndarray) -> None:
    with pytest.raises(UserError, match=f"expected {name} as one number per label, 2 in total; got "):
        evaluated(save(tmp_path / "s.npz", **{name: values}))


def test_levels_that_are_python_objects(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="thresholds is an array of Python objects"):
        evaluated(save(tmp_path / "s.npz", thresholds=np.array([0, None])))
