"""zsl_tagger/tagging/prefilter.py, and tagging with it: the tags and scores of the whole vocabulary."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counted_labels import asked_of

from zsl_tagger import Tagger, UserError
from zsl_tagger.assets import PACKAGED
from zsl_tagger.tagging import prefilter as module
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelFolderError
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.tagging.prefilter import PREFILTER_FILE, PREFILTER_NETWORK, Prefilter
from zsl_tagger.tagging.reader import Reader

LABELS, DIM = 7, 5


@pytest.fixture(scope="module")
def photos(tagger: Tagger, examples: Path) -> list[Encoded]:
    random = np.random.default_rng(0)
    odd = [np.zeros((97, 61, 3), np.uint8), random.integers(0, 256, (61, 97, 3), np.uint8)]
    return [tagger.encode(path) for path in sorted(examples.glob("*.jpg"))] + [tagger.encode(image) for image in odd]


@pytest.fixture
def counts(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of labels that the decoder is asked for, call by call."""
    return asked_of(tagger, monkeypatch)


@pytest.fixture
def restored(tagger: Tagger) -> Iterator[Tagger]:
    """A tagger whose prefilter a test may change."""
    own = tagger._prefilter
    yield tagger
    tagger.__dict__["_prefilter"] = own


def with_offsets(tagger: Tagger, change: float) -> None:
    """Make all predictions of the tagger wrong by ``change`` logits."""
    own = tagger._prefilter
    assert own is not None
    tagger.__dict__["_prefilter"] = replace(own, offsets=own.offsets + np.float32(change))


# --- tagging -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [None, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 3])
def test_tags_are_those_of_the_whole_vocabulary(
    tagger: Tagger, photos: list[Encoded], counts: list[int], threshold: float | None, top_k: int | None
) -> None:
    """The scores too, to the bit."""
    for encoded in photos:
        exact = tagger.tag_encoded(encoded, threshold=threshold, top_k=top_k, exact=True)
        counts.clear()
        assert tagger.tag_encoded(encoded, threshold=threshold, top_k=top_k) == exact
        assert threshold == 0.05 or sum(counts) < len(tagger.vocabulary) / 4


def test_every_score_is_returned_if_asked_for(tagger: Tagger, photos: list[Encoded]) -> None:
    assert len(tagger.tag_encoded(photos[0], tagger.vocabulary.unfolded(), threshold=0.0)) == len(tagger.vocabulary)


def test_few_labels_are_scored_at_once(tagger: Tagger, photos: list[Encoded], counts: list[int]) -> None:
    tagger.tag_encoded(photos[0], ["cat", "dog", "boat"])
    assert counts == [3]


def test_a_tag_that_was_predicted_badly_has_all_labels_scored(
    restored: Tagger, photos: list[Encoded], counts: list[int]
) -> None:
    own, exact = restored._prefilter, restored.tag_encoded(photos[0], exact=True)
    again = []
    for change in np.arange(0, -4, -0.25):
        restored.__dict__["_prefilter"] = own
        with_offsets(restored, change)
        counts.clear()
        tags = restored.tag_encoded(photos[0])
        if len(counts) == 2:
            again.append(change)
            assert counts[1] == len(restored.vocabulary)
            assert tags == exact
    assert len(again) >= 3


def test_what_is_far_below_its_threshold_is_not_scored(restored: Tagger, photos: list[Encoded]) -> None:
    with_offsets(restored, -30)
    assert restored.tag_encoded(photos[0]) == []


def test_a_threshold_of_0_is_always_reached(restored: Tagger, photos: list[Encoded]) -> None:
    with_offsets(restored, -30)
    labels = restored.vocabulary.unfolded()
    labels.thresholds = labels.thresholds.copy()
    labels.thresholds[labels.keys.index("boat")] = 0
    assert [tag.label for tag in restored.tag_encoded(photos[0], labels)] == ["boat"]


def test_predictions_that_are_not_numbers(restored: Tagger, photos: list[Encoded]) -> None:
    with_offsets(restored, np.nan)
    with pytest.raises(ModelFolderError, match="returns scores that are not numbers: its files are damaged"):
        restored.tag_encoded(photos[0])


