"""A model folder with probes: tags, searches and taught tags use them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evidence_folder import LABELS
from made_data import write_photos

from zsl_tagger import Library, Tagger
from zsl_tagger.tagging.model_folder import ModelFolderError, write_labels
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.tagging.probes import write_probes

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]

NUMBERS = {"dog": 1, "sky": 0, "cat": None, "beach": 1, "boat": None}
SCALES = {"dog": 1.3, "sky": 1.1, "beach": 0.8}  # of ``evidence_folder.SCORING``


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.getbasetemp(), "probed", 13)


@pytest.fixture
def own(evidence_folder: Path, photos: list[Path], tmp_path: Path) -> Path:
    """A copy in which three labels have probes; "sand" is not listed."""
    folder = Path(shutil.copytree(evidence_folder, tmp_path / "own"))
    width = pooled(Tagger(folder).encode(photos[0])).shape[1]
    weights = np.random.default_rng(1).normal(size=(2, width)) / np.sqrt(width)
    write_probes(folder / "probes.npy", weights, np.array([0.25, -0.5]))
    write_labels(folder, [replace(label, probe=NUMBERS[label.name]) for label in LABELS])
    return folder


def test_log_odds_hear_the_probes(own: Path, evidence_folder: Path, photos: list[Path]) -> None:
    tagger, plain = Tagger(own), Tagger(evidence_folder)
    asked = ["sand", *NUMBERS]
    probes = tagger.folder.probes([0, 1])
    assert probes is not None
    for photo in photos[:6]:
        encoded = tagger.encode(photo)
        added = probes.added(pooled(encoded), 2)[0]
        before, after = (one.log_odds(encoded, one.label_set(asked))[0] for one in (plain, tagger))
        expected = [0.0 if (number := NUMBERS.get(name)) is None else SCALES[name] * added[number] for name in asked]
        np.testing.assert_allclose(after - before, expected, atol=1e-4)
        (alone,) = tagger.scores(encoded, ["beach"])[0]
        assert alone == pytest.approx(tagger.scores(encoded, asked)[0, asked.index("beach")], abs=1e-6)
        assert tagger.tag_encoded(encoded) == tagger.tag_encoded(encoded, exact=True)
    assert tagger.identity != plain.identity


def test_searches_use_the_probes(own: Path, photos: list[Path], tmp_path: Path) -> None:
    """Labels of the vocabulary, whose stored logits contain them, and one that has to be decoded."""
    listed = [replace(label, probe=NUMBERS[label.name], default=label.name != "beach") for label in LABELS]
    write_labels(own, listed)
    tagger = Tagger(own)
    with Library.open(tmp_path / "index", own) as library:
        library.add(photos)
        for label in ("dog", "sky", "beach"):
            expected = {str(path): tagger.scores(tagger.encode(path), [label])[0, 0] for path in photos}
            found = {one.path: one.score for one in library.search(label, top=99)}
            assert found == pytest.approx(expected, abs=0.02)


def test_taught_tags_hear_the_probe_of_their_word(own: Path, photos: list[Path], tmp_path: Path) -> None:
    tagger = Tagger(own, taught=tmp_path / "taught")
    word = tagger.log_odds(tagger.encode(photos[12]), tagger.plain_label_set(["dog"]))
    tagger.teach("dog", photos[:3], photos[3:12])
    labels = tagger.label_set(["dog"])
    assert labels.readers
    encoded = tagger.encode(photos[12])
    expected = labels.readers[0].log_odds(pooled(encoded), word[:, 0])
    np.testing.assert_allclose(tagger.log_odds(encoded, labels)[:, 0], expected, rtol=1e-5)


def test_files_that_do_not_fit(own: Path, photos: list[Path]) -> None:
    write_labels(own, [replace(LABELS[0], probe=2)])
    with pytest.raises(ModelFolderError, match=r"it has 2 probes, but labels\.json names number 2"):
        Tagger(own).tag(photos[0])
    (own / "probes.npy").unlink()
    with pytest.raises(ModelFolderError, match=r"probes\.npy is missing, but labels\.json names probes"):
        Tagger(own).tag(photos[0])
    (own / "probes.npy").write_bytes(b"broken")
    with pytest.raises(ModelFolderError, match=r"probes\.npy is not a file of probes: expected an array of numpy"):
        Tagger(own).tag(photos[0])
    assert Tagger(own).tag(photos[0], ["cat"]) == Tagger(own).tag(photos[0], ["cat"], exact=True)  # none of its own
