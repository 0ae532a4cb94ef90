"""Test the recipes ``clip-zsl`` and ``clip-local-global`` with a small CLIP model that has random weights."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch
from made_data import write_lines, write_photo
from small_runs import TAGS, UNSEEN

from data_prep.pipeline import Options, prepare
from data_prep.tables import Columns, Table
from zsl_tagger import Tagger
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.run import EvaluateRun, evaluate
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.model.local_global import LocalGlobalHead
from zsl_tagger.model.pretrained import load_model, take_over
from zsl_tagger.tagging.model_folder import read_config
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.initial import initial_model
from zsl_tagger.training.run import TrainRun, resolve_config, train

pytestmark = pytest.mark.slow

SETTINGS = ("dim=32", "ffn_dim=64", "heads=4", "batch_size=8", "epochs=1", "min_epoch_steps=1", "workers=0",
            "bake_words=3", "cache_views=1")  # fmt: skip


def prepared(folder: Path, word_vectors: str) -> Path:
    lines = ["path,tags,split"]
    for number in range(30):
        tags = TAGS[number % 10]
        split = "test" if set(UNSEEN) & set(tags) else "val" if number // 10 == 2 else "train"
        write_photo(folder / "photos" / f"{number:03d}.jpg", number)
        lines.append(f'photos/{number:03d}.jpg,"{",".join(tags)}",{split}')
    write_lines(folder / "tags.csv", lines)
    (folder / "prompts.txt").write_text("a {}\nthe {} in a photo\n")
    prompts = folder / "prompts.txt" if word_vectors.startswith("open_clip") else None
    options = Options(workers=1, word_vectors=word_vectors, templates=prompts)
    source = Table(source=folder / "tags.csv", columns=Columns(split="split"), unseen=",".join(UNSEEN))
    prepare(source, folder / "data", options)
    return folder / "data"


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.open_clip_folder(tmp_path_factory.mktemp("clip") / "towers")


@pytest.fixture(scope="module")
def data(towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"), f"open_clip:{towers}")


def run_of(data: Path, towers: Path, output: Path, *settings: str, recipe: str = "clip-zsl") -> TrainRun:
    weights = str(towers / "open_clip_pytorch_model.bin")
    config = resolve_config(recipe=recipe, backbone="tiny_clip_vit", init=weights, settings=[*SETTINGS, *settings])
    return TrainRun(data=data, output=output, config=config)


def test_recipe_trains_a_model_that_tags_unseen_words(data: Path, towers: Path, tmp_path: Path) -> None:
    run = run_of(data, towers, tmp_path / "model")
    assert (run.config.image_size, run.config.freeze) == (tiny_clip.SIZE, True)  # the tower's own size
    train(run)
    config = read_config(tmp_path / "model")
    assert config.templates == ("a {}", "the {} in a photo")
    assert config.architecture["projection"] == "tokens"
    model = load_model(tmp_path / "model")
    frozen = torch.load(towers / "open_clip_pytorch_model.bin")["visual.proj"]
    torch.testing.assert_close(model.backbone.network.head.weight, frozen.T)
    photo, tagger = run.data.parent / "photos" / "000.jpg", Tagger(tmp_path / "model")
    labels = ["sky", "lion"]
    with torch.no_grad():
        pixels = torch.from_numpy(_pixels(tagger, photo))[None]
        expected = model(pixels, torch.from_numpy(tagger.label_set(labels).queries))
    np.testing.assert_allclose(tagger.logits(tagger.encode(photo), tagger.label_set(labels)), expected, atol=1e-4)
    again = resolve_config(recipe="my-photos", init=str(tmp_path / "model"))
    assert (again.project_tokens, again.backbone) == (True, "tiny_clip_vit")


def _pixels(tagger: Tagger, photo: Path) -> np.ndarray:
    return load_array(photo, tagger.preprocessing)


@pytest.mark.usefixtures("few_exports")
def test_the_tower_can_be_trained_too(data: Path, towers: Path, tmp_path: Path) -> None:
    train(run_of(data, towers, tmp_path / "model", "freeze=false", "cache_views=0", "lr=0.01"))
    weight = load_model(tmp_path / "model").backbone.network.head.weight
    assert not torch.allclose(weight, torch.load(towers / "open_clip_pytorch_model.bin")["visual.proj"].T, atol=1e-3)


def test_two_streams_train_a_model_that_tags_unseen_words(data: Path, towers: Path, tmp_path: Path) -> None:
    run = run_of(
        data, towers, tmp_path / "model", "epochs=12", "local_top=3", "ema=0", "lr=0.01", recipe="clip-local-global"
    )
    train(run)
    model, tagger = load_model(tmp_path / "model"), Tagger(tmp_path / "model")
    assert isinstance(model.head, LocalGlobalHead)
    assert model.head.top == 3
    weight = model.backbone.network.head.weight
    torch.testing.assert_close(weight, torch.load(towers / "open_clip_pytorch_model.bin")["visual.proj"].T)  # frozen
    for layer in (model.head.of_image, model.head.of_patches):
        assert (layer.weight - torch.eye(tiny_clip.WIDTH)).abs().max() > 0.01
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "model/run/metrics.csv").open()) if row["loss"]]
    assert losses[-1] < 0.8 * losses[0]
    photo, labels = data.parent / "photos" / "000.jpg", tagger.label_set(["sky", "lion"])
    with torch.no_grad():
        expected = model(torch.from_numpy(_pixels(tagger, photo).copy())[None], torch.from_numpy(labels.queries))
    np.testing.assert_allclose(tagger.logits(tagger.encode(photo), labels), expected, atol=1e-2)
    side = tiny_clip.SIZE // 8
    assert tagger.heatmap(photo, ["lion"]).shape == (1, side, side)  # of the patches alone
    again = resolve_config(recipe="clip-local-global", init=str(tmp_path / "model"))
    assert (again.project_tokens, again.head, again.local_top) == (True, "local-global", 3)
    assert "global and local cosine similarity (MKT" in (tmp_path / "model" / "README.md").read_text()
    report = evaluate(EvaluateRun(model=tmp_path / "model", data=data, resamples=0)).report
    assert report.tasks["zsl"].map is not None


@pytest.mark.usefixtures("few_exports")
def test_two_streams_train_the_tower_too(data: Path, towers: Path, tmp_path: Path) -> None:
    settings = ("freeze=false", "cache_views=0", "lr=0.01")
    train(run_of(data, towers, tmp_path / "model", *settings, recipe="clip-local-global"))
    weight = load_model(tmp_path / "model").backbone.network.head.weight
    assert not torch.allclose(weight, torch.load(towers / "open_clip_pytorch_model.bin")["visual.proj"].T, atol=1e-3)


def test_cosine_head_does_not_initialise_a_decoder(data: Path, towers: Path, tmp_path: Path) -> None:
    run = run_of(data, towers, tmp_path / "model", recipe="clip-local-global")
    model, _ = initial_model(run.config, load_dataset(data), 3)
    decoder, _ = initial_model(run_of(data, towers, tmp_path / "model").config, load_dataset(data), 3)
    before = decoder.head.bias.clone()
    take_over(decoder, model, "the two streams")
    assert torch.equal(decoder.head.bias, before)
    assert model.head.bias.item() == -25


def test_projected_features_have_a_separate_cache(data: Path, towers: Path, tmp_path: Path) -> None:
    keys = set()
    for project in (True, False):
        config = dataclasses.replace(run_of(data, towers, tmp_path).config, project_tokens=project)
        model, _ = initial_model(config, load_dataset(data), 3)
        keys.add(FeatureCache(tmp_path, data, [], np.zeros(0, int), config)._key(model))
    assert len(keys) == 2


def test_queries_from_another_space_are_rejected(towers: Path, tmp_path: Path) -> None:
    run = run_of(prepared(tmp_path, "packaged"), towers, tmp_path / "model")
    with pytest.raises(
        UserError,
        match=r"tokens of tiny_clip_vit to the 16 dimensions of its text tower, but .* have 256 \(from packaged\): ",
    ):
        train(run)
    assert not (tmp_path / "model").exists()
