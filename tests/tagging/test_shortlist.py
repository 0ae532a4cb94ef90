"""zsl_tagger/tagging/shortlist.py, and tagging with it: exact scores, the best labels found, all of few ones."""

from __future__ import annotations

import numpy as np
import pytest
from counted_labels import asked_of
from paths import ROOT

from zsl_tagger import Tagger
from zsl_tagger.tagging import shortlist
from zsl_tagger.tagging import tagger as tag
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.shortlist import Shortlist

CAT = ROOT / "examples" / "cat.jpg"


def smooth_case(labels: int, dim: int = 13, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States ``(K, D)`` and logits ``(K,)`` that bend with them: no line fits them well."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(labels, dim)).astype(np.float32)
    hidden = np.tanh(states @ random.normal(size=(dim, 5)) * 0.4)
    return states, (hidden @ random.normal(size=5) + 0.02 * random.normal(size=labels)).astype(np.float32)


def found(
    states: np.ndarray, logits: np.ndarray, added: np.ndarray | None = None, scales: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    asked: list[int] = []

    def ask(some: np.ndarray) -> np.ndarray:
        asked.extend(some.tolist())
        return logits[some]

    zeros = np.zeros(len(states), np.float32)
    labels, values = Shortlist(states).best(
        ask, zeros if added is None else added, zeros + 1 if scales is None else scales
    )
    assert sorted(asked) == sorted(set(asked)) == sorted(labels.tolist())
    np.testing.assert_array_equal(values, logits[labels])
    return labels, values


@pytest.mark.parametrize("seed", range(5))
def test_the_best_labels_are_among_those_asked(seed: int) -> None:
    states, logits = smooth_case(50_021, seed=seed)
    labels, _ = found(states, logits)
    assert len(labels) <= shortlist.ANCHORS + shortlist.ROUNDS * shortlist.LABELS_PER_ROUND
    best = np.argsort(-logits)[:10]
    assert np.isin(best, labels).mean() >= 0.9
    random = np.random.default_rng(seed).permutation(50_021)[: len(labels)]
    assert np.isin(best, random).mean() <= 0.3  # it is not by their number that they are found


def test_what_is_added_to_the_logits_counts() -> None:
    states, logits = smooth_case(50_021)
    biases = np.where(np.arange(50_021) % 7 == 3, 4.0, 0.0).astype(np.float32)
    labels, _ = found(states, logits, biases)
    best = np.argsort(-(logits + biases))[:10]
    assert (best % 7 == 3).all()
    assert np.isin(best, labels).mean() >= 0.9


@pytest.mark.parametrize("seed", range(3))
def test_scales_and_what_an_image_adds_count(seed: int) -> None:
    """Score as with class evidence: some words win since their low logits count for little, some by what is added."""
    states, logits = smooth_case(50_021, seed=seed)
    logits, number = logits - 6, np.arange(50_021)
    scales = np.where(number % 1009 == 4, 0.3, 1.1).astype(np.float32)
    evidence = np.random.default_rng(seed + 17).uniform(2.8, 4.3, 50_021)
    added = np.where(number % 1013 == 6, evidence, -0.1).astype(np.float32)
    labels, _ = found(states, logits, added, scales)
    best = np.argsort(-(scales * logits + added))[:17]
    assert min((best % 1009 == 4).sum(), (best % 1013 == 6).sum()) >= 3
    assert np.isin(best, labels).all()
    for one, other in ((added, np.ones_like(scales)), (np.zeros_like(added), scales)):
        assert np.isin(best, found(states, logits, one, other)[0]).mean() <= 0.8  # it is by both that they are found


@pytest.mark.parametrize("count", [1, 7, 601, 1009, 2003])
def test_of_few_labels_all_are_asked(count: int) -> None:
    labels, _ = found(*smooth_case(count))
    assert len(labels) == count


def test_states_that_are_all_the_same() -> None:
    states = np.ones((5003, 7), np.float32)
    labels, _ = found(states, np.zeros(5003, np.float32))
    assert len(set(labels.tolist())) == len(labels)


# --- tagging -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary counts as many labels, of which few are asked."""
    monkeypatch.setattr(tag, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(shortlist, "ANCHORS", 200)
    monkeypatch.setattr(shortlist, "LABELS_PER_ROUND", 80)


@pytest.mark.usefixtures("few")
def test_tags_of_many_labels_are_those_of_all(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = tagger.tag(CAT, exact=True, top_k=10, threshold=0.0)
    counts = asked_of(tagger, monkeypatch)
    tags = tagger.tag(CAT, top_k=10, threshold=0.0)
    assert sum(counts) <= 200 + 6 * 80 < len(tagger.vocabulary)
    assert [one.label for one in tags] == [one.label for one in exact]
    assert [one.score for one in tags] == pytest.approx([one.score for one in exact], abs=1e-5)
    assert tagger.tag(CAT) == tagger.tag(CAT)
    assert next(tagger.tag_many([CAT], top_k=3)).tags == tags[:3]


@pytest.mark.usefixtures("few")
def test_every_label_is_asked_where_it_is_wanted(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = asked_of(tagger, monkeypatch)
    assert len(tagger.tag(CAT, tagger.vocabulary.unfolded(), threshold=0.0)) == len(tagger.vocabulary)
    tagger.tag(CAT, exact=True)
    tagger.scores(tagger.encode(CAT), tagger.vocabulary)
    assert counts == [len(tagger.vocabulary)] * 3


def test_what_is_prepared_is_of_the_model_that_asks(tagger: Tagger) -> None:
    labels = tagger.label_set(["cat", "dog", "sofa"])
    scores = tagger.scores(tagger.encode(CAT), labels)
    first = labels.prepared(tagger._model)
    assert labels.prepared(tagger._model) is first
    other = Tagger()
    np.testing.assert_array_equal(other.scores(other.encode(CAT), labels), scores)
    assert labels.prepared(other._model) is not first
    assert isinstance(labels.without(["dog"]), LabelSet)
    np.testing.assert_allclose(tagger.scores(tagger.encode(CAT), labels.without(["dog"])), scores[:, [0, 2]], atol=1e-6)
