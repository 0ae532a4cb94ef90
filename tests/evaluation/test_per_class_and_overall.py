"""CP, CR, CF1, OP, OR and OF1 against scikit-learn, and tables that fit 80 columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.figures import compare, evaluate_scores
from zsl_tagger.evaluation.protocols import PROTOCOLS
from zsl_tagger.evaluation.results import Report, Task
from zsl_tagger.evaluation.run import EvaluateRun, evaluate
from zsl_tagger.evaluation.scores import Scores
from zsl_tagger.evaluation.text import summary
from zsl_tagger.evaluation.thresholds import sigmoid

TASKS: dict[Task, slice] = {"zsl": slice(6), "seen": slice(6, 20), "gzsl": slice(20)}


def made(seed: int, kind: str) -> tuple[Scores, EvaluationData]:
    """20 labels, of which one is on no image and one is a tag of none."""
    random = np.random.default_rng(seed)
    targets = random.random((60, 20)) < 0.2
    targets[:, 9] = False
    values = (random.normal(size=(60, 20)) + targets - 0.5).astype(np.float32)
    thresholds = random.normal(size=20).astype(np.float32)
    biases = np.where(np.arange(20) < 6, np.float32(0.7), np.float32(0))
    if kind == "probabilities":
        values, thresholds = (sigmoid(one).astype(np.float32) for one in (values, thresholds))
    thresholds[4] = 99
    images = [f"{row}.jpg" for row in range(60)]
    data = EvaluationData("made", "test", images, [f"l{k:02d}" for k in range(20)], np.arange(20) >= 6, targets)
    return Scores(values, kind, thresholds, biases), data


@pytest.mark.parametrize("protocol", ["strict", "lesa", "mld"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("task", TASKS)
def test_scikit_learn_says_the_same(protocol: str, kind: str, task: Task) -> None:
    scores, data = made(3, kind)
    told = evaluate_scores(scores, data, PROTOCOLS[protocol], (3,), 0, 0).figures.tasks[task]
    kept = data.targets[:, TASKS[task]].any(axis=1) | (protocol != "mld")
    truth = data.targets[kept][:, TASKS[task]]
    counted = truth.any(axis=0) | (protocol != "strict")  # strict has no mean over labels without positives
    half = scores.values >= 0.5 if kind == "probabilities" else scores.values + scores.biases >= 0
    for found, tags in ((told.at_half, half), (told.at_threshold, scores.values >= scores.thresholds)):
        assert found is not None
        said = tags[kept][:, TASKS[task]]
        macro = {"average": "macro", "zero_division": 0}
        cp, cr = (one(truth[:, counted], said[:, counted], **macro) for one in (precision_score, recall_score))
        assert (found.cp, found.cr) == pytest.approx((cp, cr))
        assert found.cf1 == pytest.approx(2 * cp * cr / (cp + cr))
        overall = [one(truth, said, average="micro") for one in (precision_score, recall_score, f1_score)]
        assert [found.precision, found.recall, found.f1] == pytest.approx(overall)
        shown = truth.any(axis=0)
        assert found.macro_f1 == pytest.approx(f1_score(truth[:, shown], said[:, shown], **macro))


def test_nothing_is_a_tag() -> None:
    scores, data = made(1, "logits")
    told = evaluate_scores(replace(scores, values=scores.values - 50), data, PROTOCOLS["strict"], (3,), 0, 0).figures
    for task in told.tasks.values():
        tags = task.at_half
        assert tags is not None
        assert [tags.cp, tags.cr, tags.cf1, tags.macro_f1, tags.f1] == [0] * 5


def test_one_table_of_tags_where_each_threshold_is_a_score_of_one_half() -> None:
    scores, data = made(1, "logits")
    half = replace(scores, thresholds=scores.values_at(0.5))
    evaluated = [evaluate_scores(one, data, PROTOCOLS["strict"], (3,), 20, 0) for one in (half, scores)]
    metrics = [set(compare(evaluated[0], other)["gzsl"]) for other in evaluated]
    assert metrics[1] - metrics[0] == {"f1_at_half"}
    assert evaluated[0].figures.threshold == 0.5
    assert evaluated[1].figures.threshold is None


WIDEST = 80


def test_every_line_fits_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of 100.0, differences of +100.0, intervals, many K, and a protocol with images of each task."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    targets = random.random((40, 240)) < 0.5
    arrays: dict[str, Any] = {
        "images": np.array([f"{row}.jpg" for row in range(40)]),
        "labels": np.array([f"l{k}" for k in range(240)]),
    }
    np.savez("t.npz", targets=targets.astype(int), **arrays)
    np.savez("good.npz", scores=targets * 9.0 - 4, kind="logits", thresholds=np.zeros(240) + 1, **arrays)
    np.savez("bad.npz", scores=4 - targets * 9.0, kind="logits", **arrays)
    Path("unseen.txt").write_text("\n".join(f"l{k}" for k in range(120)))
    for protocol in ("mld", "strict", "biam-openimages"):
        run = EvaluateRun(
            scores=Path("good.npz"), targets=Path("t.npz"), unseen=Path("unseen.txt"), against=Path("bad.npz"),
            protocol=protocol, ks=(1, 3, 5, 10, 20, 100), resamples=20,
        )  # fmt: skip
        lines = evaluate(run).lines
        assert "100.0 (100.0 to 100.0)" in "\n".join(lines)
        assert "+100.0 (+100.0 to +100.0)" in "\n".join(lines)
        assert [line for line in lines if len(line) > WIDEST] == []
        assert max(map(len, lines)) > 70


def test_only_a_long_name_is_over_the_width() -> None:
    scores, data = made(1, "logits")
    figures = evaluate_scores(scores, data, PROTOCOLS["strict"], (3,), 0, 0).figures
    name = "/a folder/" + "long" * 30
    lines = summary(Report.of(figures, evaluated=name, data="d", split="test"))
    assert [line for line in lines if len(line) > WIDEST] == ["  " + name[len("/a ") :]]
