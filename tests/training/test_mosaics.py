"""Test mosaics of cached features, partial targets and weighted labels, which the packaged model's training uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from made_data import write_photo
from small_runs import dataset_of

from zsl_tagger.errors import UserError
from zsl_tagger.export import networks
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import build_model
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.training import features
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import (
    MOST_PHOTOS,
    PartialTargets,
    Schedule,
    Split,
    Targets,
    draw_layouts,
    mosaic,
    parts,
    photos_of,
)
from zsl_tagger.training.features import MIN_PHOTOS_TO_EXPORT, FeatureCache, check_disk_space, fast_backbone
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.losses import asymmetric_loss
from zsl_tagger.training.trainer import Trainer

pytestmark = pytest.mark.slow

PHOTOS, SIDE = 7, 96
CONFIG = TrainConfig(
    backbone="test_efficientnet", image_size=SIDE, freeze=True, cache_views=2, mosaic4=0.3, mosaic9=0.3,
    batch_size=11, epochs=3, seed=5, dim=24, ffn_dim=29, heads=3, dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        write_photo(folder / f"{number}.jpg", number)
    return folder


@pytest.fixture(scope="module")
def model() -> TaggerModel:
    torch.manual_seed(3)
    return build_model(Backbone("test_efficientnet"), {"dim": 24, "ffn_dim": 29, "heads": 3}, word_dim=6).eval()


def cache_of(photos: Path, folder: Path, model: TaggerModel, config: TrainConfig = CONFIG) -> FeatureCache:
    cache = FeatureCache(folder, photos, [f"{number}.jpg" for number in range(PHOTOS)], np.arange(PHOTOS), config)
    cache.fill(model, Accelerator(cpu=True))
    return cache


# --- which photos -----------------------------------------------------------------------------------------


def test_share_of_mosaics_in_a_step() -> None:
    schedule = Schedule(np.arange(100, 131), CONFIG.changed(["batch_size=31", "epochs=40"]))
    batches = np.stack([schedule.batch(step) for step in range(40)])  # (40, 31, 9)
    assert batches.shape == (40, 31, MOST_PHOTOS)
    counts = (batches >= 0).sum(axis=-1)
    assert set(np.unique(counts)) == {1, 4, 9}
    for photos, share in ((1, 0.4), (4, 0.3), (9, 0.3)):
        assert (counts == photos).mean() == pytest.approx(share, abs=0.05)
    assert all(sorted(batch[:, 0]) == list(range(100, 131)) for batch in batches)  # an epoch shows each photo
    assert set(np.unique(batches)) == {-1, *range(100, 131)}
    assert (schedule.batch(3) == batches[3]).all()


@pytest.mark.parametrize(("four", "nine"), [(0.8, 0.2), (0.9, 0.1)])
def test_all_images_can_be_mosaics(four: float, nine: float) -> None:
    """Even if rounding makes the sum of the shares slightly larger than 1."""
    counts = draw_layouts(100, four, nine, np.random.default_rng(0))
    assert set(counts) == {4, 9}


def test_without_mosaics_a_step_is_a_row_of_photos() -> None:
    schedule = Schedule(np.arange(31), CONFIG.changed(["mosaic4=0", "mosaic9=0"]))
    assert schedule.batch(0).shape == (11,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["cache_views=0"], "mosaic4, mosaic9 and token_dropout work on cached features: set freeze=true"),
        (["negative_weight=2"], "negative_share and negative_weight choose among labels: set labels_per_step"),
        (["mosaic4=0.8"], "expected mosaic4 and mosaic9 to add up to at most 1"),
        (["token_dropout=1"], r"expected token_dropout in 0\.\.0\.99, got 1\.0"),
    ],
)
def test_contradictory_settings(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CONFIG.changed(settings)


# --- their features ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "side"), [(1, 96), (4, 48), (9, 32)])
def test_cached_tokens_equal_torch_at_the_size_of_the_photo(
    photos: Path, tmp_path: Path, model: TaggerModel, layout: int, side: int
) -> None:
    cache = cache_of(photos, tmp_path, model)
    for number in range(PHOTOS):
        pixels = torch.from_numpy(load_array(photos / f"{number}.jpg", Preprocessing(side)).copy())[None]
        with torch.inference_mode():
            expected = model.backbone_tokens(pixels)[0].numpy()
        np.testing.assert_allclose(cache.features(number, 0, layout), expected, atol=5e-3, rtol=5e-3)


def test_mosaic_has_the_tokens_of_its_photos(photos: Path, tmp_path: Path, model: TaggerModel) -> None:
    cache = cache_of(photos, tmp_path, model)
    schedule = Schedule(np.arange(PHOTOS), CONFIG)
    known = {
        layout: [
            {token.tobytes() for view in (0, 1) for token in cache.features(row, view, layout)} for row in range(7)
        ]
        for layout in (1, 4, 9)
    }
    for shown in cache.load(parts(schedule, 0, 0, 1)):
        assert shown.inputs.shape[:2] == (11, 9)  # the fewest: 3 x 3 of a photo, 4 x 2 x 2 and 9 x 1 of mosaics
        for image, tokens in zip(shown.rows, shown.inputs.numpy(), strict=True):
            own = photos_of(image)
            allowed = set().union(*(known[len(own)][row] for row in own))
            assert {token.tobytes() for token in tokens} <= allowed


def test_token_dropout_is_random(photos: Path, tmp_path: Path, model: TaggerModel) -> None:
    config = CONFIG.changed(["token_dropout=0.25", "mosaic4=0", "mosaic9=0"])
    cache = cache_of(photos, tmp_path, model, config)
    schedule = Schedule(np.arange(PHOTOS), config)
    first, again = ([shown.inputs for shown in cache.load(parts(schedule, 0, 0, 1))] for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert first[0].shape[1] == 7  # of 9
    assert not torch.equal(first[0], first[1])


def test_disk_space_for_mosaics(tmp_path: Path, model: TaggerModel) -> None:
    """It takes 2 bytes for each of 3 x 3 + 2 x 2 + 1 tokens, in each of two views."""
    check_disk_space(tmp_path, 10, model, CONFIG)
    gigabytes = 4 * 14 * model.backbone.channels
    with pytest.raises(UserError, match=rf"the features of 1,000,000,000 photos need {gigabytes}\.0 GB in"):
        check_disk_space(tmp_path, 10**9, model, CONFIG)


def test_torch_computes_features_if_the_export_fails(model: TaggerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    with fast_backbone(model, [64], MIN_PHOTOS_TO_EXPORT) as tokens_of:
        assert tokens_of.__name__ == "in_onnx_runtime"
        by_onnx_runtime = tokens_of(images)

    def fails(*_: Any) -> None:
        raise networks.ExportError("no such operation")

    monkeypatch.setattr(features, "write_backbone", fails)
    with fast_backbone(model, [64], MIN_PHOTOS_TO_EXPORT) as tokens_of:
        assert tokens_of.__name__ == "in_torch"
        np.testing.assert_allclose(tokens_of(images), by_onnx_runtime, atol=1e-4)


def test_no_export_for_few_photos(model: TaggerModel) -> None:
    with fast_backbone(model, [64], MIN_PHOTOS_TO_EXPORT - 1) as tokens_of:
        assert tokens_of.__name__ == "in_torch"


def test_export_with_different_results_is_not_used(model: TaggerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.zeros((len(feeds["images"]), 4, model.backbone.channels), np.float32)]

    monkeypatch.setattr(features, "open_session", lambda *_: Other())
    with fast_backbone(model, [64], MIN_PHOTOS_TO_EXPORT) as tokens_of:
        assert tokens_of.__name__ == "in_torch"


# --- targets ----------------------------------------------------------------------------------------------


def test_a_mosaic_has_the_labels_of_its_photos(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ["sky", "dog sky", "", "owl"], ["train"] * 4)
    targets = Targets(dataset, np.arange(3))  # dog, owl, sky
    rows = np.stack([mosaic([0]), mosaic([1, 3, 2, 2]), mosaic([2])])
    assert targets.matrix(rows).tolist() == [[0, 0, 1], [1, 1, 1], [0, 0, 0]]
    assert targets.positives(rows).tolist() == [0, 1, 2]
    assert targets.weights(rows) is None


def test_partial_targets_equal_a_loop() -> None:
    random = np.random.default_rng(0)
    values, known = random.random((2, 13, 11)).astype(np.float32)
    values[random.random(values.shape) < 0.5] = 0
    targets = PartialTargets(values, known)
    rows = np.stack([mosaic(random.integers(0, 13, count)) for count in (1, 4, 9, 1)])
    for line, image in enumerate(rows):
        own = [photo for photo in image if photo >= 0]
        for label in range(11):
            value = max(values[photo, label] for photo in own)
            weight = 1.0 if value > 0.5 else min(known[photo, label] for photo in own)
            assert targets.matrix(rows)[line, label] == value
            assert targets.weights(rows)[line, label] == pytest.approx(weight)
    shown = {int(photo) for photo in rows.ravel() if photo >= 0}
    expected = [label for label in range(11) if any(values[p, label] * known[p, label] > 0.3 for p in shown)]
    assert targets.positives(rows).tolist() == expected


def trainer_of(
    model: TaggerModel,
    split: Split,
    targets: PartialTargets,
    cache: FeatureCache,
    config: TrainConfig,
    folder: Path,
) -> Trainer:
    schedule = Schedule(split.train, config)
    return Trainer(
        model, split, targets, schedule, config, Accelerator(cpu=True),
        from_features=True, parts_from=lambda step: cache.load(parts(schedule, step, 0, 1)),
        validate=lambda _: ValidationFigures(), folder=folder, data="",
    )  # fmt: skip


def test_other_normalisation_has_a_separate_cache(photos: Path, tmp_path: Path) -> None:
    model = build_model(Backbone("test_efficientnet"), {"dim": 24, "ffn_dim": 29, "heads": 3}, word_dim=6).eval()
    before = cache_of(photos, tmp_path / "cache", model)
    model.normalize_by((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    after = cache_of(photos, tmp_path / "cache", model)
    assert not np.allclose(before.features(0, 0), after.features(0, 0), atol=1e-2)
    rows, vectors = np.arange(PHOTOS), np.eye(3, 6, dtype=np.float32)
    split = Split(("a", "b", "c"), np.arange(3), vectors, (), rows[:0], rows, rows[:0])
    targets = PartialTargets(np.ones((PHOTOS, 3), np.float32), np.ones((PHOTOS, 3), np.float32))
    averaged = trainer_of(model, split, targets, after, CONFIG, tmp_path).averaged()
    assert averaged.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert torch.equal(averaged.std, model.std)


@pytest.mark.parametrize("per", ["batch", "image"])
def test_loss_weights_follow_the_formula(photos: Path, tmp_path: Path, model: TaggerModel, per: str) -> None:
    """Compare one step of the trainer with the formula, including random queries."""
    settings = ["labels_per_step=5", "negative_share=0.4", "negative_weight=3"]
    settings += ["random_queries=2", "random_query_weight=0.5", f"random_queries_per={per}"]
    config = CONFIG.changed(settings)
    random = np.random.default_rng(1)
    values = (random.random((PHOTOS, 13)) < 0.2).astype(np.float32)
    known = random.random((PHOTOS, 13)).astype(np.float32)
    vectors = torch.nn.functional.normalize(torch.randn(13, 6)).numpy()
    cache = cache_of(photos, tmp_path / "cache", model, config)
    rows = np.arange(PHOTOS)
    labels = tuple(f"w{number}" for number in range(13))
    split = Split(labels, np.arange(13), vectors, (), rows[:0], rows, rows[:0])
    targets = PartialTargets(values, known)
    trainer = trainer_of(model, split, targets, cache, config, tmp_path)
    schedule = trainer.schedule
    step_labels = trainer._choose_labels()
    chosen, queries, label_weights = step_labels
    assert queries is not None
    batch = schedule.batch(0)
    assert len(chosen) == 5
    assert label_weights is not None
    assert (label_weights == [1 if label in targets.positives(batch) else 3 for label in chosen]).all()
    assert (label_weights == 3).sum() >= 2
    part = next(cache.load(parts(schedule, 0, 0, 1)))
    loss = trainer._loss(part, step_labels, 0)
    none = torch.zeros(11, 0)
    drawn, _, _ = trainer.augment.with_random(queries[:0], none, none, (config.seed, 0, 4), (config.seed, 0, 4, 0, 0))
    with torch.no_grad():
        logits = model.score(model.embed(part.inputs.float()), torch.cat([queries, drawn]))
    wanted = torch.from_numpy(targets.matrix(batch)[:, chosen])
    weights = torch.from_numpy(targets.weights(batch)[:, chosen] * label_weights)
    expected = (asymmetric_loss(logits[:, :5], wanted) * weights).sum()
    of_random = logits[:, 5:]  # (11, 2), or (11, 11 x 2) of which each image has two
    if per == "image":
        of_random = torch.stack([of_random[image, 2 * image : 2 * image + 2] for image in range(11)])
    expected += 0.5 * asymmetric_loss(of_random, torch.ones(11, 2)).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
