"""``zsl-tagger import-checkpoint``: released names and shapes, made with :mod:`released_reference`, to a model folder.

Sizes are unequal, so that no swapped axis passes; the widths are multiples of 8, the number of attention heads.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from made_data import run_command, write_photo
from released_reference import State, filled, head_logits, head_shapes, tresnet_shapes, tresnet_tokens
from safetensors.torch import save_file
from small_runs import weights_of
from torch import Tensor
from torch.testing import assert_close

from zsl_tagger.errors import UserError
from zsl_tagger.export.networks import ExportError
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.pretrained import load_model, read_checkpoint
from zsl_tagger.released.names import compare, guess_backbone, read_released
from zsl_tagger.system.pickles import kind_of
from zsl_tagger.tagging.model_folder import read_config
from zsl_tagger.tagging.tagger import Tagger

DIM, FFN, WORD_DIM, SIZE = 24, 17, 5, 64
BACKBONE, CHANNELS = "test_resnet", 96
NAMES = ["cat", "dog", "red car", "tree", "sky"]


pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


# --- the head: its names, sizes and values ----------------------------------------------------------------

HEADS: dict[str, dict[str, int]] = {
    "word queries": {"word_dim": WORD_DIM},
    "a group a class": {"classes": 7, "groups": 7},
    "groups that divide": {"classes": 12, "groups": 4},
    "groups that don't": {"classes": 11, "groups": 4},
}


def as_released(head: State) -> State:
    return head


def as_timm_names(head: State) -> State:
    """timm has the tensors that are none of ``layers`` beside its decoder, not in it."""
    return {name if ".layers." in name else name.removeprefix("decoder."): value for name, value in head.items()}


@pytest.mark.parametrize("rename", [as_released, as_timm_names], ids=["released", "timm"])
@pytest.mark.parametrize("prefix", ["head.", "fc.", "classifier."])
@pytest.mark.parametrize("sizes", HEADS.values(), ids=HEADS.keys())
def test_the_head_gives_the_released_logits(sizes: dict[str, int], prefix: str, rename: Callable[..., State]) -> None:
    channels = 13
    state = filled(head_shapes(channels, DIM, FFN, **sizes))
    released = read_released({f"{prefix}{name}": value for name, value in rename(state).items()})
    head = MLDecoder(channels, dim=DIM, ffn_dim=FFN, heads=8, word_dim=sizes.get("word_dim"),
                     num_classes=sizes.get("classes"), groups=sizes.get("groups")).eval()  # fmt: skip
    head.load_state_dict({one.target.removeprefix("head."): one.tensor for one in released.tensors})
    tokens = torch.randn(2, 6, channels, generator=torch.Generator().manual_seed(1))
    words = torch.randn(9, WORD_DIM, generator=torch.Generator().manual_seed(2)) if released.word_dim else None
    with torch.no_grad():
        expected = head_logits(state, tokens, words)
        assert expected.std() > 0.1
        assert_close(head(tokens, words).double(), expected, atol=1e-5, rtol=0)
    assert released.word_dim == sizes.get("word_dim")
    stated: dict[str, int] = {name: sizes[name] for name in ("classes", "groups") if name in sizes}
    assert released.architecture == {"dim": DIM, "ffn_dim": FFN, "heads": 8} | stated


# --- which backbone ---------------------------------------------------------------------------------------

TRESNETS = {
    "tresnet_m": ((3, 4, 11, 3), 64, False),
    "tresnet_v2_l": ((3, 4, 23, 3), 64, True),
    "tresnet_l": ((4, 5, 18, 3), 76, False),
    None: ((3, 4, 11, 3), 48, False),
}


def without_values(shapes: dict[str, tuple[int, ...]]) -> State:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def with_head(backbone: State, prefix: str, channels: int = 8) -> State:
    return {
        **backbone,
        **{prefix + name: value for name, value in filled(head_shapes(channels, 8, 3, word_dim=5)).items()},
    }


@pytest.mark.parametrize("name", TRESNETS)
def test_a_tresnet_is_told_by_its_blocks_and_width(name: str | None) -> None:
    state = without_values(tresnet_shapes(*TRESNETS[name]))
    released = read_released(with_head(state, "head."))
    assert guess_backbone(released) == name
    if name:  # every tensor has the place and shape that timm has
        with torch.device("meta"):
            places = timm.create_model(name).state_dict()
        mine = {one.target.removeprefix("backbone.network."): one.tensor.shape for one in released.tensors}
        needed = {place for place in places if not place.endswith("num_batches_tracked") and "head.fc" not in place}
        assert {place: mine[place] for place in needed} == {place: places[place].shape for place in needed}
        assert {place for place in mine if not place.startswith("head.")} == needed


def test_the_largest_tresnet_is_refused_with_the_reason() -> None:
    state = without_values(tresnet_shapes((3, 8, 34, 5), 64, True))
    with pytest.raises(UserError, match=r"TResNet-XL \(stages of 3, 8, 34, 5 blocks\), which timm does not have"):
        guess_backbone(read_released(with_head(state, "head.")))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_a_resnet_is_told_by_its_blocks(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    assert guess_backbone(read_released(with_head(state, "fc."))) == name


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnext50_32x4d", "resnet50d", BACKBONE, "test_vit"])
def test_others_are_not_guessed(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    assert guess_backbone(read_released(with_head(state, "fc."))) is None


# --- TResNet, value for value -----------------------------------------------------------------------------


#: timm's name -> fewer and narrower blocks than it has.
TINY = {"tresnet_m": ((1, 2, 1, 2), 8, False), "tresnet_v2_l": ((2, 1, 2, 1), 8, True)}


@pytest.mark.parametrize("name", TINY)
def test_a_tresnet_gives_the_released_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images in 0..1 without mean and deviation, through norms that are InplaceABN."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, layers=TINY[name][0], width_factor=0.125))
    body = filled(tresnet_shapes(*TINY[name]))
    head = filled(head_shapes(256, DIM, FFN, classes=11, groups=4), seed=1)
    save(tmp_path, {"model": {**body, **prefixed("head.", head)}, "idx_to_class": dict(enumerate("abcdefghijk"))})
    status, stdout, stderr = run_import(tmp_path, "--backbone", name)
    assert status == 0, stderr
    assert " 0 missing, 0 unexpected, 0 wrong shape, " in stdout
    assert "  pixels: RGB in 0..1\n" in stdout
    images = torch.randint(256, (2, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    expected = head_logits(head, tresnet_tokens(body, images.permute(0, 3, 1, 2) / 255))
    assert expected.std() > 0.1
    with torch.no_grad():
        assert_close(load_model(tmp_path / "out")(images).double(), expected, atol=1e-5, rtol=0)
    report = (tmp_path / "out" / "import_report.txt").read_text()
    assert "body.conv1.1.weight -> backbone.network.body.conv1.bn.weight (8,), |w| + 1e-05\n" in report


def test_norms_of_released_names_are_inplace_abn_also_where_they_count_batches() -> None:
    """inplace-abn 1.1.0 and later stores the counter in every InplaceABN."""
    body = filled(tresnet_shapes(*TINY["tresnet_m"]))
    names = [name.removesuffix("running_mean") for name in body if name.endswith("running_mean")]
    counters = {f"{name}num_batches_tracked": torch.tensor(7) for name in names}
    older, newer = (read_released(with_head(state, "head.")).tensors for state in (body, body | counters))
    weights = {one.target: one.tensor for one in older}
    assert (weights["backbone.network.body.conv1.bn.weight"] >= 1e-5).all()
    assert all(torch.equal(one.tensor, weights[one.target]) for one in newer if one.source not in counters)


# --- files and containers ---------------------------------------------------------------------------------


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


@dataclass(frozen=True)
class Made:
    """A checkpoint of ``BACKBONE`` with timm's own names."""

    body: State
    head: State

    @property
    def state(self) -> State:
        return {**self.body, **prefixed("fc.", self.head)}

    def logits(self, images: Tensor, words: Tensor | None = None, name: str = BACKBONE) -> Tensor:
        """Of uint8 images ``(B, S, S, 3)``, with the mean and deviation that timm states for its backbone."""
        network = timm.create_model(name, num_classes=0).eval()
        network.load_state_dict(self.body)
        mean, std = (torch.tensor(network.pretrained_cfg[key]) for key in ("mean", "std"))
        with torch.no_grad():
            features = network.forward_features(((images / 255 - mean) / std).permute(0, 3, 1, 2))
            return head_logits(self.head, features.flatten(2).transpose(1, 2), words)


