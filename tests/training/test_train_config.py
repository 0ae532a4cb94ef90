"""Test zsl_tagger/training/config.py and the recipes: settings, their parsing, and invalid values."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.tagging.model_folder import ModelConfig, write_config
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.recipes import RECIPES, read_recipe
from zsl_tagger.training.run import resolve_config


def make(values: dict[str, Any]) -> TrainConfig:
    return TrainConfig(**values)


# --- recipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_has_its_name(name: str) -> None:
    assert read_recipe(name).recipe == name


def test_every_recipe_file_is_listed() -> None:
    folder = ROOT / "zsl_tagger" / "training" / "recipes"
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem != "__init__"}
    assert files == set(RECIPES)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # the command of the released README, and table 2 (A2) of arXiv 2110.00476
        ("imagenet-a2", {"epochs": 300, "batch_size": 2048, "lr": 4e-3, "weight_decay": 0.02, "optimizer": "lamb",
                         "target_threshold": 0.2, "rand_augment": "rand-m7-mstd0.5-inc1", "mixup": 0.1, "cutmix": 1.0,
                         "repeats": 3, "drop_path": 0.05, "loss": "bce", "backbone": "resnet50",
                         "resize": "center_crop", "crop_pct": 0.95, "interpolation": "bicubic", "drop_last": True,
                         # what timm's training script had where the command says nothing
                         "schedule": "timm_cosine", "warmup": 5 / 300, "warmup_lr": 1e-4, "min_lr": 1e-6,
                         "cooldown_epochs": 10}),
        # the defaults of the released train.py
        ("coco-multilabel", {"image_size": 448, "batch_size": 56, "lr": 1e-4, "weight_decay": 1e-4, "epochs": 40,
                             "ema": 0.9997, "gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05, "cutout": 0.5,
                             "reduction": "sum", "head": "closed", "loss": "asl", "schedule": "onecycle",
                             "rand_augment": "released", "interpolation": "bilinear", "resize": "squash",
                             "drop_last": False, "sync_batch_norm": True, "flip": 0.0}),
        # the constants of the released train_zsl_nus.py, which augments no queries
        ("nus-wide-zsl", {"image_size": 224, "batch_size": 56, "lr": 1e-4, "weight_decay": 1e-2, "epochs": 40,
                          "ema": 0.9997, "gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05, "cutout": 0.5, "warmup": 0.2,
                          "query_noise": 0.0, "random_queries": 0, "query_dropout": 0.0, "labels_per_step": None,
                          "rand_augment": "released", "interpolation": "bilinear", "drop_last": False,
                          "sync_batch_norm": True}),
        # the defaults of ZS_SDL's train.py, and the image size of its README's command
        ("coco-zsl", {"image_size": 608, "batch_size": 32, "lr": 2.5e-5, "weight_decay": 3e-4, "epochs": 10,
                      "warmup": 0.1, "ema": 0.0, "cutout": 0.5, "backbone": "tresnet_m", "query_noise": 0.0,
                      "rand_augment": "released", "interpolation": "bilinear", "drop_last": False}),
        ("coco-multilabel-xl", {"image_size": 640, "backbone": "tresnet_xl", "batch_size": 56, "gamma_neg": 4.0}),
    ],
)  # fmt: skip
def test_recipes_have_the_published_values(name: str, values: dict[str, Any]) -> None:
    assert read_recipe(name).as_dict().items() >= values.items()


def test_the_released_recipes_have_the_released_loss_and_average() -> None:
    """Compare with train.py and train_zsl_nus.py (disable_torch_grad_focal_loss); their averaging has no warm-up."""
    for name in RECIPES:
        released, config = name.startswith(("nus-wide", "coco")), read_recipe(name)
        assert (config.focal_gradient, config.ema_warmup) == (not released, not released), name


def test_table_of_released_commands_matches_the_recipes() -> None:
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    table = page[page.index("## Released command") : page.index("## Initial weights")]
    recipes = set(re.findall(r"--recipe ([\w-]+)", table)) - {"NAME"}
    assert recipes == set(RECIPES) - {"my-photos", "clip-zsl", "clip-local-global"}  # settings of our own
    values = [read_recipe(name).as_dict() for name in recipes]
    ours = "\n".join(row.split("|")[3] for row in table.splitlines() if row.startswith("|"))
    settings = re.findall(r"`(\w+)=([\w.-]+)`", ours)
    assert len(settings) >= 15
    for name, text in settings:
        value = text if re.match("[a-z]", text) and text not in ("true", "false") else json.loads(text)
        assert any(recipe[name] == value for recipe in values), f"{name}={text}"


def test_old_settings_keep_their_meaning() -> None:
    """A file without these settings comes from a version that always used these values."""
    then = TrainConfig.from_dict({"recipe": "nus-wide-zsl"})
    assert then.focal_gradient
    assert then.ema_warmup


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coco-zls", r"there is no recipe 'coco-zls'; did you mean 'coco-zsl'\? The recipes are: my-photos, nus-wide"),
        ("#!?", r"there is no recipe '#!\?'; The recipes are: my-photos"),
        ("packaged", "there is no recipe 'packaged'"),
        ("coco_zsl", "did you mean 'coco-zsl'"),
    ],
)
def test_unknown_recipe(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recipe(name)


# --- round trips ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TrainConfig(), *map(read_recipe, RECIPES)], ids=["default", *RECIPES])
def test_round_trips(config: TrainConfig, tmp_path: Path) -> None:
    assert TrainConfig.from_dict(config.as_dict()) == config
    (tmp_path / "config.json").write_text(json.dumps(config.as_dict()))
    assert TrainConfig.read(tmp_path / "config.json") == config
    pairs = [f"{name}={value}" for name, value in config.as_dict().items()]
    assert TrainConfig().changed(pairs) == config


def test_missing_settings_have_defaults() -> None:
    assert TrainConfig.from_dict({"lr": 0.5}) == TrainConfig(lr=0.5)
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_batch_size_per_process_is_converted() -> None:
    config = TrainConfig(batch_size=56, batch_size_per="process")
    assert config.for_processes(8) == TrainConfig(batch_size=448)
    assert config.for_processes(8).for_processes(8).batch_size == 448  # a saved configuration repeats the run
    assert TrainConfig(batch_size=56).for_processes(8).batch_size == 56


def test_preprocessing_of_the_initial_model_is_adopted(tmp_path: Path) -> None:
    """Together with backbone and widths, if training starts from a model folder; explicit settings take precedence."""
    architecture = {"backbone": "test_resnet", "dim": 32, "ffn_dim": 64, "heads": 4}
    preprocessing = Preprocessing(96, "center_crop", "bilinear", crop_pct=0.9)
    write_config(tmp_path, ModelConfig(preprocessing, 5, 0.5, architecture))
    names = ("image_size", "resize", "crop_pct", "interpolation", "dim")

    def resolved(recipe: str, *settings: str) -> list[object]:
        config = resolve_config(recipe=recipe, init=str(tmp_path), settings=settings)
        return [getattr(config, name) for name in names]

    assert resolved("my-photos") == [96, "center_crop", 0.9, "bilinear", 32]
    assert resolved("my-photos", "resize=squash", "image_size=64") == [64, "squash", None, "bilinear", 32]
    assert resolved("nus-wide-zsl", "crop=random")[1:3] == ["center_crop", 0.9]
    with pytest.raises(UserError, match="crop=squash trains on the whole: set crop=random"):
        resolved("nus-wide-zsl")


def test_types_survive_the_round_trip() -> None:
    """An int becomes a float and 7.0 an int if the setting has this type, so that equal configs print equally."""
    config = TrainConfig(lr=1, epochs=7.0, clip_grad=2, workers=3.0)  # type: ignore[arg-type]
    assert json.dumps(config.as_dict()) == json.dumps(TrainConfig(lr=1.0, epochs=7, clip_grad=2.0, workers=3).as_dict())
    assert (type(config.lr), type(config.epochs), type(config.clip_grad), type(config.workers)) == (
        float, int, float, int)  # fmt: skip


def test_config_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'lr'"):
        TrainConfig().lr = 0.5  # type: ignore[misc]


# --- --set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("lr=1e-3", "lr", 0.001),
        ("lr=1", "lr", 1.0),
        ("epochs=7", "epochs", 7),
        ("epochs=1e2", "epochs", 100),
        ("freeze=true", "freeze", True),
        ("freeze=True", "freeze", True),
        ("channels_last=false", "channels_last", False),
        ("channels_last=False", "channels_last", False),
        ("clip_grad=none", "clip_grad", None),
        ("clip_grad=None", "clip_grad", None),
        ("clip_grad=null", "clip_grad", None),
        ("clip_grad=2.5", "clip_grad", 2.5),
        ("workers=0", "workers", 0),
        ("workers=none", "workers", None),
        ("schedule=cosine", "schedule", "cosine"),
        ("backbone=7", "backbone", "7"),  # text stays text
        ("init=none", "init", "none"),
        ("init=a=b.pt", "init", "a=b.pt"),  # the first = counts
        ("rand_augment=", "rand_augment", ""),
        (" seed = 11 ", "seed", 11),
    ],
)
def test_set_parses_every_type(setting: str, name: str, value: Any) -> None:
    start = TrainConfig(clip_grad=3.0, workers=5, rand_augment="rand-m7", init="timm")
    changed = start.changed([setting])
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(value)
    assert dataclasses.replace(start, **{name: value}) == changed  # nothing else moved


def test_last_value_of_a_repeated_setting_wins() -> None:
    assert TrainConfig().changed(["seed=3", "lr=0.5", "seed=5"]) == TrainConfig(seed=5, lr=0.5)
    assert TrainConfig().changed([]) == TrainConfig()


def test_settings_are_validated_together() -> None:
    """In any order: neither is valid without the other."""
    together = TrainConfig(loss="ce", head="closed")
    assert TrainConfig().changed(["loss=ce", "head=closed"]) == together
    assert TrainConfig().changed(["head=closed", "loss=ce"]) == together


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "^expected --set name=value, got 'lr'$"),
        ("", "^expected --set name=value, got ''$"),
        ("learning_rate=1", "there is no setting 'learning_rate'; the settings are: "),
        ("batchsize=7", "there is no setting 'batchsize'; did you mean batch_size"),
        ("#!?=7", r"there is no setting '#!\?'; the settings are: recipe, backbone, init, .*bake_words$"),
        ("__class__=7", "there is no setting '__class__'"),
        ("as_dict=7", "there is no setting 'as_dict'"),
        ("lr=fast", "^expected lr to be a number, got 'fast'$"),
        ("lr=", "^expected lr to be a number, got ''$"),
        ("lr=none", "^expected lr to be a number, got None$"),
        ("lr=true", "^expected lr to be a number, got True$"),
        ("lr=NaN", "^expected lr to be a number, got nan$"),
        ("lr=[1]", r"^expected lr to be a number, got \[1\]$"),
        ("lr=Infinity", r"^expected lr in 0..1e\+12, got inf$"),
        ("epochs=1.5", "^expected epochs to be a whole number, got 1.5$"),
        ("epochs=true", "^expected epochs to be a whole number, got True$"),
        ("workers=many", "^expected workers to be a whole number or none, got 'many'$"),
        ("clip_grad=off", "^expected clip_grad to be a number or none, got 'off'$"),
        ("freeze=1", "^expected freeze to be true or false, got 1$"),
        ("freeze=yes", "^expected freeze to be true or false, got 'yes'$"),
        ("loss=mse", "^expected loss to be one of asl, asl_single, bce, ce; got 'mse'$"),
        ("precision=fp8", "^expected precision to be one of fp32, bf16, fp16; got 'fp8'$"),
    ],
)
def test_set_rejects(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig().changed([setting])


@pytest.mark.slow
@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_valid_or_a_user_error(text: str) -> None:
    for name in ("lr", "epochs", "clip_grad", "freeze", "loss", "recipe"):
        try:
            config = TrainConfig().changed([f"{name}={text}"])
        except UserError:
            continue
        assert TrainConfig.from_dict(config.as_dict()) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow
@given(st.sampled_from([field.name for field in dataclasses.fields(TrainConfig)]), JSON)
@settings(max_examples=300, deadline=None)
def test_any_json_value_is_valid_or_a_user_error(name: str, value: Any) -> None:
    try:
        config = TrainConfig.from_dict({name: value})
    except UserError:
        return
    assert getattr(config, name) == value
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@given(st.fixed_dictionaries({}, optional={
    "lr": st.floats(0, 1e6), "epochs": st.integers(1, 10**6), "flip": st.floats(0, 1), "seed": st.integers(0, 10**9),
    "clip_grad": st.none() | st.floats(0, 100), "freeze": st.booleans(), "recipe": st.text(max_size=9),
    "schedule": st.sampled_from(["onecycle", "cosine", "constant"]), "labels_per_step": st.none() | st.integers(1, 99),
}))  # fmt: skip
@pytest.mark.slow
@settings(max_examples=150, deadline=None)
def test_any_valid_settings_round_trip(values: dict[str, Any]) -> None:
    config = TrainConfig(**values)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    spelled = [f"{name}={value}" for name, value in values.items() if name != "recipe"]  # text is stripped
    assert TrainConfig(recipe=config.recipe).changed(spelled) == config


@pytest.mark.parametrize("text", ["1" + 400 * "0", "[" * 100_000], ids=["huge", "nested"])
def test_absurd_values_are_user_errors(text: str) -> None:
    with pytest.raises(UserError, match="expected lr"):
        TrainConfig().changed([f"lr={text}"])


# --- ranges and settings that do not go together ----------------------------------------------------------

SHARES = ("drop_path", "dropout", "warmup", "ema", "smoothing", "target_threshold", "random_query_target", "crop_scale",
          "query_dropout", "flip", "cutout", "clip", "backbone_lr_scale", "layer_decay")  # fmt: skip
COUNTS = ("image_size", "dim", "ffn_dim", "epochs", "labels_per_step", "repeats", "validate_every", "checkpoint_every",
          "min_epoch_steps")  # fmt: skip
NOT_NEGATIVE = ("lr", "weight_decay", "gamma_neg", "gamma_pos", "query_noise", "random_queries", "mixup", "cutmix",
                "clip_grad", "workers", "bake_words", "seed")  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_shares_are_in_0_to_1(name: str) -> None:
    for good in (0.0, 0.5, 1.0):
        assert getattr(make({name: good}), name) == good
    for bad in (-1e-9, 1.001, 56.0):
        with pytest.raises(UserError, match=rf"^expected {name} in 0\.\.1, got {bad}$"):
            make({name: bad})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_at_least_1(name: str) -> None:
    assert getattr(make({"heads": 1, name: 1}), name) == 1
    for bad in (0, -7):
        with pytest.raises(UserError, match=rf"^expected {name} in 1\.\.1e\+12, got {bad}$"):
            make({name: bad})


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_values_are_not_negative(name: str) -> None:
    assert getattr(make({name: 0}), name) == 0
    with pytest.raises(UserError, match=rf"^expected {name} in 0\.\.1e\+12, got -1"):
        make({name: -1})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainConfig)])
def test_infinite_values_are_rejected(name: str) -> None:
    """JSON has no infinity, so other programs could not read the configuration."""
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(UserError, match=f"expected {name} "):
            make({name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 24, "heads": 5}, "^expected heads to divide dim=24, got heads=5$"),
        ({"cache_views": 3}, "^cache_views needs freeze=true"),
        ({"cache_views": 3, "freeze": True, "mixup": 0.1}, "^mixup and cutmix mix pixels: set cache_views=0$"),
        ({"cache_views": 3, "freeze": True, "cutmix": 0.1}, "^mixup and cutmix mix pixels: set cache_views=0$"),
        ({"head": "closed", "query_noise": 0.1}, "^query_noise, .* need head=words or local-global$"),
        ({"head": "closed", "random_queries": 1}, "^query_noise, .* need head=words or local-global$"),
        ({"head": "closed", "query_dropout": 0.1}, "^query_noise, .* need head=words or local-global$"),
        ({"head": "closed", "labels_per_step": 7}, "^query_noise, .* need head=words or local-global$"),
        ({"head": "closed", "holdout_labels": 0.1}, "^query_noise, .* need head=words or local-global$"),
        ({"groups": 7, "head": "linear"}, "^groups needs head=words or closed$"),
        ({"head": "linear", "holdout_labels": 0.1}, "^query_noise, .* need head=words or local-global$"),
        (
            {"head": "local-global"},
            "^head=local-global compares tokens with text vectors of one space: set project_tok",
        ),
        (
            {"head": "local-global", "project_tokens": True, "freeze": True, "cache_views": 1, "token_dropout": 0.1},
            "^mosaic4, mosaic9 and token_dropout do not work with head=local-global",
        ),
        ({"local_top": 3}, "^local_top needs head=local-global$"),
        ({"csra_lambda": 0.2}, "^csra_lambda, csra_heads and csra_temperature need head=csra$"),
        ({"head": "csra", "csra_heads": 3}, "^expected csra_heads 1, 2, 4, 6 or 8, got 3$"),
        ({"head": "csra", "csra_heads": 2, "csra_temperature": 2}, "^csra_temperature applies to a single head"),
        ({"loss": "ce"}, "^loss=ce needs head=closed"),
        ({"loss": "asl_single"}, "^loss=asl_single needs head=closed"),
        ({"batch_size": 13, "accumulate": 5}, "^expected accumulate to divide batch_size=13, got 5$"),
        ({"crop_pct": 0.9}, "^resize=center_crop and crop_pct go together, got resize=squash and crop_pct=0.9$"),
        ({"resize": "center_crop", "crop": "random"}, "go together, got resize=center_crop and crop_pct=None$"),
        ({"resize": "center_crop", "crop_pct": 0.9}, "crop=squash trains on the whole: set crop=random$"),
        ({"min_lr": 1e-6}, "^warmup_lr, min_lr and cooldown_epochs need schedule=timm_cosine$"),
        (
            {"warmup_lr": 1e-6, "schedule": "cosine"},
            "^warmup_lr, min_lr and cooldown_epochs need schedule=timm_cosine$",
        ),
        ({"cooldown_epochs": 3}, "^warmup_lr, min_lr and cooldown_epochs need schedule=timm_cosine$"),
        ({"batch_size": 13, "accumulate": 26}, "^expected accumulate to divide batch_size=13, got 26$"),
    ],
)
def test_contradictory_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"dim": 24, "heads": 3},
        {"cache_views": 3, "freeze": True},
        {"freeze": True, "mixup": 0.1},
        {"head": "closed", "groups": 7, "loss": "ce"},
        {"head": "closed", "loss": "asl_single"},
        {"query_noise": 0.1, "random_queries": 2, "query_dropout": 0.1, "labels_per_step": 7, "holdout_labels": 0.1},
        {"batch_size": 15, "accumulate": 5},
        {"resize": "center_crop", "crop_pct": 0.9, "crop": "random", "interpolation": "bilinear"},
        {"schedule": "timm_cosine", "min_lr": 1e-6, "warmup_lr": 1e-4, "cooldown_epochs": 3},
    ],
)
def test_compatible_settings(values: dict[str, Any]) -> None:
    assert TrainConfig(**values).as_dict().items() >= values.items()


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json is not valid JSON: "),
        (b"\xff\xfe", "config.json is not valid JSON: "),
        (b"", "config.json is not valid JSON: "),
        (b"[1]", "config.json: expected an object of settings, got list$"),
        (b"null", "config.json: expected an object of settings, got NoneType$"),
        (b'{"epoch": 3}', "^there is no setting 'epoch'; did you mean epochs"),
        (b'{"epochs": "3"}', "^expected epochs to be a whole number, got '3'$"),
        (b'{"loss": ["asl"]}', "^expected loss to be one of asl, asl_single, bce, ce; got "),
        (b'{"epochs": 0}', r"^expected epochs in 1\.\."),
        (b'{"loss": "ce"}', "^loss=ce needs head=closed"),
        (b"[" * 100_000, "config.json is not valid JSON: "),
    ],
    ids=["cut", "no text", "empty", "list", "null", "name", "type", "choice", "range", "conflict", "nested"],
)
def test_read_rejects(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        TrainConfig.read(tmp_path / "config.json")


def test_read_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot read the configuration .*none\.json: No such file"):
        TrainConfig.read(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"^cannot read the configuration .*: Is a directory"):
        TrainConfig.read(tmp_path)
