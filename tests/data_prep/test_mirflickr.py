"""MIRFLICKR-25k: which labels are on which image, by which annotation."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_data import rows_of, write_mirflickr

from data_prep.mirflickr import POTENTIAL, RELEVANT, Mirflickr
from data_prep.pipeline import Options, prepare
from zsl_tagger.choices import MirflickrLabels
from zsl_tagger.errors import UserError

OPTIONS = Options(val_fraction=0.2, test_fraction=0.2, skip_images=True)
SHOWN = {"dog": [1, 2, 25000], "animals": [1, 2, 4, 25000], "plant_life": [3, 4], "sky": [5, 6, 7, 8, 9]}
SALIENT = {"dog": [2], "tree": [3]}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_mirflickr(tmp_path / "MIRFLICKR", SHOWN, SALIENT)
    return tmp_path / "MIRFLICKR"


def labels_of(folder: Path) -> dict[str, set[str]]:
    return {path: labels for path, (labels, _) in rows_of(folder).items()}


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        (
            "potential", 24,
            {
                "im1.jpg": {"dog", "animals"}, "im2.jpg": {"dog", "animals"}, "im3.jpg": {"plant life"},
                "im4.jpg": {"plant life", "animals"}, "im25000.jpg": {"dog", "animals"},
                **{f"im{number}.jpg": {"sky"} for number in range(5, 10)},
            },
        ),
        ("relevant", 14, {"im2.jpg": {"dog"}, "im3.jpg": {"tree"}}),
    ],
)  # fmt: skip
def test_potential_and_relevant_labels(
    labels: MirflickrLabels, count: int, expected: dict[str, set[str]], archive: Path, tmp_path: Path
) -> None:
    info = prepare(Mirflickr(source=archive, labels=labels), tmp_path / "out", OPTIONS)
    assert labels_of(tmp_path / "out") == expected
    assert info.seen_labels == count
    assert info.image_root == str(archive / "mirflickr")


def test_both_have_names_of_their_own(archive: Path) -> None:
    found = Mirflickr(source=archive, labels="both").read(Path())
    assert len(found.labels) == 38
    row = found.targets.toarray()[found.paths.index("im2.jpg")]
    assert [label for label, shown in zip(found.labels, row, strict=True) if shown] == [
        "animals", "dog", "relevant dog",
    ]  # fmt: skip


def test_images_without_a_file_are_counted(archive: Path, tmp_path: Path) -> None:
    (archive / "mirflickr" / "im7.jpg").unlink()
    info = prepare(Mirflickr(source=archive), tmp_path / "out", Options(val_fraction=0.2, test_fraction=0.2))
    assert info.dropped == {"missing": 1}
    assert sum(info.images.values()) == 9


def test_images_on_no_list_can_be_kept(archive: Path, tmp_path: Path) -> None:
    (archive / "mirflickr" / "im11.jpg").write_bytes((archive / "mirflickr" / "im1.jpg").read_bytes())
    prepare(Mirflickr(source=archive, keep_unlabelled=True), tmp_path / "out", OPTIONS)
    assert labels_of(tmp_path / "out")["im11.jpg"] == set()


def test_the_annotation_can_lie_beside_the_images(archive: Path) -> None:
    (archive / "mirflickr25k_annotations_v080").rename(archive / "mirflickr" / "annotations")
    assert Mirflickr(source=archive / "mirflickr").read(Path()).paths[-1] == "im25000.jpg"


def test_the_lists_of_labels_are_those_of_the_archive() -> None:
    assert (len(set(POTENTIAL)), len(set(RELEVANT))) == (24, 14)


@pytest.mark.parametrize("line", ["0", "25001", "-3", "dog", "1 2", "9" * 30])
def test_a_line_that_is_no_image_number_is_named(line: str, archive: Path) -> None:
    (archive / "mirflickr25k_annotations_v080" / "sky.txt").write_text(f"5\n\n{line}\n")
    with pytest.raises(UserError, match=r"sky\.txt:3: expected the number of an image, 1 to 25,000, got '"):
        Mirflickr(source=archive).read(Path())


def test_missing_files_are_named_with_where_to_get_them(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*gone: expected MIRFLICKR-25k"):
        Mirflickr(source=tmp_path / "gone").read(Path())
    with pytest.raises(UserError, match=r"has no annotation such as .*baby\.txt: unpack mirflickr25k_annotations"):
        Mirflickr(source=tmp_path).read(Path())
    (archive / "mirflickr25k_annotations_v080" / "tree_r1.txt").unlink()
    assert Mirflickr(source=archive).read(Path())  # needs the potential labels only
    with pytest.raises(UserError, match=r"lacks 1 of 14 files: 'tree_r1\.txt'; unpack .* from https://press\.liacs"):
        Mirflickr(source=archive, labels="relevant").read(Path())
    with pytest.raises(UserError, match="expected --labels of potential, relevant, both; got 'all'"):
        Mirflickr(source=archive, labels="all")  # type: ignore[arg-type]