def made(name: str = BACKBONE, channels: int = CHANNELS, **sizes: int) -> Made:
    torch.manual_seed(0)
    body = timm.create_model(name, num_classes=0).state_dict()
    return Made(body, filled(head_shapes(channels, DIM, FFN, **(sizes or {"classes": 5, "groups": 2}))))


def save(folder: Path, content: Any, name: str = "checkpoint.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def run_import(folder: Path, *options: object, file: str = "checkpoint.pth") -> tuple[int, str, str]:
    return run_command("import-checkpoint", folder / file, "--output", folder / "out", "--image-size", SIZE, *options)


def with_labels(folder: Path, names: list[str] = NAMES) -> Path:
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    return folder / "labels.txt"


CONTAINERS: dict[str, Callable[[State], Any]] = {
    "bare": dict,
    "model": lambda state: {"model": state, "idx_to_class": dict(enumerate(NAMES)), "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "arch": "resnet"},
    "DDP": lambda state: prefixed("module.", state),
    "DDP in model": lambda state: {"model": prefixed("module.", state)},
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "DDP, compiled": lambda state: prefixed("module._orig_mod.", state),
    "compiled, DDP": lambda state: prefixed("_orig_mod.module.", state),
    "Lightning": lambda state: {"state_dict": {**prefixed("model.", state), "loss.weight": torch.ones(2)}, "epoch": 3},
    "SWA": lambda state: {**prefixed("module.", state), "n_averaged": torch.tensor(5)},
    "net in state_dict": lambda state: {"state_dict": prefixed("net.module.", state)},
    "net": lambda state: {"net": state, "acc": 0.9},
    "timm's averaged weights": lambda state: {"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": state},
    "model_ema": lambda state: {"model": {"a": torch.zeros(1)}, "model_ema": prefixed("module.", state)},
    "an EMA wrapper": lambda state: {"state_dict": {}, "ema": {"decay": 0.9997, "module": state}},
    "an EMA wrapper's names": lambda state: {**prefixed("ema_model.", state), "initted": torch.tensor(True)},
}


@pytest.mark.parametrize("container", [*CONTAINERS, "safetensors"])
def test_every_container_brings_every_tensor(container: str, tmp_path: Path) -> None:
    state = made().state
    path = tmp_path / ("checkpoint.safetensors" if container == "safetensors" else "checkpoint.pth")
    if container == "safetensors":
        save_file(state, path)
    else:
        torch.save(CONTAINERS[container](state), path)
    plain, read = read_released(state), read_released(read_checkpoint(path)[0])
    assert (read.architecture, read.word_dim) == (plain.architecture, plain.word_dim)
    tensors, expected = ({one.target: one.tensor for one in released.tensors} for released in (read, plain))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_tensors_outside_the_wrapper_are_reported() -> None:
    state = {**prefixed("module.", made().state), "n_averaged": torch.tensor(5)}
    report = compare(read_released(state), {}, "")
    beside = "left out    n_averaged (): not of the model, whose tensors begin with 'module.'"
    assert beside in report.text()


def test_a_head_of_several_parts_is_no_wrapper() -> None:
    """timm hangs the classifier of some networks at head.fc, beside a norm of the backbone."""
    state = {**prefixed("head.fc.", made().head), "stem.weight": torch.ones(3), "head.norm.weight": torch.ones(3)}
    released = read_released({**state, "stages.0.weight": torch.ones(2)})
    assert released.wrapper == ""
    assert "backbone.network.head.norm.weight" in {one.target for one in released.tensors}


def test_two_copies_of_a_model_are_named() -> None:
    state = made().state
    both = prefixed("model.", state) | prefixed("model_ema.module.", state)
    with pytest.raises(UserError, match=r"has 2 ML-Decoder heads, under 'model.fc.', 'model_ema.module.fc.': expected"):
        read_released(both)


def test_a_container_of_other_keys_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, {"generator": {"a": torch.zeros(1)}, "steps": 3})
    with pytest.raises(UserError, match=r"under one of .*model, net.*; its keys are 'generator', 'steps'$"):
        read_checkpoint(path)
    path = save(tmp_path, {"a": torch.zeros(1), "b": torch.zeros(1), "steps": 3})
    with pytest.raises(UserError, match=r"has no state dict: .*; 'steps' are not tensors$"):
        read_checkpoint(path)


def test_what_savers_put_beside_the_tensors_is_read_as_data(tmp_path: Path) -> None:
    """timm's CheckpointSaver stores its arguments; others store scalars of numpy, paths and dictionaries."""
    names = collections.defaultdict(list, {np.int64(index): name for index, name in enumerate(NAMES)})
    names[np.int64(0)] = np.str_("cát")
    beside = {
        "args": argparse.Namespace(model=BACKBONE, lr=0.1, data=Path("photos"), aa=None), "metric": np.float64(71.5),
        "best": np.float32(0.5), "dtype": np.dtype("float32"), "kind": np.float16, "where": tmp_path / "runs",
        "history": np.arange(3.0), "seen": {"a", "b"}, "class": type(np.dtype("int64")),
        "counts": collections.Counter("aab"),
    }  # fmt: skip
    state = collections.OrderedDict(made().state)
    path = save(tmp_path, {"state_dict": state, "idx_to_class": names, "epoch": 3, "arch": BACKBONE, **beside})
    before = set(torch.serialization.get_safe_globals())
    read, kept = read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before
    assert read.keys() == state.keys()
    assert kept["metric"] == 71.5
    assert kept["idx_to_class"] == dict(enumerate(["cát", *NAMES[1:]]))
    assert kind_of(kept["args"]) == "Namespace"


@pytest.mark.parametrize("named", ["os.system", "builtins.eval", "subprocess.Popen", "timm.models.resnet.ResNet"])
def test_code_in_a_checkpoint_is_named_without_torchs_advice(named: str, tmp_path: Path) -> None:
    module, _, name = named.rpartition(".")
    sprung = tmp_path / "sprung"
    planted = f"c{module}\n{name}\n(V touch '{sprung}'\ntR.".encode()
    with zipfile.ZipFile(save(tmp_path, made().state)) as whole:
        files = {info: whole.read(info) for info in whole.infolist()}
    with zipfile.ZipFile(tmp_path / "checkpoint.pth", "w") as file:
        for info, content in files.items():
            file.writestr(info, b"\x80\x02" + planted if info.filename.endswith("data.pkl") else content)
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path / "checkpoint.pth")
    short = named.removeprefix("builtins.")
    assert f"it contains {short}, which is code and was not run. Where it was written, save only the" in str(
        error.value
    )
    assert "weights_only" not in str(error.value)
    assert "trust" not in str(error.value)
    assert not sprung.exists()


