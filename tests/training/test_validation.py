"""Compare zsl_tagger/training/validation.py and thresholds.py with scikit-learn and brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, top_k_accuracy_score
from small_runs import dataset_of
from torch import Tensor

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.evaluation.metrics import harmonic_mean, mean_average_precision
from zsl_tagger.evaluation.thresholds import (
    calibrate_unseen,
    choose_thresholds,
)
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.training import validation
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import Split, split_for_training
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.validation import (
    Scores,
    score_rows,
    validation_metrics,
)

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


# --- metrics ----------------------------------------------------------------------------------------------

NAMES = tuple(f"n{number:02d}" for number in range(11))


def multi_label(folder: Path, holdout: float = 0.0) -> tuple[PreparedDataset, Split]:
    """61 images with 11 labels, 31 of them for validation, some without a label; n10 is on training images only."""
    random = np.random.default_rng(3)
    shown = [" ".join(name for name in NAMES[:10] if random.random() < 0.25) for _ in range(61)]
    shown[0] = " ".join(NAMES)
    dataset = dataset_of(folder, shown, ["train"] * 30 + ["val"] * 31, unseen="zebra")
    return dataset, split_for_training(dataset, TrainConfig(holdout_labels=holdout))


def single_label(folder: Path, holdout: float = 0.0) -> tuple[PreparedDataset, Split]:
    shown = [NAMES[number % 7] for number in range(61)]
    dataset = dataset_of(folder, shown, ["train"] * 30 + ["val"] * 31)
    return dataset, split_for_training(dataset, TrainConfig(holdout_labels=holdout))


def random_scores(split: Split, dataset: PreparedDataset) -> Scores:
    """Return scores better than chance, with ties."""
    rows = split.val
    columns = np.concatenate([split.columns, split.held_out_columns])
    noise = np.random.default_rng(7).normal(size=(len(rows), len(columns)))
    return Scores(rows, (noise + 1.5 * dataset.targets(rows)[:, columns]).round(1).astype(np.float32))


def scikit_map(targets: np.ndarray, logits: np.ndarray) -> float:
    pairs = [(targets[:, label], logits[:, label]) for label in range(targets.shape[1]) if targets[:, label].any()]
    return float(np.mean([average_precision_score(*pair) for pair in pairs]))


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_multi_label_metrics(tmp_path: Path, holdout: float) -> None:
    dataset, split = multi_label(tmp_path, holdout)
    scores = random_scores(split, dataset)
    metrics = validation_metrics(scores, split, dataset, single=False).measured()
    count, targets = len(split.labels), dataset.targets(split.val)
    trained, logits = targets[:, split.columns], scores.logits[:, :count]
    assert metrics.pop("val_map") == pytest.approx(scikit_map(trained, logits))
    best = np.zeros_like(trained)
    np.put_along_axis(best, np.argsort(-logits, axis=1, kind="stable")[:, :3], True, axis=1)
    assert metrics.pop("val_f1_at_3") == pytest.approx(f1_score(trained, best, average="micro"))
    if holdout:
        assert len(split.held_out) == 3
        held = scikit_map(targets[:, split.held_out_columns], scores.logits[:, count:])
        assert metrics.pop("heldout_map") == pytest.approx(held)
        own = scikit_map(trained, logits)
        assert metrics.pop("harmonic_mean") == pytest.approx(2 / (1 / held + 1 / own))
    assert metrics == {}


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_single_label_metrics(tmp_path: Path, holdout: float) -> None:
    """Images of a held-out class are excluded for the trained ones, because no trained label is correct for them."""
    dataset, split = single_label(tmp_path, holdout)
    scores = random_scores(split, dataset)
    metrics = validation_metrics(scores, split, dataset, single=True).measured()
    count, targets = len(split.labels), dataset.targets(split.val)
    own = targets[:, split.columns].any(axis=1)
    assert own.all() == (not holdout)
    trained, logits = targets[own][:, split.columns], scores.logits[own, :count]
    assert metrics.pop("val_map") == pytest.approx(scikit_map(trained, logits))
    right = [row[int(line.argmax())] for row, line in zip(trained, logits, strict=True)]
    assert metrics["val_top1"] == pytest.approx(np.mean(right))
    distinct = logits - 1e-4 * np.arange(count)  # the first of equals, as argmax has it
    top1 = top_k_accuracy_score(trained.argmax(axis=1), distinct, k=1, labels=range(count))
    assert metrics.pop("val_top1") == pytest.approx(top1)
    if holdout:
        held = scikit_map(targets[:, split.held_out_columns], scores.logits[:, count:])  # all images
        assert metrics.pop("heldout_map") == pytest.approx(held)
        assert metrics.pop("harmonic_mean") > 0
    assert metrics == {}


def test_fewer_than_three_labels(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["a", "b", "a b", "a"], ["train", "train", "val", "val"])
    split = split_for_training(dataset, TrainConfig())
    metrics = validation_metrics(Scores(split.val, np.array([[2.0, 1], [1, 2]])), split, dataset, single=False)
    assert metrics.val_f1_at_3 == pytest.approx(2 * 3 / (4 + 3))  # both labels of both images, one of them wrong


def test_no_metrics_without_images_or_positives(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["a", "b", "", ""], ["train", "train", "val", "val"])
    split = split_for_training(dataset, TrainConfig())
    assert (
        validation_metrics(Scores(split.val[:0], np.zeros((0, 2))), split, dataset, single=False) == ValidationFigures()
    )
    assert validation_metrics(Scores(split.val, np.zeros((2, 2))), split, dataset, single=False) == ValidationFigures()


def test_only_held_out_labels_on_validation(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["a", "b", "c", "c"], ["train", "train", "val", "val"])
    split = replace(split_for_training(dataset, TrainConfig()), held_out=("c",), held_out_columns=np.array([2]))
    metrics = validation_metrics(Scores(split.val, np.zeros((2, 3))), split, dataset, single=True)
    assert metrics == ValidationFigures(heldout_map=1.0)
    assert metrics.selection_metric() == ("heldout_map", 1.0)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["val_map", "val_f1_at_3"], "val_map"),
        (["val_map", "val_top1"], "val_top1"),
        (["val_map", "val_top1", "heldout_map", "harmonic_mean"], "harmonic_mean"),
        (["heldout_map"], "heldout_map"),
        ([], None),
    ],
)
def test_selection_metric(names: list[str], chosen: str | None) -> None:
    decisive = ValidationFigures(**dict.fromkeys(names, 0.5)).selection_metric()
    assert decisive == (None if chosen is None else (chosen, 0.5))


@pytest.mark.parametrize(("a", "b", "mean"), [(0.5, 0.5, 0.5), (1, 0.5, 2 / 3), (0, 1, 0), (0, 0, 0)])
def test_harmonic_mean(a: float, b: float, mean: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(mean)


def test_mean_average_precision_skips_labels_without_positives() -> None:
    targets = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]], bool)
    scores = np.array([[3, 9, 1], [2, 8, 2], [1, 7, 3.0]])
    # 1/2 * 1/1 + 1/2 * 2/3 for the first; 1/2 for the third
    assert mean_average_precision(scores, targets) == pytest.approx((5 / 6 + 1 / 2) / 2)


# --- the bias of unseen labels ----------------------------------------------------------------------------


def recalls_mean(seen: np.ndarray, unseen: np.ndarray, targets: np.ndarray, bias: float) -> float:
    """Return the harmonic mean of recall@3 over seen and unseen positives, image by image."""
    count, found = seen.shape[1], [0, 0]
    for own, other, truth in zip(seen, unseen, targets, strict=True):
        line = np.concatenate([own, other + bias])
        for label in np.argsort(-line)[:3]:
            found[int(label >= count)] += int(truth[label])
    a, b = found[0] / max(1, targets[:, :count].sum()), found[1] / max(1, targets[:, count:].sum())
    return 2 * a * b / (a + b) if a + b else 0.0


@pytest.mark.parametrize(("images", "seen_labels", "unseen_labels"), [(13, 7, 5), (53, 7, 5), (37, 2, 3), (67, 11, 3)])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 2.0])
def test_calibration_equals_brute_force(images: int, seen_labels: int, unseen_labels: int, shift: float) -> None:
    random = np.random.default_rng([images, seen_labels])
    targets = random.random((images, seen_labels + unseen_labels)) < 0.25
    logits = random.standard_normal(targets.shape) + 2 * targets
    seen, unseen = logits[:, :seen_labels], logits[:, seen_labels:] + shift
    best = max(recalls_mean(seen, unseen, targets, bias) for bias in np.linspace(-7, 10, 681))
    reached = recalls_mean(seen, unseen, targets, calibrate_unseen(seen, unseen, targets))
    assert reached >= best - 0.01  # its candidates are 101 quantiles
    assert best > 0.4


def test_calibration_follows_a_shift() -> None:
    """The bias compensates for a constant subtracted from all unseen logits."""
    random = np.random.default_rng(5)
    targets = random.random((101, 12)) < 0.25
    logits = random.standard_normal(targets.shape) + 2 * targets
    there = calibrate_unseen(logits[:, :7], logits[:, 7:] - 3, targets)
    further = calibrate_unseen(logits[:, :7], logits[:, 7:] - 8, targets)
    assert further - there == pytest.approx(5, abs=0.1)


def test_smallest_of_equally_good_biases() -> None:
    """If there are no more than three labels, no bias helps."""
    targets = np.array([[1, 0, 1], [0, 1, 1]], bool)
    assert calibrate_unseen(np.zeros((2, 2)), np.zeros((2, 1)), targets) == 0.0


# --- scoring images ---------------------------------------------------------------------------------------

SIZE, COUNT = 32, 37
BROKEN = {5: b"no image", 17: b"", 36: None}  # None: there is no file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    dataset = dataset_of(folder, ["a b"] * COUNT, ["val"] * COUNT)
    for number, name in enumerate(dataset.paths):
        Image.fromarray(random.integers(0, 256, (41, 43, 3), np.uint8)).save(folder / name)
        content = BROKEN.get(number, b"good")
        if content is None:
            (folder / name).unlink()
        elif content != b"good":
            (folder / name).write_bytes(content)
    return dataset


def make_model(classes: int | None = None) -> TaggerModel:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet")
    shape = {"dim": 24, "ffn_dim": 17, "heads": 3}
    word_dim = None if classes else 5
    return TaggerModel(backbone, MLDecoder(backbone.channels, word_dim=word_dim, num_classes=classes, **shape))


def score(
    photos: PreparedDataset, rows: Sequence[int], model: TaggerModel, queries: Tensor | None, workers: int = 0
) -> tuple[Scores, dict[int, str]]:
    return score_rows(
        model, queries, photos, np.array(rows, np.int64),
        root=str(photos.folder), preprocessing=Preprocessing(SIZE), workers=workers,
    )  # fmt: skip


def by_one(photos: PreparedDataset, rows: Sequence[int], model: TaggerModel, queries: Tensor | None) -> np.ndarray:
    """Return the logits, one image at a time."""
    model.eval()
    lines = []
    with torch.no_grad():
        for row in rows:
            pixels = torch.from_numpy(load_array(photos.folder / photos.paths[row], Preprocessing(SIZE)).copy())
            lines.append(model(pixels[None], queries)[0].numpy())
    return np.stack(lines)


@pytest.mark.parametrize("classes", [None, 7])
def test_scores_equal_one_image_at_a_time(photos: PreparedDataset, classes: int | None) -> None:
    """In any order, with unreadable images in between, and with a model in training mode."""
    model = make_model(classes).train()
    queries = None if classes else torch.nn.functional.normalize(torch.randn(3, 5))
    rows = [30, 5, 2, 36, 17, 11, 35, *range(12, 17), *range(18, 30)]
    scores, faults = score(photos, rows, model, queries)
    good = [row for row in rows if row not in BROKEN]
    assert scores.rows.tolist() == good
    assert scores.logits.dtype == np.float32
    np.testing.assert_allclose(scores.logits, by_one(photos, good, model, queries), atol=1e-5)
    assert set(faults) == set(BROKEN)
    assert faults[36] == "no such file"
    assert faults[17] == "empty file (0 bytes)"
    assert faults[5] == "not an image that Pillow can read"


@pytest.mark.parametrize("at_once", [1, 3, 32, 64])
def test_batch_size_changes_nothing(photos: PreparedDataset, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, queries = make_model(), torch.nn.functional.normalize(torch.randn(3, 5))
    expected, faults = score(photos, range(COUNT), model, queries)
    monkeypatch.setattr(validation, "BATCH_SIZE", at_once)
    scores, again = score(photos, range(COUNT), model, queries)
    assert scores.rows.tolist() == expected.rows.tolist()
    assert len(scores.rows) == COUNT - len(BROKEN)
    assert again == faults
    np.testing.assert_allclose(scores.logits, expected.logits, atol=1e-5)


def test_workers_change_nothing(photos: PreparedDataset) -> None:
    model, queries = make_model(), torch.nn.functional.normalize(torch.randn(3, 5))
    one, two = (score(photos, range(COUNT), model, queries, workers) for workers in (0, 2))
    assert one[1] == two[1]
    assert one[0].rows.tolist() == two[0].rows.tolist()
    np.testing.assert_array_equal(one[0].logits, two[0].logits)


@pytest.mark.parametrize("rows", [[], sorted(BROKEN)], ids=["no image", "none that can be read"])
@pytest.mark.parametrize("classes", [None, 7])
def test_nothing_to_score(photos: PreparedDataset, rows: list[int], classes: int | None) -> None:
    scores, faults = score(photos, rows, make_model(classes), None if classes else torch.randn(3, 5))
    assert scores.rows.shape == (0,)
    assert scores.rows.dtype == np.int64
    assert scores.logits.shape == (0, classes or 3)
    assert sorted(faults) == rows


# --- thresholds -------------------------------------------------------------------------------------------


def best_f1(scores: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Return (best F1, highest threshold that reaches it); a score equal to the threshold is a tag."""
    cuts = [(f1_score(targets, scores >= cut), float(cut)) for cut in np.unique(scores)]
    return max(cuts)


