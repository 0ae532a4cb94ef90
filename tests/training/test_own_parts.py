"""Test custom heads and losses in training, and the errors for unsuitable ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import animal_data, dataset_of, small_run, tagged_data, weights_of
from torch import Tensor, nn

from zsl_tagger import Tagger
from zsl_tagger.errors import UserError
from zsl_tagger.model.cosine import CosineHead
from zsl_tagger.model.heads import build_own_head
from zsl_tagger.model.linear_head import LinearHead
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.tagging.model_folder import read_config
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.losses import make_loss, own_losses
from zsl_tagger.training.run import train
from zsl_tagger.training.trainer import Trainer


class Named(LinearHead):
    kind = "named"


class OwnDecoder(MLDecoder):
    def architecture(self) -> dict[str, Any]:
        return {"head": "own-decoder"}


def own_decoder(channels: int, word_dim: int) -> nn.Module:
    return OwnDecoder(channels, word_dim=word_dim, dim=32, ffn_dim=64, heads=4)


CALLS: list[int] = []


def own_asl(logits: Tensor, targets: Tensor) -> Tensor:
    CALLS.append(len(logits))
    return make_loss("asl", focal_gradient=False)(logits, targets)


@pytest.mark.slow
@pytest.mark.usefixtures("few_exports")
def test_built_in_decoder_and_loss_as_custom_parts_give_the_same_weights(tmp_path: Path) -> None:
    data, settings = tagged_data(tmp_path, 20), ("heads=4", "dropout=0.1")
    train(small_run(data, tmp_path / "a", *settings))
    assert not CALLS
    train(small_run(data, tmp_path / "b", *settings, head=own_decoder, loss=own_asl))
    assert CALLS
    ours, own = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert ours.keys() == own.keys()
    assert all(np.array_equal(ours[name], own[name]) for name in ours)
    provenance = read_config(tmp_path / "b").provenance
    assert provenance["own"] == {"head": "OwnDecoder", "loss": "own_asl"}
    assert "own" not in read_config(tmp_path / "a").provenance
    card = (tmp_path / "b" / "README.md").read_text()
    assert ", head OwnDecoder, loss own_asl, " in card
    assert "--config train_config.json" not in card


@pytest.mark.slow
def test_custom_closed_head_tags(tmp_path: Path) -> None:
    data = animal_data(tmp_path)
    train(small_run(data, tmp_path / "model", "head=closed", head=Named))
    tagger, photo = Tagger(tmp_path / "model"), next((tmp_path / "photos" / "cat").iterdir())
    assert read_config(tmp_path / "model").architecture["head"] == "named"
    assert tagger.scores(tagger.encode(photo), ["cat", "dog"]).shape == (1, 2)


# --- what does not fit ----------------------------------------------------------------------------------------


class Unnamed(CosineHead):
    def architecture(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("make", "word_dim", "message"),
    [
        (lambda channels, _: nn.Linear(channels, 5), 7,
         "expected the head Linear to be a torch module with architecture, embed_tokens, num_classes, score, "
         "score_with_attention, word_dim, prepare: docs/paper.md has an example"),
        (lambda *_: SimpleNamespace(), None, "the head SimpleNamespace to be a torch module with .*, query_of: docs"),
        (LinearHead, None, r"expected the head LinearHead to have a name of its own .*\['head'\], got 'linear'"),
        (lambda channels, _: Unnamed(channels), 5, "expected the head Unnamed to have a name of its own .*, got None"),
        (lambda channels, _: Named(channels, 4), None,
         "the head Named to have num_classes=3 and word_dim=None, got 4 and None"),
        (own_decoder, None, "the head OwnDecoder to be a torch module with query_of|num_classes=3 and word_dim=None"),
        (lambda channels, _: own_decoder(channels, 4), 5, "num_classes=None and word_dim=5, got None and 4"),
    ],
)  # fmt: skip
def test_unsuitable_head_is_named(make: Any, word_dim: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_own_head(make, 5, word_dim, 3)


def test_custom_loss_gets_unknown_pairs() -> None:
    logits, targets = torch.randn(2, 5), torch.eye(2, 5)
    unknown = torch.tensor([[0, 1, 0], [1, 0, 0]]).float()  # of labels; two random queries are known
    seen: list[Tensor] = []

    def loss(logits: Tensor, targets: Tensor, unknown: Tensor | None = None) -> Tensor:
        seen.append(torch.zeros_like(logits) if unknown is None else unknown)
        return (logits - targets).square()

    assert torch.equal(own_losses(loss, logits, targets, None), (logits - targets).square())
    own_losses(loss, logits, targets, unknown)
    assert [one.sum().item() for one in seen] == [0, 2]
    assert torch.equal(seen[1][:, :3], unknown)
    with pytest.raises(UserError, match=r"the loss lost to return one value for each .* \(2, 5\), got \(\)"):
        own_losses(lost, logits, targets, None)


def lost(logits: Tensor, _: Tensor) -> Tensor:
    return logits.sum()


def test_trainer_uses_the_custom_loss_for_partial_labels() -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.own_loss = lambda logits, targets, unknown: logits * 0 + targets + 3 * unknown
    ones = torch.ones(2, 3)
    chosen: Any = SimpleNamespace(labels=np.arange(3))
    assert torch.equal(trainer._elementwise(ones, ones, ones, chosen), 4 * ones)


def test_unknown_labels_needs_a_built_in_loss(tmp_path: Path) -> None:
    run = small_run(tagged_data(tmp_path, 20), tmp_path / "out", "unknown_labels=negative", loss=own_asl)
    with pytest.raises(UserError, match="unknown_labels=negative is only for built-in losses; own_asl gets"):
        train(run)
    assert not (tmp_path / "out").exists()


def test_bias_init_applies_to_custom_heads_with_a_bias() -> None:
    from zsl_tagger.training.initial import initial_model

    config = TrainConfig(backbone="test_resnet", init="scratch", image_size=64, bias_init=-3.0)
    model, lines = initial_model(config, dataset_of(Path("d"), ["sky"], ["train"], width=5), 1, own_head=own_decoder)
    assert model.head.bias.item() == -3
    assert lines[-1] == "head: OwnDecoder, with the weights it was created with"
