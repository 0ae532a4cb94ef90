"""A small model in torch -> ONNX -> tagger: the same scores all along; and ``zsl-tagger export``."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from forked import run_forked
from made_data import run_command, write_photo
from paths import ROOT

from zsl_tagger.assets import PACKAGED
from zsl_tagger.export import networks, proof, proven, run, torch_programs
from zsl_tagger.export import precision as conversions
from zsl_tagger.export.networks import ExportError, write_networks
from zsl_tagger.export.precision import halve
from zsl_tagger.export.proof import Case, Proof
from zsl_tagger.export.torch_programs import Programs
from zsl_tagger.export.words import baked_table
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.pretrained import build_model, load_model, save_weights
from zsl_tagger.model.tagger_model import DecoderForExport, TaggerModel, softmax_log_odds
from zsl_tagger.packaged import build
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import (
    NETWORK_FILES,
    ModelConfig,
    ModelFolder,
    ModelFolderError,
    VocabularyLabel,
    read_config,
    write_config,
    write_labels,
)
from zsl_tagger.tagging.onnx_model import LABELS_PER_CALL, OnnxModel
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.words.baking import bake_words, joined
from zsl_tagger.words.table import WordTable

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]

SIZE, WORD_DIM = 96, 6


@pytest.fixture(scope="module")
def model() -> TaggerModel:
    torch.manual_seed(0)
    backbone = Backbone("test_efficientnet", num_classes=11)
    reading = ClassReading(backbone.network.classifier, torch.randn(11, WORD_DIM))
    head = MLDecoder(backbone.channels + WORD_DIM, word_dim=WORD_DIM, dim=24, ffn_dim=29, heads=3)
    return TaggerModel(backbone, head, reading).eval()


@pytest.fixture
def folder(model: TaggerModel, tmp_path: Path) -> Path:
    write_networks(model, tmp_path, SIZE)
    rng = np.random.default_rng(0)
    WordTable(["dog", "cat", "beach"], rng.normal(size=(3, WORD_DIM)).astype(np.float32)).save(tmp_path)
    write_labels(tmp_path, [VocabularyLabel("dog", 0.0), VocabularyLabel("cat", 0.0)])
    write_config(tmp_path, ModelConfig(Preprocessing(SIZE), word_dim=WORD_DIM, default_threshold=0.0))
    return tmp_path


def test_tagger_and_torch_give_the_same_scores(model: TaggerModel, folder: Path) -> None:
    tagger = Tagger(folder)
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    with torch.inference_mode():
        logits = model(torch.from_numpy(image[None]), torch.from_numpy(tagger.words.vectors(["beach", "dog"])))
    scores = tagger.scores(tagger.encode(image), ["beach", "dog"])
    np.testing.assert_allclose(scores, logits.sigmoid().numpy(), atol=1e-5)


def test_any_batch_and_label_count(folder: Path) -> None:
    tagger = Tagger(folder)
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    encoded = tagger._model.encode(images)
    assert tagger.scores(encoded, ["cat"]).shape == (3, 1)
    assert tagger.scores(encoded, tagger.vocabulary).shape == (3, 2)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_closed_set_is_asked_by_class_number(tmp_path: Path, softmax: bool) -> None:
    torch.manual_seed(3)
    backbone = Backbone("test_efficientnet")
    closed = TaggerModel(backbone, MLDecoder(backbone.channels, num_classes=7, groups=3, dim=24, heads=3)).eval()
    write_networks(closed, tmp_path, SIZE, softmax)
    pixels = np.random.default_rng(5).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    encoder, decoder = (onnxruntime.InferenceSession(tmp_path / name) for name in ("encoder.onnx", "decoder.onnx"))
    tokens = encoder.run(["tokens"], {"images": pixels})[0]
    asked = np.array([6, 0, 4], np.int64)
    logits = decoder.run(["logits"], {"tokens": tokens, "queries": asked})[0]
    with torch.inference_mode():
        expected = closed(torch.from_numpy(pixels))
    expected = expected.softmax(-1) if softmax else expected.sigmoid()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected[:, asked].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        {"head": "linear"},
        {"head": "csra", "csra_lambda": 0.3, "csra_heads": 4, "csra_temperature": 1.0},
        {"head": "query2label", "dim": 24, "ffn_dim": 29, "heads": 3},
    ],
    ids=lambda head: str(head["head"]),
)
def test_a_baseline_head_is_exported_as_a_closed_set(head: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    closed = build_model(Backbone("test_efficientnet"), {**head, "classes": 7}, None).eval()
    write_networks(closed, tmp_path, SIZE)
    networks = OnnxModel(tmp_path, ModelConfig(Preprocessing(SIZE), 0, 0.5, closed_set=True), threads=1)
    pixels = np.random.default_rng(5).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    encoded, asked = networks.encode(pixels), networks.prepare(np.array([6, 0, 4], np.int64))
    with torch.inference_mode():
        logits, attention = closed.head.score_with_attention(closed.encode(torch.from_numpy(pixels)))
    assert logits.std() > 1e-3
    np.testing.assert_allclose(networks.logits(encoded, asked), logits[:, [6, 0, 4]].numpy(), atol=1e-5)
    np.testing.assert_allclose(networks.attention(encoded, asked), attention[:, [6, 0, 4]].numpy(), atol=1e-5)


def test_groups_of_words_are_exported_with_the_shares_of_each_label(tmp_path: Path) -> None:
    torch.manual_seed(3)
    sizes = {"dim": 24, "ffn_dim": 29, "heads": 3, "groups": 4}
    grouped = build_model(Backbone("test_efficientnet"), sizes, WORD_DIM).eval()
    write_networks(grouped, tmp_path, SIZE)
    config = ModelConfig(Preprocessing(SIZE), WORD_DIM, 0.0, sizes)
    networks = OnnxModel(tmp_path, config, threads=1)
    random = np.random.default_rng(5)
    pixels, words = random.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8), random.normal(size=(9, WORD_DIM))
    queries = (words / np.linalg.norm(words, axis=1, keepdims=True)).astype(np.float32)
    encoded, asked = networks.encode(pixels), networks.prepare(queries)
    assert {name: rows.shape for name, rows in asked.items()} == {"states": (9, 24), "groups": (9, 4)}
    with torch.inference_mode():
        logits, attention = grouped.head.score_with_attention(
            grouped.encode(torch.from_numpy(pixels)), torch.from_numpy(queries)
        )
    np.testing.assert_allclose(networks.logits(encoded, asked), logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(networks.attention(encoded, asked), attention.numpy(), atol=1e-5)
    labels = LabelSet([*"abcdefghi"], [*"abcdefghi"], queries, np.zeros(9, np.float32), np.zeros(9, np.float32))
    assert labels.shortlist(networks) is None  # every label is asked, however many


def test_log_odds_are_exact_where_the_softmax_is_sure() -> None:
    """float32 against float64: a logit of 20 has 1 - p = 1e-9, which float32 cannot subtract."""
    random = np.random.default_rng(4)
    logits = random.normal(size=(11, 7))
    logits[np.arange(11), np.arange(11) % 7] += np.linspace(0, 40, 11)
    logits[0, :2] = 3.0  # two best ones
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rest = np.stack([np.delete(p, k, axis=1).sum(axis=1) for k in range(7)], axis=1)
    found = softmax_log_odds(torch.from_numpy(logits.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, np.log(p) - np.log(rest), atol=1e-5)
    assert softmax_log_odds(torch.zeros(2, 1)).tolist() == [[80], [80]]  # one class: certain


def test_networks_that_do_not_fit_the_config_are_named(folder: Path) -> None:
    write_config(folder, ModelConfig(Preprocessing(64), word_dim=WORD_DIM, default_threshold=0.0))
    with pytest.raises(ModelFolderError, match=r"encoder.onnx: expected 'images' of shape \(any, 64, 64, 3\), got"):
        Tagger(folder)


def test_swapped_and_broken_networks_are_named(folder: Path) -> None:
    decoder = (folder / "decoder.onnx").read_bytes()
    (folder / "decoder.onnx").write_bytes((folder / "encoder.onnx").read_bytes())
    with pytest.raises(ModelFolderError, match=r"decoder.onnx: expected a tensor 'tokens', found only images"):
        Tagger(folder)
    (folder / "decoder.onnx").write_bytes(decoder[: len(decoder) // 2])
    with pytest.raises(ModelFolderError, match=r"decoder.onnx cannot be loaded"):
        Tagger(folder)


# --- the command: folders of weights ------------------------------------------------------------------------

LABELS = ("dog", "cat", "beach", "red car", "sky", "tree", "boat")
SOURCE_WORDS = (*LABELS[:3], "red", "car", *LABELS[4:], "zebra", "New_York", "hat")
WIDTH = 10


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proof, "SECONDS", 0.0)  # speed is not what is tested
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        write_photo(folder / f"{seed}.jpg", seed)
    return folder


def write_source(path: Path, seed: int = 2) -> WordTable:
    """A file of word vectors for gensim, and the same as a table."""
    vectors = np.random.default_rng(seed).normal(size=(len(SOURCE_WORDS), WIDTH)).astype(np.float32)
    rows = [
        " ".join([word, *(f"{value:.6f}" for value in row)]) for word, row in zip(SOURCE_WORDS, vectors, strict=True)
    ]
    path.write_text("\n".join([f"{len(rows)} {WIDTH}", *rows]) + "\n")
    return WordTable(SOURCE_WORDS, vectors)


def write_folder(folder: Path, source: Path, closed: bool = False) -> Path:
    """What ``train`` leaves, less the networks: a model of random weights whose thresholds part its scores."""
    folder.mkdir()
    table = write_source(source)
    architecture: dict[str, Any] = {"backbone": "test_efficientnet", "dim": 24, "ffn_dim": 31, "heads": 3}
    architecture |= {"classes": len(LABELS), "groups": 3, "softmax": True} if closed else {"class_reading": True}
    torch.manual_seed(5)
    model = build_model(Backbone("test_efficientnet"), architecture, None if closed else WIDTH).eval()
    if model.reading is not None:
        model.reading.class_vectors.copy_(torch.nn.functional.normalize(torch.randn(1000, WIDTH)) * 4)
    with torch.no_grad():
        model.head.group_weight.mul_(4)  # logits of some units, as of a trained one
    save_weights(model, folder)
    if not closed:
        WordTable(LABELS, table.vectors(LABELS), normalized=True).save(folder)
    queries = np.arange(len(LABELS)) if closed else table.vectors(LABELS)
    config = ModelConfig(
        Preprocessing(SIZE), 0 if closed else WIDTH, 0.4, architecture, {}, closed_set=closed, unseen_bias=0.25
    )
    logits = np.median(proof.torch_logits(model, config, proof.synthetic_images(SIZE)[1:], queries), axis=0)  # (K,)
    thresholds = 1 / (1 + np.exp(-logits - 0.25 * (np.arange(len(LABELS)) == 2)))
    labels = [VocabularyLabel(name, float(thresholds[i]), seen=i != 2) for i, name in enumerate(LABELS)]
    write_labels(folder, labels)
    (folder / "README.md").write_text("the card")
    source_of_words = None if closed else f"gensim:{source}"
    write_config(folder, replace(config, provenance={"seed": 7}, word_source=source_of_words))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, Path]:
    """Of one model: its folder, where ``fp32`` was exported in place, and one for each other precision."""
    base = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proof, "SECONDS", 0.0)
        own = write_folder(base / "own", base / "source.txt")
        for precision in ("fp16", "int8"):
            status, _, err = run_command(
                "export", "--model", own, "-o", base / precision, "--precision", precision, "--photos", photos
            )
            assert status == 0, err
        status, out, err = run_command("export", "--model", own, "--photos", photos / "0.jpg", "--photos", photos)
        assert status == 0, err
    (base / "out.txt").write_text(out)
    return {"fp32": own, "fp16": base / "fp16", "int8": base / "int8", "source": base / "source.txt"}


@pytest.fixture
def own(exported: dict[str, Path], tmp_path: Path) -> Path:
    """A copy with both networks in place."""
    return Path(shutil.copytree(exported["fp32"], tmp_path / "own"))


def state(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def arrays(photos: Path) -> np.ndarray:
    return np.stack([load_array(path, Preprocessing(SIZE)) for path in sorted(photos.iterdir())])


def expected_logits(folder: Path, images: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """By torch, each image alone."""
    with torch.inference_mode():
        rows = [load_model(folder)(torch.from_numpy(image[None]), torch.from_numpy(queries))[0] for image in images]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("count", [1, 7, LABELS_PER_CALL + 3])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_export_computes_what_torch_does(exported: dict[str, Path], photos: Path, batch: int, count: int) -> None:
    networks = OnnxModel(exported["fp32"], read_config(exported["fp32"]), threads=1)
    queries = np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32)
    images = arrays(photos)[:batch]
    expected = expected_logits(exported["fp32"], images, queries)
    assert count == 1 or expected.std() > 0.1
    np.testing.assert_allclose(networks.logits(networks.encode(images), queries), expected, atol=2e-5)


def test_attention_is_that_of_torch(exported: dict[str, Path], photos: Path) -> None:
    model, images = load_model(exported["fp32"]), arrays(photos)
    queries = torch.randn(5, WIDTH)
    with torch.inference_mode():
        tokens = model.encode(torch.from_numpy(images))
        expected = model.head.score_with_attention(tokens, queries)[1].numpy()
    session = onnxruntime.InferenceSession(exported["fp32"] / "decoder.onnx")
    own = exported["fp32"]
    asked = OnnxModel(own, read_config(own), threads=1).prepare(queries.numpy())
    found = session.run(["attention"], {"tokens": tokens.numpy(), **asked})[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_batch_and_label_count_have_no_fixed_size(exported: dict[str, Path], precision: str) -> None:
    def sides(name: str) -> dict[str, list[Any]]:
        graph = onnx.load(exported[precision] / name).graph
        return {
            end.name: [side.dim_param or side.dim_value for side in end.type.tensor_type.shape.dim]
            for end in (*graph.input, *graph.output)
        }

    encoder, decoder, queries = sides("encoder.onnx"), sides("decoder.onnx"), sides("queries.onnx")
    assert encoder["images"] == ["batch", SIZE, SIZE, 3]
    assert encoder["tokens"][0] == "batch"
    assert queries["queries"] == ["labels", WIDTH]
    for name in ("states", "projected"):
        assert queries[name][0] == decoder[name][0] == "labels"
    assert decoder["logits"] == ["batch", "labels"]
    assert decoder["attention"] == ["batch", "labels", "places"]


def test_the_folder_is_otherwise_as_it_was(exported: dict[str, Path], tmp_path: Path) -> None:
    before, after = state(write_folder(tmp_path / "new", tmp_path / "source.txt")), state(exported["fp32"])
    assert after.keys() - before.keys() == set(NETWORK_FILES)  # and no scratch
    assert {name for name in before if before[name] != after[name]} == {"config.json"}
    config = read_config(exported["fp32"])
    record = config.provenance.pop("export")
    other = read_config(tmp_path / "new")
    assert config == replace(other, word_source=config.word_source)  # where the file lies
    assert record["precision"] == "fp32"
    assert (record["against_torch"]["photos"], record["against_torch"]["labels"]) == (4, 7)
    assert 0 < record["against_torch"]["difference"] < 1e-4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_another_folder_is_whole_and_tags(exported: dict[str, Path], photos: Path, precision: str) -> None:
    out, own = exported[precision], exported["fp32"]
    same = {"labels.json", "words.txt", "word_vectors.npy", "README.md"}
    assert state(out).keys() == {*same, "config.json", *NETWORK_FILES}  # no weights for torch
    assert all((out / name).read_bytes() == (own / name).read_bytes() for name in same)
    status, text, err = run_command("tag", photos, "--model", out, "--threshold", 0, "--format", "jsonl")
    assert status == 0, err
    found = [{tag["label"]: tag["score"] for tag in json.loads(line)["tags"]} for line in text.splitlines()]
    logits = expected_logits(own, arrays(photos), ModelFolder(own).words().vectors(LABELS))
    logits[:, 2] += 0.25  # the bias of the label that was not trained
    scores = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose([[row[name] for name in LABELS] for row in found], scores, atol=0.01)


def test_half_precision_is_stored_not_computed(exported: dict[str, Path]) -> None:
    for name in NETWORK_FILES:
        full, half = (onnx.load(exported[precision] / name) for precision in ("fp32", "fp16"))
        stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in half.graph.initializer}
        large = [weight for weight in full.graph.initializer if len(weight.dims) > 1 and weight.data_type == 1]
        assert large
        for weight in large:
            values = onnx.numpy_helper.to_array(weight)
            np.testing.assert_array_equal(stored[f"{weight.name}.float16"], values.astype(np.float16))
        assert all(end.type.tensor_type.elem_type != 10 for end in (*half.graph.input, *half.graph.output))
    size = {precision: (exported[precision] / "encoder.onnx").stat().st_size for precision in ("fp32", "fp16")}
    assert size["fp16"] < 0.6 * size["fp32"]


def test_what_float16_cannot_hold_stays(tmp_path: Path) -> None:
    weights = {"large": np.full((2, 2), 7e4, np.float32), "small": np.full((2, 2), 1 / 3, np.float32)}
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["y"]), helper.make_node("MatMul", ["y", "small"], ["z"])],
        "two",
        [helper.make_tensor_value_info("x", 1, [1, 2])],
        [helper.make_tensor_value_info("z", 1, [1, 2])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "full.onnx")
    halve(tmp_path / "full.onnx", tmp_path / "half.onnx")
    stored = {weight.name: weight.data_type for weight in onnx.load(tmp_path / "half.onnx").graph.initializer}
    assert stored == {"large": 1, "small.float16": 10}
    found = onnxruntime.InferenceSession(tmp_path / "half.onnx").run(None, {"x": np.array([[1, 2]], np.float32)})[0]
    np.testing.assert_allclose(found, np.full((1, 2), 3 * 7e4 * 2 * np.float32(np.float16(1 / 3))), rtol=1e-6)


def test_int8_leaves_convolutions_and_the_reading_alone(exported: dict[str, Path]) -> None:
    encoder, decoder = (onnx.load(exported["int8"] / name).graph for name in ("encoder.onnx", "decoder.onnx"))
    kinds = {node.op_type for node in encoder.node}
    assert "Conv" in kinds
    assert not kinds & {"ConvInteger", "QLinearConv"}
    reading = {node.op_type for node in encoder.node if "/reading/" in node.name}
    assert {"MatMul", "Softmax"} <= reading
    assert "MatMulInteger" not in reading
    queries = onnx.load(exported["int8"] / "queries.onnx").graph
    integer = [node.name for node in (*decoder.node, *queries.node) if node.op_type == "MatMulInteger"]
    for layer in ("linear1", "linear2", "/q/", "/k/", "/v/", "/out/", "word_embed"):
        assert any(layer in name for name in integer), layer
    assert "MatMulInteger" in {node.op_type for node in encoder.node}  # the head's embedding
    sizes = [(exported[precision] / "decoder.onnx").stat().st_size for precision in ("fp32", "int8")]
    assert sizes[1] != sizes[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_agreement_is_what_a_slow_loop_counts(exported: dict[str, Path], photos: Path, precision: str) -> None:
    own, tagger = exported["fp32"], Tagger(exported[precision])
    given = [arrays(photos)[0], *arrays(photos)] if precision == "fp32" else [*arrays(photos)]
    images = [*proof.synthetic_images(SIZE), *given]
    thresholds = [np.float32(label.threshold) for label in ModelFolder(own).labels()]
    expected = expected_logits(own, np.stack(images), tagger.vocabulary.queries)
    same_side, tags, both = [], 0, 0
    for image, row in zip(images, expected, strict=True):
        scores = tagger.scores(tagger.encode(image), list(LABELS))[0]
        for i, score in enumerate(scores):
            is_tag = np.float32(1 / (1 + np.exp(-row[i] - (0.25 if i == 2 else 0)))) >= thresholds[i]
            same_side.append((score >= thresholds[i]) == is_tag)
            tags += bool(is_tag or score >= thresholds[i])
            both += bool(is_tag and score >= thresholds[i])
    record = read_config(exported[precision]).provenance["export"]["against_torch"]
    assert 0 < both < len(same_side)
    assert record["same_side"] == pytest.approx(np.mean(same_side), abs=1e-5)
    assert record["same_tags"] == pytest.approx(both / tags, abs=1e-5)
    assert record["difference"] < {"fp32": 1e-4, "fp16": 0.02, "int8": 1.0}[precision]
    assert precision == "fp32" or record["difference"] > 1e-4
    assert precision == "int8" or record["moved"] < 1e-5


class Shifted:
    """Networks that say what torch does, plus something."""

    def __init__(self, cases: list[Case], shift: Callable[[np.ndarray], np.ndarray]):
        self.shift = shift
        self.answers = {
            (image.tobytes(), case.queries.tobytes()): row
            for case in cases
            for image, row in zip(case.images, case.logits, strict=True)
        }

    def encode(self, images: np.ndarray) -> Encoded:
        return Encoded(images)

    def logits(self, encoded: Encoded, queries: np.ndarray) -> np.ndarray:
        nothing = np.zeros(len(queries), np.float32)
        rows = [self.answers.get((image.tobytes(), queries.tobytes()), nothing) for image in encoded.tokens]
        return self.shift(np.stack(rows))


def test_figures_of_agreement_by_hand(exported: dict[str, Path]) -> None:
    """All labels one logit up: who crosses a threshold is counted, the order stays."""
    folder = ModelFolder(exported["fp32"])
    logits = np.array([-3.0, -0.5, -0.2, 0.0, 0.5, 2, -1], np.float32)
    labels = LabelSet(LABELS, LABELS, folder.words().vectors(LABELS), np.full(7, 0.5), np.zeros(7, np.float32))
    held = Proof(load_model(folder.path), folder.config, labels)
    held.on_vocabulary = [replace(case, logits=np.tile(logits, (len(case.images), 1))) for case in held.on_vocabulary]
    networks = Shifted([*held.on_vocabulary, *held.on_counts], lambda values: values + np.float32(0.4))
    found = held.compare(networks)
    assert found.difference == pytest.approx(0.4, abs=1e-6)
    assert found.same_side == pytest.approx(6 / 7)  # -0.2 became a tag
    assert found.same_tags == pytest.approx(3 / 4)
    assert found.same_top == 1
    with pytest.raises(ExportError, match=r"it and torch differ by 4.0e-01 in a logit, more than 1e-04, on 1 images"):
        held.check(networks, "it")
    held.check(Shifted([*held.on_vocabulary, *held.on_counts], lambda values: values + np.float32(5e-5)), "it")
    with pytest.raises(ExportError, match="differ by nan"):
        held.check(Shifted([*held.on_vocabulary, *held.on_counts], lambda values: values * np.nan), "it")
    with pytest.raises(ExportError, match=r"^it gives logits \(1, 7\) where torch gives \(2, 7\)$"):
        held.check(Shifted([*held.on_vocabulary, *held.on_counts], lambda values: values[:1]), "it")


def test_images_come_alone_in_a_pair_and_in_fives() -> None:
    assert [list(batch) for batch in proof._batches(np.arange(14))] == [
        [0],
        [1, 2],
        [*range(3, 8)],
        [*range(8, 13)],
        [13],
    ]
    assert [list(batch) for batch in proof._batches(np.arange(3))] == [[0], [1, 2]]


def test_what_is_printed(exported: dict[str, Path]) -> None:
    lines = (exported["fp32"].parent / "out.txt").read_text().splitlines()
    assert lines[0] == (
        f"{exported['fp32']}: encoder.onnx, decoder.onnx (fp32), compared with torch on 4 photos and 3 synthetic images"
    )
    assert lines[1].split() == (
        [
            "encoder.onnx",
            "decoder.onnx",
            "logit",
            "off",
            "by",
            "same",
            "side",
            "of",
            "threshold",
            "same",
            "tags",
            "same",
            "top",
            "10",
            "moved",
        ]
    )
    assert "100.000 %" in lines[2]
    assert "its 7 labels" in lines[3]


# --- closed sets, torch.export, words -----------------------------------------------------------------------


def test_a_closed_set_with_softmax(tmp_path: Path, photos: Path) -> None:
    folder = write_folder(tmp_path / "closed", tmp_path / "source.txt", closed=True)
    status, out, err = run_command("export", "--model", folder, "--precision", "int8")
    assert status == 0, err
    assert "3 synthetic images (--photos adds photos)" in out
    with torch.inference_mode():
        expected = load_model(folder)(torch.from_numpy(arrays(photos))).softmax(-1).numpy()
    tagger = Tagger(folder)
    found = np.concatenate([tagger.scores(tagger.encode(image), ["boat", "dog"]) for image in arrays(photos)])
    np.testing.assert_allclose(found, expected[:, [6, 0]], atol=0.05)
    status, _, err = run_command("export", "--model", folder, "--bake-words", "packaged")
    assert (status, err) == (
        2,
        f"error: --bake-words: {folder} has a closed set of classes, so no words can be added\n",
    )


def test_programs_of_torch_export(own: Path, photos: Path) -> None:
    status, out, err = run_command("export", "--model", own, "--torch-export")
    assert status == 0, err
    assert "encoder.pt2, decoder.pt2 (fp32)" in out
    programs, images = Programs(own), arrays(photos)
    for batch, count in ((1, 1), (3, 7), (2, 11)):
        queries = np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32)
        expected = expected_logits(own, images[:batch], queries)
        np.testing.assert_allclose(programs.logits(programs.encode(images[:batch]), queries), expected, atol=1e-5)


def test_baked_words_tag_without_their_source(own: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("zebra  # striped\nNew York\nZebra\nbeach\nqwertz\nred hats\n")
    out = tmp_path / "baked"
    status, text, err = run_command("export", "--model", own, "-o", out, "--bake-words", tmp_path / "words.txt")
    assert status == 0, err
    assert "note: 2 of the words are unknown to it or duplicates" in err
    assert "10 words are known without the source of their vectors" in text
    assert (out / "words.txt").read_text().split("\n") == [*LABELS, "zebra", "new york", "red hats", ""]
    code = f"""
