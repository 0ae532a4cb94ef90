"""A model folder with a detector: its objects are heard in tags and searches, and it works without."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from evidence_folder import CLASSES, SCORING, SIZE
from made_data import write_photos
from onnx import TensorProto, helper

from zsl_tagger import Library, Tagger
from zsl_tagger.export.run import ExportRun, export
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelFolder, ModelFolderError, read_config, write_config
from zsl_tagger.tagging.onnx_model import OnnxModel

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]

#: Three objects: how red, green and blue a photo is.
WORDS = {"objects": ["red", "green", "blue"], "names": {"cat": [2], "dog": [0]}, "above": {"animal": [0, 2]}}
NAMES, ABOVE = (0.7, 0.9, -1.1), (0.8, 0.5, 0.2)


def write_detector(path: Path, count: int = 3) -> None:
    """Write a network that returns the mean of each colour, 0..1."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),  # (B, 3)
        helper.make_node("Mul", ["means", "share"], ["colours"]),
        helper.make_node("Concat", ["colours"] * (count // 3), ["objects"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("objects", TensorProto.FLOAT, ["batch", count])],
        [helper.make_tensor("share", TensorProto.FLOAT, [], [1 / 255])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def own(evidence_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(evidence_folder, tmp_path / "own"))
    write_detector(folder / "objects.onnx")
    (folder / "object_words.json").write_text(json.dumps(WORDS))
    scoring = replace(SCORING, object_names=NAMES, object_above=ABOVE)
    write_config(folder, replace(read_config(folder), scoring=scoring))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.getbasetemp(), "objects", 5)


def evidence(p: float) -> float:
    p = min(max(p, 1e-6), 0.99)
    return max(0.0, float(np.log(p / (1 - p))) + 4)


def test_words_hear_their_objects(own: Path, evidence_folder: Path, photos: list[Path]) -> None:
    """The scores without the detector, and the formula."""
    tagger, plain = Tagger(own), Tagger(evidence_folder)
    asked = ["cat", "Dogs", "animal", "theorem", "boat"]
    for path in photos:
        encoded, without = tagger.encode(path), plain.encode(path)
        red, green, blue = load_array(path, tagger.preprocessing).mean(axis=(0, 1)) / 255
        assert encoded.classes is not None
        assert without.classes is not None
        np.testing.assert_allclose(encoded.classes[0], [*without.classes[0], red, green, blue], atol=1e-6)
        before = plain.log_odds(without, plain.label_set(asked))[0]
        expected = [
            NAMES[0] * before[0] + NAMES[1] * evidence(blue) + NAMES[2],
            NAMES[0] * before[1] + NAMES[1] * evidence(red) + NAMES[2],
            ABOVE[0] * before[2] + ABOVE[1] * evidence(max(red, blue)) + ABOVE[2],
            *before[3:],
        ]
        np.testing.assert_allclose(tagger.log_odds(encoded, tagger.label_set(asked))[0], expected, atol=1e-4)


def test_searches_hear_the_objects(own: Path, photos: list[Path], tmp_path: Path) -> None:
    tagger = Tagger(own)
    with Library.open(tmp_path / "index", own) as library:
        library.add(photos)
        for label in ("cat", "animal", "red"):
            labels = tagger.label_set([label])
            expected = {str(path): tagger.scores(tagger.encode(path), labels)[0, 0] for path in photos}
            found = {one.path: one.score for one in library.search(label, top=99)}
            assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("missing", ["objects.onnx", "object_words.json"])
def test_one_file_without_the_other_is_not_used(
    own: Path, evidence_folder: Path, photos: list[Path], missing: str
) -> None:
    (own / missing).unlink()
    for name in ("objects.onnx", "object_words.json"):
        if name != missing:
            (own / name).write_text("broken, but not read")
    tagger, plain = Tagger(own), Tagger(evidence_folder)
    asked = ["cat", "animal", "theorem"]
    found, expected = (one.scores(one.encode(photos[0]), one.label_set(asked)) for one in (tagger, plain))
    assert (found == expected).all()


def test_an_encoder_without_classes_needs_no_detector(own: Path, photos: list[Path]) -> None:
    network = onnx.load(own / "encoder.onnx")
    network.graph.output.pop()
    onnx.save(network, own / "encoder.onnx")
    (own / "objects.onnx").write_text("broken, but not read")
    assert Tagger(own).encode(photos[0]).classes is None


def test_another_detector_is_another_model(own: Path) -> None:
    before = ModelFolder(own).networks_sha256()
    (own / "object_words.json").write_text(json.dumps({**WORDS, "above": {}}))
    words_changed = ModelFolder(own).networks_sha256()
    write_detector(own / "objects.onnx", 6)
    assert len({before, words_changed, ModelFolder(own).networks_sha256()}) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("objects.onnx", b"broken", r"objects\.onnx"),
        ("object_words.json", b"{", r"object_words\.json: expected \{"),
        ("object_words.json", json.dumps({**WORDS, "objects": ["red"]}).encode(), r'expected "objects" to be a list'),
        ("object_words.json", json.dumps({**WORDS, "objects": list("abcd")}).encode(),
         r"objects\.onnx: expected 'objects' of shape \(any, 4\), got \(batch, 3\)"),
    ],
)  # fmt: skip
def test_broken_files_are_one_message(own: Path, name: str, content: bytes, message: str) -> None:
    (own / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=message):
        Tagger(own).label_set(["cat"])


def test_a_background_without_objects_belongs_to_another_model(
    own: Path, evidence_folder: Path, photos: list[Path]
) -> None:
    from zsl_tagger.tagging.background import Background

    plain = Tagger(evidence_folder).encode(photos[0])
    Background(Encoded(plain.tokens, plain.classes)).save(own / "background.npz")
    with pytest.raises(ModelFolderError, match=rf"expected tokens of 21 dimensions, {CLASSES + 3} classes, got 21 and"):
        Tagger(own).label_set(["theorem"])


def test_an_export_keeps_the_detector(own: Path, photos: list[Path], tmp_path: Path) -> None:
    export(ExportRun(model=own, output=tmp_path / "out", precision="int8"))
    before, after = Tagger(own), Tagger(tmp_path / "out")
    found, expected = after.encode(photos[0]).classes, before.encode(photos[0]).classes
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = after.label_set(["cat", "animal"])
    assert labels.evidence is not None
    assert labels.evidence.object_weights.tolist() == pytest.approx([NAMES[1], ABOVE[1]])


def test_batches_are_encoded_like_single_photos(own: Path, photos: list[Path]) -> None:
    config = read_config(own)
    model = OnnxModel(own, config, threads=1)
    images = np.stack([load_array(path, config.preprocessing) for path in photos])
    together = model.encode(images)
    assert model.classes == CLASSES + 3
    assert model.objects == 3
    for row, image in enumerate(images):
        alone = model.encode(image[None])
        assert together.classes is not None
        assert alone.classes is not None
        np.testing.assert_allclose(together.classes[row], alone.classes[0], atol=1e-5)