def test_a_photo_is_tagged_by_a_released_checkpoint(tmp_path: Path) -> None:
    """From the file to a person's tags: names by index, DDP, the backbone by its tensors, timm's mean and deviation."""
    checkpoint = made("resnet18", 512)
    names = {str(index): NAMES[index] for index in (3, 0, 4, 2, 1)}
    path = save(tmp_path, {"model": prefixed("module.", checkpoint.state), "idx_to_class": names})
    write_photo(tmp_path / "photo.jpg", 5)
    status, stdout, stderr = run_import(tmp_path)
    assert status == 0, stderr
    out = tmp_path / "out"
    assert stdout.splitlines() == [
        f"{path}: 0 matched, 143 renamed, 0 missing, 0 unexpected, 0 wrong shape, 2 left out",
        f"{out}: ML-Decoder on resnet18 at 64 px",
        "  a closed set of 5 classes, scored by 2 queries",
        "  pixels: RGB in 0..1, less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
        f"  report on every tensor: {out / 'import_report.txt'}",
        f"  every threshold is 0.5: zsl-tagger calibrate --model {out} --data DATA chooses them",
        f"  tag with it: zsl-tagger tag photos --model {out}",
    ]
    photo = torch.from_numpy(load_array(tmp_path / "photo.jpg", Preprocessing(SIZE))[None].copy())
    expected = dict(zip(NAMES, checkpoint.logits(photo, name="resnet18").sigmoid()[0].tolist(), strict=True))
    status, stdout, stderr = run_command(
        "tag", tmp_path / "photo.jpg", "--model", out, "--threshold", 0, "--format", "jsonl"
    )
    assert status == 0, stderr
    tags = {tag["label"]: tag["score"] for tag in json.loads(stdout)["tags"]}
    assert tags.keys() == expected.keys()
    assert max(expected.values()) - min(expected.values()) > 0.1
    for name, score in expected.items():
        assert tags[name] == pytest.approx(score, abs=1e-4), name


