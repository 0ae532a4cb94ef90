"""zsl_tagger/evaluation/{protocols,figures}.py: a case by hand under four protocols, and what the peers' code does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.figures import Evaluation, compare, evaluate_scores
from zsl_tagger.evaluation.protocols import PROTOCOLS, protocol_named
from zsl_tagger.evaluation.results import ImageTotals, Task
from zsl_tagger.evaluation.scores import Scores

LABELS = ["s1", "u1", "u2", "u3"]
SEEN = np.array([True, False, False, False])
SCORES = np.array(
    [[9, 3, 0, -1], [8, 2, 0.2, -1], [1, 2, 2, -1], [0, 1, 2, -1], [0, 0, -1, -1]],
    np.float32,
)
TARGETS = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
IGNORED = np.zeros((5, 4), bool)
IGNORED[3, 2] = True  # nobody knows whether u2 is on the fourth image


def data_of(targets: np.ndarray, seen: np.ndarray, ignored: np.ndarray | None = None) -> EvaluationData:
    images = [f"{row}.jpg" for row in range(len(targets))]
    return EvaluationData(
        "made", "test", images, [f"l{k:03d}" for k in range(targets.shape[1])], seen, targets, ignored
    )


def evaluated(
    scores: np.ndarray, data: EvaluationData, protocol: str, ks: tuple[int, ...] = (1,), resamples: int = 0
) -> Evaluation:
    zeros = np.zeros(scores.shape[1], np.float32)
    return evaluate_scores(Scores(scores, "logits", zeros, zeros), data, PROTOCOLS[protocol], ks, resamples, 0)


# u1 ranks image 1 (false), then images 2 (true) and 3 (false) level, then 4 (true).
#   grouped 1/2 (1/3 + 2/4) = 5/12; earlier first 1/2 (1/2 + 2/4) = 1/2
#   mld keeps images 2 to 4 and puts 3 before 2: 1/2 (1/2 + 2/3) = 7/12
# u2 ranks images 3 (true) and 4 (unknown) level: masked 1; as false, the later first, 1/2. u3 is on no image.
@pytest.mark.parametrize(
    ("protocol", "expected_map", "expected_f1", "images"),
    [
        ("strict", (5 / 12 + 1) / 2, 5 / 8, 5),  # at 1: image 2, half of image 3, image 4 without the unknown u2
        ("lesa", (5 / 12 + 1 + 0) / 3, 4 / 8, 5),  # of u1 and u2 on image 3 the later; u2 on image 4 is wrong
        ("biam", (1 / 2 + 1 + 0) / 3, 2 / 8, 5),
        ("mld", (7 / 12 + 1 / 2 + 0) / 3, 2 / 6, 3),
    ],
)
def test_four_protocols_by_hand(protocol: str, expected_map: float, expected_f1: float, images: int) -> None:
    result = evaluated(SCORES, data_of(TARGETS, SEEN, IGNORED), protocol)
    assert result.figures.tasks["zsl"].map == pytest.approx(expected_map, rel=1e-12)
    assert result.figures.tasks["zsl"].at_k[1].f1 == pytest.approx(expected_f1, rel=1e-12)
    assert result.figures.tasks["zsl"].images == images
    assert result.figures.labels.without_positives == 1
    assert result.per_label[1].tied_images == 2


def random_case(seed: int, levels: int) -> tuple[np.ndarray, EvaluationData]:
    random = np.random.default_rng([seed, levels])
    scores = (random.integers(0, levels, (47, 13)) / 4 - 1).astype(np.float32)
    targets = random.random((47, 13)) < 0.15
    targets[:, 3] = False
    return scores, data_of(targets, np.arange(13) >= 5)


CASES = pytest.mark.parametrize(("seed", "levels"), [(0, 3), (1, 7), (2, 10**5)])


@CASES
def test_mld_is_what_its_code_computes(seed: int, levels: int) -> None:
    scores, data = random_case(seed, levels)
    keep = data.targets[:, ~data.seen].any(axis=1)
    precisions = []
    for column in np.flatnonzero(~data.seen):
        truth = data.targets[keep, column][np.argsort(scores[keep, column], kind="stable")[::-1]]
        found = np.flatnonzero(truth)
        precisions.append(sum((n + 1) / (place + 1) for n, place in enumerate(found)) / max(len(found), 1))
    result = evaluated(scores, data, "mld")
    assert result.figures.tasks["zsl"].map == pytest.approx(np.mean(precisions), rel=1e-9)


@CASES
@pytest.mark.parametrize("k", [1, 3, 5])
def test_lesa_is_what_its_code_computes(seed: int, levels: int, k: int) -> None:
    scores, data = random_case(seed, levels)
    known = [average_precision_score(t, s) if t.any() else 0.0 for t, s in zip(data.targets.T, scores.T, strict=True)]
    result = evaluated(scores, data, "lesa", (k,))
    assert result.figures.tasks["gzsl"].map == pytest.approx(np.mean(known), rel=1e-9)
    top = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    hits = np.take_along_axis(data.targets, top, axis=1).sum()
    precision, recall = hits / top.size, hits / data.targets.sum()
    expected = 2 * precision * recall / (precision + recall)
    assert result.figures.tasks["gzsl"].at_k[k].f1 == pytest.approx(expected, rel=1e-9)


@CASES
def test_biam_is_what_its_code_computes(seed: int, levels: int) -> None:
    scores, data = random_case(seed, levels)
    precisions = []
    for truth, column in zip(data.targets.T, scores.T, strict=True):
        ranked = truth[np.argsort(-column, kind="stable")].astype(float)
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        precisions.append((ranked * precision).sum() / max(ranked.sum(), 1))
    assert evaluated(scores, data, "biam").figures.tasks["gzsl"].map == pytest.approx(np.mean(precisions))


@CASES
def test_strict_does_not_depend_on_order(seed: int, levels: int) -> None:
    scores, data = random_case(seed, levels)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(47), random.permutation(13)
    mixed = data_of(data.targets[rows][:, columns], data.seen[columns])
    a, b = evaluated(scores, data, "strict", (3,)), evaluated(scores[rows][:, columns], mixed, "strict", (3,))
    for task, figures in a.figures.tasks.items():
        other = b.figures.tasks[task]
        assert figures.map == pytest.approx(other.map, rel=1e-12)
        assert numbers(figures.at_k[3].to_json()) == pytest.approx(numbers(other.at_k[3].to_json()), rel=1e-12)
        tags, other_tags = figures.at_threshold, other.at_threshold
        assert tags is not None
        assert other_tags is not None
        assert numbers(tags.to_json()) == pytest.approx(numbers(other_tags.to_json()), rel=1e-12)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, data = random_case(1, 7)
    whole = evaluated(scores, data, "strict", (3,))
    monkeypatch.setattr("zsl_tagger.evaluation.per_image.IMAGES_AT_ONCE", 11)
    monkeypatch.setattr("zsl_tagger.evaluation.resampled.IMAGES_AT_ONCE", 11)
    monkeypatch.setattr("zsl_tagger.evaluation.per_label.LABELS_AT_ONCE", 3)
    parts = evaluated(scores, data, "strict", (3,))
    assert parts.figures.tasks == whole.figures.tasks
    assert parts.figures.seen_and_unseen == whole.figures.seen_and_unseen


def test_comparison_is_paired() -> None:
    scores, data = random_case(2, 10**5)
    better = (scores * 1e-4 + data.targets).astype(np.float32)
    a, b = (evaluated(one, data, "strict", (3,), resamples=200) for one in (better, scores))
    same, gain = compare(a, a)["gzsl"]["map"], compare(a, b)["gzsl"]["map"]
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)
    assert gain.difference == pytest.approx(gain.ours - gain.other)
    assert gain.interval is not None
    assert gain.interval[0] > 0.3
    assert gain.p == pytest.approx(2 / 201)


def test_intervals_hold_the_figure_and_are_as_wide_as_the_draw() -> None:
    scores, data = random_case(2, 10**5)
    few = evaluated(scores, data, "strict", (3,), resamples=300)
    many = data_of(np.tile(data.targets, (9, 1)), data.seen)
    wide, narrow = (
        one.figures.tasks["gzsl"] for one in (few, evaluated(np.tile(scores, (9, 1)), many, "strict", (3,), 300))
    )
    for value, interval, narrower in (
        (wide.map, wide.map_interval, narrow.map_interval),
        (wide.at_k[3].f1, wide.at_k[3].f1_interval, narrow.at_k[3].f1_interval),
    ):
        assert value is not None
        assert interval is not None
        assert narrower is not None
        assert interval[0] < value < interval[1]
        assert (interval[1] - interval[0]) / (narrower[1] - narrower[0]) == pytest.approx(3, rel=0.35)


def test_unknown_protocol() -> None:
    with pytest.raises(UserError, match=r"expected --protocol strict, mld, lesa, biam, .*; got 'coco'"):
        protocol_named("coco")


# --- two seen and two unseen labels, every task at 1 and at 2, by hand -----------------------------------------------

TWO_AND_TWO = np.array([True, True, False, False])  # s1 s2 u1 u2
#   s1 s2 u1 u2
HAND_SCORES = np.array([[9, 1, 5, 4], [8, 2, 5, 8], [8, 7, 3, 2], [1, 7, 2, 3], [0, 5, 1, 6]], np.float32)
HAND_TARGETS = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0]], bool)
HAND_IGNORED = np.zeros((5, 4), bool)
HAND_IGNORED[3, 1] = True  # nobody knows whether s2 is on image 3, counted from 0

# mld keeps, of each task, the images that show one of its labels: ZSL 1, 2 and 3; seen 0, 1, 2 and 4; GZSL all.
# Its AP in GZSL is that of lesa and biam but for the order of equal scores, and for unknown entries, which are false.
#
# Average precision
#   s1  0 (true), then 1 (true) and 2 level
#         grouped 1/2 (1/1 + 2/3) = 5/6; earlier first 1/2 (1/1 + 2/2) = 1; mld 2 before 1: 1/2 (1/1 + 2/3) = 5/6
#   s2  2 (true) and 3 (unknown) level, 4 (true)
#         without the unknown 1/2 (1/1 + 2/2) = 1; mld in seen has no image 3: 1; in GZSL 3 (false) before 2:
#         1/2 (1/2 + 2/3) = 7/12
#   u1  0 and 1 (true) level, 2 (true), 3 (true), 4
#         grouped and earlier first 1/3 (1/2 + 2/3 + 3/4) = 23/36; mld in ZSL: true on each image it keeps: 1; in GZSL
#         1 before 0: 1/3 (1/1 + 2/3 + 3/4) = 29/36
#   u2  on no image: out of the mean (strict) or 0
# Right answers at 1
#   ZSL   only image 2, by u1: 1 of 5 answers, 3 positives; mld 1 of 3, 3
#   seen  0, 1 and 4: 3 of 5 answers, 4 positives (strict says s1 on image 3, the others s2: both wrong); mld 3 of 4, 4
#   GZSL  0 by s1; 1 has s1 (true) and u2 level: half, by the earlier label 1, by the later 0; 2, 3 and 4 are wrong
#         strict 3/2, lesa 1, biam and mld 2 of 5 answers, 7 positives
# Right answers at 2
#   ZSL   all labels: 3 of 10 answers, 3 positives; mld 3 of 6, 3
#   seen  all labels: 4 of 10 answers, 4 positives; strict 4 of 9, for it cannot say s2 on image 3; mld 4 of 8, 4
#   GZSL  0, 1 and 2 by s1, s1 and s2, 4 by s2; 3: strict says u2, u1: right; the others s2, u2: wrong
#         strict 5, lesa, biam and mld 4 of 10 answers, 7 positives
# mAP, F1@1, F1@2: twice the right answers over answers and positives
HAND: dict[str, dict[Task, tuple[float, float, float]]] = {
    "strict": {
        "zsl": (23 / 36, 2 / 8, 6 / 13),
        "seen": ((5 / 6 + 1) / 2, 6 / 9, 8 / 13),
        "gzsl": ((5 / 6 + 1 + 23 / 36) / 3, 3 / 12, 10 / 17),
    },
    "lesa": {
        "zsl": (23 / 36 / 2, 2 / 8, 6 / 13),
        "seen": ((5 / 6 + 1) / 2, 6 / 9, 8 / 14),
        "gzsl": ((5 / 6 + 1 + 23 / 36 + 0) / 4, 2 / 12, 8 / 17),
    },
    "biam": {
        "zsl": (23 / 36 / 2, 2 / 8, 6 / 13),
        "seen": ((1 + 1) / 2, 6 / 9, 8 / 14),
        "gzsl": ((1 + 1 + 23 / 36 + 0) / 4, 4 / 12, 8 / 17),
    },
    "mld": {
        "zsl": ((1 + 0) / 2, 2 / 6, 6 / 9),
        "seen": ((5 / 6 + 1) / 2, 6 / 8, 8 / 12),
        "gzsl": ((5 / 6 + 7 / 12 + 29 / 36 + 0) / 4, 4 / 12, 8 / 17),
    },
}


@pytest.mark.parametrize("protocol", HAND)
def test_every_task_by_hand(protocol: str) -> None:
    result = evaluated(HAND_SCORES, data_of(HAND_TARGETS, TWO_AND_TWO, HAND_IGNORED), protocol, (1, 2))
    for task, expected in HAND[protocol].items():
        told = result.figures.tasks[task]
        assert (told.map, told.at_k[1].f1, told.at_k[2].f1) == pytest.approx(expected, rel=1e-12)
        assert told.labels_in_mean == told.labels - (protocol == "strict" and task != "seen")
    assert result.figures.images == ImageTotals(evaluated=5, left_out_by_protocol=0)
    of_tasks = {"zsl": 3, "seen": 4, "gzsl": 5} if protocol == "mld" else {"zsl": 5, "seen": 5, "gzsl": 5}
    assert {task: told.images for task, told in result.figures.tasks.items()} == of_tasks
    assert [row.unknown for row in result.per_label] == [0, 0 if protocol == "mld" else 1, 0, 0]
    assert result.figures.tasks["gzsl"].at_k[1].tied_images == 1


# --- what the papers' code does, in loops, with ignored entries and every task ---------------------------------------

TASKS = {"zsl": slice(5), "seen": slice(5, 13), "gzsl": slice(0, 13)}


def with_unknown(seed: int, levels: int) -> tuple[np.ndarray, EvaluationData]:
    scores, data = random_case(seed, levels)
    ignored = np.random.default_rng([seed, levels, 1]).random(scores.shape) < 0.2
    return scores, data_of(data.targets & ~ignored, data.seen, ignored)


def micro_f1(top: np.ndarray, targets: np.ndarray) -> float:
    """Of the labels ``top`` ``(N, K)`` of each image: precision and recall of all answers put together."""
    hits = sum(int(targets[row, label]) for row, labels in enumerate(top) for label in labels)
    precision, recall = hits / top.size, hits / targets.sum()
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def mld_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    positives, total = 0, 0.0
    for place, image in enumerate(np.argsort(scores, kind="stable")[::-1]):
        if truth[image]:
            positives += 1
            total += positives / (place + 1)
    return total / (positives + 1e-15)


def lesa_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(average_precision_score(truth, scores)) if truth.any() else 0.0


def biam_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    positives, total = 0.0, 0.0
    for place, image in enumerate(np.argsort(-scores, kind="stable"), start=1):
        positives += float(truth[image])
        total += float(truth[image]) * positives / place
    return total / positives if positives else 0.0


@CASES
@pytest.mark.parametrize("task", TASKS)
def test_mld_with_unknown_entries(seed: int, levels: int, task: Task) -> None:
    """Nobody's annotation is a negative; each task drops the images without any of its labels, as ZS_SDL does."""
    scores, data = with_unknown(seed, levels)
    kept = [row for row in range(47) if any(data.targets[row, TASKS[task]])]
    values, truth = scores[kept][:, TASKS[task]], data.targets[kept][:, TASKS[task]]
    expected = np.mean([mld_average_precision(s, t) for s, t in zip(values.T, truth.T, strict=True)])
    result = evaluated(scores, data, "mld")
    assert result.figures.tasks[task].map == pytest.approx(expected, rel=1e-9)
    assert result.figures.tasks[task].images == len(kept)
    if task == "gzsl":
        assert result.figures.images == ImageTotals(evaluated=len(kept), left_out_by_protocol=47 - len(kept))