import json, sys
from zsl_tagger import Tagger
tagger = Tagger({str(out)!r})
encoded = tagger.encode({str(photos / "1.jpg")!r})
print(json.dumps(tagger.scores(encoded, ["Zebra", "New York", "dog", "red hats"]).tolist()))
assert not {{"torch", "gensim", "sentence_transformers"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    table = write_source(tmp_path / "again.txt")
    queries = table.vectors(["zebra", "New_York", "dog", "red hats"])
    expected = expected_logits(own, arrays(photos)[1:2], queries)
    np.testing.assert_allclose(json.loads(result.stdout), 1 / (1 + np.exp(-expected)), atol=0.01)
    np.testing.assert_array_equal(np.load(out / "word_vectors.npy")[:7], np.load(own / "word_vectors.npy"))
    with pytest.raises(ValueError, match="unknown label 'zebra'"):
        Tagger(own).label_set(["zebra"])


def test_of_words_that_are_one_when_normalised_the_first_counts() -> None:
    source = WordTable(["Apple", "apple", "pear"], np.array([[3, 4], [0, 2], [-1, 0]], np.float32))
    baked = bake_words(source, ["Apple", "apple", "plum", " Pear "])
    assert baked.words == ["apple", "pear"]
    np.testing.assert_array_equal(baked.raw_vectors, [[95, 127], [-127, 0]])
    more = joined(WordTable(["pear"], np.array([[0.5, 0.5]], np.float32), normalized=True), baked)
    assert more.words == ["pear", "apple"]
    np.testing.assert_array_equal(more.raw_vectors, np.array([[0.5, 0.5], [95, 127]], np.float32))


def test_the_packaged_words_are_the_default_list(own: Path) -> None:
    status, _, err = run_command("export", "--model", own, "--bake-words", "packaged")
    assert status == 0, err
    assert "note: looking up 100,000 words in gensim:" in err
    words = (own / "words.txt").read_text().splitlines()
    assert words[:7] == list(LABELS)
    assert {"zebra", "hat", "red hat"} & set(words) >= {"zebra", "hat"}
    assert len(words) == len(set(words)) == len(np.load(own / "word_vectors.npy"))


# --- nothing is lost ----------------------------------------------------------------------------------------


def wrong_network(model: TaggerModel, *arguments: Any) -> None:
    with torch.no_grad():
        model.head.bias.add_(1e-3)
    write_networks(model, *arguments)
    with torch.no_grad():
        model.head.bias.sub_(1e-3)


def raising(error: BaseException) -> Callable[..., Any]:
    def fails(*_given: Any, **_options: Any) -> Any:
        raise error

    return fails


FULL = OSError(errno.ENOSPC, "No space left on device")
FAULTS = [
    (proven, "write_networks", wrong_network, 2, r"error: ONNX Runtime and torch differ by 1.0e-03 in a logit, more"),
    (networks.torch.onnx, "export", raising(RuntimeError("no such operator")), 2,
     "error: test_efficientnet cannot be exported to ONNX: no such operator"),
    (networks.torch.onnx, "export", raising(FULL), 2, "error: cannot write .*: No space left on device"),
    (run, "convert", raising(FULL), 2, "error: cannot write .*: No space left on device"),
    (os, "fsync", raising(FULL), 2, "error: cannot write .*: No space left on device"),
    (conversions, "quantize_dynamic", raising(TypeError("no shape")), 2,
     "error: encoder.onnx cannot be converted to int8: no shape"),
    (run, "convert", raising(KeyboardInterrupt()), 130, "interrupted: the model folder is unchanged"),
    (torch_programs.torch.export, "export", raising(ValueError("guard")), 2,
     "error: torch.export cannot write encoder.pt2: guard"),
    (torch_programs.Programs, "logits", raising(ExportError("torch.export differs")), 2, "error: torch.export differs"),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "fault", "expected", "message"), FAULTS)
def test_a_failure_leaves_everything_as_it_was(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    owner: Any, name: str, fault: Callable[..., Any], expected: int, message: str,
) -> None:  # fmt: skip
    before = state(own)
    arguments = ["export", "--model", own, "--precision", "int8", "--bake-words", own / "words.txt"]
    arguments += ["--torch-export"] if "torch.export" in message else []
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fault)
        for output in ([], ["-o", tmp_path / "new"]):
            status, out, err = run_command(*arguments, *output)
            assert (status, out) == (expected, ""), err
            assert re.search(message, err), err
    assert state(own) == before
    assert not (tmp_path / "new").exists()