def test_a_checkpoint_that_saw_the_middle_of_its_images(tmp_path: Path) -> None:
    """Read pixels as timm evaluates, and with the filter of the released validate.py."""
    save(tmp_path, made().state)
    options = ["--backbone", BACKBONE, "--labels-file", with_labels(tmp_path), "--crop-pct", 0.95]
    status, _, stderr = run_import(tmp_path, *options, "--interpolation", "cubic")
    assert status == 2
    assert re.search("'cubic' is not one of 'bicubic', 'bilinear'", stderr)
    assert not (tmp_path / "out").exists()
    status, stdout, stderr = run_import(tmp_path, *options, "--interpolation", "bilinear")
    assert status == 0, stderr
    assert "over (0.5, 0.5, 0.5), center_crop 0.95, bilinear" in stdout
    preprocessing = read_config(tmp_path / "out").preprocessing
    assert (preprocessing.resize, preprocessing.crop_pct, preprocessing.interpolation) == (
        "center_crop", 0.95, "bilinear",
    )  # fmt: skip


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported closed set, with labels of a file."""
    folder = tmp_path_factory.mktemp("closed")
    save(folder, made().state)
    status, _, stderr = run_import(folder, "--backbone", BACKBONE, "--labels-file", with_labels(folder))
    assert status == 0, stderr
    return folder


def test_what_the_folder_holds(closed: Path) -> None:
    out = closed / "out"
    assert {path.name for path in out.iterdir()} == {
        "config.json", "labels.json", "model.safetensors", "encoder.onnx", "decoder.onnx", "README.md",
        "import_report.txt",
    }  # fmt: skip
    assert [path.name for path in closed.iterdir() if path.name.startswith(".")] == []
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == {
        "backbone": BACKBONE, "class_reading": False, "class_evidence": False, "dim": DIM, "ffn_dim": FFN, "heads": 8,
        "classes": 5, "groups": 2, "softmax": False,
    }  # fmt: skip
    assert (config["closed_set"], config["default_threshold"], config["word_source"]) == (True, 0.5, None)
    assert config["preprocessing"] == {
        "image_size": SIZE, "resize": "squash", "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "version": 1,
    }  # fmt: skip
    source = config["provenance"]["checkpoint"]
    assert source["file"] == "checkpoint.pth"
    assert re.fullmatch("[0-9a-f]{64}", source["sha256"])
    labels = json.loads((out / "labels.json").read_text())
    assert labels == [{"name": name, "threshold": 0.5, "seen": True} for name in NAMES]
    card = (out / "README.md").read_text()
    assert f"`checkpoint.pth`, sha256 `{source['sha256']}`" in card
    assert "| pixels | 64 x 64, RGB in 0..1, less (0.5, 0.5, 0.5), over (0.5, 0.5, 0.5) |" in card


def test_the_report_has_every_tensor(closed: Path) -> None:
    lines = (closed / "out" / "import_report.txt").read_text().splitlines()
    state = made().state
    for name in state:
        assert any(re.search(rf"(^| ){re.escape(name)} ", line) for line in lines), name
    assert "matched     bn1.bias (32,)" in lines
    assert (
        "renamed     fc.decoder.layers.0.multihead_attn.in_proj_weight -> head.layer.attention.k.weight (24, 24), "
        "third 2 of it" in lines
    )
    assert "renamed     fc.decoder.duplicate_pooling_bias -> head.bias (5,)" in lines
    assert "left out    backbone.network.fc.weight (1000, 96): zero here, the head replaces it" in lines
    assert not weights_of(closed / "out")["backbone.network.fc.weight"].any()
    assert not any(line.startswith(("missing", "unexpected", "wrong")) for line in lines)


def test_counters_of_training_steps_may_be_too_many_or_missing(tmp_path: Path) -> None:
    state = made().state
    del state["bn1.num_batches_tracked"]
    state["bn7.num_batches_tracked"] = torch.tensor(3)
    save(tmp_path, state)
    status, stdout, stderr = run_import(tmp_path, "--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))
    assert status == 0, stderr
    assert " 0 missing, 0 unexpected, 0 wrong shape, 4 left out" in stdout
    report = (tmp_path / "out" / "import_report.txt").read_text()
    assert "left out    bn7.num_batches_tracked (): it counts training steps\n" in report
    assert "left out    backbone.network.bn1.num_batches_tracked (): zero here, it counts training steps\n" in report


def test_an_imported_model_is_the_same_in_torch(closed: Path) -> None:
    images = torch.randint(256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert_close(load_model(closed / "out")(images).double(), made().logits(images), atol=1e-5, rtol=0)


# --- word queries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1.0, 3.0], ids=["of unit length", "of other lengths"])
def test_words_are_asked_as_the_released_code_asks_them(length: float, tmp_path: Path) -> None:
    """The columns of wordvec_array.pth as they are, in sorted order of the labels."""
    checkpoint = made(word_dim=WORD_DIM)
    save(tmp_path, checkpoint.state)
    matrix = torch.randn(WORD_DIM, 5, generator=torch.Generator().manual_seed(4))
    matrix = matrix / matrix.norm(dim=0) * torch.tensor([length, 1, length, 1, 1])
    vectors = save(tmp_path, matrix, "wordvec_array.pth")
    words = ["--word-vectors", f"file:{vectors}", "--labels-file", with_labels(tmp_path)]
    status, stdout, stderr = run_import(tmp_path, "--backbone", BACKBONE, *words)
    assert status == 0, stderr
    assert f"word queries of 5 dimensions{', not normalised' if length > 1 else ''}: it also accepts" in stdout
    tagger = Tagger(tmp_path / "out")
    assert tagger.vocabulary.labels == NAMES
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    asked = ["sky", "cat"]
    columns = [sorted(NAMES).index(name) for name in asked]
    expected = checkpoint.logits(torch.from_numpy(image[None]), matrix.T[columns]).sigmoid()
    np.testing.assert_allclose(tagger.scores(tagger.encode(image), asked), expected.numpy(), atol=1e-5)


def test_other_words_of_the_source_can_be_asked(tmp_path: Path) -> None:
    checkpoint = made(word_dim=3)
    save(tmp_path, checkpoint.state)
    (tmp_path / "vectors.txt").write_text("tree 2 0 1\nsky 0 1 1\nbeach 0 3 4\nzzyzx 1 1 1\n")
    words = [
        "--word-vectors",
        f"gensim:{tmp_path / 'vectors.txt'}",
        "--labels-file",
        with_labels(tmp_path, ["sky", "tree"]),
    ]
    status, _, stderr = run_import(tmp_path, "--backbone", BACKBONE, *words)
    assert status == 0, stderr
    tagger = Tagger(tmp_path / "out")
    assert tagger.vocabulary.labels == ["sky", "tree"]
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    expected = checkpoint.logits(torch.from_numpy(image[None]), torch.tensor([[0, 0.6, 0.8]])).sigmoid()
    scores = tagger.scores(tagger.encode(image), ["beach"])
    np.testing.assert_allclose(scores, expected.numpy(), atol=5e-3)  # the table has eight bits a number


# --- what is refused --------------------------------------------------------------------------------------


def refused(folder: Path, *options: object, file: str = "checkpoint.pth") -> tuple[str, str]:
    """Return stdout and the one line of error, notes aside; nothing was written."""
    before = sorted(path.name for path in folder.iterdir())
    status, stdout, stderr = run_import(folder, *options, file=file)
    assert status == 2, stdout
    lines = [line for line in stderr.splitlines(keepends=True) if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert sorted(path.name for path in folder.iterdir()) == before
    return stdout, lines[0]


def test_one_at_fault_of_each_kind_is_named(tmp_path: Path) -> None:
    state = made().state
    del state["fc.decoder.layers.0.norm2.bias"], state["layer1.0.bn1.running_var"]
    state["fc.decoder.layers.1.linear1.bias"] = torch.zeros(17)
    state["head.weight"] = torch.zeros(2, 3)
    state["conv1.0.weight"] = torch.zeros(16, 3, 5, 5)
    state["fc.decoder.duplicate_pooling"] = torch.zeros(2, DIM, 4)
    state["fc.decoder.layers.0.multihead_attn.in_proj_bias"] = torch.zeros(3 * DIM + 3)
    save(tmp_path, state)
    stdout, stderr = refused(tmp_path, "--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))
    assert " 2 missing, 2 unexpected, 5 wrong shape, " in stdout
    assert sorted(stdout.splitlines()[1:]) == [
        "missing     backbone.network.layer1.0.bn1.running_var (32,)",
        "missing     head.layer.norm2.bias (24,)",
        "unexpected  fc.decoder.layers.1.linear1.bias (17,)",
        "unexpected  head.weight (2, 3)",
        "wrong shape conv1.0.weight -> backbone.network.conv1.0.weight: expected (16, 3, 3, 3), got (16, 3, 5, 5)",
        "wrong shape fc.decoder.duplicate_pooling -> head.group_weight: expected (2, 24, 3), got (2, 24, 4)",
        *(
            f"wrong shape fc.decoder.layers.0.multihead_attn.in_proj_bias -> head.layer.attention.{part}.bias: "
            "expected (24,), got (25,)"
            for part in "kqv"
        ),
    ]
    assert f"checkpoint.pth does not fit ML-Decoder on {BACKBONE}: 9 tensors do not match, first wrong shape" in stderr
    assert stderr.endswith("Nothing was written\n")


@pytest.mark.parametrize("change", ["missing", "unexpected", "twice"])
def test_a_single_fault_is_enough(change: str, tmp_path: Path) -> None:
    state = made().state
    name = "fc.decoder.layers.0.linear2.bias"
    if change == "missing":
        del state[name]
    elif change == "unexpected":
        state = {name.replace("fc.", "head."): value for name, value in state.items()}
        state["head.layer.linear2.bias"] = state.pop(name.replace("fc.", "head."))  # ours is no released name
    else:
        state["fc.layers.0.linear2.bias"] = state[name]
    save(tmp_path, state)
    _, stderr = refused(tmp_path, "--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))
    assert f": {2 if change == 'unexpected' else 1} tensors do not match, first " in stderr


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    state = made().state
    state["fc.decoder.layers.0.norm3.weight"][2] = torch.nan
    save(tmp_path, state)
    _, stderr = refused(tmp_path, "--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))
    assert "has values that are not numbers (nan or inf) in 'fc.decoder.layers.0.norm3.weight'\n" in stderr


@pytest.mark.parametrize("name", ["resnet34", "test_vit"])
def test_another_backbone_than_it_was_trained_on(name: str, tmp_path: Path) -> None:
    save(tmp_path, made("resnet18", 512).state)
    _, stderr = refused(tmp_path, "--backbone", name, "--labels-file", with_labels(tmp_path))
    assert f"does not fit ML-Decoder on {name}: " in stderr
    assert "; its tensors look like timm's resnet18. Nothing" in stderr


class Trap:
    """Unpickled by code, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["code", "cut off", "cut-off safetensors", "text", "none", "a list", "no head"])
