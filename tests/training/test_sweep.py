"""Test ``train --sweep``: each combination is an ordinary run, and the best one comes first."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from made_data import run_command
from small_runs import small_run, train_arguments

from zsl_tagger.errors import UserError
from zsl_tagger.tagging.model_folder import read_config
from zsl_tagger.training import sweep as sweep_module
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.run import TrainRun
from zsl_tagger.training.sweep import SWEEP_FILE, SweptRun, combinations, sweep, table


def test_combinations() -> None:
    assert combinations(["lr=1, 2", "seed=0,1,0"]) == [
        ("lr=1", "seed=0"), ("lr=1", "seed=1"), ("lr=2", "seed=0"), ("lr=2", "seed=1"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["lr", "=1,2", "lr=", "lr=1,,2", ""])
def test_invalid_sweep(text: str) -> None:
    with pytest.raises(UserError, match=rf"expected --sweep name=value,value, got '{text}'"):
        combinations([text])


def test_repeated_setting() -> None:
    with pytest.raises(UserError, match="expected one --sweep per setting, got lr twice"):
        combinations(["lr=1", "lr=2"])


def test_invalid_setting_is_reported_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "train", lambda _: pytest.fail("trained"))
    run = small_run(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="lr"):
        sweep(run, ["lr=1e-3,much"])
    with pytest.raises(UserError, match="larning_rate"):
        sweep(run, ["larning_rate=1"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--sweep works with a single process"):
        sweep(run, ["lr=1e-3"])
    assert not (tmp_path / "out").exists()


def test_features_of_a_frozen_backbone_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainRun] = []

    def trained(run: TrainRun) -> None:
        seen.append(run)
        raise UserError("stop here")

    monkeypatch.setattr(sweep_module, "train", trained)
    for run in (
        small_run(tmp_path, tmp_path / "out", "freeze=true"),
        small_run(tmp_path, tmp_path / "out", "freeze=true", cache=tmp_path / "own"),
        small_run(tmp_path, tmp_path / "out", "freeze=false"),
    ):
        with pytest.raises(UserError, match="stop here"):
            sweep(run, ["seed=1"])
    assert [run.cache for run in seen] == [tmp_path / "out" / "cache", tmp_path / "own", None]


def test_table_has_the_measured_figures(tmp_path: Path) -> None:
    rows = [
        SweptRun(("lr=0.1", "seed=7"), tmp_path / "b", ValidationFigures(val_map=0.5, heldout_map=0.25)),
        SweptRun(("lr=0.02", "seed=7"), tmp_path / "a", ValidationFigures(val_map=0.125)),
    ]
    assert table(rows) == [
        "lr    seed  val_map  heldout_map",
        "0.1   7     50.0     25.0",
        "0.02  7     12.5     -",
        "",
        f"best: {tmp_path / 'b'}",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("few_exports", "one_torch_thread")
def test_each_combination_is_trained_and_compared(tagged: Path, tmp_path: Path) -> None:
    output = tmp_path / "models"
    arguments = ["train", *train_arguments(tagged, output), "--recipe", "nus-wide-zsl", "--sweep", "lr=1e-3,1e-9"]
    status, out, err = run_command(*arguments)
    assert status == 0, err
    folders = [output / "lr=1e-3", output / "lr=1e-9"]
    figures = {folder.name: read_config(folder).provenance["validation"]["val_map"] for folder in folders}
    assert re.match(r"lr +val_map", out)
    with (output / SWEEP_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"]: float(row["val_map"]) for row in rows} == figures
    assert [row["model"] for row in rows] == sorted(figures, key=lambda name: -figures[name])
    before = {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders}
    status, again, err = run_command(*arguments[:-1], "lr=1e-3,1e-9", "--resume")
    assert (status, again) == (0, out)
    assert {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders} == before
