"""zsl_tagger/evaluation/score_files.py: the same matrix from every format, and what is refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation import score_files
from zsl_tagger.evaluation.score_files import MatrixFile, read_scores, read_targets

IMAGES = [f"a b/{n}.jpg" for n in range(17)]
LABELS = ["cat", "red car", "sky", "tree, old", "été"]
VALUES = np.random.default_rng(0).normal(size=(17, 5)).astype(np.float32) * 3


def write(path: Path, values: np.ndarray = VALUES, **changed: Any) -> Path:
    images, labels = changed.pop("images", IMAGES), changed.pop("labels", LABELS)
    if path.suffix == ".npz":
        save = changed.pop("save", np.savez)
        save(path, scores=values, images=np.array(images), labels=np.array(labels), **changed)
        return path
    frame = pandas.DataFrame(values, columns=labels)
    frame.insert(0, "image", images)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    return path


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_files, "BLOCK", 7)


def scores(path: Path, kind: str | None = "logits", notes: list[str] | None = None) -> np.ndarray:
    return read_scores(path, IMAGES, LABELS, kind, [] if notes is None else notes)[0]


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_every_format_gives_the_matrix(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_allclose(scores(write(tmp_path / f"s{suffix}")), VALUES, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_npz_gives_the_matrix(tmp_path: Path, dtype: str, order: Any, save: Any) -> None:
    path = write(tmp_path / "s.npz", np.asarray(VALUES, dtype, order=order), save=save)
    np.testing.assert_allclose(scores(path), VALUES, rtol=2e-3)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_names_decide_not_places(tmp_path: Path, suffix: str) -> None:
    rows, columns = np.random.default_rng(1).permutation(17), [3, 1, 4, 0, 2]
    path = tmp_path / f"s{suffix}"
    write(path, VALUES[rows][:, columns], images=[IMAGES[r] for r in rows], labels=[LABELS[c] for c in columns])
    notes: list[str] = []
    np.testing.assert_allclose(scores(path, notes=notes), VALUES, rtol=1e-6)
    assert notes == [f"{path} lists the labels in another order: matched by name"]


def test_what_is_more_is_left_out_and_said(tmp_path: Path) -> None:
    wide = np.concatenate([VALUES, VALUES[:, :1]], axis=1)
    path = write(tmp_path / "s.npz", np.concatenate([wide, wide[:1]]), images=[*IMAGES, "x"], labels=[*LABELS, "dog"])
    notes: list[str] = []
    np.testing.assert_array_equal(scores(path, notes=notes), VALUES)
    assert "1 other labels are not evaluated: 'dog'" in notes[0]
    assert "1 other images are not evaluated" in notes[1]


def bad(value: float) -> np.ndarray:
    values = VALUES.copy()
    values[9, 2] = value
    return values


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": bad(np.nan)}, "1 scores are not finite numbers, the first is nan of 'sky' on a b/9.jpg"),
        ({"values": bad(-np.inf)}, "the first is -inf of 'sky'"),
        ({"values": VALUES.T}, r"expected scores of shape \(images, labels\) = \(17, 5\), got \(5, 17\)"),
        ({"values": VALUES[:, 0]}, r"got \(17,\)"),
        ({"labels": [*LABELS[:4], "dog"]}, "has no scores of 1 of the 5 labels: 'été'"),
        ({"images": [*IMAGES[:16], "x"]}, "has no scores of 1 of the 17 images: 'a b/16.jpg'"),
        ({"labels": [*LABELS[:4], "cat"]}, "duplicate labels: 'cat'"),
        ({"images": [*IMAGES[:16], IMAGES[0]]}, "duplicate images: 'a b/0.jpg'"),
        ({"images": [*IMAGES[:6], IMAGES[0], *IMAGES[7:]]}, "duplicate images: 'a b/0.jpg'"),
        ({"images": list(range(17))}, "expected images and labels as arrays of text, got int64"),
        ({"values": VALUES.astype("U8")}, "expected scores as numbers"),
        ({"kind": "odds"}, "expected scores of the kind logits or probabilities, got 'odds'"),
    ],
)
def test_what_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    values = changed.pop("values", VALUES) if "values" in changed else VALUES
    path = write(tmp_path / "s.npz", values, **changed)
    with pytest.raises(UserError, match=message):
        read_scores(path, IMAGES, LABELS, None, [])


def test_logits_and_probabilities_are_not_mistaken(tmp_path: Path) -> None:
    logits = write(tmp_path / "logits.npz")
    probabilities = write(tmp_path / "p.npz", 1 / (1 + np.exp(-VALUES)))
    with pytest.raises(
        UserError, match=r"should contain logits, but all its scores are in 0\.\.1.*--kind probabilities"
    ):
        scores(probabilities, "logits")
    with pytest.raises(UserError, match="should contain probabilities, but its scores range from"):
        scores(logits, "probabilities")
    notes: list[str] = []
    assert read_scores(logits, IMAGES, LABELS, None, notes)[1] == "logits"
    assert read_scores(probabilities, IMAGES, LABELS, None, notes)[1] == "probabilities"
    assert all("are read as" in note for note in notes)


@pytest.mark.parametrize("name", ["s.npz", "s.csv", "s.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01 no file of any kind \xff", b"image,cat\n1.jpg,much\n"])
def test_damaged_files_are_refused_in_words(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|no scores of|expected"):
        read_scores(tmp_path / name, ["1.jpg"], ["cat"], None, [])


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "s.npz")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="cannot be read"):
        scores(path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=VALUES, images=np.array(IMAGES, object), labels=np.array(LABELS))
    with pytest.raises(UserError, match="images is an array of Python objects"):
        scores(tmp_path / "s.npz")


def test_names_are_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=VALUES)
    with pytest.raises(UserError, match="missing: images, labels: without names"):
        scores(tmp_path / "s.npz")
    with pytest.raises(UserError, match=r"that ends in \.npz, \.csv, \.parquet"):
        scores(tmp_path / "s.txt")
    with pytest.raises(UserError, match="no file of scores at"):
        scores(tmp_path / "none.csv")


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,cat,dog\na.jpg,1,0\nb.jpg,,1\n")
    images, labels, targets, ignored = read_targets(tmp_path / "t.csv")
    assert (images, labels) == (["a.jpg", "b.jpg"], ["cat", "dog"])
    assert targets.tolist() == [[True, False], [False, True]]
    assert ignored.tolist() == [[False, False], [True, False]]
    np.savez(tmp_path / "t.npz", targets=[[1, -1]], images=["a"], labels=["cat", "dog"])
    assert read_targets(tmp_path / "t.npz")[3].tolist() == [[False, True]]
    (tmp_path / "t.csv").write_text("image,cat\na.jpg,0.5\n")
    with pytest.raises(UserError, match=r"got 0\.5 for 'cat' on a\.jpg"):
        read_targets(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("image,cat\na.jpg,1\na.jpg,0\n")
    with pytest.raises(UserError, match=r"duplicate images: 'a\.jpg'"):
        read_targets(tmp_path / "t.csv")


# --- the same matrix, more ways ----------------------------------------------------------------------------------

SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])


@pytest.mark.parametrize("block", [1, 16, 17, 18, 1000])
@SUFFIXES
def test_size_of_blocks_does_not_show(tmp_path: Path, suffix: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_files, "BLOCK", block)
    found = scores(write(tmp_path / f"s{suffix}"))
    np.testing.assert_allclose(found, VALUES, rtol=1e-6)
    assert (found.dtype, found.shape) == (np.float32, (17, 5))


@pytest.mark.parametrize(
    ("suffix", "order", "sizes"),
    [(".npz", "C", [7, 7, 3]), (".npz", "F", [7, 7, 3]), (".parquet", "C", [7, 7, 3]), (".csv", "C", [17])],
)
def test_rows_come_in_blocks(tmp_path: Path, suffix: str, order: Any, sizes: list[int]) -> None:
    """But those of CSV, which pyarrow cuts by bytes."""
    blocks = list(MatrixFile(write(tmp_path / f"s{suffix}", np.asarray(VALUES, order=order))).blocks())
    assert [len(names) for names, _ in blocks] == sizes
    assert [values.shape for _, values in blocks] == [(size, 5) for size in sizes]
    assert [name for names, _ in blocks for name in names] == IMAGES


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool])
@SUFFIXES
def test_whole_numbers(tmp_path: Path, suffix: str, dtype: Any) -> None:
    values = (np.abs(VALUES) * 3).astype(dtype)
    if dtype is bool and suffix == ".csv":
        values = values.astype(int)  # 1 and 0, not True and False
    found = read_scores(write(tmp_path / f"s{suffix}", values), IMAGES, LABELS, None, [])[0]
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_names_as_bytes_and_the_kind(tmp_path: Path) -> None:
    names, labels = [name.encode() for name in IMAGES], [name.encode() for name in LABELS]
    path = write(tmp_path / "s.npz", images=names, labels=labels, kind="logits")
    notes: list[str] = []
    found, kind = read_scores(path, IMAGES, LABELS, None, notes)
    np.testing.assert_array_equal(found, VALUES)
    assert (kind, notes) == ("logits", [])
    with pytest.raises(UserError, match="should contain probabilities, but its scores range from -"):
        read_scores(path, IMAGES, LABELS, "probabilities", [])  # what the caller says is heard first


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_csv_of_other_programs(tmp_path: Path, encoding: str, end: str, last: bool) -> None:
    lines = ['image,cat,"a ""b"", c",été', "1.jpg,1,-2.5e0,3", '"x, 2.jpg",4,5,6.0']
    (tmp_path / "s.csv").write_bytes((end.join(lines) + end * last).encode(encoding))
    found, _ = read_scores(tmp_path / "s.csv", ["x, 2.jpg", "1.jpg"], ["été", "cat", 'a "b", c'], "logits", [])
    assert found.tolist() == [[6, 4, 5], [3, 1, -2.5]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_images_that_look_like_numbers(tmp_path: Path, suffix: str) -> None:
    images = [f"{n:04d}" for n in range(16)] + ["NA"]
    found, _ = read_scores(write(tmp_path / f"s{suffix}", images=images), images, LABELS, "logits", [])
    np.testing.assert_allclose(found, VALUES, rtol=1e-6)


@SUFFIXES
def test_suffixes_in_capitals(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"s{suffix}").rename(tmp_path / f"s{suffix.upper()}")
    np.testing.assert_allclose(scores(path), VALUES, rtol=1e-6)


@SUFFIXES
def test_the_wanted_part_in_the_wanted_order(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"s{suffix}")
    notes: list[str] = []
    found, _ = read_scores(path, [IMAGES[16], IMAGES[0], IMAGES[8]], ["sky", "cat"], "logits", notes)
    np.testing.assert_allclose(found, VALUES[[16, 0, 8]][:, [2, 0]], rtol=1e-6)
    assert notes == [
        f"{path}: 3 other labels are not evaluated: 'red car', 'tree, old', 'été'",
        f"{path}: 14 other images are not evaluated",
    ]


def test_what_is_not_wanted_need_not_be_sound(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[3], values[:, 1] = np.nan, np.inf
    rest, labels = IMAGES[:3] + IMAGES[4:], [LABELS[0], *LABELS[2:]]
    found, _ = read_scores(write(tmp_path / "s.npz", values), rest, labels, "logits", [])
    np.testing.assert_array_equal(found, np.delete(np.delete(VALUES, 3, axis=0), 1, axis=1))
    twice = write(tmp_path / "t.npz", images=["x", "x", *IMAGES[2:]])
    np.testing.assert_array_equal(read_scores(twice, IMAGES[2:], LABELS, "logits", [])[0], VALUES[2:])


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    wanted = IMAGES + [f"more {n}" for n in range(13)]
    with pytest.raises(UserError, match=r"no scores of 13 of the 30 images: 'more 0'.*'more 4' and 8 more$"):
        read_scores(write(tmp_path / "s.npz"), wanted, LABELS, None, [])
    with pytest.raises(UserError, match=r"no scores of 1 of the 6 labels: 'dog'$"):
        read_scores(tmp_path / "s.npz", IMAGES, [*LABELS, "dog"], None, [])


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([[0.0, 1.0]], None, "probabilities"),
        ([[0.0, 1.01]], None, "logits"),
        ([[-0.01, 1.0]], None, "logits"),
        ([[0.0, 1.0]], "probabilities", "probabilities"),
        ([[0.5, 0.5]], "logits", "logits"),  # a constant tells nothing
        ([[-3.0, -2.0]], "logits", "logits"),
    ],
)
def test_kinds(tmp_path: Path, values: list[list[float]], kind: str | None, expected: str) -> None:
    path = tmp_path / "s.npz"
    notes: list[str] = []
    np.savez(path, scores=values, images=["a"], labels=["x", "y"])
    assert read_scores(path, ["a"], ["x", "y"], kind, notes)[1] == expected
    low, high = (f"{value:.3g}" for value in (min(values[0]), max(values[0])))
    told = f"{path}: scores from {low} to {high} are read as {expected} (override with --kind)"
    assert notes == ([] if kind else [told])


# --- what is refused, whatever the format ----------------------------------------------------------------------------


@SUFFIXES
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": bad(np.nan)}, "1 scores are not finite numbers, the first is nan of 'sky' on a b/9.jpg"),
        ({"values": bad(np.inf)}, "1 scores are not finite numbers, the first is inf of 'sky' on a b/9.jpg"),
        ({"values": bad(-np.inf)}, "1 scores are not finite numbers, the first is -inf of 'sky' on a b/9.jpg"),
        ({"labels": [*LABELS[:4], "dog"]}, "has no scores of 1 of the 5 labels: 'été'"),
        ({"images": [*IMAGES[:16], "x"]}, r"has no scores of 1 of the 17 images: 'a b/16\.jpg'"),
        ({"images": [*IMAGES[:16], IMAGES[0]]}, r"duplicate images: 'a b/0\.jpg'"),  # in another block
        ({"images": [IMAGES[1], *IMAGES[1:]]}, r"duplicate images: 'a b/1\.jpg'"),  # in the same block
    ],
)
def test_what_every_format_refuses(tmp_path: Path, suffix: str, changed: dict[str, Any], message: str) -> None:
    values = changed.get("values", VALUES)
    path = write(tmp_path / f"s{suffix}", values, **{name: v for name, v in changed.items() if name != "values"})
    with pytest.raises(UserError, match=message):
        scores(path)


def test_labels_more_than_once(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("image,cat,dog,cat\n1.jpg,1,2,3\n")
    with pytest.raises(UserError, match=r"duplicate labels: 'cat'$"):
        read_scores(tmp_path / "s.csv", ["1.jpg"], ["cat"], None, [])
    table = pyarrow.Table.from_arrays([pyarrow.array(["1.jpg"]), *[pyarrow.array([0.5])] * 2], ["image", "cat", "cat"])
    parquet.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(UserError, match=r"duplicate labels: 'cat'$"):
        read_scores(tmp_path / "s.parquet", ["1.jpg"], ["cat"], None, [])


@pytest.mark.parametrize("missing", ["scores", "images", "labels"])
def test_arrays_that_are_missing(tmp_path: Path, missing: str) -> None:
    arrays: dict[str, Any] = {"scores": VALUES, "images": IMAGES, "labels": LABELS}
    np.savez(tmp_path / "s.npz", **{name: array for name, array in arrays.items() if name != missing})
    with pytest.raises(UserError, match=f"missing: {missing}: without names"):
        scores(tmp_path / "s.npz")


@pytest.mark.parametrize("name", ["scores", "images", "labels"])
def test_no_array_of_objects_is_opened(tmp_path: Path, name: str) -> None:
    arrays: dict[str, Any] = {"scores": VALUES, "images": np.array(IMAGES), "labels": np.array(LABELS)}
    np.savez(tmp_path / "s.npz", **{**arrays, name: arrays[name].astype(object)})
    with pytest.raises(UserError, match=r"is an array of Python objects|as numbers, got an array of object"):
        scores(tmp_path / "s.npz")


class _Trap:
    """Unpickling it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trap-was-opened"),)