def test_files_of_something_else(content: str, tmp_path: Path) -> None:
    state, path, sprung = made().state, tmp_path / "checkpoint.pth", tmp_path / "sprung"
    message = "cannot be read: expected safetensors, or a torch file of tensors and plain data"
    if content == "code":
        torch.save({"model": state, "args": Trap(sprung)}, path)
    elif content == "cut off":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "cut-off safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "text":
        path.write_text("weights")
    elif content == "none":
        message = "no weights file at "
    elif content == "a list":
        torch.save([1, 2], path)
        message = "has no state dict: expected names with their tensors, got list"
    else:
        torch.save({"conv1.weight": torch.zeros(3), "fc.weight": torch.zeros(2)}, path)
        message = (
            "the checkpoint has no ML-Decoder head: expected one tensor named ...embed_standart.weight, "
            "its 2 tensors are 'conv1.weight', 'fc.weight'"
        )
    assert message in refused(tmp_path, file=path.name)[1]
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.decoder.layers.0.linear1.weight": None}, "lacks layers.0.linear1.weight, which determines its size"),
        ({"fc.decoder.query_embed.weight": None}, "has no queries: expected query_embed.weight (a closed set"),
        (
            {"fc.decoder.duplicate_pooling_bias": (5, 1)},
            "duplicate_pooling_bias of the checkpoint: expected a tensor of",
        ),
        ({"fc.decoder.query_embed.weight": (6, DIM)}, "has 6 groups for 5 classes: expected at most a class"),
        (
            {"fc.decoder.embed_standart.weight": (25, CHANNELS)},
            "has width 25, which is not a multiple of its 8 attention heads",
        ),
    ],
)
def test_heads_whose_size_cannot_be_told(
    change: dict[str, tuple[int, ...] | None], message: str, tmp_path: Path
) -> None:
    state = made().state
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    save(tmp_path, state)
    assert message in refused(tmp_path, "--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))[1]


def test_a_backbone_that_nobody_said(tmp_path: Path) -> None:
    save(tmp_path, made().state)
    assert "give the timm model as --backbone NAME" in refused(tmp_path)[1]
    assert "timm has no model 'resnet51'; the nearest" in refused(tmp_path, "--backbone", "resnet51")[1]


def test_names_that_do_not_fit_the_classes(tmp_path: Path) -> None:
    save(tmp_path, made().state)
    known = ("--backbone", BACKBONE)
    assert (
        "the checkpoint has 5 classes and no names for them (idx_to_class): give --labels-file FILE with 5 names"
        in refused(tmp_path, *known)[1]
    )
    labels = with_labels(tmp_path, NAMES[:3])
    expected = "labels.txt: expected 5 names, one for each class of the checkpoint, got 3"
    assert expected in refused(tmp_path, *known, "--labels-file", labels)[1]
    labels = with_labels(tmp_path, [*NAMES[:4], "cat"])
    assert "labels.txt has duplicate names: 'cat'" in refused(tmp_path, *known, "--labels-file", labels)[1]
    labels = with_labels(tmp_path)
    words = ("--word-vectors", "packaged")
    expected = "has a closed set of 5 classes: leave --word-vectors out"
    assert expected in refused(tmp_path, *known, "--labels-file", labels, *words)[1]
    save(tmp_path, {"model": made().state, "idx_to_class": {0: "cat", 1: "dog"}})
    assert (
        "checkpoint.pth: expected 5 names, one for each class of the checkpoint, got 2" in refused(tmp_path, *known)[1]
    )


def test_words_that_do_not_fit_the_queries(tmp_path: Path) -> None:
    save(tmp_path, made(word_dim=WORD_DIM).state)
    known = ("--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))
    assert "has word queries of 5 dimensions: give the vectors it was trained with" in refused(tmp_path, *known)[1]
    expected = "the checkpoint has word queries of 5 dimensions, but the vectors of packaged have 256"
    assert expected in refused(tmp_path, *known, "--word-vectors", "packaged")[1]
    (tmp_path / "vectors.txt").write_text("cat 1 2 3 4 5\ntrees 2 3 4 5 6\n")
    source = ("--word-vectors", f"gensim:{tmp_path / 'vectors.txt'}")
    assert "unknown label 'dog'" in refused(tmp_path, *known, *source)[1]
    assert "give --labels-file FILE: the words that tag uses" in refused(tmp_path, *known[:2], *source)[1]


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path, made().state)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "out already exists: give a new or empty folder" in refused(tmp_path, "--backbone", BACKBONE)[1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("where", ["export", "disk"])
def test_nothing_is_left_where_writing_fails(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device") if where == "disk" else ExportError("no such operator")

    monkeypatch.setattr("zsl_tagger.export.model_writer.write_proven", fail)
    save(tmp_path, made().state)
    _, stderr = refused(tmp_path, "--backbone", BACKBONE, "--labels-file", with_labels(tmp_path))
    expected = (
        "No space left on device" if where == "disk" else "since tag needs the networks in ONNX: no such operator"
    )
    assert expected in stderr
