"""Test checkpoints written by an older version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import build_model
from zsl_tagger.training.checkpoint import save_checkpoint
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import PartialTargets, Schedule, Split
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.log import CSV_FILE, read_metrics
from zsl_tagger.training.trainer import CHECKPOINT_FILE, Trainer

CONFIG = TrainConfig(dim=24, ffn_dim=29, heads=3, freeze=True, cache_views=1, batch_size=4)


def trainer_of(folder: Path, config: TrainConfig = CONFIG, data: str = "photos") -> Trainer:
    """Return a trainer of a small model with a frozen backbone."""
    model = build_model(Backbone("test_efficientnet"), {"dim": 24, "ffn_dim": 29, "heads": 3}, word_dim=6)
    rows = np.arange(8)
    split = Split(("a", "b"), np.arange(2), np.eye(2, 6, dtype=np.float32), (), rows[:0], rows, rows[:0])
    marks = np.ones((8, 2), np.float32)
    return Trainer(
        model, split, PartialTargets(marks, marks), Schedule(rows, config), config, Accelerator(cpu=True),
        from_features=True, parts_from=lambda _: (_ for _ in ()), validate=lambda _: ValidationFigures(),
        folder=folder, data=data,
    )  # fmt: skip


def older_checkpoint(folder: Path, *lacking: str) -> dict[str, Tensor]:
    """Write a checkpoint without some settings; return its weights."""
    trainer = trainer_of(folder)
    trainer.save()
    content: dict[str, Any] = torch.load(folder / CHECKPOINT_FILE, weights_only=True)
    for name in lacking:
        del content["config"][name]
    save_checkpoint(folder / CHECKPOINT_FILE, content)
    weights: dict[str, Tensor] = content["weights"]
    return weights


def test_missing_settings_have_the_old_behaviour(tmp_path: Path) -> None:
    weights = older_checkpoint(tmp_path, "focal_gradient", "ema_warmup")
    resumed = trainer_of(tmp_path)
    resumed.resume()
    for name, value in resumed.trained.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("setting", ["focal_gradient", "ema_warmup"])
def test_missing_settings_cannot_be_changed(setting: str, tmp_path: Path) -> None:
    older_checkpoint(tmp_path, setting)
    with pytest.raises(UserError, match=rf"has other settings \({setting} True -> False\): resume"):
        trainer_of(tmp_path, CONFIG.changed([f"{setting}=false"])).resume()


def test_old_checkpoint_resumes_despite_other_initial_weights(tmp_path: Path) -> None:
    """The fingerprint covers the initial weights, so it differs from that of an older run."""
    weights = older_checkpoint(tmp_path, "ema_warmup")
    resumed = trainer_of(tmp_path, data="photos, and a head of other draws")
    resumed.resume()
    assert torch.equal(resumed.model.head.group_weight, weights["group_weight"])
    trainer_of(tmp_path).save()
    with pytest.raises(UserError, match="has other images, labels, word vectors or initial weights"):
        resumed.resume()


def test_best_step_is_read_under_old_metric_names(tmp_path: Path) -> None:
    trainer_of(tmp_path).save()
    content: dict[str, Any] = torch.load(tmp_path / CHECKPOINT_FILE, weights_only=True)
    assert content["best"] == {}
    content["best"] = {"val_mAP": 0.5, "val_F1@3": 0.25, "heldout_mAP": 0.4, "harmonic_mean": 0.44, "step": 6}
    save_checkpoint(tmp_path / CHECKPOINT_FILE, content)
    resumed = trainer_of(tmp_path)
    resumed.resume()
    figures = ValidationFigures(val_map=0.5, val_f1_at_3=0.25, heldout_map=0.4, harmonic_mean=0.44)
    assert (resumed.best, resumed.best_step) == (figures, 6)
    resumed.save()
    again = trainer_of(tmp_path)
    again.resume()
    assert (again.best, again.best_step) == (figures, 6)


def test_old_metrics_are_read_under_new_names(tmp_path: Path) -> None:
    (tmp_path / CSV_FILE).write_text(
        "step,epoch,loss,lr,images_per_s,val_mAP,val_F1@3,val_top1,heldout_mAP,harmonic_mean\n4,1,0.7,0.1,9,0.5,0.25,,0.4,0.44\n"
    )
    (row,) = read_metrics(tmp_path / CSV_FILE)
    assert {name: float(row[name]) for name in ("val_map", "val_f1_at_3", "heldout_map")} == {
        "val_map": 0.5, "val_f1_at_3": 0.25, "heldout_map": 0.4,
    }  # fmt: skip