@CASES
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_zs_sdl_counts_the_k_best_labels_of_the_same_images(seed: int, levels: int, task: Task, k: int) -> None:
    scores, data = random_case(seed, levels)
    kept = data.targets[:, TASKS[task]].any(axis=1)
    values, truth = scores[kept][:, TASKS[task]], data.targets[kept][:, TASKS[task]]
    top = np.argsort(-values, axis=1, kind="stable")[:, :k]
    told = evaluated(scores, data, "mld", (k,)).figures.tasks[task]
    assert told.at_k[k].f1 == pytest.approx(micro_f1(top, truth), rel=1e-9)


@CASES
@pytest.mark.parametrize("protocol", ["mld", "biam-openimages"])
def test_a_task_has_the_same_figures_alone_and_beside_others(seed: int, levels: int, protocol: str) -> None:
    scores, data = with_unknown(seed, levels)
    together = evaluated(scores, data, protocol, (3,), resamples=20)
    groups: tuple[tuple[Task, Any], ...] = (("zsl", np.arange(5)), ("seen", np.arange(5, 13)))
    for task, columns in groups:
        alone = evaluated(scores[:, columns], data.restricted(columns), protocol, (3,), resamples=20)
        assert together.figures.tasks[task] == alone.figures.tasks[task]
        for k, row in zip(columns, alone.per_label, strict=True):
            assert together.per_label[k].to_json() == row.to_json()