@pytest.mark.parametrize("name", ["scores", "images", "labels", "kind"])
def test_no_pickle_runs(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays: dict[str, Any] = {"scores": VALUES, "images": np.array(IMAGES), "labels": np.array(LABELS)}
    np.savez("s.npz", **{**arrays, name: np.array([_Trap()], object)})
    with pytest.raises(UserError, match=r"is an array of Python objects|expected scores of shape"):
        scores(Path("s.npz"))
    Path("s.npz").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(UserError, match="cannot be read"):
        scores(Path("s.npz"))
    assert not Path("trap-was-opened").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,cat\n1.jpg,much\n", "cannot be read: .*conversion error to float: invalid value 'much'"),
        ("image,cat\n1.jpg,0.5,0.5\n", "cannot be read: .*Expected 2 columns, got 3"),
        ("image,cat\n1.jpg\n", "cannot be read: .*Expected 2 columns, got 1"),
        ("image,cat\n1.jpg,\n", "1 scores are not finite numbers, the first is nan of 'cat' on 1.jpg"),
        ("image\n1.jpg\n", "expected one column per label, found none"),
        ("image,cat\n", "has no scores of 1 of the 1 images: '1.jpg'"),
        ("", "cannot be read: .*[Ee]mpty"),
        ("\n\n", "cannot be read|expected one column per label"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path / "s.csv", ["1.jpg"], ["cat"], None, [])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["much"], "string"),
        ([[0.5]], "list"),
        ([b"x"], "binary"),
        ([{"score": 0.5}], "struct"),
        (pyarrow.array([1], pyarrow.timestamp("us")), "timestamp"),  # which numpy would take as microseconds
    ],
)
def test_parquet_columns_that_are_no_numbers(tmp_path: Path, column: Any, kind: str) -> None:
    parquet.write_table(pyarrow.table({"image": ["1.jpg"], "cat": column}), tmp_path / "s.parquet")
    with pytest.raises(UserError, match=f"expected scores as numbers, but the column 'cat' has {kind}"):
        read_scores(tmp_path / "s.parquet", ["1.jpg"], ["cat"], None, [])


