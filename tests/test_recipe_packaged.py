"""The packaged model's recipe on made words and features: no photos, no downloads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from zsl_tagger.evaluation.thresholds import choose_thresholds
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.packaged import build, lexicon
from zsl_tagger.packaged.features import ALL_VIEWS, CHUNK, TRUNK_CHANNELS
from zsl_tagger.packaged.sampling import Phase, Sampler, mixture, rarity
from zsl_tagger.packaged.targets import Knowledge, Targets, build_targets, read_annotations
from zsl_tagger.packaged.train import HeadOnTrunk, TrainConfig, Trainer
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.packaged.words import choose_words, compress
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import WordTable

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


def test_a_tag_implies_synonyms_everyday_hypernyms_and_lexicon(knowledge: Knowledge) -> None:
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
    assert value["a", "poodle"] == pytest.approx(0.9)  # the annotators never wrote it: the classifier is asked
    assert weight["b", "poodle"] == 0  # seen a little: not known
    assert weight["b", "dog"] == 0  # the same
    assert (value["c", "cat"], weight["c", "cat"]) == (1, 1)
    assert weight["c", "car"] == 0.5  # not annotated: absence says little
    assert (targets.values <= 1).all()


def test_an_unspecific_tag_leaves_the_specific_words_open(knowledge: Knowledge) -> None:
    nothing_seen = np.zeros((2, 1), np.float32)
    annotations = {"a": ["dog"], "b": ["animal", "cat"]}
    classes = [frozenset({"poodle"})]
    targets = build_targets(["a", "b"], annotations, {}, nothing_seen, classes, ["dog", "cat"], knowledge)
    weights = dict(zip(targets.words, targets.weights.T, strict=True))
    assert weights["poodle"].tolist() == [0, 1]  # "animal" is made specific by "cat" beside it
    assert weights["cat"].tolist() == [1, 1]


def test_chosen_words_are_plain_distinct_and_start_with_the_given_ones(wordnet: WordNet) -> None:
    words = choose_words(
        ["t shirt", "dog"], wordnet, ["the", "dog", "barked", "poodle", "poodles", "kodak", "domestic"]
    )
    assert words[:2] == ["t shirt", "dog"]
    assert {"poodle", "kodak", "domestic dog"} <= set(words)
    assert not {"barked", "poodles"} & set(words)
    assert len(words) == len(set(words))


def test_compression_keeps_the_neighbours() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(600, 300)) * np.geomspace(1, 0.01, 300) + 3).astype(np.float32)
    small = compress(vectors).astype(np.float32)
    centred = vectors - vectors.mean(axis=0)
    assert small.shape == (600, 256)
    exact = centred @ centred.T / np.outer(*[np.linalg.norm(centred, axis=1)] * 2)
    reduced = small @ small.T / np.outer(*[np.linalg.norm(small, axis=1)] * 2)
    assert np.abs(exact - reduced).max() < 0.02


def test_thresholds_follow_the_evidence() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((997, 3)) < (0.3, 0.3, 0.0)).astype(np.int64)
    scores = np.clip(0.3 + 0.4 * targets + rng.normal(0, 0.05, targets.shape), 0, 1)
    scores[:, 1] -= 0.2
    thresholds, common = choose_thresholds(scores, targets)
    assert thresholds[1] < thresholds[0]
    assert thresholds[2] == pytest.approx(common)  # no positives: the common one


def test_rare_words_lift_their_photos() -> None:
    counted = np.zeros((10, 2), bool)
    counted[:, 0] = True
    counted[3, 1] = True
    probability = rarity(counted, np.array([True] * 9 + [False]))
    assert probability[3] == pytest.approx(3 * probability[0])  # 1 / sqrt(1) against 1 / sqrt(9)
    assert probability[9] == 0
    assert mixture((0.25, counted[:, 1]), (0.75, ~counted[:, 1]))[3] == pytest.approx(0.25)


@pytest.fixture
def trainer_parts(tmp_path: Path) -> tuple[HeadOnTrunk, Sampler, torch.Tensor]:
    photos, words, rng = 23, 11, np.random.default_rng(0)
    assert photos <= CHUNK
    for view in ALL_VIEWS:
        features = rng.normal(size=(photos, view.tokens, TRUNK_CHANNELS)).astype(np.float16)
        np.save(tmp_path / f"{view.name}-{view.size}.0000.npy", features)
    values = (rng.random((photos, words)) < 0.2).astype(np.float32)
    targets = Targets([f"w{i}" for i in range(words)], values, np.ones_like(values))
    everything = np.full(photos, 1 / photos)
    phases = (Phase(0.5, everything, (0.4, 0.3, 0.3)), Phase(1.0, everything, (1.0, 0.0, 0.0)))
    sampler = Sampler(tmp_path, targets, phases, keep_tokens=17, labels=7, random_weight=3.0)
    torch.manual_seed(0)
    reading = ClassReading(torch.nn.Linear(13, 5), torch.nn.functional.normalize(torch.randn(5, 6)))
    head = MLDecoder(13 + 6, word_dim=6, dim=24, ffn_dim=29, heads=3, dropout=0.0)
    model = HeadOnTrunk(torch.randn(13, TRUNK_CHANNELS) / 19, torch.zeros(13), reading, head)
    return model, sampler, torch.nn.functional.normalize(torch.randn(words, 6))


def test_a_batch_has_the_tokens_and_labels_asked_for(trainer_parts: tuple[HeadOnTrunk, Sampler, torch.Tensor]) -> None:
    sampler = trainer_parts[1]
    batch = sampler.batch(3, 0.1, np.random.default_rng(1))
    assert batch.features.shape == (3, 17, TRUNK_CHANNELS)
    assert batch.values.shape == batch.weights.shape == (3, len(batch.asked)) == (3, 7)
    assert len(set(batch.asked)) == 7


def test_a_resumed_training_ends_at_the_same_weights(
    trainer_parts: tuple[HeadOnTrunk, Sampler, torch.Tensor], tmp_path: Path
) -> None:
    model, sampler, vectors = trainer_parts
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainConfig(steps=7, batch_size=3, checkpoint_every=3)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Trainer(model, sampler, vectors, config, tmp_path / "whole").run()
    whole = {name: value.clone() for name, value in whole.items()}
    model.load_state_dict(initial)
    cut = Trainer(model, sampler, vectors, config, tmp_path / "cut")
    for _ in range(3):
        cut._train_step()
    cut._save()
    cut._train_step()  # lost when the process dies here
    model.load_state_dict(initial)
    resumed = Trainer(model, sampler, vectors, config, tmp_path / "cut").run()
    assert any(not torch.equal(whole[name], initial[name]) for name in whole)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_other_settings_do_not_resume(trainer_parts: tuple[HeadOnTrunk, Sampler, torch.Tensor], tmp_path: Path) -> None:
    model, sampler, vectors = trainer_parts
    Trainer(model, sampler, vectors, TrainConfig(steps=2, batch_size=2), tmp_path).run()
    with pytest.raises(SystemExit, match="written with other settings"):
        Trainer(model, sampler, vectors, TrainConfig(steps=3, batch_size=2), tmp_path).run()


def test_the_vocabulary_and_annotation_in_the_repo_are_clean() -> None:
    vocabulary = build.read_vocabulary(build.HERE / "vocabulary.txt")
    assert len(vocabulary) >= 1500
    assert len({normalize_label(word) for word in vocabulary}) == len(vocabulary)
    with (build.HERE / "annotations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == len(rows) == len(read_annotations(build.HERE / "annotations.csv"))
    assert not any(row["path"].startswith(("/", "coco")) for row in rows)
    assert all(tag.strip() for row in rows for tag in row["tags"].split(","))
    assert all(name == normalize_label(name) for name in lexicon.HYPERNYMS)


def test_words_kept_out_go_with_all_that_say_the_same(knowledge: Knowledge) -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    targets = Targets(["cat", "dog", "domestic dog", "people"], values, values)
    out = {word for name in ("Dog", "person") for word in build.synonyms(name, knowledge)}
    left = build.leave_out(targets, out)
    assert left.words == ["cat"]
    assert left.values.tolist() == [[0], [4]]