@CASES
@pytest.mark.parametrize("k", [10, 20])
@pytest.mark.parametrize("protocol", ["lesa-openimages", "biam-openimages"])
def test_openimages_by_its_codes(seed: int, levels: int, protocol: str, k: int) -> None:
    """BiAM: images with a label of the task, and no mean over labels that nobody annotated there; LESA: all of both."""
    random = np.random.default_rng([seed, levels])
    scores = (random.integers(0, levels, (60, 70)) / 4 - 1).astype(np.float32)
    truth = random.random((60, 70)) < 0.05
    ignored = (random.random((60, 70)) < 0.6) & ~truth
    truth[:, 30:33], ignored[:, 30:32] = False, True  # seen: nobody annotated two, a third is on no image
    data, biam = data_of(truth, np.arange(70) >= 25, ignored), protocol == "biam-openimages"
    groups: tuple[tuple[Task, Any], ...] = (("zsl", slice(25)), ("gzsl", slice(70)))
    for task, columns in groups:
        kept = truth[:, columns].any(axis=1) | (not biam)
        values, positive, known = (part[kept][:, columns] for part in (scores, truth, ~ignored))
        one = biam_average_precision if biam else lesa_average_precision
        expected = [
            one(s[m], t[m]) for s, t, m in zip(values.T, positive.T, known.T, strict=True) if m.any() or not biam
        ]
        upwards = np.argsort(-1 * values if biam else values, axis=1, kind="stable")
        order = upwards if biam else upwards[:, ::-1]
        told = evaluated(scores, data, protocol, PROTOCOLS[protocol].ks).figures.tasks[task]
        assert told.map == pytest.approx(np.mean(expected), rel=1e-9)
        assert told.labels_in_mean == len(expected) == told.labels - (2 if biam and task == "gzsl" else 0)
        assert told.at_k[k].f1 == pytest.approx(micro_f1(order[:, :k], positive), rel=1e-9)


