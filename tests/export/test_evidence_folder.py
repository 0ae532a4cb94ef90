"""A model folder whose words hear the backbone's classifier: what they hear, what does not fit, and its export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evidence_folder import CLASS_WORDS, CLASSES, LABELS, LIVE, SIZE, WORDS, evidence_model
from made_data import write_photo

from zsl_tagger.export import proof
from zsl_tagger.export.networks import ExportError, write_networks
from zsl_tagger.export.proof import Proof
from zsl_tagger.export.run import ExportRun, export
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.tagging import tagger as tag
from zsl_tagger.tagging.background import Background
from zsl_tagger.tagging.class_evidence import EvidenceWords
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet, vocabulary_of
from zsl_tagger.tagging.model_folder import ModelFolder, ModelFolderError
from zsl_tagger.tagging.onnx_model import OnnxModel
from zsl_tagger.tagging.tagger import Tagger

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{seed}.jpg" for seed in range(7)]
    for seed, path in enumerate(paths):
        write_photo(path, seed)
    return paths


@pytest.fixture(scope="module")
def tagger(evidence_folder: Path) -> Tagger:
    return Tagger(evidence_folder)


@pytest.fixture
def own(evidence_folder: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(evidence_folder, tmp_path / "own"))


def probabilities(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds.astype(np.float64)))


# --- what words hear ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "number"),
    [("dog", 1), ("dog", 4), ("Dogs", 4), ("boat", 999), ("lion", 3), ("beach", 5), ("animal", 2)],
)
def test_a_word_rises_with_its_class_and_others_stay(
    tagger: Tagger, photos: list[Path], label: str, number: int
) -> None:
    encoded = tagger.encode(photos[0])
    others = [word for word in WORDS if number not in (CLASS_WORDS["names"] | CLASS_WORDS["above"]).get(word, [])]
    asked = tagger.label_set([label, *others])
    scores = []
    for p in (0.0, 0.05, 0.3, 0.6, 0.9):
        classes = np.full((1, CLASSES), 1e-4, np.float32)
        classes[0, number] = p
        scores.append(tagger.scores(Encoded(encoded.tokens, classes), asked)[0])
    rising, constant = np.array(scores)[:, 0], np.array(scores)[:, 1:]
    assert (np.diff(rising) > 0.001).all()
    assert (constant == constant[0]).all()
    assert len(others) >= 8


def test_what_an_image_says_is_what_torch_says(tagger: Tagger, photos: list[Path], evidence_folder: Path) -> None:
    """Each place is a window, of 3 x 3; the formula by hand for one word of each kind."""
    model = load_model(evidence_folder)
    labels = tagger.label_set(["lion", "animal", "theorem"])
    heard = []
    for path in photos:
        encoded = tagger.encode(path)
        image = torch.from_numpy(load_array(path, tagger.preprocessing)[None].copy())
        with torch.inference_mode():
            tokens = model.backbone_tokens(image)  # (1, 9, C)
            classes = model.backbone.network.get_classifier()(tokens[0]).softmax(-1).amax(0).double().numpy()
            logits = model(image, torch.from_numpy(labels.queries))[0].double().numpy()
        assert tokens.shape[1] == 9
        lion, animal = np.log(classes[3] / (1 - classes[3])), classes[2] + classes[3]
        expected = [
            1.3 * logits[0] + 0.67 * max(0, lion + 4) - 0.32,
            0.8 * logits[1] + 0.38 * max(0, np.log(animal / (1 - animal)) + 4) + 0.23,
            1.1 * logits[2] + 0.4,
        ]
        np.testing.assert_allclose(tagger.log_odds(encoded, labels)[0], expected, atol=1e-4)
        np.testing.assert_allclose(
            tagger.scores(encoded, labels)[0], probabilities(np.array(expected) + 0.25), atol=1e-4
        )
        heard.append(lion)
    assert np.ptp(heard) > 0.8  # else this would show little


@pytest.mark.usefixtures("_all_are_many")
def test_a_shortlist_hears_the_classes(tagger: Tagger, photos: list[Path]) -> None:
    for path in photos:
        found = tagger.tag(path, WORDS, threshold=0.0, top_k=7)
        exact = tagger.tag(path, WORDS, threshold=0.0, top_k=7, exact=True)
        assert [one.label for one in found] == [one.label for one in exact]
        assert [one.score for one in found] == pytest.approx([one.score for one in exact], abs=1e-5)


@pytest.fixture
def _all_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag, "EXACT_UP_TO", 5)


# --- words that were never trained -------------------------------------------------------------------------


@pytest.fixture
def with_background(own: Path, tagger: Tagger, photos: list[Path]) -> Path:
    encoded = [tagger.encode(path) for path in photos]
    classes = [one.classes for one in encoded if one.classes is not None]
    everything = Encoded(np.concatenate([one.tokens for one in encoded]), np.concatenate(classes))
    Background(everything).save(own / "background.npz")
    return own


ASKED = ["theorem", "Dogs", "lion", "boat", "animal"]


def test_a_word_never_trained_is_a_tag_where_it_stands_out(with_background: Path) -> None:
    model = Tagger(with_background)
    labels = model.label_set(ASKED)
    kept = Background.load(with_background / "background.npz").encoded
    assert kept.classes is not None
    expected = [0.0, 0.3, 0.0, 0.55, 0.0]  # "dog" and "boat" are listed, though "boat" is not trained
    for place in (0, 2, 4):
        alone = model.label_set([ASKED[place]])
        rows = [
            float(model.log_odds(Encoded(kept.tokens[i : i + 1], kept.classes[i : i + 1]), alone)[0, 0]) + 0.25
            for i in range(len(kept.tokens))
        ]
        mean = sum(rows) / len(rows)
        deviation = (sum((row - mean) ** 2 for row in rows) / len(rows)) ** 0.5
        expected[place] = float(probabilities(np.array(max(mean + 3 * deviation, -0.85))))
        assert alone.thresholds[0] == pytest.approx(expected[place], abs=1e-5)
    np.testing.assert_allclose(labels.thresholds, expected, atol=1e-5)
    assert np.ptp(labels.thresholds[[0, 2, 4]]) > 0.01
    np.testing.assert_allclose(model.vocabulary.thresholds, [label.threshold for label in LABELS])


def test_without_a_background_words_have_the_common_threshold(tagger: Tagger) -> None:
    assert tagger._background is None
    np.testing.assert_allclose(tagger.label_set(ASKED).thresholds, [0.5, 0.3, 0.5, 0.55, 0.5])


def test_of_many_words_never_trained_all_have_the_common_threshold(
    with_background: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag, "BACKGROUND_UP_TO", 2)
    np.testing.assert_allclose(Tagger(with_background).label_set(ASKED).thresholds, [0.5, 0.3, 0.5, 0.55, 0.5])


def test_a_broken_background_is_told_when_it_is_needed(with_background: Path) -> None:
    path = with_background / "background.npz"
    path.write_bytes(path.read_bytes()[:500])
    model = Tagger(with_background)
    assert len(model.vocabulary) == 5
    with pytest.raises(ModelFolderError, match=r"own/background\.npz is not a background file") as caught:
        model.label_set(ASKED)
    assert "\n" not in str(caught.value)


# --- files that do not go together -------------------------------------------------------------------------


def write_classes(folder: Path, numbers: list[object]) -> None:
    (folder / "class_words.json").write_text(json.dumps({"names": {"zebra": numbers}, "above": {}}))


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: write_classes(folder, [5, 1000]),
     r"own/class_words\.json: expected classes below 1000, as in encoder\.onnx, got 1000$"),
    (lambda folder: write_classes(folder, [-1]), r"own/class_words\.json: expected \{.*, classes as lists of numbers$"),
    (lambda folder: write_classes(folder, ["5"]), r"own/class_words\.json: expected \{.*, classes as lists of num"),
    (lambda folder: (folder / "class_words.json").write_text("{"), r"own/class_words\.json: expected \{"),
    (lambda folder: (folder / "class_words.json").write_bytes(b"\xff\xfe{"), r"own/class_words\.json: expected \{"),
]  # fmt: skip


@pytest.mark.parametrize(("break_it", "message"), FAULTS)
def test_class_words_that_do_not_fit_are_one_message(
    own: Path, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(own)
    with pytest.raises(ModelFolderError, match=message) as caught:
        Tagger(own).label_set(["sky"])
    assert "\n" not in str(caught.value)


def test_the_last_class_may_be_meant(own: Path, photos: list[Path]) -> None:
    write_classes(own, [999])
    model = Tagger(own)
    assert model.scores(model.encode(photos[1]), ["zebra"]).shape == (1, 1)


def test_without_class_words_no_word_hears_a_class(own: Path, photos: list[Path]) -> None:
    (own / "class_words.json").unlink()
    model = Tagger(own)
    encoded, labels = model.encode(photos[2]), model.label_set(WORDS)
    expected = 1.1 * model.logits(encoded, labels) + 0.4
    np.testing.assert_allclose(model.log_odds(encoded, labels), expected, rtol=1e-5)
    assert model.tag(photos[2], threshold=0.0, top_k=3)


def test_an_encoder_without_classes_needs_no_class_words(own: Path, photos: list[Path]) -> None:
    silent = evidence_model()
    silent.class_evidence = False
    write_networks(silent, own, SIZE)
    (own / "class_words.json").write_text("broken, but not read")
    model = Tagger(own)
    encoded = model.encode(photos[0])
    assert encoded.classes is None
    assert model.scores(encoded, ["dog", "theorem"]).shape == (1, 2)


def test_labels_that_the_words_lack_are_named(own: Path) -> None:
    entries = json.loads((own / "labels.json").read_text())
    (own / "labels.json").write_text(json.dumps([*entries, {"name": "qwertz", "threshold": 0.5}]))
    with pytest.raises(
        ModelFolderError, match=r"own: labels\.json has labels missing in words\.txt: unknown label 'qwertz'$"
    ):
        _ = Tagger(own).vocabulary


# --- export ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proven(evidence_folder: Path) -> Proof:
    folder = ModelFolder(evidence_folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proof, "LABEL_COUNTS", (1, 7))
        vocabulary = vocabulary_of(
            folder.labels(), folder.words(), folder.config, EvidenceWords(folder.class_words(CLASSES))
        )
        return Proof(load_model(evidence_folder), folder.config, vocabulary)


class Changed:
    """Networks whose class probabilities are changed on the way."""

    def __init__(self, folder: Path, change: Callable[[np.ndarray], np.ndarray | None]):
        self._model, self._change = OnnxModel(folder, ModelFolder(folder).config, threads=1), change

    def encode(self, images: np.ndarray) -> Encoded:
        encoded = self._model.encode(images)
        assert encoded.classes is not None
        return Encoded(encoded.tokens, self._change(encoded.classes))

    def logits(self, encoded: Encoded, queries: np.ndarray) -> np.ndarray:
        return self._model.logits(encoded, queries)


def raised(classes: np.ndarray) -> np.ndarray:
    """One class of the last image of a batch alone."""
    changed = classes.copy()
    changed[-1, 3] += 3e-4
    return changed


def test_networks_with_other_class_probabilities_are_refused(proven: Proof, evidence_folder: Path) -> None:
    proven.check(Changed(evidence_folder, lambda classes: classes + np.float32(2e-5)), "a small change")
    with pytest.raises(
        ExportError, match=r"^mine and torch differ by 3\.0e-04 in a class probability, more than 1e-04$"
    ):
        proven.check(Changed(evidence_folder, raised), "mine")


def test_networks_without_class_probabilities_are_refused(proven: Proof, evidence_folder: Path) -> None:
    with pytest.raises(ExportError, match=r"^mine and torch disagree on whether there are class probabilities$"):
        proven.check(Changed(evidence_folder, lambda _: None), "mine")


def test_class_probabilities_that_torch_does_not_have_are_refused(
    evidence_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "LABEL_COUNTS", (3,))
    silent, config = evidence_model(), ModelFolder(evidence_folder).config
    silent.class_evidence = False
    labels = LabelSet(["dog"], ["dog"], np.ones((1, config.word_dim), np.float32), np.zeros(1), np.zeros(1))
    with pytest.raises(ExportError, match=r"^mine and torch disagree on whether there are class probabilities$"):
        Proof(silent, config, labels).check(Changed(evidence_folder, lambda classes: classes), "mine")


def test_agreement_is_of_what_tag_decides_by(proven: Proof, evidence_folder: Path) -> None:
    """Class probabilities that are off show as log-odds that are, though the decoder says the same."""
    same = proven.compare(Changed(evidence_folder, lambda classes: classes))
    assert same.difference < 1e-4
    assert proven.compare(Changed(evidence_folder, lambda classes: classes * np.float32(0.5))).difference > 0.2


def test_int8_keeps_the_class_probabilities(
    with_background: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "SECONDS", 0.0)
    out = tmp_path / "int8"
    export(ExportRun(model=with_background, output=out, precision="int8"))
    small, whole = Tagger(out), Tagger(with_background)
    found, expected, tokens = [], [], []
    for path in photos:
        one, other = small.encode(path), whole.encode(path)
        assert one.classes is not None
        assert other.classes is not None
        found.append(one.classes[0])
        expected.append(other.classes[0])
        tokens.append(np.abs(one.tokens - other.tokens).max())
    assert np.abs(np.array(found) - np.array(expected)).max() <= 1e-3
    assert np.array(expected)[:, :LIVE].max() > 0.2
    assert min(tokens) > 1e-3  # the other layers are in int8
    for name in ("class_words.json", "background.npz", "labels.json"):
        assert (out / name).read_bytes() == (with_background / name).read_bytes()
    assert ModelFolder(out).config.scoring == ModelFolder(with_background).config.scoring
