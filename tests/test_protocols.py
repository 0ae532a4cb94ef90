"""zsl_tagger/evaluation/{protocols,figures}.py: a case by hand under four protocols, and what the peers' code does."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.figures import Evaluation, Scores, compare, evaluate_scores
from zsl_tagger.evaluation.protocols import PROTOCOLS, protocol_named

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
    assert result.figures["tasks"]["ZSL"]["mAP"] == pytest.approx(expected_map, rel=1e-12)
    assert result.figures["tasks"]["ZSL"]["at_1"]["F1"] == pytest.approx(expected_f1, rel=1e-12)
    assert result.figures["images"] == {"evaluated": images, "left_out_by_protocol": 5 - images}
    assert result.figures["labels"]["without_positives"] == 1
    assert result.per_label[1]["tied_images"] == 2


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
    assert result.figures["tasks"]["ZSL"]["mAP"] == pytest.approx(np.mean(precisions), rel=1e-9)


@CASES
@pytest.mark.parametrize("k", [1, 3, 5])
def test_lesa_is_what_its_code_computes(seed: int, levels: int, k: int) -> None:
    scores, data = random_case(seed, levels)
    known = [average_precision_score(t, s) if t.any() else 0.0 for t, s in zip(data.targets.T, scores.T, strict=True)]
    result = evaluated(scores, data, "lesa", (k,))
    assert result.figures["tasks"]["GZSL"]["mAP"] == pytest.approx(np.mean(known), rel=1e-9)
    top = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    hits = np.take_along_axis(data.targets, top, axis=1).sum()
    precision, recall = hits / top.size, hits / data.targets.sum()
    expected = 2 * precision * recall / (precision + recall)
    assert result.figures["tasks"]["GZSL"][f"at_{k}"]["F1"] == pytest.approx(expected, rel=1e-9)


@CASES
def test_biam_is_what_its_code_computes(seed: int, levels: int) -> None:
    scores, data = random_case(seed, levels)
    precisions = []
    for truth, column in zip(data.targets.T, scores.T, strict=True):
        ranked = truth[np.argsort(-column, kind="stable")].astype(float)
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        precisions.append((ranked * precision).sum() / max(ranked.sum(), 1))
    assert evaluated(scores, data, "biam").figures["tasks"]["GZSL"]["mAP"] == pytest.approx(np.mean(precisions))


@CASES
def test_strict_does_not_depend_on_order(seed: int, levels: int) -> None:
    scores, data = random_case(seed, levels)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(47), random.permutation(13)
    mixed = data_of(data.targets[rows][:, columns], data.seen[columns])
    a, b = evaluated(scores, data, "strict", (3,)), evaluated(scores[rows][:, columns], mixed, "strict", (3,))
    for task, figures in a.figures["tasks"].items():
        other = b.figures["tasks"][task]
        assert figures["mAP"] == pytest.approx(other["mAP"], rel=1e-12)
        assert figures["at_3"] == pytest.approx(other["at_3"], rel=1e-12)
        assert figures["at_threshold"] == pytest.approx(other["at_threshold"], rel=1e-12)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, data = random_case(1, 7)
    whole = evaluated(scores, data, "strict", (3,))
    monkeypatch.setattr("zsl_tagger.evaluation.figures.IMAGES_AT_ONCE", 11)
    monkeypatch.setattr("zsl_tagger.evaluation.figures.LABELS_AT_ONCE", 3)
    parts = evaluated(scores, data, "strict", (3,))
    assert parts.figures["tasks"] == whole.figures["tasks"]
    assert parts.figures["seen_and_unseen"] == whole.figures["seen_and_unseen"]


def test_comparison_is_paired() -> None:
    scores, data = random_case(2, 10**5)
    better = (scores * 1e-4 + data.targets).astype(np.float32)
    a, b = (evaluated(one, data, "strict", (3,), resamples=200) for one in (better, scores))
    same, gain = compare(a, a)["GZSL"]["mAP"], compare(a, b)["GZSL"]["mAP"]
    assert (same["difference"], same["95"], same["p"]) == (0, [0, 0], 1)
    assert gain["difference"] == pytest.approx(gain["ours"] - gain["other"])
    assert gain["95"][0] > 0.3
    assert gain["p"] == pytest.approx(2 / 201)


def test_intervals_hold_the_figure_and_are_as_wide_as_the_draw() -> None:
    scores, data = random_case(2, 10**5)
    few = evaluated(scores, data, "strict", (3,), resamples=300)
    many = data_of(np.tile(data.targets, (9, 1)), data.seen)
    wide, narrow = (
        one.figures["tasks"]["GZSL"] for one in (few, evaluated(np.tile(scores, (9, 1)), many, "strict", (3,), 300))
    )
    for metric, value in (("mAP", wide["mAP"]), ("F1@3", wide["at_3"]["F1"])):
        low, high = wide["95"][metric]
        assert low < value < high
        assert (high - low) / (narrow["95"][metric][1] - narrow["95"][metric][0]) == pytest.approx(3, rel=0.35)


def test_unknown_protocol() -> None:
    with pytest.raises(UserError, match="expected --protocol strict, mld, lesa, biam; got 'coco'"):
        protocol_named("coco")