@CASES
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_lesa_with_unknown_entries(seed: int, levels: int, task: Task, k: int) -> None:
    """They are in no average precision, but among the K best."""
    scores, data = with_unknown(seed, levels)
    assert data.ignored is not None
    values, truth, known = (part[:, TASKS[task]] for part in (scores, data.targets, ~data.ignored))
    expected = [lesa_average_precision(s[m], t[m]) for s, t, m in zip(values.T, truth.T, known.T, strict=True)]
    told = evaluated(scores, data, "lesa", (k,)).figures.tasks[task]
    assert told.map == pytest.approx(np.mean(expected), rel=1e-9)
    top = np.argsort(values, axis=1, kind="stable")[:, -k:]
    assert told.at_k[k].f1 == pytest.approx(micro_f1(top, truth), rel=1e-9)


@CASES
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_biam_with_unknown_entries(seed: int, levels: int, task: Task, k: int) -> None:
    scores, data = with_unknown(seed, levels)
    assert data.ignored is not None
    values, truth, known = (part[:, TASKS[task]] for part in (scores, data.targets, ~data.ignored))
    expected = [biam_average_precision(s[m], t[m]) for s, t, m in zip(values.T, truth.T, known.T, strict=True)]
    told = evaluated(scores, data, "biam", (k,)).figures.tasks[task]
    assert told.map == pytest.approx(np.mean(expected), rel=1e-9)
    top = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert told.at_k[k].f1 == pytest.approx(micro_f1(top, truth), rel=1e-9)