@pytest.mark.filterwarnings("error")
def test_scores_beyond_float32_are_told_without_a_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", scores=np.array([[1e300]]), images=np.array(["1.jpg"]), labels=np.array(["cat"]))
    parquet.write_table(pyarrow.table({"image": ["1.jpg"], "cat": [1e300]}), tmp_path / "s.parquet")
    for name in ("s.npz", "s.parquet"):
        with pytest.raises(UserError, match="1 scores are not finite numbers, the first is inf of 'cat' on 1"):
            read_scores(tmp_path / name, ["1.jpg"], ["cat"], None, [])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_anywhere(tmp_path: Path, save: Any) -> None:
    whole = write(tmp_path / "s.npz", save=save).read_bytes()
    for length in range(0, len(whole), 31):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.npz cannot be read: "):
            scores(tmp_path / "cut.npz")


def npz_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def test_npz_whose_array_is_shorter_than_it_says(tmp_path: Path) -> None:
    members = {"scores.npy": npy(VALUES)[:-17], "images.npy": npy(IMAGES), "labels.npy": npy(LABELS)}
    with pytest.raises(UserError, match="cannot be read: "):
        scores(npz_of(tmp_path / "s.npz", members))


@pytest.mark.parametrize("changed", [{"scores": npy(VALUES)}, {"images.npy": b"cat"}], ids=["no .npy", "no array"])
def test_npz_with_odd_members(tmp_path: Path, changed: dict[str, bytes]) -> None:
    members = {"scores.npy": npy(VALUES), "images.npy": npy(IMAGES), "labels.npy": npy(LABELS)}
    members = {name: content for name, content in members.items() if name.partition(".")[0] not in changed}
    with pytest.raises(UserError, match="cannot be read: "):
        scores(npz_of(tmp_path / "s.npz", {**members, **changed}))


