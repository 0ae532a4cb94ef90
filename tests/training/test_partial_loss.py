"""Compare zsl_tagger/training/partial_labels.py with loops over single pairs that follow the papers' formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from accelerate import Accelerator
from small_runs import dataset_of
from torch.testing import assert_close

from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import build_model
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import LoadedPart, Part, Schedule, Targets, mosaic, split_for_training
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.losses import make_loss
from zsl_tagger.training.partial_labels import PartialLoss, check_partial_labels, known_share, priors_csv, read_priors
from zsl_tagger.training.trainer import Trainer

IMAGES, LABELS = 5, 7
generator = torch.Generator().manual_seed(3)
LOGITS = 3 * torch.randn(IMAGES, LABELS, generator=generator, dtype=torch.float64)
#: 1, 0 and -1 for unknown.
TRUTH = np.random.default_rng(2).choice([1, 0, -1], (IMAGES, LABELS), p=[0.2, 0.3, 0.5])
ALL = np.arange(LABELS)
PRIORS = np.array([0.3, 0.01, 0.02, 0.5, 0.04, 0.0, 0.2])


def computed(
    logits: torch.Tensor, truth: np.ndarray, epoch: int = 0, priors: np.ndarray | None = None, **settings: Any
) -> torch.Tensor:
    targets, unknown = (torch.from_numpy(truth == value).to(logits) for value in (1, -1))
    return PartialLoss(TrainConfig(**settings), priors)(logits, targets, unknown, np.arange(truth.shape[1]), epoch)


def unknown_pairs() -> list[tuple[int, int]]:
    return [(int(image), int(label)) for image, label in np.argwhere(TRUTH == -1)]


def pair_loss(logit: float, target: int, settings: dict[str, Any], unknown: bool) -> tuple[float, float]:
    """Return the loss of one pair and its derivative with respect to the logit."""
    if settings["loss"] == "bce":
        p = 1 / (1 + math.exp(-logit))
        moved = target * (1 - settings["smoothing"]) + settings["smoothing"] / 2
        return -moved * math.log(p) - (1 - moved) * math.log(1 - p), p - moved
    gamma = settings["gamma_unknown"] if unknown else settings["gamma_neg"]
    options = {"gamma_neg": gamma, "gamma_pos": settings["gamma_pos"], "clip": settings["clip"]}
    loss = reference.asymmetric_loss(logit, target, **options)
    kept = settings.get("focal_gradient", True)
    return loss, reference.asymmetric_loss_gradient(logit, target, focal_gradient=kept, **options)


def factors(settings: dict[str, Any], epoch: int, priors: np.ndarray | None) -> dict[tuple[int, int], float]:
    """Return the factor of the loss of each unknown pair as a negative, one pair at a time."""
    pairs, mode = unknown_pairs(), settings["unknown_labels"]
    found = dict.fromkeys(pairs, {"ignore": 0.0, "weak": 1 / (LABELS - 1)}.get(mode, 1.0))
    if mode == "reject":
        by_loss = sorted(pairs, key=lambda pair: -pair_loss(float(LOGITS[pair]), 0, settings, True)[0])
        share = min(1.0, settings["reject_rate"] * epoch)
        for pair in by_loss[: math.ceil(share * len(pairs) - 1e-9)]:
            found[pair] = 0.0
    if mode == "selective":
        likely = sorted(pairs, key=lambda pair: -float(LOGITS[pair]))[: settings["likelihood_top"] * IMAGES]
        for pair in pairs:
            often = priors is not None and priors[pair[1]] > settings["prior_threshold"]
            if pair in likely or often:
                found[pair] = 0.0
    return found


def expected(settings: dict[str, Any], epoch: int, priors: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
    losses, gradients = torch.zeros_like(LOGITS), torch.zeros_like(LOGITS)
    factor = factors(settings, epoch, priors)
    for image in range(IMAGES):
        for label in range(LABELS):
            unknown = TRUTH[image, label] == -1
            target = 0 if unknown else int(TRUTH[image, label])
            weight = factor[image, label] if unknown else 1.0
            loss, gradient = pair_loss(float(LOGITS[image, label]), target, settings, unknown)
            losses[image, label], gradients[image, label] = weight * loss, weight * gradient
    return losses, gradients


ASL = {"loss": "asl", "gamma_neg": 3.0, "gamma_pos": 1.0, "clip": 0.05}
BCE = {"loss": "bce", "smoothing": 0.1}
MODES = [
    ({"unknown_labels": "ignore"}, 0, None),
    ({"unknown_labels": "negative"}, 0, None),
    ({"unknown_labels": "weak"}, 0, None),
    ({"unknown_labels": "reject", "reject_rate": 0.09}, 0, None),
    ({"unknown_labels": "reject", "reject_rate": 0.09}, 3, None),
    ({"unknown_labels": "reject", "reject_rate": 0.5}, 7, None),
    ({"unknown_labels": "selective", "likelihood_top": 1, "prior_threshold": 0.1}, 0, None),
    ({"unknown_labels": "selective", "likelihood_top": 1, "prior_threshold": 0.1}, 0, PRIORS),
    ({"unknown_labels": "selective", "likelihood_top": 0, "prior_threshold": 0.02}, 0, PRIORS),
    ({"unknown_labels": "selective", "likelihood_top": 99, "prior_threshold": 0.1}, 0, None),
]


@pytest.mark.parametrize(("mode", "epoch", "priors"), MODES)
@pytest.mark.parametrize("loss", [ASL, {**ASL, "focal_gradient": False}, BCE], ids=["asl", "asl, released", "bce"])
def test_losses_and_gradients_equal_a_loop(
    loss: dict[str, Any], mode: dict[str, Any], epoch: int, priors: np.ndarray | None
) -> None:
    settings = {**loss, **mode}
    if loss["loss"] == "asl":
        settings["gamma_unknown"] = 3.0 if mode["unknown_labels"] == "ignore" else 2.0
    given = {name: value for name, value in settings.items() if (name, value) != ("gamma_unknown", 3.0)}
    logits = LOGITS.clone().requires_grad_()
    losses = computed(logits, TRUTH, epoch, priors, **given)
    values, gradients = expected(settings, epoch, priors)
    assert_close(losses.detach(), values)
    assert_close(torch.autograd.grad(losses.sum(), logits)[0], gradients)


def test_the_single_positive_losses_of_cole_et_al() -> None:
    """Check AN, AN-LS and WAN of arXiv 2106.09708, as sums over labels."""
    positive = [int(number) for number in np.random.default_rng(0).integers(0, LABELS, IMAGES)]
    truth = np.where(np.eye(LABELS)[positive] == 1, 1, -1)
    p = torch.sigmoid(LOGITS)
    eps, gamma = 0.2, 1 / (LABELS - 1)
    an, smoothed, weak = (torch.zeros(IMAGES, dtype=torch.float64) for _ in range(3))
    for image in range(IMAGES):
        for label in range(LABELS):
            yes, no = -torch.log(p[image, label]), -torch.log(1 - p[image, label])
            own = positive[image] == label
            an[image] += yes if own else no
            smoothed[image] += (1 - eps / 2) * (yes if own else no) + eps / 2 * (no if own else yes)
            weak[image] += yes if own else gamma * no
    assert_close(computed(LOGITS, truth, loss="bce", unknown_labels="negative").sum(1), an)
    assert_close(computed(LOGITS, truth, loss="bce", smoothing=eps, unknown_labels="negative").sum(1), smoothed)
    assert_close(computed(LOGITS, truth, loss="bce", unknown_labels="weak").sum(1), weak)


@pytest.mark.parametrize("settings", [ASL, BCE], ids=["asl", "bce"])
@pytest.mark.parametrize("mode", ["ignore", "negative", "weak", "reject", "selective"])
def test_loss_is_unchanged_if_all_labels_are_known(mode: str, settings: dict[str, Any]) -> None:
    truth = np.abs(TRUTH)
    config = TrainConfig(**settings)
    whole = make_loss(
        config.loss, config.gamma_neg, config.gamma_pos, config.clip, config.smoothing, config.focal_gradient
    )
    ours = computed(LOGITS, truth, 4, PRIORS, unknown_labels=mode, **settings)
    assert_close(ours, whole(LOGITS, torch.from_numpy(truth).double()))


@pytest.mark.parametrize("mode", ["ignore", "negative", "weak"])
def test_loss_of_a_mixture_is_the_mixture_of_losses(mode: str) -> None:
    """Mixup of 0.3 of image 0 and 0.7 of image 1, with any combination of known and unknown labels."""
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)
    loss = PartialLoss(TrainConfig(unknown_labels=mode, **ASL))  # type: ignore[arg-type]
    targets, unknown = (torch.from_numpy(TRUTH[:2] == value).double() for value in (1, -1))
    logits = LOGITS[:1]
    mixed = loss(logits, (shares @ targets)[None], (shares @ unknown)[None], ALL, 0)
    apart = [loss(logits, targets[image : image + 1], unknown[image : image + 1], ALL, 0) for image in (0, 1)]
    assert_close(mixed, shares[0] * apart[0] + shares[1] * apart[1])


def test_random_queries_are_known_and_priors_follow_the_labels_of_the_step() -> None:
    settings: dict[str, Any] = {"unknown_labels": "selective", "likelihood_top": 0, "prior_threshold": 0.1, **BCE}
    labels = np.array([1, 3, 5])
    logits = torch.zeros(1, 5, dtype=torch.float64)  # two random queries
    targets = torch.tensor([[0.0, 0, 0, 1, 1]], dtype=torch.float64)
    unknown = torch.ones(1, 3, dtype=torch.float64)
    losses = PartialLoss(TrainConfig(**settings), PRIORS)(logits, targets, unknown, labels, 0)
    assert (losses > 0).tolist() == [[True, False, True, True, True]]  # only the label 3 is frequent


# --- what is known of images ------------------------------------------------------------------------------------


def partial_dataset(
    folder: Path, shown: list[str], absent: list[str], splits: list[str] | None = None
) -> PreparedDataset:
    dataset = dataset_of(folder, shown, splits or ["train"] * len(shown), more=" ".join(absent))
    names = list(dataset.labels)
    return replace(
        dataset, negative_indices=[np.array([names.index(name) for name in row.split()], np.int64) for row in absent]
    )


SHOWN = ["a b", "c", "", "a d", "b"]
ABSENT = ["c", "a", "a b c d", "b", "d"]


def test_unknown_targets_of_photos_and_mosaics_equal_a_loop(tmp_path: Path) -> None:
    dataset = partial_dataset(tmp_path, SHOWN, ABSENT)
    targets = Targets(dataset, np.array([0, 1, 3]))
    for rows in (np.array([2, 0, 4]), np.stack([mosaic([0]), mosaic([1, 2, 2, 0]), mosaic([2, 4, 3, 2])])):
        unknown = targets.unknown(rows)
        assert unknown is not None
        for line, image in enumerate(rows):
            photos = [int(photo) for photo in np.atleast_1d(image) if photo >= 0]
            for column, label in enumerate(["a", "b", "d"]):
                on = any(label in SHOWN[photo].split() for photo in photos)
                lacking = all(label in ABSENT[photo].split() for photo in photos)
                assert unknown[line, column] == (not on and not lacking)
                assert targets.matrix(rows)[line, column] == on
    assert targets.annotated(np.array([1, 4])).tolist() == [0, 1, 2]
    assert targets.positives(np.array([1, 4])).tolist() == [1]
    assert known_share(dataset, split_for_training(dataset, TrainConfig())) == 14 / 20  # 6 on images, 8 absent


def test_complete_labels_have_no_unknown_targets(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, SHOWN, ["train"] * 5)
    targets = Targets(dataset, np.arange(4))
    assert targets.unknown(np.array([0, 1])) is None
    assert targets.annotated(np.array([0, 1])).tolist() == targets.positives(np.array([0, 1])).tolist()


# --- a step of the trainer --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> TaggerModel:
    torch.manual_seed(0)
    return build_model(Backbone("test_efficientnet"), {"dim": 24, "ffn_dim": 29, "heads": 3}, word_dim=5).eval()


def trainer_of(model: TaggerModel, dataset: PreparedDataset, config: TrainConfig, folder: Path) -> Trainer:
    split = split_for_training(dataset, config)
    return Trainer(
        model, split, Targets(dataset, split.columns), Schedule(split.train, config), config, Accelerator(cpu=True),
        from_features=False, parts_from=lambda _: iter(()), validate=lambda _: ValidationFigures(), folder=folder,  # type: ignore[arg-type,return-value]
        data="",
    )  # fmt: skip


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_step_mixes_unknown_pairs_like_targets(model: TaggerModel, tmp_path: Path, mixup: float) -> None:
    dataset = partial_dataset(tmp_path, SHOWN, ABSENT)
    config = TrainConfig(
        backbone="test_efficientnet", image_size=64, batch_size=5, dropout=0.0, mixup=mixup, random_queries=2,
        unknown_labels="negative", gamma_unknown=1.0, ema=0.0, drop_path=0.0,
    )  # fmt: skip
    trainer = trainer_of(model, dataset, config, tmp_path)
    trainer.network.eval()
    rows = np.arange(5)
    pixels = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    chosen = trainer._choose_labels()
    assert chosen.queries is not None
    with torch.no_grad():
        loss = trainer._loss(LoadedPart(Part(0, rows, rows), pixels, rows, []), chosen, 0)
        shares = torch.eye(5)
        inputs = pixels.float()
        if trainer.mix is not None:
            inputs, shares = trainer.mix(pixels, torch.eye(5), (config.seed, 0, 3, 0))
            assert 0 < shares[0, 0] < 1
        none = torch.zeros(5, 0)
        drawn, _, _ = trainer.augment.with_random(
            chosen.queries[:0], none, none, (config.seed, 0, 4), (config.seed, 0, 4, 0, 0)
        )
        logits = model.score(model.embed(model.backbone_tokens(inputs)), torch.cat([chosen.queries, drawn])).double()
    total = 0.0
    for image in range(5):
        for column, label in enumerate("abcd"):
            for photo in range(5):  # the share of each photo in the image, with what is known of that photo
                on, absent = label in SHOWN[photo].split(), label in ABSENT[photo].split()
                gamma = 4.0 if on or absent else 1.0
                one = reference.asymmetric_loss(float(logits[image, column]), float(on), gamma, 0.0, 0.05)
                total += float(shares[image, photo]) * one
        total += sum(
            reference.asymmetric_loss(float(logits[image, 4 + query]), 1.0, 4.0, 0.0, 0.05) for query in (0, 1)
        )
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_step_with_few_labels_prefers_annotated_ones(
    model: TaggerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = " ".join(f"x{number:02d}" for number in range(41))
    dataset = partial_dataset(tmp_path, ["a", "b", f"{names} c"], ["b", "a c", ""])
    config = TrainConfig(backbone="test_efficientnet", image_size=64, batch_size=2, labels_per_step=5)
    trainer = trainer_of(model, dataset, config, tmp_path)
    monkeypatch.setattr(trainer.schedule, "batch", lambda _: np.array([0, 1]))
    labels = [trainer.split.labels[place] for place in trainer._choose_labels().labels]
    assert {"a", "b", "c"} < set(labels)


# --- settings and data that do not go together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unknown_labels": "csl"}, "expected unknown_labels to be one of ignore, negative, weak, reject, selective"),
        ({"loss": "bce", "unknown_labels": "weak", "gamma_unknown": 1}, "gamma_unknown needs loss=asl"),
        ({"gamma_unknown": 1}, "gamma_unknown applies to unknown labels treated as absent"),
        ({"reject_rate": 0.1}, "reject_rate needs unknown_labels=reject"),
        ({"likelihood_top": 3}, "likelihood_top, prior_threshold and label_priors need unknown_labels=selective"),
        ({"label_priors": "x.csv"}, "likelihood_top, prior_threshold and label_priors need unknown_labels=selective"),
        ({"unknown_labels": "reject", "reject_rate": 1.5}, "expected reject_rate in 0..1"),
    ],
)
def test_contradictory_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_data_that_does_not_fit_the_settings(tmp_path: Path) -> None:
    complete = dataset_of(tmp_path, SHOWN, ["train"] * 5)
    dataset = partial_dataset(tmp_path, SHOWN, ABSENT)
    positives = partial_dataset(tmp_path, SHOWN, [""] * 5)

    def check(data: PreparedDataset, **settings: Any) -> None:
        config = TrainConfig(**settings)
        check_partial_labels(data, split_for_training(data, config), config)

    with pytest.raises(UserError, match=r"unknown_labels=weak needs partial labels.*data\.csv has no column negatives"):
        check(complete, unknown_labels="weak")
    with pytest.raises(UserError, match=r"loss=ce needs complete labels.*are partial: set loss=asl or bce"):
        check(dataset, loss="ce", head="closed")
    with pytest.raises(UserError, match=r"no label is known to be absent.*set unknown_labels=negative, weak"):
        check(positives)
    check(complete)
    check(dataset)
    check(positives, unknown_labels="weak")


# --- priors ---------------------------------------------------------------------------------------------------------


def test_priors_are_mean_probabilities_and_round_trip(tmp_path: Path) -> None:
    labels = ["red, or so", "sky", 'a "b"']
    probabilities = np.random.default_rng(0).random((11, 3))
    (tmp_path / "priors.csv").write_bytes(priors_csv(labels, probabilities))
    assert read_priors(tmp_path / "priors.csv", labels[::-1]) == pytest.approx(
        probabilities.mean(axis=0)[::-1], abs=1e-6
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p\.csv: expected the columns label,prior; got nothing"),
        ("name,prior\na,0.1\n", r"p\.csv: expected the columns label,prior; got name,prior"),
        ("label,prior\na,0.1\nb,1.5\n", r"p\.csv:3: expected a label and its prior in 0\.\.1, got b,1\.5"),
        ("label,prior\na,much\n", r"p\.csv:2: expected a label and its prior in 0\.\.1, got a,much"),
        ("label,prior\na\n", r"p\.csv:2: expected a label and its prior in 0\.\.1, got a"),
        ("label,prior\na,0.1\n", r"p\.csv has no prior for 1 trained labels: 'b'"),
    ],
)
def test_invalid_priors(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_priors(tmp_path / "p.csv", ["a", "b"])


def test_missing_priors_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read label_priors=.*gone\.csv: No such file"):
        read_priors(tmp_path / "gone.csv", ["a"])