# --- strict: neither order nor what nobody knows ---------------------------------------------------------------------


def numbers(told: object) -> list[float]:
    """Every number of nested figures, in the order of their names."""
    if isinstance(told, dict):
        return [number for name in sorted(told) for number in numbers(told[name])]
    if isinstance(told, list):
        return [number for one in told for number in numbers(one)]
    return [float(told)] if isinstance(told, (int, float)) else []


def mixed_up(scores: np.ndarray, data: EvaluationData, seed: int) -> tuple[np.ndarray, EvaluationData, np.ndarray]:
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(scores.shape[0]), random.permutation(scores.shape[1])
    ignored = None if data.ignored is None else data.ignored[rows][:, columns]
    other = data_of(data.targets[rows][:, columns], data.seen[columns], ignored)
    return np.ascontiguousarray(scores[rows][:, columns]), other, columns


STRICT = ("images", "labels", "tasks", "precision_recall", "probabilities")


@pytest.mark.parametrize(("seed", "levels", "more"), [(0, 3, ()), (1, 7, ()), (2, 10**5, ("seen_and_unseen",))])
def test_every_strict_figure_is_free_of_order(seed: int, levels: int, more: tuple[str, ...]) -> None:
    scores, data = with_unknown(seed, levels)
    values, other, columns = mixed_up(scores, data, seed)
    a, b = evaluated(scores, data, "strict", (1, 3)), evaluated(values, other, "strict", (1, 3))
    for name in (*STRICT, *more):
        expected = numbers(a.figures.to_json()[name])
        assert numbers(b.figures.to_json()[name]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert len(numbers(a.figures.to_json())) > 300
    for row, column in zip(b.per_label, columns, strict=True):
        assert numbers(row.to_json()) == pytest.approx(numbers(a.per_label[column].to_json()), rel=1e-9)


def test_the_strict_curve_is_free_of_order() -> None:
    scores, data = random_case(0, 3)
    values, other, _ = mixed_up(scores, data, 1)
    a, b = (evaluated(*one, "strict", (3,)).figures.seen_and_unseen for one in ((scores, data), (values, other)))
    assert a is not None
    assert b is not None
    assert a.ausuc == pytest.approx(b.ausuc)


def other_scores_where_unknown(scores: np.ndarray, data: EvaluationData) -> np.ndarray:
    noise = np.random.default_rng(3).normal(size=scores.shape).astype(np.float32) * 5
    assert data.ignored is not None
    return np.where(data.ignored, noise, scores)


@CASES
def test_strict_does_not_look_at_what_nobody_knows(seed: int, levels: int) -> None:
    scores, data = with_unknown(seed, levels)
    a = evaluated(scores, data, "strict", (1, 3))
    b = evaluated(other_scores_where_unknown(scores, data), data, "strict", (1, 3))
    for name in STRICT:
        expected = numbers(b.figures.to_json()[name])
        assert numbers(a.figures.to_json()[name]) == pytest.approx(expected, rel=1e-12)
    both, other = a.figures.seen_and_unseen, b.figures.seen_and_unseen
    assert both is not None
    assert other is not None
    assert both.recall_at_k == other.recall_at_k


@CASES
def test_the_strict_curve_does_not_look_at_what_nobody_knows(seed: int, levels: int) -> None:
    scores, data = with_unknown(seed, levels)
    a = evaluated(scores, data, "strict", (3,)).figures.seen_and_unseen
    b = evaluated(other_scores_where_unknown(scores, data), data, "strict", (3,)).figures.seen_and_unseen
    assert a is not None
    assert b is not None
    assert a.ausuc == pytest.approx(b.ausuc)


# --- nothing left ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seen", [True, False])
def test_one_group_of_labels(protocol: str, seen: bool) -> None:
    scores, data = random_case(1, 7)
    data = data_of(data.targets, np.full(13, seen))
    told = evaluated(scores, data, protocol, (1, 20)).figures
    assert list(told.tasks) == ["seen" if seen else "zsl"]
    assert told.seen_and_unseen is None
    kept = int(data.targets.any(axis=1).sum()) if PROTOCOLS[protocol].needs_label else 47
    assert told.images.evaluated == kept
    for task in told.tasks.values():
        assert 20 not in task.at_k  # of 13 labels
        assert (task.map is None or task.map == 0) == (kept == 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_true(protocol: str) -> None:
    scores, data = random_case(1, 7)
    result = evaluated(scores, data_of(np.zeros((47, 13), bool), data.seen), protocol, (1,), resamples=20)
    for task in result.figures.tasks.values():
        assert task.map == (None if protocol in ("strict", "biam-openimages") else 0)
        assert [top.f1 for top in task.at_k.values()] in ([], [0])
    assert result.figures.labels.without_positives == 13
