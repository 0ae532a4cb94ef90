"""Check that unknown labels count neither for nor against in ``evaluate``, ``calibrate`` and validation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from small_runs import dataset_of

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.datasets.format import format_labels
from zsl_tagger.evaluation.calibrate import _choose
from zsl_tagger.evaluation.data import EvaluationData, data_of_dataset
from zsl_tagger.evaluation.report import _photos
from zsl_tagger.evaluation.run import EvaluateRun, Result, evaluate
from zsl_tagger.evaluation.thresholds import calibrate_unseen, choose_thresholds
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import split_for_training
from zsl_tagger.training.finish import _thresholds
from zsl_tagger.training.validation import Scores, validation_metrics

IMAGES, LABELS = 53, ["cat", "dog", "fish", "horse", "sheep"]
SEEN = np.array([True, True, False, True, False])
random = np.random.default_rng(5)
#: 1, 0 and -1 for unknown.
TRUTH = random.choice([1, 0, -1], (IMAGES, len(LABELS)), p=[0.3, 0.3, 0.4])
LOGITS = (random.normal(size=TRUTH.shape) + (TRUTH == 1)).round(1).astype(np.float32)


def partial_folder(folder: Path, truth: np.ndarray) -> Path:
    """Write a prepared folder whose images are all of the split test."""
    names = np.array(LABELS)
    lines = ["path,labels,split,negatives"]
    for number, row in enumerate(truth):
        shown, absent = (format_labels(names[row == value].tolist()) for value in (1, 0))
        lines.append(f'{number}.jpg,"{shown}",test,"{absent}"')
    folder.mkdir(parents=True)
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    sides = {"train class": names[SEEN].tolist(), "test class": names[~SEEN].tolist()}
    (folder / "benchmark.json").write_text(json.dumps(sides))
    torch.save(torch.arange(1.0, 16.0).reshape(3, 5), folder / "wordvec_array.pth")
    return folder


def evaluated(folder: Path, truth: np.ndarray = TRUTH, **options: Any) -> Result:
    partial_folder(folder / "data", truth)
    images = np.array([f"{number}.jpg" for number in range(len(truth))])
    np.savez(folder / "s.npz", scores=LOGITS, images=images, labels=np.array(LABELS), kind=np.array("logits"))
    return evaluate(EvaluateRun(data=folder / "data", scores=folder / "s.npz", resamples=0, ks=(2,), **options))


def expected_precision(k: int, truth: np.ndarray = TRUTH) -> float:
    known = truth[:, k] >= 0
    return average_precision_score(truth[known, k], LOGITS[known, k])


def test_average_precision_is_over_the_images_on_which_a_label_is_known(tmp_path: Path) -> None:
    result = evaluated(tmp_path, output=tmp_path / "out")
    for k, row in enumerate(result.per_label):
        assert row.average_precision == pytest.approx(expected_precision(k))
        assert (row.positives, row.unknown) == ((TRUTH[:, k] == 1).sum(), (TRUTH[:, k] == -1).sum())
    expected = np.mean([expected_precision(k) for k in range(5)])
    assert result.report.tasks["gzsl"].map == pytest.approx(expected)
    known = int((TRUTH >= 0).sum())
    note = f"labels are partial: {known} of 265 pairs of image and label are known"
    assert note in result.report.notes
    assert note in (tmp_path / "out" / "report.html").read_text()


def test_figures_of_tags_and_at_k_are_over_known_pairs(tmp_path: Path) -> None:
    task = evaluated(tmp_path).report.tasks["gzsl"]
    known = TRUTH >= 0
    tags = task.at_half
    assert tags is not None
    assert tags.f1 == pytest.approx(f1_score(TRUTH[known], LOGITS[known] >= 0))
    hits = answers = 0
    for truth, logits in zip(TRUTH, LOGITS, strict=True):
        ranked = sorted((-score, label) for label, score in enumerate(logits) if truth[label] >= 0)
        answers += min(2, len(ranked))
        if len(ranked) > 2 and ranked[1][0] == ranked[2][0]:  # equal scores share the places that are left
            above = [label for score, label in ranked if score < ranked[1][0]]
            level = [label for score, label in ranked if score == ranked[1][0]]
            hits += truth[above].sum() + truth[level].sum() * (2 - len(above)) / len(level)
        else:
            hits += sum(truth[label] for _, label in ranked[:2])
    assert task.at_k[2].f1 == pytest.approx(2 * hits / (answers + (TRUTH == 1).sum()))


def test_the_page_shows_no_photo_as_wrong_on_which_the_label_is_unknown(tmp_path: Path) -> None:
    logits = np.where(TRUTH == -1, np.float32(9), LOGITS)  # they would come first
    partial_folder(tmp_path / "data", TRUTH)
    data = data_of_dataset(tmp_path / "data", "test", None)
    for k, label in enumerate(LABELS):
        photos = _photos(label, data, logits)
        known = np.flatnonzero(TRUTH[:, k] >= 0)
        best = known[np.argsort(-LOGITS[known, k], kind="stable")]
        assert photos[0].path == f"{best[0]}.jpg"
        assert all(TRUTH[int(photo.path.removesuffix(".jpg")), k] == photo.true for photo in photos)
    evaluated(tmp_path / "again", output=tmp_path / "out")
    row = f'<td>cat<td class="soft">seen<td class="n">{(TRUTH[:, 0] == 1).sum()}'
    assert f'{row}<td class="n">{(TRUTH[:, 0] == -1).sum()}<td' in (tmp_path / "out" / "report.html").read_text()


def test_mld_counts_the_unknown_as_absent(tmp_path: Path) -> None:
    result = evaluated(tmp_path, protocol="mld", labels="seen")
    assert [row.unknown for row in result.per_label] == [0, 0, 0]


def test_a_label_that_is_known_to_be_absent_from_no_image_is_named(
    tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    truth = TRUTH.copy()
    truth[truth[:, 1] == 0, 1] = -1
    result = evaluated(tmp_path, truth)
    warning = "labels without a known negative have an average precision of 1 regardless of the scores (1): 'dog'"
    assert warning in result.report.notes
    assert warning in logged.text
    assert result.per_label[1].average_precision == 1


def test_training_images_are_counted_without_a_matrix_of_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = partial_folder(tmp_path / "data", TRUTH)
    text = (folder / "data.csv").read_text()
    rows = text.splitlines()
    absent = [line.replace(",test,", ",train,") if number < 41 else line for number, line in enumerate(rows)]
    (folder / "data.csv").write_text("\n".join(absent))
    shapes = []
    targets = PreparedDataset.targets

    def watched(self: PreparedDataset, rows: np.ndarray) -> np.ndarray:
        shapes.append(len(rows))
        return targets(self, rows)

    monkeypatch.setattr(PreparedDataset, "targets", watched)
    data = data_of_dataset(folder, "test", None)
    assert shapes == [13]
    assert data.training_images is not None
    assert data.training_images.tolist() == (TRUTH[:40] == 1).sum(axis=0).tolist()


# --- validation and thresholds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("holdout", [0.0, 0.4])
def test_validation_is_over_known_pairs(holdout: float, tmp_path: Path) -> None:
    shown = [" ".join(name for name, value in zip(LABELS, row, strict=True) if value == 1) for row in TRUTH]
    dataset = dataset_of(tmp_path, [*shown, " ".join(LABELS)], ["val"] * IMAGES + ["train"])
    absent = [np.flatnonzero(row == 0) for row in TRUTH]
    dataset = replace(dataset, negative_indices=[*absent, np.zeros(0, np.int64)])
    split = split_for_training(dataset, TrainConfig(holdout_labels=holdout))
    columns = np.concatenate([split.columns, split.held_out_columns])
    figures = validation_metrics(Scores(split.val, LOGITS[:, columns]), split, dataset, single=False)
    expected = [expected_precision(k) for k in split.columns]
    assert figures.val_map == pytest.approx(np.mean(expected))
    if holdout:
        assert figures.heldout_map == pytest.approx(np.mean([expected_precision(k) for k in split.held_out_columns]))
    assert figures.val_f1_at_3 is not None


def test_thresholds_are_chosen_by_known_pairs() -> None:
    scores = 1 / (1 + np.exp(-LOGITS.astype(float)))
    own, common = choose_thresholds(scores, TRUTH == 1, prior=0, unknown=TRUTH == -1)
    known = TRUTH >= 0
    assert common == choose_thresholds(scores[known][:, None], (TRUTH == 1)[known][:, None])[1]
    for k in range(5):
        rows = known[:, k]
        assert own[k] == choose_thresholds(scores[rows, k][:, None], (TRUTH == 1)[rows, k][:, None])[1]


def test_the_bias_of_unseen_labels_ranks_known_pairs_only() -> None:
    """An unknown pair of a very high score must not change it."""
    unknown, logits = TRUTH == -1, LOGITS.copy()
    expected = calibrate_unseen(logits[:, :3], logits[:, 3:], TRUTH == 1, unknown)
    logits[unknown] = 50
    assert calibrate_unseen(logits[:, :3], logits[:, 3:], TRUTH == 1, unknown) == expected
    assert calibrate_unseen(logits[:, :3], logits[:, 3:], TRUTH == 1) != expected


def test_calibrate_and_train_choose_by_known_pairs(tmp_path: Path) -> None:
    """Scores of unknown pairs must not matter to the thresholds and the bias that both write."""
    shown = [" ".join(name for name, value in zip(LABELS, row, strict=True) if value == 1) for row in TRUTH]
    dataset = dataset_of(tmp_path, [*shown, " ".join(LABELS)], ["val"] * IMAGES + ["train"])
    absent = [np.flatnonzero(row == 0) for row in TRUTH]
    dataset = replace(dataset, negative_indices=[*absent, np.zeros(0, np.int64)])
    split = split_for_training(dataset, TrainConfig(holdout_labels=0.4))
    columns = np.concatenate([split.columns, split.held_out_columns])
    data = EvaluationData("farm", "val", dataset.paths[:-1], LABELS, dataset.seen, TRUTH == 1, TRUTH == -1)
    found = []
    for value in (-50.0, 50.0):
        logits = np.where(TRUTH == -1, np.float32(value), LOGITS)
        labels, default, bias = _thresholds(dataset, split, Scores(split.val, logits[:, columns]), TrainConfig())
        chosen = _choose(logits, data, np.isin(LABELS, split.labels), None)
        found.append((labels, default, bias, chosen.own.tolist(), chosen.common, chosen.default, chosen.bias))
    assert found[0] == found[1]
