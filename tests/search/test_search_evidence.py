"""Searches with a model that uses class evidence give the log-odds of ``tag``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evidence_folder import LABELS
from made_data import write_photo

from zsl_tagger import Library, Tagger
from zsl_tagger.search import rank
from zsl_tagger.search.blocks import StoredScores
from zsl_tagger.search.store import Store
from zsl_tagger.search.update import Counts
from zsl_tagger.tagging.class_evidence import Scoring
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import read_config, write_config

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]

PHOTOS = 23
UNSEEN_BIAS = 0.25

#: What 8 bits a token, a logit and a class cost; half a step of a class alone is 8/255, its weight at most 0.67.
OFF_BY = 0.04


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(PHOTOS):
        write_photo(folder / f"{seed:02d}.jpg", seed)
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, photos: Path, evidence_folder: Path) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("index"), evidence_folder) as library:
        assert library.add(photos) == Counts(added=PHOTOS)
        yield library


@pytest.fixture(scope="module")
def tagger(evidence_folder: Path) -> Tagger:
    return Tagger(evidence_folder)


@pytest.fixture(scope="module")
def exact(tagger: Tagger, photos: Path) -> dict[str, Encoded]:
    """Return the encoded photos by path."""
    return {str(path): tagger.encode(path) for path in sorted(photos.iterdir())}


def log_odds(scores: list[float]) -> np.ndarray:
    p = np.array(scores)
    return np.log(p / (1 - p))


@pytest.mark.parametrize(
    ("label", "hears"),
    [("dog", True), ("cat", False), ("beach", True), ("boat", False), ("lion", True), ("animal", True), ("red", False),
     ("red lion", False)],
)  # fmt: skip
def test_log_odds_are_those_of_tag(
    library: Library, tagger: Tagger, exact: dict[str, Encoded], label: str, hears: bool
) -> None:
    """Compare stored and other labels of each kind of word."""
    labels = tagger.label_set([label])
    listed = {one.name: one.bias + (0.0 if one.seen else UNSEEN_BIAS) for one in LABELS}
    expected = {
        path: float(tagger.log_odds(encoded, labels)[0, 0]) + listed.get(label, UNSEEN_BIAS)
        for path, encoded in exact.items()
    }
    found = library.search(label, top=99)
    assert {one.path for one in found} == set(expected)
    assert [one.score for one in found if one.passes] == sorted(
        (one.score for one in found if one.passes), reverse=True
    )
    np.testing.assert_allclose(
        log_odds([one.score for one in found]), [expected[one.path] for one in found], atol=OFF_BY
    )
    decoder = {path: float(tagger.logits(encoded, labels)[0, 0]) for path, encoded in exact.items()}
    heard = np.array([expected[path] - decoder[path] for path in expected])
    scaled = heard - np.polyval(np.polyfit(list(decoder.values()), heard, 1), list(decoder.values()))
    assert (np.ptp(scaled) > 0.1) == hears  # what no scale and no offset of the logits would give


def test_class_probabilities_of_each_photo_are_stored(library: Library, exact: dict[str, Encoded]) -> None:
    with Store(library.folder) as store:
        assert store.classes() == 1000
        labels = len(store.meta.labels)
        stored = StoredScores(store, labels)
        paths = [store.paths_of(content)[0] for content in stored.contents.tolist()]
        found = stored.columns(labels + np.arange(1000), np.arange(PHOTOS)).T  # (PHOTOS, 1000)
    for path, packed in zip(paths, found, strict=True):
        classes = exact[path].classes
        assert classes is not None
        p = classes[0].astype(np.float64)
        np.testing.assert_allclose(packed / 255 * 16 - 10, np.log(p / (1 - p)), atol=8 / 255 + 1e-4)


@pytest.mark.parametrize("label", ["lion", "animal"])
def test_photos_with_promising_classes_are_decoded(
    library: Library, evidence_folder: Path, exact: dict[str, Encoded], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, label: str,
) -> None:  # fmt: skip
    """Five of 23 photos, found by prediction alone; class evidence has a large weight in this model."""
    loud = Path(shutil.copytree(evidence_folder, tmp_path / "loud"))
    scoring = Scoring(names=(0.2, 7.0, -9.0), above=(0.2, 7.0, -9.0))
    write_config(loud, replace(read_config(loud), scoring=scoring))
    tagger = Tagger(loud)
    labels = tagger.label_set([label])
    expected = {path: float(tagger.log_odds(encoded, labels)[0, 0]) for path, encoded in exact.items()}
    best = sorted(expected, key=lambda path: -expected[path])
    monkeypatch.setattr(rank, "FIRST_DECODED", 5)
    monkeypatch.setattr(rank, "ROUNDS", 0)
    with Library.open(library.folder, loud) as same_index:
        found = [one.path for one in same_index.search(label, top=99)]
    assert len(found) == 5
    assert set(best[:3]) <= set(found) <= set(best[:8])