def export_and_die(folder: Path) -> None:
    """Kill this process when all is written and nothing moved."""
    proof.SECONDS = 0.0
    run.Row = lambda **_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,misc]
    run.export(run.ExportRun(model=folder, precision="int8"))


def test_a_killed_export_leaves_the_folder_whole(own: Path) -> None:
    before = state(own)
    assert run_forked(export_and_die, own).returncode == -signal.SIGKILL
    left = state(own)
    assert {name: left[name] for name in before} == before
    assert all(name.startswith(".writing/") for name in left.keys() - before.keys())
    assert Tagger(own).vocabulary
    assert run_command("export", "--model", own)[0] == 0
    assert state(own).keys() == before.keys()


#: Move an export into place as the command does, and be killed after a number of moves; the first one moves the folder.
MOVE = """
import os, shutil, signal, sys
from pathlib import Path
from zsl_tagger.system.files import move_whole, scratch_inside
made, own, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
replace, moved = Path.replace, []
def killed(path, target):
    if len(moved) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    moved.append(path)
    return replace(path, target)
Path.replace = killed
with scratch_inside(own) as scratch:
    for file in made.iterdir():
        shutil.copy(file, scratch)
    move_whole(scratch, own)
"""


@pytest.mark.parametrize("count", [0, 4])  # files that are moved; 4: the vectors are, their words are not
def test_an_export_that_is_killed_among_its_moves_is_finished_by_the_next_one(
    exported: dict[str, Path], own: Path, tmp_path: Path, count: int
) -> None:
    """Until then the folder is refused: with words of one export and vectors of another it would tag nonsense."""
    made = tmp_path / "made"
    made.mkdir()
    for name in NETWORK_FILES:
        shutil.copy(exported["int8"] / name, made)
    table = WordTable.load(own)
    WordTable(table.words[::-1], table.vectors(table.words[::-1])).save(made)
    expected, before = state(made), state(own)
    result = subprocess.run([sys.executable, "-c", MOVE, str(made), str(own), str(1 + count)], cwd=ROOT, check=False)
    assert result.returncode == -signal.SIGKILL
    assert sum(before[name] != (own / name).read_bytes() for name in before) == count
    with pytest.raises(
        ModelFolderError, match=r"contains files of two models because an export was killed: run `zsl-tagger ex"
    ):
        Tagger(own)
    assert run_command("export", "--model", own)[0] == 0  # makes the networks again, and leaves the words
    after = state(own)
    assert after.keys() == before.keys()
    assert all(after[name] == expected[name] for name in ("words.txt", "word_vectors.npy"))


