"""Test which images a protocol evaluates, what it refuses, and its note on images that ``prepare`` left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import dataset_of

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import data_of_dataset
from zsl_tagger.evaluation.protocols import PROTOCOLS, Protocol
from zsl_tagger.evaluation.results import Task
from zsl_tagger.evaluation.run import EvaluateRun, Result, evaluate

IMAGES, LABELS = ["1.jpg", "2.jpg", "3.jpg"], ["cat", "dog", "yak"]
SCORES = np.array([[9, 3, 1], [1, 8, 2], [4, 5, 6]], np.float32)


def evaluated(folder: Path, targets: list[list[int]], protocol: Any, unseen: str = "yak", **options: Any) -> Result:
    np.savez(folder / "t.npz", targets=np.array(targets), images=np.array(IMAGES), labels=np.array(LABELS))
    np.savez(folder / "s.npz", scores=SCORES, images=np.array(IMAGES), labels=np.array(LABELS), kind=np.array("logits"))
    (folder / "unseen.txt").write_text(unseen)
    files: dict[str, Any] = {"scores": folder / "s.npz", "targets": folder / "t.npz", "unseen": folder / "unseen.txt"}
    return evaluate(EvaluateRun(**files, protocol=protocol, resamples=0, **options))


def images(result: Result) -> dict[Task, int]:
    return {name: task.images for name, task in result.report.tasks.items()}


def test_gzsl_of_mld_is_on_all_labelled_images_and_zsl_on_those_with_an_unseen_label(tmp_path: Path) -> None:
    targets = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert images(evaluated(tmp_path, targets, "mld")) == {"zsl": 1, "seen": 2, "gzsl": 2}
    assert images(evaluated(tmp_path, targets, "strict")) == {"zsl": 3, "seen": 3, "gzsl": 3}


class OfTwo(Protocol):
    """Evaluate on images with two labels or more."""

    def keeps(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets.sum(axis=1) >= 2)

    def which_images(self) -> str:
        return "with two labels"


def test_a_protocol_of_ones_own_is_taken_in_place_of_a_name(tmp_path: Path) -> None:
    targets = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    named = evaluated(tmp_path, targets, "mld").report
    own = evaluated(tmp_path, targets, replace(PROTOCOLS["mld"], name="mine")).report
    assert (own.protocol, own.definition) == ("mine", named.definition)
    assert own.tasks == named.tasks
    other = evaluated(tmp_path, targets, OfTwo(**{**vars(PROTOCOLS["strict"]), "name": "of two"}), labels="all")
    assert images(other) == {"zsl": 0, "seen": 0, "gzsl": 1}
    assert "images: with two labels" in other.report.definition


@pytest.mark.parametrize(
    ("unseen", "message"),
    [
        ("yak", "evaluates unseen labels on images that show one, but t, split all, has none: --classes seen"),
        ("cat\ndog", "evaluates seen labels on images that show one, but t, split all, has none: --classes unseen"),
    ],
)
def test_a_task_without_images_is_refused(tmp_path: Path, unseen: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, [[1, 0, 0], [0, 1, 0], [0, 0, 0]], "mld", unseen)
    only = "seen" if unseen == "yak" else "unseen"
    result = evaluated(tmp_path, [[1, 0, 0], [0, 1, 0], [0, 0, 0]], "mld", unseen, labels=only)
    assert list(images(result).values()) == [2]


def test_the_ks_are_those_of_the_protocol_unless_given(tmp_path: Path) -> None:
    targets = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    def ks(protocol: Any, **options: Any) -> set[int]:
        return set(evaluated(tmp_path, targets, protocol, **options).report.tasks["gzsl"].at_k)

    assert ks("lesa") == {3}  # of three labels
    assert ks("lesa-openimages") == set()
    assert ks("lesa-openimages", ks=(1, 2)) == {1, 2}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that stands a data set in for a folder, prepared with test images of some kind."""

    def prepare(test_shows: str) -> Path:
        dataset = dataset_of(tmp_path, ["cat", "yak cat"], ["train", "test"], unseen="yak")
        info = {"name": "made", "protocol": {"name": "x", "test_shows": test_shows}}
        monkeypatch.setattr("zsl_tagger.evaluation.data.load_dataset", lambda _: replace(dataset, info=info))
        return tmp_path

    return prepare


@pytest.mark.parametrize(
    ("test_shows", "protocol", "labels", "tasks"),
    [
        ("unseen", "mld", "all", "seen, GZSL"), ("unseen", "lesa", "unseen", "ZSL"), ("unseen", "mld", "unseen", None),
        ("any", "mld", "all", None),
    ],
)  # fmt: skip
def test_images_that_were_left_out_when_the_data_was_prepared_are_said(
    tmp_path: Path,
    prepared: Callable[[str], Path],
    test_shows: str,
    protocol: Any,
    labels: Any,
    tasks: str | None,
    logged: pytest.LogCaptureFixture,
) -> None:
    data, names = prepared(test_shows), np.array(["cat", "yak"])
    np.savez(tmp_path / "s.npz", scores=np.zeros((1, 2)), images=np.array(["001.png"]), labels=names, kind="logits")
    options = EvaluateRun(scores=tmp_path / "s.npz", data=data, protocol=protocol, labels=labels, resamples=0)
    evaluate(options)
    expected = (
        f"made was prepared without test images that have no unseen label, which protocol {protocol} evaluates too "
        f"({tasks}): prepare nus-wide --protocol lesa keeps them"
    )
    assert (expected in logged.messages) == (tasks is not None)


def test_what_prepare_kept_concerns_the_test_split_only(prepared: Callable[[str], Path]) -> None:
    data = prepared("unseen")
    assert data_of_dataset(data, "test", None).lacks_seen_only
    assert not data_of_dataset(data, "train", None).lacks_seen_only
