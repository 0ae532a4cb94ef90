"""Test training on partial labels: each mode for unknown labels, the priors that a run writes, and resuming."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import loss_curve, small_run, weights_of

from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.training.checkpoint import Stopped
from zsl_tagger.training.run import train
from zsl_tagger.training.trainer import Trainer

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tagged photos with partial labels: two absent seen labels of each image are annotated as absent."""
    folder = Path(shutil.copytree(tagged, tmp_path_factory.mktemp("partial") / "data"))
    seen = [
        label for label, is_seen in zip(load_dataset(tagged).labels, load_dataset(tagged).seen, strict=True) if is_seen
    ]
    with (folder / "data.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    random = np.random.default_rng(0)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "negatives"])
        for row in rows:
            absent = [label for label in seen if label not in row[1].strip("[]").split(", ")]
            writer.writerow([*row, f"[{', '.join(random.choice(absent, 2, replace=False))}]"])
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**info, "sha256": {}}))
    return folder


def losses(folder: Path) -> list[float]:
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("mode", ["negative", "weak", "reject", "selective"])
def test_each_mode_trains_a_different_model(mode: str, data: Path, ignoring: Path, tmp_path: Path) -> None:
    settings = [f"unknown_labels={mode}", "epochs=2", "likelihood_top=1"]
    train(small_run(data, tmp_path / "model", *(settings if mode == "selective" else settings[:2])))
    assert np.isfinite(losses(tmp_path / "model")).all()
    assert losses(tmp_path / "model") != losses(ignoring)
    assert f"; partial, with unknown_labels={mode} |" in (tmp_path / "model" / "README.md").read_text()


@pytest.fixture(scope="module")
def ignoring(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ignoring") / "model"
    train(small_run(data, out, "epochs=2"))
    return out


def test_run_writes_priors_for_selective(data: Path, ignoring: Path, tmp_path: Path) -> None:
    priors = ignoring / "run" / "label_priors.csv"
    with priors.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["car", "dog", "grass", "sky", "street", "tree"]
    assert all(0 < float(row["prior"]) < 1 for row in rows)
    curves = []
    for threshold in (0.0, 1.0):  # all labels are frequent: as ignore; none is: by likelihood alone
        settings = ("unknown_labels=selective", f"label_priors={priors}", f"prior_threshold={threshold}")
        train(small_run(data, tmp_path / str(threshold), *settings, "epochs=2", "likelihood_top=0"))
        curves.append(losses(tmp_path / str(threshold)))
    assert curves[0] == losses(ignoring)
    assert curves[1] != curves[0]


def test_closed_set_ignores_unknown_labels(data: Path, tmp_path: Path) -> None:
    for mode in ("ignore", "negative"):
        train(small_run(data, tmp_path / mode, "head=closed", f"unknown_labels={mode}"))
    assert losses(tmp_path / "ignore")[-1] < losses(tmp_path / "negative")[-1]


def test_a_stopped_run_is_resumed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("unknown_labels=reject", "reject_rate=0.2", "epochs=3", "checkpoint_every=1")
    train(small_run(data, tmp_path / "whole", *settings))
    step = Trainer._train_step

    def stopping(self: Trainer, shown: object) -> object:
        if self.step == 5:
            raise Stopped(15, self.step)
        return step(self, shown)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_train_step", stopping)
    with pytest.raises(Stopped):
        train(small_run(data, tmp_path / "parts", *settings))
    monkeypatch.undo()
    train(small_run(data, tmp_path / "parts", *settings, resume=True))
    for name, weight in weights_of(tmp_path / "whole").items():
        assert np.array_equal(weight, weights_of(tmp_path / "parts")[name]), name
    assert loss_curve(tmp_path / "whole")[-1] == loss_curve(tmp_path / "parts")[-1]


def test_changed_negatives_prevent_resuming(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))

    def stopping(self: Trainer, shown: object) -> object:  # noqa: ARG001
        raise Stopped(15, self.step)

    monkeypatch.setattr(Trainer, "_train_step", stopping)
    with pytest.raises(Stopped):
        train(small_run(folder, tmp_path / "model"))
    lines = (folder / "data.csv").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if ",train," in line)
    lines[place] = lines[place].rpartition(",train,")[0] + ",train,[]"
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="has other images, labels, word vectors or initial weights"):
        train(small_run(folder, tmp_path / "model", resume=True))


def test_complete_labels_reject_settings_for_unknown_labels(tagged: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown_labels=weak needs partial labels"):
        train(small_run(tagged, tmp_path / "model", "unknown_labels=weak"))
    assert not (tmp_path / "model").exists()


def test_complete_labels_write_no_priors(tagged_model: Path) -> None:
    assert not (tagged_model / "run" / "label_priors.csv").exists()
