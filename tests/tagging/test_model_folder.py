"""A model folder made of small files: what it reads, and what it says about each fault."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.tagging.background import Background
from zsl_tagger.tagging.class_evidence import Scoring, read_class_words
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import (
    ModelConfig,
    ModelFolder,
    ModelFolderError,
    VocabularyLabel,
    read_config,
    write_config,
    write_labels,
)
from zsl_tagger.tagging.onnx_model import open_session
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.words.table import WordTable

FILES = ("config.json", "labels.json", "encoder.onnx", "decoder.onnx", "words.txt", "word_vectors.npy")
CONFIG = ModelConfig(
    Preprocessing(224, mean=(0.48145466, 0.5, 0.406), std=(0.229, 0.224, 0.225)),
    word_dim=3,
    default_threshold=0.35,
    architecture={"backbone": "tiny", "blocks": [1, 2]},
    provenance={"made by": "a test, für 塔"},
    word_source="gensim:塔.txt",
    scoring=Scoring(names=(1.5, 0.7, -0.3)),
    precision_shifts=((0.7, -0.25), (0.9, 1.5)),
)
LABELS = [
    VocabularyLabel("Dining-Table", 0.25, implies=("table", "furniture")),
    VocabularyLabel("塔", 0.0, seen=False),
    VocabularyLabel("dog", 1.0, bias=-0.7, default=False),
]
ROWS = np.array([[3, 0, 4], [0, -5, 0]], np.int8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path, CONFIG)
    write_labels(tmp_path, LABELS)
    WordTable(["dog", "塔"], ROWS).save(tmp_path)
    (tmp_path / "encoder.onnx").touch()
    (tmp_path / "decoder.onnx").touch()
    return tmp_path


def edited(**changes: Any) -> dict[str, Any]:
    """The config as JSON with fields changed; None leaves one out."""
    content = {"image_size": 224, "word_dim": 3, "default_threshold": 0.35, "format_version": 1, **changes}
    return {name: value for name, value in content.items() if value is not None}


def test_what_was_written_is_read(folder: Path) -> None:
    model = ModelFolder(str(folder))
    assert model.config == CONFIG
    assert model.labels() == LABELS
    assert list(model.words().words) == ["dog", "塔"]
    assert np.allclose(model.words().vectors(["塔", "dog"]), np.array([[0, -1, 0], [0.6, 0, 0.8]]))


def test_queries_of_other_lengths(folder: Path) -> None:
    write_config(folder, replace(CONFIG, unit_queries=False))
    assert ModelFolder(folder).words().vectors(["塔", "dog"]).tolist() == [[0, -5, 0], [3, 0, 4]]


def test_its_text_files_can_be_read_with_cat(folder: Path) -> None:
    assert "für 塔" in (folder / "config.json").read_text(encoding="utf-8")
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8"))[1] == {
        "name": "塔",
        "threshold": 0.0,
        "seen": False,
    }


# --- missing ----------------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFolderError, match=r"^no model folder at .*nowhere: give another one, or none for the packaged"
    ):
        ModelFolder(tmp_path / "nowhere")


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"^no model folder at .*config\.json"):
        ModelFolder(folder / "config.json")


@pytest.mark.parametrize("names", [*([name] for name in FILES), FILES[1:4], FILES], ids=" ".join)
def test_every_missing_file_is_named(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=f"is incomplete; missing files: {', '.join(names)}$"):
        ModelFolder(folder)


# --- config.json ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (edited(colour="red"), r"config\.json: got an unexpected keyword argument 'colour'"),
        (edited(word_dim=None), r"config\.json: missing 1 required positional argument: 'word_dim'"),
        ([], r"config\.json: expected an object, got list"),
        (
            edited(format_version=4),
            r"config\.json: expected format_version 1 or 2 or 3, got 4: .*another version of zsl-tagger",
        ),
        (edited(format_version="1"), "expected format_version 1 or 2 or 3, got '1'"),
        (edited(format_version=True), "expected format_version 1 or 2 or 3, got True"),
        (edited(image_size=None), r"config\.json: missing 1 required positional argument: 'image_size'"),
        (edited(image_size=0), r"config\.json: expected image_size to be a positive whole number, got 0"),
        (edited(image_size=22.4), r"expected image_size to be a positive whole number, got 22\.4"),
        (edited(word_dim="3"), "expected word_dim to be a positive whole number, got '3'"),
        (edited(default_threshold=-0.1), r"config\.json: expected default_threshold in 0\.\.1, got -0\.1"),
        (edited(default_threshold=1.1), r"expected default_threshold in 0\.\.1, got 1\.1"),
        (edited(default_threshold=float("nan")), r"expected default_threshold in 0\.\.1, got nan"),
        (edited(default_threshold="0.5"), r"expected default_threshold in 0\.\.1, got '0\.5'"),
        (edited(scoring={"names": [1, 2]}), r"config\.json: expected scoring 'names' to be three numbers: scale, "),
        (edited(scoring={"nouns": [1, 2, 3]}), r"config\.json: got an unexpected keyword argument 'nouns'"),
        (edited(scoring=[1, 2, 3]), r"config\.json: expected scoring to be an object, got \[1, 2, 3\]"),
        (edited(precision_shifts=[[0.9, 1.0], [0.95]]), r"config\.json: expected precision_shifts to be pairs of numb"),
        (edited(precision_shifts=[[0.9, "1"]]), "expected precision_shifts to be pairs of numbers, got "),
        (edited(precision_shifts=0.9), r"expected precision_shifts to be pairs of numbers, got 0\.9"),
        (edited(unseen_bias=float("inf")), "expected unseen_bias to be a number of logits, got inf"),
    ],
)
def test_faulty_config(folder: Path, content: Any, message: str) -> None:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFolderError, match=message) as caught:
        ModelFolder(folder)
    assert isinstance(caught.value, UserError)


def stated(**changes: Any) -> dict[str, Any]:
    """Return a config of format 2 as JSON, with fields of its preprocessing changed."""
    preprocessing = {"image_size": 224, "resize": "squash", "interpolation": "bicubic", "version": 1, **changes}
    return edited(image_size=None, format_version=2, preprocessing=preprocessing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (edited(image_size=None, format_version=2), "expected preprocessing to be an object, got None"),
        (
            edited(image_size=None, format_version=2, preprocessing=[224]),
            r"expected preprocessing to be an object, got \[",
        ),
        (stated(size=3), "got an unexpected keyword argument 'size'"),
        (stated(image_size=True), "expected image_size to be a positive whole number, got True"),
        (
            stated(resize="crop"),
            "expected resize of the preprocessing to be 'squash' or 'center_crop', got 'crop': .*another version",
        ),
        (
            stated(interpolation="cubic"),
            "expected interpolation of the preprocessing to be 'bicubic' or 'bilinear', got 'cubic'",
        ),
        (stated(version=2), "expected version of the preprocessing to be 1, got 2: .*another version of zsl-tagger"),
        (stated(mean=0.5), r"expected mean to be three numbers, got 0\.5"),
        (stated(mean=[0.5, 0.5]), r"expected mean to be three numbers, got \[0\.5, 0\.5\]"),
        (stated(std=[0.5, "a", 1]), "expected std to be three numbers"),
        (stated(std=[0.5, 0, 1]), "expected std to be three positive numbers"),
        ({**stated(), "word_source": 3}, "expected word_source to be text, got 3"),
    ],
)
def test_faulty_preprocessing(folder: Path, content: Any, message: str) -> None:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFolderError, match=message):
        ModelFolder(folder)


def test_a_folder_of_version_1_is_read_as_it_was_made(folder: Path) -> None:
    content = edited(provenance={"word_vectors": "gensim:a.txt"})
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    config = ModelFolder(folder).config
    assert config.preprocessing == Preprocessing(224)
    assert (config.preprocessing.mean, config.preprocessing.std) == (None, None)  # the backbone's
    assert config.word_source == "gensim:a.txt"
    write_config(folder, config)
    assert ModelFolder(folder).config == config


def test_a_configuration_says_how_images_and_words_become_inputs(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert content["preprocessing"] == {
        "image_size": 224, "resize": "squash", "interpolation": "bicubic",
        "mean": [0.48145466, 0.5, 0.406], "std": [0.229, 0.224, 0.225], "version": 1,
    }  # fmt: skip
    assert content["word_source"] == "gensim:塔.txt"
    assert content["format_version"] == 3


def test_a_centre_crop_is_a_part_of_the_configuration(folder: Path) -> None:
    """Write no crop for squashed images, so that earlier versions read the folder too."""
    preprocessing = Preprocessing(224, "center_crop", "bilinear", crop_pct=0.95)
    write_config(folder, replace(ModelFolder(folder).config, preprocessing=preprocessing))
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))["preprocessing"]
    assert (content["resize"], content["crop_pct"], content["interpolation"]) == ("center_crop", 0.95, "bilinear")
    assert ModelFolder(folder).config.preprocessing == preprocessing


@pytest.mark.parametrize("threshold", [0, 0.0, 1, 1.0])
def test_the_ends_of_the_threshold_range_are_valid(folder: Path, threshold: float) -> None:
    write_config(folder, ModelConfig(Preprocessing(8), 3, threshold))
    assert ModelFolder(folder).config.default_threshold == threshold


@pytest.mark.parametrize("content", [b"", b"{", b'{"image_size": 224,}', b"\xff\xfe"])
@pytest.mark.parametrize("name", ["config.json", "labels.json"])
def test_bad_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=f"{name} is not valid JSON: "):
        ModelFolder(folder).labels()


@pytest.mark.parametrize("name", ["config.json", "labels.json"])
def test_json_nested_too_deeply(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"[" * 200_000)
    with pytest.raises(ModelFolderError, match=f"{name} is not valid JSON: it is nested too deeply"):
        ModelFolder(folder).labels()


def test_class_words_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "class_words.json").write_bytes(b'{"a":' * 200_000)
    with pytest.raises(UserError, match=r"class_words\.json: expected"):
        read_class_words(tmp_path / "class_words.json")


# --- labels.json ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"name": "dog"}], "missing 1 required positional argument: 'threshold'"),
        ([{"name": "dog", "threshold": 0.5, "colour": "red"}], "got an unexpected keyword argument 'colour'"),
        ([{"name": "dog", "threshold": 1.01}], r"label 'dog' has threshold 1\.01, expected a value in 0\.\.1"),
        ([{"name": "dog", "threshold": -0.01}], r"label 'dog' has threshold -0\.01"),
        ([{"name": "dog", "threshold": float("nan")}], "label 'dog' has threshold nan"),
        ([{"name": "dog", "threshold": "0.5"}], "label 'dog' has threshold"),
        ([{"name": 5, "threshold": 0.5}], "name.*5"),
        ([{"name": "dog", "threshold": 0.5, "bias": "1"}], "label 'dog' has bias '1', expected a number"),
        ([{"name": "dog", "threshold": 0.5, "implies": "animal"}], "'dog' implies 'animal', expected a list of labels"),
        ([{"name": "dog", "threshold": 0.5, "implies": [1]}], r"'dog' implies \[1\], expected a list of labels"),
        (["dog"], "must be a mapping, not str"),
        (None, "'NoneType' object is not iterable"),
    ],
)
def test_faulty_labels(folder: Path, content: Any, message: str) -> None:
    (folder / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFolderError, match=rf"labels\.json: .*{message}"):
        ModelFolder(folder).labels()


# --- the word table ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 40, -1], ids=["empty", "half a header", "one byte short"])
def test_truncated_word_vectors(folder: Path, kept: int) -> None:
    path = folder / "word_vectors.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFolderError, match=r"words\.txt and word_vectors\.npy cannot be read: "):
        ModelFolder(folder).words()


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 3), np.int8), np.zeros(2, np.int8), np.array([[None] * 3] * 2)],
    ids=["a row too many", "no matrix", "pickled"],
)
def test_word_vectors_that_are_no_table(folder: Path, array: np.ndarray) -> None:
    np.save(folder / "word_vectors.npy", array)
    with pytest.raises(ModelFolderError, match=r"words\.txt and word_vectors\.npy cannot be read: "):
        ModelFolder(folder).words()


@pytest.mark.parametrize("shape", [(-1, 3), (-1, 300), (10**13, 3), (2**62, 2**62)])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_shape_that_no_file_has(folder: Path, shape: tuple[int, int]) -> None:
    with (folder / "word_vectors.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|i1", "fortran_order": False, "shape": shape})
        file.write(bytes(6))
    with pytest.raises(ModelFolderError, match=r"words\.txt and word_vectors\.npy cannot be read: "):
        ModelFolder(folder).words()


def test_background_photos_of_a_shape_that_no_memory_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "background.npz", "w") as archive, archive.open("levels.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**14, 3, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match=r"background\.npz is not a background file"):
        Background.load(tmp_path / "background.npz")


def test_word_vectors_in_an_npz_archive(folder: Path) -> None:
    with (folder / "word_vectors.npy").open("wb") as stream:
        np.savez(stream, vectors=ROWS)
    with pytest.raises(ModelFolderError, match=r"words\.txt and word_vectors\.npy cannot be read: "):
        ModelFolder(folder).words()


def test_words_that_are_not_utf8(folder: Path) -> None:
    (folder / "words.txt").write_bytes(b"dog\n\xff\n")
    with pytest.raises(ModelFolderError, match=r"words\.txt and word_vectors\.npy cannot be read: "):
        ModelFolder(folder).words()


def test_another_word_dim(folder: Path) -> None:
    np.save(folder / "word_vectors.npy", np.ones((2, 4), np.int8))
    with pytest.raises(ModelFolderError, match=r"word_vectors\.npy: expected word vectors of width 3, got 4$"):
        ModelFolder(folder).words()


@pytest.mark.slow
def test_the_shipped_models_scores_stay_to_the_bit(examples: Path, tmp_path: Path) -> None:
    """Compare with the plain steps it was made with, as shipped and rewritten."""
    rewritten = tmp_path / "model"
    shutil.copytree(PACKAGED, rewritten)
    write_config(rewritten, read_config(rewritten))
    assert json.loads((rewritten / "config.json").read_text(encoding="utf-8"))["format_version"] == 3
    as_shipped, as_rewritten = Tagger(), Tagger(rewritten)
    labels = as_shipped.label_set(["cat", "coffee", "rocket", "space suit", "person"])
    encoder, detector, queries, decoder = (
        open_session(PACKAGED / f"{name}.onnx", 1) for name in ("encoder", "objects", "queries", "decoder")
    )
    for photo in sorted(examples.glob("*.jpg")):
        with Image.open(photo) as opened:
            opened.draft("RGB", (768, 768))
            image = opened.convert("RGB").resize((384, 384), Image.Resampling.BICUBIC, reducing_gap=2.0)
        tokens, classes = encoder.run(["tokens", "classes"], {"images": np.asarray(image)[None]})
        states, projected = queries.run(None, {"queries": labels.queries})
        feeds = {"tokens": tokens, "states": states, "projected": projected}
        logits = decoder.run(["logits"], feeds)[0]
        for tagger in (as_shipped, as_rewritten):
            assert (tagger.logits(tagger.encode(photo), labels) == logits).all()
            assert labels.evidence is not None
            objects = detector.run(["objects"], {"images": np.asarray(image)[None]})[0]
            probabilities = np.concatenate([classes, objects], axis=1)
            probed = labels.probed(Encoded(tokens, probabilities))
            expected = labels.evidence.join(logits + probed, probabilities)
            assert (tagger.log_odds(tagger.encode(photo), labels) == expected).all()


def test_packaged_names_the_packaged_model_unless_there_is_such_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ModelFolder("packaged").path == PACKAGED
    (tmp_path / "packaged").mkdir()
    with pytest.raises(ModelFolderError, match="packaged is incomplete"):
        ModelFolder("packaged")
