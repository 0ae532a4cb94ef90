"""Check what all data sets share: one order of the steps, and the identity by which a run is resumed."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from data_prep.coco import Coco
from data_prep.folders import Folders
from data_prep.nus_wide import NusWide
from data_prep.output import OutputFolder
from data_prep.pipeline import Options, prepare
from data_prep.source import Found, Source, deciding, targets_of
from data_prep.tables import Columns, Table
from zsl_tagger.errors import UserError

#: The options of a run, as version 0.1 wrote them into its output folder.
OPTIONS = {
    "word_vectors": "packaged", "missing": "error", "normalize": True, "skip_images": False, "val_fraction": 0.1,
    "test_fraction": 0.2, "train_per_class": None, "seed": 0,
}  # fmt: skip

#: Source -> its identity in the same version, for a source in /raw.
OLDER = [
    (NusWide(source=Path("/raw")), {"prepare": "nus-wide", "source": "/raw", "protocol": "mld"}),
    (
        NusWide(source=Path("/raw"), protocol="lesa", allow_subset=True),
        {"prepare": "nus-wide", "source": "/raw", "protocol": "lesa"},
    ),
    (
        Coco(source=Path("/raw"), year=2017, task="zsl-48-17"),
        {"prepare": "coco", "source": "/raw", "task": "zsl-48-17", "year": 2017, "keep_unlabelled": False},
    ),
    (
        Folders(source=Path("/raw"), unseen="25%"),
        {"prepare": "folders", "source": "/raw", "task": "single-label", "unseen": "25%"},
    ),
    (
        Folders(source=Path("/raw"), exclude_path=["small"]),
        {"prepare": "folders", "source": "/raw", "task": "single-label", "unseen": "", "exclude_path": ["small"]},
    ),
    (
        Table(source=Path("/raw/tags.csv"), columns=Columns(split="part")),
        {
            "prepare": "table", "source": "/raw/tags.csv", "image_root": "/raw", "unseen": "",
            "columns": {"path": "path", "tags": "tags", "split": "part", "separator": ",", "delimiter": None},
            "keep_unlabelled": False,
        },
    ),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pets(Source):
    """A data set of two photos, of which no file is there."""

    command = "pets"

    labels: tuple[str, ...] = ("cat", "dog")

    def read(self, _output: Path, /) -> Found:
        return Found(
            name="pets",
            image_root=self.source,
            paths=["a.jpg", "b.jpg"],
            labels=list(self.labels),
            targets=targets_of([["cat"], ["dog"]], self.labels),
            splits=np.array(["train", "test"]),
            unpack=lambda folder: (folder / "a.jpg").touch(),
        )


@pytest.mark.parametrize(("source", "identity"), OLDER)
def test_a_folder_of_an_older_version_is_the_same_run(source: Source, identity: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"prepared_by": {**identity, **OPTIONS}}))
    (tmp_path / "data.csv").touch()
    now = {**source.identity(), **deciding(Options(workers=3, overwrite=True, released_splits=True))}
    assert OutputFolder(tmp_path, now).resumed
    with pytest.raises(UserError, match=r"contains another data set \(seed: 0, requested 1\)"):
        OutputFolder(tmp_path, {**source.identity(), **deciding(Options(seed=1))})


def test_the_year_of_coco_that_is_there_is_part_of_its_identity(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").touch()
    assert Coco(source=tmp_path).identity()["year"] == 2017


@pytest.mark.slow
def test_a_data_set_needs_a_dataclass_and_nothing_else(tmp_path: Path) -> None:
    info = prepare(Pets(source=tmp_path), tmp_path / "out", Options(skip_images=True, val_fraction=0))
    assert info.images == {"train": 1, "val": 0, "test": 1}
    identity = json.loads((tmp_path / "out" / "dataset.json").read_text())["prepared_by"]
    assert {key: identity[key] for key in ("prepare", "source", "labels")} == {
        "prepare": "pets", "source": str(tmp_path), "labels": ["cat", "dog"],
    }  # fmt: skip


def test_nothing_is_written_before_the_labels_have_their_vectors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the label 'salt, pepper' contains a comma"):
        prepare(Pets(source=tmp_path, labels=("cat", "dog", "salt, pepper")), tmp_path / "out", Options())
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_data_set_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"contains other files \(thesis\.tex\)"):
        prepare(Pets(source=tmp_path), tmp_path / "out", Options())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.tex"]  # a.jpg was not unpacked


def test_the_commands_can_set_every_option() -> None:
    stated = {name.replace("no_normalize", "normalize") for name in inspect.signature(cli._prepare_options).parameters}
    assert stated == {option.name for option in fields(Options)}
    defaults = Options()
    assert cli._prepare_options() == defaults
    assert (defaults.workers, defaults.overwrite, defaults.released_splits) == (None, False, False)
