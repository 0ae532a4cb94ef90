"""Check that verified negatives go through ``prepare``, and that folders without them stay as they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_prep.pipeline import Options, prepare, summary
from data_prep.report import report_on
from data_prep.source import Found, Source, targets_of
from zsl_tagger.datasets.read import load_dataset, read_dataset
from zsl_tagger.errors import UserError

LABELS = ("cat", "dog", "fish", "horse", "sheep")
SHOWN = [["cat"], ["dog", "cat"], ["sheep"], ["fish", "horse"], ["cat", "horse"], ["dog"], []]
ABSENT = [["dog", "horse"], [], ["cat"], ["sheep", "cat", "dog"], ["fish"], ["cat", "fish"], ["cat"]]
SPLITS = ["train", "train", "train", "test", "test", "val", "train"]


@dataclass(frozen=True, kw_only=True)
class Farm(Source):
    """Hold seven photos and five labels, of which "horse" is unseen; no file is there."""

    command = "farm"

    shown: tuple[tuple[str, ...], ...] = tuple(map(tuple, SHOWN))
    absent: tuple[tuple[str, ...], ...] | None = tuple(map(tuple, ABSENT))

    def read(self, _output: Path, /) -> Found:
        return Found(
            name="farm",
            image_root=self.source,
            paths=[f"{number}.jpg" for number in range(len(self.shown))],
            labels=list(LABELS),
            targets=targets_of(self.shown, LABELS),
            negatives=None if self.absent is None else targets_of(self.absent, LABELS),
            splits=np.array(SPLITS),
            unseen=["horse"],
        )


OPTIONS = Options(skip_images=True)


def test_negatives_become_a_fourth_column(tmp_path: Path) -> None:
    info = prepare(Farm(source=tmp_path), tmp_path / "out", OPTIONS)
    assert (tmp_path / "out" / "data.csv").read_text().splitlines() == [
        "path,labels,split,negatives",
        "0.jpg,[cat],train,[dog]",  # horse is unseen: nothing is said of it in train
        '1.jpg,"[cat, dog]",train,[]',
        "2.jpg,[sheep],train,[cat]",
        '3.jpg,"[fish, horse]",test,"[cat, dog, sheep]"',
        '4.jpg,"[cat, horse]",test,[fish]',
        '5.jpg,[dog],val,"[cat, fish]"',
    ]
    counts = json.loads((tmp_path / "out" / "dataset.json").read_text())["partial_labels"]
    assert counts == {
        "train": {"positives": 4, "negatives": 2, "unknown": 6},  # of 3 x 4
        "val": {"positives": 1, "negatives": 2, "unknown": 1},
        "test": {"positives": 4, "negatives": 4, "unknown": 2},  # of 2 x 5
    }
    assert (
        "  partial labels: train positives 4, negatives 2, unknown 6; val positives 1, negatives 2, unknown 1; "
        "test positives 4, negatives 4, unknown 2"
    ) in summary(info, tmp_path / "out")
    dataset, problems = read_dataset(tmp_path / "out")
    assert dataset is not None
    assert [str(problem) for problem in problems if not problem.warning] == []
    assert [row.tolist() for row in dataset.negative_indices or []] == [[1], [], [0], [0, 1, 4], [2], [0, 2]]


def test_the_split_report_says_what_is_known(tmp_path: Path) -> None:
    prepare(Farm(source=tmp_path), tmp_path / "out", OPTIONS)
    written = json.loads((tmp_path / "out" / "split_report.json").read_text())
    assert written["partial_labels"]["counts"]["train"] == {"positives": 4, "negatives": 2, "unknown": 6}
    never = written["partial_labels"]["never_absent"]
    assert never == {"train": ["sheep"], "val": ["dog"], "test": ["horse"]}
    page = (tmp_path / "out" / "split_report.html").read_text()
    assert '<th>test<td class="n">4<td class="n">4<td class="n">2</tr>' in page
    assert "test: labels known to be absent from no image (1): horse." in page
    assert report_on(tmp_path / "out").to_json() == {**written, "near_duplicates": None}


def test_labels_without_a_vector_leave_the_negatives_too(tmp_path: Path) -> None:
    labels = ("cat", "dog", "fish", "horse", "qqxyzzyq")
    absent = [["qqxyzzyq", "dog"], *ABSENT[1:]]

    @dataclass(frozen=True, kw_only=True)
    class Odd(Farm):
        def read(self, output: Path, /) -> Found:
            found = super().read(output)
            named = [[name if name in labels else "qqxyzzyq" for name in row] for row in absent]
            return Found(**{**vars(found), "labels": list(labels), "negatives": targets_of(named, labels)})

    prepare(Odd(source=tmp_path), tmp_path / "out", Options(skip_images=True, missing="drop"))
    assert "qqxyzzyq" not in (tmp_path / "out" / "data.csv").read_text()
    assert load_dataset(tmp_path / "out").partial


def test_a_folder_with_complete_labels_is_as_it_was(tmp_path: Path) -> None:
    prepare(Farm(source=tmp_path, absent=None), tmp_path / "out", OPTIONS)
    assert (tmp_path / "out" / "data.csv").read_text().splitlines()[:2] == ["path,labels,split", "0.jpg,[cat],train"]
    for name in ("dataset.json", "split_report.json"):
        assert "partial_labels" not in json.loads((tmp_path / "out" / name).read_text())
    assert "What is known" not in (tmp_path / "out" / "split_report.html").read_text()


def test_a_label_that_is_positive_and_negative(tmp_path: Path) -> None:
    absent = (("dog",), ("cat", "dog"), ("cat",), (), (), (), ())
    expected = r"farm: labels are listed both as positive and as negative \(2\), such as 'cat' of '1\.jpg'"
    with pytest.raises(UserError, match=expected):
        prepare(Farm(source=tmp_path, absent=absent), tmp_path / "out", OPTIONS)