# --- what is refused ----------------------------------------------------------------------------------------


def refused(*arguments: object) -> str:
    status, out, err = run_command("export", *arguments)
    assert (status, out) == (2, ""), err
    return err.splitlines()[-1]


def test_folders_that_cannot_be_exported(own: Path, tmp_path: Path) -> None:
    assert "no model folder at" in refused("--model", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is incomplete; missing files: config.json" in refused("--model", tmp_path / "empty")
    (own / "labels.json").rename(tmp_path / "labels.json")
    assert "missing files: labels.json" in refused("--model", own)
    (own / "labels.json").write_text("[]")
    assert "labels.json has no label" in refused("--model", own)
    shutil.copy(tmp_path / "labels.json", own)
    config = read_config(own)
    write_config(own, replace(config, architecture={"backbone": "test_efficientnet"}))
    assert "the architecture in its config.json does not say dim, ffn_dim, heads" in refused("--model", own)
    (own / "model.safetensors").unlink()
    assert "has no model.safetensors, which the export needs: it was made for tagging only" in refused("--model", own)


def test_outputs_that_are_not_ours(own: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert f"{tmp_path / 'file'} is a file" in refused("--model", own, "-o", tmp_path / "file")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    for other in (tmp_path / "else", exported["fp32"]):  # the second has weights
        before = state(other)
        assert "contains something other than an earlier export" in refused("--model", own, "-o", other)
        assert state(other) == before
    assert "the packaged model is part of the installation" in refused("--model", "packaged")
    again = shutil.copytree(exported["fp16"], tmp_path / "again")
    assert run_command("export", "--model", own, "-o", again)[0] == 0
    assert read_config(Path(again)).provenance["export"]["precision"] == "fp32"


def test_images_that_cannot_be_read(own: Path, photos: Path, tmp_path: Path) -> None:
    assert f"--photos {tmp_path / 'no.jpg'}: no such file" in refused("--model", own, "--photos", tmp_path / "no.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    assert "text.jpg: not an image" in refused("--model", own, "--photos", photos, "--photos", tmp_path / "text.jpg")
    (tmp_path / "none").mkdir()
    assert "none: no images found" in refused("--model", own, "--photos", tmp_path / "none")


def test_words_that_cannot_be_baked(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words.txt"
    asked = ("--model", own, "--bake-words", words)
    assert f"cannot read the labels file {words}" in refused(*asked)
    words.write_text("# nothing\n")
    assert f"--bake-words {words}: no words found" in refused(*asked)
    words.write_text("qwertz\n")
    assert "knows none of the 1 words" in refused(*asked)
    words.write_text("zebra\n")
    with monkeypatch.context() as patched:
        patched.setattr("zsl_tagger.errors.find_spec", lambda _: None)
        assert 'gensim is not installed: in a clone of zsl-tagger, run pip install ".[train]"' in refused(*asked)
    config = read_config(own)
    for spec, message in (
        ("file:wordvec_array.pth", "from file:wordvec_array.pth: its word vectors came from a matrix of the data set"),
        (
            None,
            "from no source: the source of the word vectors is not recorded, so there are no vectors for other words",
        ),
        ("packaged", "expected vectors of width 10, got 256"),
        (f"gensim:{tmp_path / 'gone.txt'}", "no word-vector file at"),
    ):
        write_config(own, replace(config, word_source=spec))
        assert message in refused(*asked)
    write_source(tmp_path / "other.txt", seed=9)
    write_config(own, replace(config, word_source=f"gensim:{tmp_path / 'other.txt'}"))
    assert "differ from the ones the model was trained with: the source has changed" in refused(*asked)


def test_a_copy_of_the_packaged_model_knows_its_source(tmp_path: Path) -> None:
    for name in ("config.json", "labels.json", "words.txt", "word_vectors.npy"):
        shutil.copy(PACKAGED / name, tmp_path)
    (tmp_path / "words").write_text("red bicycle\nzebra\nqwertz\n")
    folder = ModelFolder(tmp_path, networks=False)
    table, own = baked_table(str(tmp_path / "words"), folder), folder.words()
    assert table.words == [*own.words, "red bicycle"]
    np.testing.assert_allclose(table.vectors(["red bicycle"]) @ own.vectors(["red bicycle"]).T, 1, atol=1e-3)


def test_the_packaged_recipe_exports_the_same_way() -> None:
    assert build.export is run.export


def test_labels_are_prepared_once_in_a_network_of_their_own(folder: Path) -> None:
    tagger = Tagger(folder)
    queries = tagger.words.vectors(["cat", "dog", "beach"])
    asked = tagger._model.prepare(queries)
    assert {name: rows.shape for name, rows in asked.items()} == {"states": (3, 24), "projected": (3, 24)}
    encoded = tagger._model.encode(np.zeros((2, SIZE, SIZE, 3), np.uint8))
    logits = tagger._model.logits(encoded, asked)
    np.testing.assert_array_equal(tagger._model.logits(encoded, queries), logits)
    some = {name: rows[[2, 0]] for name, rows in asked.items()}
    np.testing.assert_allclose(tagger._model.logits(encoded, some), logits[:, [2, 0]], atol=1e-6)


def test_a_decoder_of_before_takes_the_queries_themselves(model: TaggerModel, folder: Path) -> None:
    """Model folders without queries.onnx go on as they were."""
    before = Tagger(folder)
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    scores = before.scores(before.encode(image), ["beach", "dog"])
    tokens, queries = torch.from_numpy(before.encode(image).tokens), torch.from_numpy(before.words.vectors(["cat"]))
    networks._write(
        DecoderForExport(model),
        (tokens, queries),
        folder / "decoder.onnx",
        inputs={"tokens": networks.TOKEN_AXES, "queries": {0: "labels"}},
        outputs=networks.OUTPUT_AXES,
    )
    (folder / "queries.onnx").unlink()
    tagger = Tagger(folder)
    labels = tagger.label_set(["beach", "dog"])
    np.testing.assert_allclose(tagger.scores(tagger.encode(image), labels), scores, atol=1e-5)
    assert labels.shortlist(tagger._model) is None


def test_a_decoder_without_its_queries(folder: Path) -> None:
    (folder / "queries.onnx").unlink()
    with pytest.raises(ModelFolderError, match=r"queries\.onnx cannot be loaded"):
        Tagger(folder)