def test_an_array_of_its_own_called_npz(tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(npy(VALUES))
    with pytest.raises(UserError, match="cannot be read: "):
        scores(tmp_path / "s.npz")


def test_csv_with_a_very_long_name(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("{" + "a" * 200_000 + "}\n")
    with pytest.raises(UserError, match=r"cannot be read|expected"):
        scores(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("suffix", "save"),
    [
        (".csv", None),
        pytest.param(".npz", np.savez),
        pytest.param(".npz", np.savez_compressed),
        pytest.param(".parquet", None),
    ],
)
@pytest.mark.slow
def test_files_with_a_damaged_byte(tmp_path: Path, suffix: str, save: Any) -> None:
    """Read, where the byte says nothing, or refused in words."""
    whole = write(tmp_path / f"s{suffix}", **({"save": save} if save else {})).read_bytes()
    path, escaped = tmp_path / f"damaged{suffix}", set()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            scores(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
        except Exception as error:
            escaped.add(type(error).__name__)
    assert escaped == set()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_cut_anywhere(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path / f"s{suffix}").read_bytes()
    for length in range(0, len(whole) - 20, 31):
        (tmp_path / f"cut{suffix}").write_bytes(whole[:length])
        with pytest.raises(
            UserError, match=r"cut\.\w+ (cannot be read|has no scores)|cut\.\w+: (expected|1 scores are not)"
        ):
            scores(tmp_path / f"cut{suffix}")


@pytest.mark.parametrize("values", [VALUES.T, VALUES.astype("U8")])
def test_messages_name_the_file_once(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"s\.npz") as caught:
        scores(write(tmp_path / "s.npz", values))
    assert str(caught.value).count("s.npz") == 1


# --- targets ---------------------------------------------------------------------------------------------------------


def write_targets(path: Path, values: np.ndarray, images: list[str] = IMAGES) -> Path:
    if path.suffix == ".npz":
        np.savez(path, targets=values, images=images, labels=LABELS)
        return path
    return write(path, values, images=images)


@SUFFIXES
@pytest.mark.parametrize("unknown", [np.nan, -1])
def test_targets_of_every_format(tmp_path: Path, suffix: str, unknown: float) -> None:
    values = np.random.default_rng(2).choice([0.0, 1.0, unknown], (17, 5))
    images, labels, targets, ignored = read_targets(write_targets(tmp_path / f"t{suffix}", values))
    assert (images, labels) == (IMAGES, LABELS)
    assert (targets.dtype, ignored.dtype) == (bool, bool)
    np.testing.assert_array_equal(targets, values == 1)
    np.testing.assert_array_equal(ignored, np.isnan(values) if np.isnan(unknown) else values == -1)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.float16])
def test_targets_of_every_dtype(tmp_path: Path, dtype: Any) -> None:
    values = (VALUES > 0).astype(dtype)
    _, _, targets, ignored = read_targets(write_targets(tmp_path / "t.npz", values))
    np.testing.assert_array_equal(targets, VALUES > 0)
    assert not ignored.any()


@SUFFIXES
@pytest.mark.parametrize(("value", "shown"), [(0.5, r"0\.5"), (2, "2"), (-2, "-2"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_odd_targets_are_refused(tmp_path: Path, suffix: str, value: float, shown: str) -> None:
    values = (VALUES > 0).astype(float)
    values[13, 3] = value
    message = rf"expected targets 1 \(true\), 0 \(false\) or empty.*got {shown} for 'tree, old' on a b/13\.jpg"
    with pytest.raises(UserError, match=message):
        read_targets(write_targets(tmp_path / f"t{suffix}", values))


@SUFFIXES
def test_targets_of_an_image_twice(tmp_path: Path, suffix: str) -> None:
    path = write_targets(tmp_path / f"t{suffix}", (VALUES > 0).astype(float), [*IMAGES[:16], IMAGES[0]])
    with pytest.raises(UserError, match=r"duplicate images: 'a b/0\.jpg'$"):
        read_targets(path)


def test_targets_without_images_or_arrays(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,cat\n")
    with pytest.raises(UserError, match="has no image"):
        read_targets(tmp_path / "t.csv")
    with pytest.raises(UserError, match="missing: targets"):
        read_targets(write(tmp_path / "s.npz"))  # a file of scores
    with pytest.raises(UserError, match="no file of targets at"):
        read_targets(tmp_path / "none.npz")


def test_a_label_called_as_the_column_of_images(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,cat,image\n1.jpg,1,\n")
    assert read_targets(tmp_path / "t.csv")[3].tolist() == [[False, True]]
