"""A table of one's own: columns, separators, splits, and faults with their line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas
import pytest
from made_data import write_photo

from data_prep.pipeline import Options, prepare
from data_prep.tables import Columns, Table
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError

pytestmark = pytest.mark.slow

ROWS = [
    ("a.jpg", ["cat", "sofa"]), ("b.jpg", ["dog"]), ("sub/c.jpg", ["dog", "grass"]), ("d.jpg", []), ("e.jpg", ["cat"]),
    ("f.jpg", ["grass"]), ("g.jpg", ["sofa"]),
]  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, (path, _) in enumerate(ROWS):
        write_photo(tmp_path / path, seed)
    return tmp_path


def write_table(
    path: Path, separator: str = ",", delimiter: str = ",", header: tuple[str, str] = ("path", "tags")
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows((image, separator.join(tags)) for image, tags in ROWS)


def labels_of(folder: Path) -> dict[str, list[str]]:
    dataset = load_dataset(folder)
    return {
        path: [dataset.labels[index] for index in row]
        for path, row in zip(dataset.paths, dataset.label_indices, strict=True)
    }


EXPECTED = {path: sorted(tags) for path, tags in ROWS if tags}


@pytest.mark.parametrize(("separator", "delimiter"), [(",", ","), (", ", ","), (";", ","), ("|", ";"), (",", "\t")])
def test_separators(separator: str, delimiter: str, photos: Path) -> None:
    write_table(photos / "tags.csv", separator, delimiter)
    info = prepare(
        Table(source=photos / "tags.csv", columns=Columns(separator=separator.strip())), photos / "out", Options()
    )
    assert labels_of(photos / "out") == EXPECTED
    assert info.source == {"rows": 7, "tags": 4, "images_without_tags": 1}
    assert sum(info.dropped.values()) == 1


def test_brackets_and_quotes_are_taken_off(photos: Path) -> None:
    (photos / "tags.csv").write_text('path,tags\na.jpg,"[\'cat\', \'sofa\']"\nb.jpg,[dog]\ne.jpg,"cat"\nf.jpg,"[]"\n')
    prepare(Table(source=photos / "tags.csv"), photos / "out", Options())
    assert labels_of(photos / "out") == {"a.jpg": ["cat", "sofa"], "b.jpg": ["dog"], "e.jpg": ["cat"]}


@pytest.mark.parametrize("as_lists", [True, False])
def test_parquet_says_the_same(as_lists: bool, photos: Path) -> None:
    tags = [tags if as_lists else ",".join(tags) or None for _, tags in ROWS]
    pandas.DataFrame({"file": [path for path, _ in ROWS], "words": tags}).to_parquet(photos / "tags.parquet")
    prepare(
        Table(source=photos / "tags.parquet", columns=Columns(path="file", tags="words")), photos / "out", Options()
    )
    assert labels_of(photos / "out") == EXPECTED


def test_other_columns_an_image_folder_and_untagged_images(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    write_table(tmp_path / "lists" / "tags.csv", header=("image", "words"))
    columns = Columns(path="image", tags="words")
    prepare(
        Table(source=tmp_path / "lists" / "tags.csv", columns=columns, image_root=photos, keep_unlabelled=True),
        photos / "out",
        Options(),
    )
    assert labels_of(photos / "out") == {path: sorted(tags) for path, tags in ROWS}


def test_a_split_column_is_followed(photos: Path) -> None:
    splits = ["train", "train", "Validation", "train", "TEST", "test", "train"]
    rows = "".join(f'{path},"{",".join(tags)}",{split}\n' for (path, tags), split in zip(ROWS, splits, strict=True))
    (photos / "tags.csv").write_text("path,tags,part\n" + rows)
    prepare(Table(source=photos / "tags.csv", columns=Columns(split="part")), photos / "out", Options())
    dataset = load_dataset(photos / "out")
    assert dict(zip(dataset.paths, dataset.splits.tolist(), strict=True)) == {
        "a.jpg": "train", "b.jpg": "train", "sub/c.jpg": "val", "e.jpg": "test", "f.jpg": "test", "g.jpg": "train",
    }  # fmt: skip


def test_unseen_tags_are_hidden_in_training(photos: Path) -> None:
    write_table(photos / "tags.csv")
    prepare(Table(source=photos / "tags.csv", unseen="cat, grass"), photos / "out", Options(test_fraction=0.4))
    dataset = load_dataset(photos / "out")
    assert [dataset.labels[index] for index in np.flatnonzero(~dataset.seen)] == ["cat", "grass"]
    split = dict(zip(dataset.paths, dataset.splits.tolist(), strict=True))
    assert (split["e.jpg"], split["f.jpg"]) == ("test", "test")  # nothing else to learn on them
    for path, shown in labels_of(photos / "out").items():
        assert shown == (EXPECTED[path] if split[path] == "test" else sorted({*EXPECTED[path]} - {"cat", "grass"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"tags.csv is empty: expected a header with the columns 'path' and 'tags'"),
        ("path,tags\n", r"tags.csv has no rows"),
        ("file,tags\na.jpg,cat\n", r"no column 'path', it has 'file', 'tags': give --path-column"),
        ("path,words\na.jpg,cat\n", r"no column 'tags', it has 'path', 'words': give --tags-column"),
        (
            "path,tags\na.jpg,cat\nb.jpg,cat,dog\n",
            r"tags.csv:3: expected 2 columns, got 3 \(tags with commas need",
        ),
        ("path,tags\na.jpg,cat\n../x.jpg,dog\n", r"tags.csv:3: the path '../x.jpg' leaves the image root"),
        (
            "path,tags\n/etc/passwd,cat\n",
            r"tags.csv:2: expected a path below the image root, with '/', got '/etc",
        ),
        ("path,tags\n,cat\n", r"tags.csv:2: the image path is empty"),
        (
            "path,tags\na.jpg,cat\n\nb.jpg,dog\na.jpg,dog\n",
            r"tags.csv:5: the image 'a.jpg' is already listed in .*:2",
        ),
        ('path,tags\na.jpg,"salt, pepper;cat"\n', r"tags.csv:2: the tag 'salt, pepper' contains a comma and a space"),
        ('path,tags\na.jpg,"cat\n', r"tags.csv:2: is not valid CSV: unexpected end of data"),
        ("path,tags\na.jpg,\n", r"the column 'tags' has no tags"),
    ],
)
def test_faults_are_told_with_their_line(content: str, message: str, photos: Path) -> None:
    (photos / "tags.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare(Table(source=photos / "tags.csv", columns=Columns(separator=";")), photos / "out", Options())
    assert not (photos / "out" / "data.csv").exists()


def test_other_bad_input_is_said(photos: Path) -> None:
    out = photos / "out"
    with pytest.raises(UserError, match=r"no file at .*gone.csv: expected a CSV or Parquet table"):
        prepare(Table(source=photos / "gone.csv"), out, Options())
    (photos / "tags.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"tags.parquet is not a readable Parquet file"):
        prepare(Table(source=photos / "tags.parquet"), out, Options())
    (photos / "tags.csv").write_text("path,tags,split\na.jpg,cat,training\nb.jpg,dog,dev\n")
    with pytest.raises(UserError, match=r"tags.csv:3: expected a split of train, val, test; got 'dev'"):
        prepare(Table(source=photos / "tags.csv", columns=Columns(split="split")), out, Options())
    (photos / "tags.csv").write_text("path,tags\nx.jpg,cat\ny.jpg,dog\n")
    with pytest.raises(UserError, match=r"none of 2 images is left: missing 2"):
        prepare(Table(source=photos / "tags.csv"), out, Options())


def test_latin_1_and_a_byte_order_mark_are_read(photos: Path) -> None:
    (photos / "tags.csv").write_bytes("path,tags\na.jpg,café\nb.jpg,dog\n".encode("latin-1"))
    prepare(Table(source=photos / "tags.csv"), photos / "latin", Options())
    assert labels_of(photos / "latin") == {"a.jpg": ["café"], "b.jpg": ["dog"]}
    (photos / "tags.csv").write_bytes("\ufeffpath,tags\r\na.jpg,café\r\nb.jpg,dog\r\n".encode())
    prepare(Table(source=photos / "tags.csv"), photos / "mark", Options())
    assert labels_of(photos / "mark") == {"a.jpg": ["café"], "b.jpg": ["dog"]}


def test_missing_cells_of_any_kind_are_no_tags(photos: Path) -> None:
    paths = [path for path, _ in ROWS]
    tags = pandas.array([",".join(tags) or None for _, tags in ROWS], dtype="string")
    pandas.DataFrame({"path": paths, "tags": tags}).to_parquet(photos / "tags.parquet")
    prepare(Table(source=photos / "tags.parquet"), photos / "out", Options())
    assert labels_of(photos / "out") == EXPECTED
    lists = [[*tags, None] for _, tags in ROWS]
    pandas.DataFrame({"path": [f" {path} " for path in paths], "tags": lists}).to_parquet(photos / "lists.parquet")
    prepare(Table(source=photos / "lists.parquet"), photos / "lists", Options())
    assert labels_of(photos / "lists") == EXPECTED


def test_odd_tables_are_refused(photos: Path) -> None:
    pandas.DataFrame({"path": ["a.jpg"], "tags": [b"cat"]}).to_parquet(photos / "bytes.parquet")
    with pytest.raises(UserError, match=r"bytes.parquet: row 1: expected text or lists of text, got bytes"):
        prepare(Table(source=photos / "bytes.parquet"), photos / "out", Options())
    (photos / "twice.csv").write_text("path,tags,path\na.jpg,cat,b.jpg\n")
    with pytest.raises(UserError, match=r"duplicate columns 'path'"):
        prepare(Table(source=photos / "twice.csv"), photos / "out", Options())
    with pytest.raises(UserError, match=r"expected --delimiter of one character, got '::'"):
        Columns(delimiter="::")
    with pytest.raises(UserError, match=r"expected a --separator, got an empty text"):
        Columns(separator="")
    write_table(photos / "data.csv")
    before = (photos / "data.csv").read_bytes()
    with pytest.raises(UserError, match=r"is the folder of the table, which might be overwritten"):
        prepare(Table(source=photos / "data.csv"), photos, Options(overwrite=True))
    assert (photos / "data.csv").read_bytes() == before


def test_unicode_line_separators_in_a_cell_are_text(photos: Path) -> None:
    (photos / "tags.csv").write_text("path,tags\na.jpg,cat\u2028\nb.jpg,dog\x0c\n../c.jpg,dog\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"tags.csv:4: the path '../c.jpg' leaves"):
        prepare(Table(source=photos / "tags.csv"), photos / "out", Options())


def test_a_tab_may_be_typed_as_backslash_t(photos: Path) -> None:
    write_table(photos / "tags.csv", delimiter="\t")
    prepare(Table(source=photos / "tags.csv", columns=Columns(delimiter="\\t")), photos / "out", Options())
    assert labels_of(photos / "out") == EXPECTED


def test_unseen_labels_that_read_the_same_are_unseen_together(photos: Path) -> None:
    (photos / "tags.csv").write_text("path,tags\na.jpg,Dog\nb.jpg,dog\ne.jpg,cat\nf.jpg,cat\n")
    prepare(Table(source=photos / "tags.csv", unseen="DOG"), photos / "out", Options())
    dataset = load_dataset(photos / "out")
    assert [dataset.labels[index] for index in np.flatnonzero(~dataset.seen)] == ["Dog", "dog"]


# --- partial tags -------------------------------------------------------------------------------------------------


def write_partial(path: Path, *rows: str) -> Table:
    path.write_text("\n".join(["path,tags,absent", 'a.jpg,"cat,sofa",dog', *rows]) + "\n")
    return Table(source=path, columns=Columns(negatives="absent"))


def test_a_column_of_absent_tags(tmp_path: Path) -> None:
    source = write_partial(tmp_path / "tags.csv", 'b.jpg,dog,"[sofa, cat]"', "c.jpg,dog,", "d.jpg,,cat")
    prepare(source, tmp_path / "out", Options(skip_images=True, val_fraction=0, test_fraction=0))
    assert (tmp_path / "out" / "data.csv").read_text().splitlines() == [
        "path,labels,split,negatives",
        'a.jpg,"[cat, sofa]",train,[dog]',
        'b.jpg,[dog],train,"[cat, sofa]"',
        "c.jpg,[dog],train,[]",
    ]


def test_absent_tags_of_a_parquet_table(tmp_path: Path) -> None:
    table = {"path": ["a.jpg", "b.jpg"], "tags": [["cat"], ["dog"]], "absent": [["dog"], None]}
    pandas.DataFrame(table).to_parquet(tmp_path / "tags.parquet")
    found = Table(source=tmp_path / "tags.parquet", columns=Columns(negatives="absent")).read(tmp_path / "out")
    assert found.negatives is not None
    assert found.negatives.toarray().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("b.jpg,dog,dog", r"tags\.csv:3: the tag 'dog' is both in the column 'tags' and in 'absent': take it out"),
        (
            "b.jpg,dog,soffa",
            r"tags\.csv:3: 'soffa' of the column 'absent' is not a tag of any image \(the nearest are 'sofa'",
        ),
        ("b.jpg,dog,a[b", r"tags\.csv:3: the tag 'a\[b' contains a comma and a space, or a bracket"),
    ],
)
def test_absent_tags_that_cannot_be(row: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        write_partial(tmp_path / "tags.csv", row).read(tmp_path / "out")


def test_a_column_of_absent_tags_that_is_not_there(tmp_path: Path) -> None:
    source = write_partial(tmp_path / "tags.csv")
    with pytest.raises(UserError, match=r"no column 'no'.*: give --negatives-column"):
        Table(source=source.source, columns=Columns(negatives="no")).read(tmp_path / "out")