def test_labels_that_cannot_be_predicted_are_scored(
    restored: Tagger, photos: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = restored.tag_encoded(photos[0])[0]
    with_offsets(restored, -30)
    assert restored._prefilter is not None
    unpredicted = set(restored.vocabulary.keys) - set(restored._prefilter.keys)  # of words added since it was fitted
    vocabulary = restored.vocabulary
    labels = restored.label_set([*vocabulary.labels, "red saucer", "cat on a sofa"])
    assert {tag.label for tag in restored.tag_encoded(photos[0], labels, threshold=0.01)} <= {
        "red saucer",
        "cat on a sofa",
        *unpredicted,
    }
    own = restored._prefilter
    kept = [number for number, key in enumerate(own.keys) if key != restored.key(best.label)]
    monkeypatch.setitem(
        restored.__dict__,
        "_prefilter",
        replace(own, keys=[own.keys[number] for number in kept], slopes=own.slopes[kept], offsets=own.offsets[kept]),
    )
    (found,) = restored.tag_encoded(photos[0])
    assert (found.label, found.score) == (best.label, pytest.approx(best.score, abs=1e-6))  # scored alone


def test_taught_tags_are_scored(restored: Tagger, photos: list[Encoded]) -> None:
    """A taught tag has other log-odds than its word."""
    with_offsets(restored, -30)
    labels = restored.vocabulary.unfolded()
    width = pooled(photos[0]).shape[1]
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    labels.readers = {labels.keys.index("boat"): Reader(zeros, ones, zeros, offset=4.0)}
    (tag,) = restored.tag_encoded(photos[0], labels)
    bias = labels.biases[labels.keys.index("boat")]
    assert (tag.label, tag.score) == ("boat", pytest.approx(1 / (1 + np.exp(-4.0 - bias)), abs=1e-6))


def test_a_folder_without_a_prefilter_gives_the_same_tags(tagger: Tagger, examples: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(PACKAGED, tmp_path / "model")
    for name in (PREFILTER_FILE, PREFILTER_NETWORK):
        (folder / name).unlink()
    assert Tagger(folder).tag(examples / "cat.jpg") == tagger.tag(examples / "cat.jpg")


def test_label_sets_with_slopes_are_pickled(tagger: Tagger, photos: list[Encoded]) -> None:
    tagger.tag_encoded(photos[0])
    copy = pickle.loads(pickle.dumps(tagger.vocabulary))
    assert tagger.tag_encoded(photos[0], copy) == tagger.tag_encoded(photos[0])


# --- the file ----------------------------------------------------------------------------------------------------


def made(labels: int = LABELS) -> Prefilter:
    random = np.random.default_rng(1)
    slopes = random.normal(size=(labels, DIM)).astype(np.float32)
    offsets = random.normal(size=labels).astype(np.float32)
    return Prefilter([f"wörd {number}" for number in range(labels)], slopes, offsets, 2.5)


def test_written_and_read(tmp_path: Path) -> None:
    own = made()
    own.save(tmp_path / PREFILTER_FILE)
    read = Prefilter.load(tmp_path / PREFILTER_FILE)
    assert (read.keys, read.margin) == (own.keys, 2.5)
    np.testing.assert_array_equal(read.offsets, own.offsets)
    steps = np.abs(own.slopes).max(axis=1, keepdims=True) / 127
    assert (np.abs(read.slopes - own.slopes) <= steps * 0.501).all()


def test_slopes_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_LEAST", 2)
    own = made()
    slopes = own.of(["wörd 5", "other", "wörd 2"])
    assert slopes is not None
    assert slopes.places.tolist() == [0, 2]
    np.testing.assert_array_equal(slopes.slopes, own.slopes[[5, 2]])
    np.testing.assert_array_equal(slopes.offsets, own.offsets[[5, 2]])
    assert own.of(["wörd 5", "other"]) is None
    assert own.of([]) is None


def damaged(path: Path, kind: str) -> None:
    made().save(path)
    with np.load(path) as content:
        arrays = dict(content)
    if kind == "text":
        path.write_text("no archive")
        return
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:300])
        return
    if kind == "without offsets":
        del arrays["offsets"]
    elif kind == "a label less":
        arrays["offsets"] = arrays["offsets"][:-1]
    elif kind == "not finite":
        arrays["steps"] = arrays["steps"] * np.float32(np.inf)
    elif kind == "no text":
        arrays["keys"] = np.full(3, 255, np.uint8)
    elif kind == "one axis":
        arrays["steps"] = np.float32(1)
    np.savez(path, **arrays)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    "kind", ["text", "cut", "without offsets", "a label less", "not finite", "no text", "one axis"]
)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / PREFILTER_FILE
    damaged(path, kind)
    with pytest.raises(UserError, match=r"prefilter\.npz is not a prefilter: expected "):
        Prefilter.load(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(PACKAGED, tmp_path / "model")


def test_a_prefilter_of_another_model(folder: Path, examples: Path) -> None:
    made().save(folder / PREFILTER_FILE)
    with pytest.raises(ModelFolderError, match=r"belongs to another model: expected slopes of 256 dimensions, got 5$"):
        Tagger(folder).tag(examples / "cat.jpg")


@pytest.mark.parametrize("content", [None, b"no network"])
def test_a_network_that_cannot_be_loaded(folder: Path, examples: Path, content: bytes | None) -> None:
    (folder / PREFILTER_NETWORK).unlink()
    if content is not None:
        (folder / PREFILTER_NETWORK).write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"prefilter\.onnx cannot be loaded: "):
        Tagger(folder).tag(examples / "cat.jpg")


def test_another_network(folder: Path, examples: Path) -> None:
    shutil.copy(folder / "decoder.onnx", folder / PREFILTER_NETWORK)
    with pytest.raises(ModelFolderError, match=r"prefilter\.onnx: expected a tensor 'slopes', found only "):
        Tagger(folder).tag(examples / "cat.jpg")
