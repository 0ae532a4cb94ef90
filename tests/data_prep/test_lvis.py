"""LVIS: what is on an image, what is verified to be absent, and what is unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_data import negatives_of, rows_of, write_lvis

from data_prep.lvis import Lvis
from data_prep.pipeline import Options, prepare
from data_prep.wordvecs import word_vectors
from zsl_tagger.datasets.read import read_dataset
from zsl_tagger.errors import UserError

OPTIONS = Options(val_fraction=0.25, skip_images=True)
CATEGORIES = {"aerosol_can": "c", "bat_(animal)": "r", "dog": "f", "T-shirt": "f"}
TRAIN: list[dict[str, list[str]]] = [
    {"shown": ["dog", "dog", "T-shirt"], "absent": ["bat_(animal)"], "not_exhaustive": ["dog"]},
    {"shown": ["bat_(animal)", "dog"], "absent": ["aerosol_can"]},
    {"absent": ["dog"], "not_exhaustive": ["T-shirt"]},
    {"shown": ["aerosol_can"], "not_exhaustive": ["T-shirt"]},
    {"shown": ["bat_(animal)"]},
]
VAL: list[dict[str, list[str]]] = [{"shown": ["bat_(animal)"], "absent": ["dog"]}, {"shown": ["dog"]}]


def train(number: int) -> str:
    return f"train2017/{5000 + number:012d}.jpg"


def val(number: int) -> str:
    """Some of LVIS's val images lie in COCO's train folder."""
    return f"train2017/{3000 + number:012d}.jpg"


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    write_lvis(tmp_path / "LVIS", CATEGORIES, {"train": TRAIN, "val": VAL})
    return tmp_path / "LVIS"


def test_annotated_categories_are_there_and_negative_ones_absent(lvis: Path, tmp_path: Path) -> None:
    info = prepare(Lvis(source=lvis), tmp_path / "out", OPTIONS)
    assert {path: labels for path, (labels, _) in rows_of(tmp_path / "out").items()} == {
        train(0): {"dog", "T-shirt"},
        train(1): {"bat (animal)", "dog"},
        train(3): {"aerosol can"},
        train(4): {"bat (animal)"},
        val(0): {"bat (animal)"},
        val(1): {"dog"},
    }
    assert negatives_of(tmp_path / "out") == {
        train(0): {"bat (animal)"}, train(1): {"aerosol can"}, train(3): set(), train(4): set(),
        val(0): {"dog"}, val(1): set(),
    }  # fmt: skip
    assert {path for path, (_, split) in rows_of(tmp_path / "out").items() if split == "test"} == {val(0), val(1)}
    assert info.dropped == {"train or val image without a seen label": 1}
    assert info.source["labels_not_exhaustively_annotated"] == {"train": 3, "test": 0}
    assert (info.source["categories"], info.source["rare_categories"]) == (4, 1)
    assert read_dataset(tmp_path / "out", lvis)[0] is not None


def test_rare_categories_can_be_unseen(lvis: Path, tmp_path: Path) -> None:
    info = prepare(Lvis(source=lvis, task="zsl-rare"), tmp_path / "out", OPTIONS)
    rows = rows_of(tmp_path / "out")
    assert rows[train(1)][0] == {"dog"}
    assert train(4) not in rows  # shows nothing that is seen
    assert rows[val(0)] == ({"bat (animal)"}, "test")
    benchmark = json.loads((tmp_path / "out" / "benchmark_lvis_zsl_rare.json").read_text())
    assert benchmark == {"train class": ["T-shirt", "aerosol can", "dog"], "test class": ["bat (animal)"]}
    assert info.unseen_labels == 1


def test_images_without_annotation_can_be_kept_for_their_negatives(lvis: Path, tmp_path: Path) -> None:
    prepare(Lvis(source=lvis, keep_unlabelled=True), tmp_path / "out", OPTIONS)
    assert rows_of(tmp_path / "out")[train(2)][0] == set()
    assert negatives_of(tmp_path / "out")[train(2)] == {"dog"}


def test_images_without_a_file_are_counted(lvis: Path, tmp_path: Path) -> None:
    (lvis / val(1)).unlink()
    info = prepare(Lvis(source=lvis), tmp_path / "out", Options(val_fraction=0))
    assert info.dropped["missing"] == 1


def test_a_name_with_parentheses_has_the_vector_of_its_words() -> None:
    found = word_vectors(["bat (animal)", "cap (zzzqx)", "dog"], "packaged")
    assert found.how["bat (animal)"] == ("averaged", ("bat", "animal"))
    assert found.how["cap (zzzqx)"] == ("as is", ("cap",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), r"is not an LVIS file: expected a list of objects called 'categories'"),
        (lambda c: c["images"][0].pop("neg_category_ids"), r"image 0: expected a list of category ids 'neg_category_i"),
        (lambda c: c["images"][1].update(not_exhaustive_category_ids=["x"]), r"image 1: expected a list of category i"),
        (lambda c: c["images"][0].update(neg_category_ids=[99]), r"image 0: 'neg_category_ids' has category 99, which"),
        (lambda c: c["images"][0].pop("coco_url"), r"image 0: expected a text 'coco_url', got None"),
        (lambda c: c["images"][0].update(coco_url="http://x/../a.jpg"), r"image 0: expected 'coco_url' to end in"),
        (lambda c: c["images"][1].update(id=0), r"duplicate image id 0"),
        (lambda c: c["annotations"][0].update(image_id=99), r"annotation 0 is on image 99, which is not among its 5"),
        (lambda c: c["annotations"][0].update(category_id=99), r"annotation 0 has category 99, which is not among"),
        (lambda c: c["categories"][0].update(name="dog"), r"several categories have the name 'dog'"),
        (lambda c: c["categories"][0].update(name="cat"), r"the categories of .* differ: they are from different"),
        (lambda c: c["images"][0].update(neg_category_ids=[7]), r"as positive and as negative \(1\), such as 'dog'"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_named(
    change: Callable[[dict[str, Any]], Any], message: str, lvis: Path, tmp_path: Path
) -> None:
    file = lvis / "annotations" / "lvis_v1_train.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        prepare(Lvis(source=lvis), tmp_path / "out", OPTIONS)


def test_what_is_missing_or_broken_is_named(lvis: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*gone: expected LVIS v1 and COCO 2017's photos"):
        Lvis(source=tmp_path / "gone").read(Path())
    with pytest.raises(UserError, match="expected --task to be one of multi-label, zsl-rare; got 'all'"):
        Lvis(source=lvis, task="all")  # type: ignore[arg-type]
    (lvis / "annotations" / "lvis_v1_val.json").write_text('{"images": [],\n')
    with pytest.raises(UserError, match=r"lvis_v1_val\.json:2: is not valid JSON"):
        Lvis(source=lvis).read(Path())
    (lvis / "annotations" / "lvis_v1_val.json").unlink()
    with pytest.raises(UserError, match=r"lacks annotations/lvis_v1_val\.json: unpack .*from https://www\.lvisdataset"):
        Lvis(source=lvis).read(Path())