def test_common_threshold_has_the_best_micro_f1() -> None:
    random = np.random.default_rng(3)
    targets = random.random((53, 7)) < 0.3
    scores = np.clip(0.4 * random.random(targets.shape) + 0.5 * targets * random.random(targets.shape), 0, 1)
    _, common = choose_thresholds(scores, targets.astype(int))
    best, _ = best_f1(scores.ravel(), targets.ravel())
    assert f1_score(targets.ravel(), scores.ravel() >= common) == pytest.approx(best)


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


@pytest.mark.parametrize("prior", [1, 10])
def test_threshold_of_a_label_shrinks_towards_the_common_one(prior: int) -> None:
    random = np.random.default_rng(5)
    targets = (random.random((53, 7)) < np.linspace(0.02, 0.6, 7)).astype(int)
    targets[:, 2] = 0  # a label without a positive has the common one
    scores = np.clip(0.05 + 0.3 * random.random(targets.shape) + 0.5 * targets * random.random(targets.shape), 0, 1)
    own, common = choose_thresholds(scores, targets, prior)
    assert own.shape == (7,)
    for label in range(7):
        count = targets[:, label].sum()
        if count == 0:
            assert own[label] == common
            continue
        _, lowest = best_f1(scores[:, label], targets[:, label])
        alone = (lowest + scores[scores[:, label] < lowest, label].max(initial=0)) / 2
        share = count / (count + prior)
        assert logit(own[label]) == pytest.approx(share * logit(alone) + (1 - share) * logit(common), abs=1e-6)


def test_thresholds_of_extreme_scores_stay_between_0_and_1() -> None:
    scores, targets = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([[1, 0], [1, 1], [0, 0]])
    own, common = choose_thresholds(scores, targets)
    assert ((own > 0) & (own < 1)).all()
    assert 0 < common <= 1


def test_equal_scores_are_tagged_together() -> None:
    scores, targets = np.array([[0.9], [0.5], [0.5], [0.5], [0.5]]), np.array([[1], [1], [0], [0], [0]])
    _, common = choose_thresholds(scores, targets)
    assert 0.5 < common < 0.9  # F1 of 2/3; at 0.5 all five are tagged: 4/7
