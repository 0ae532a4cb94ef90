"""Test the review of an index without its page: marks, teaching, and sidecars with preview and undo."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from crops_library import indexed_crops
from made_data import run_command
from PIL import Image

from zsl_tagger import Library, UserError
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.sidecars import xmp
from zsl_tagger.sidecars.run import Sidecars
from zsl_tagger.tagging.taught import FOLDER_VARIABLE
from zsl_tagger.teach.marks import KEPT_WRITES, MARKS_FILE, Marks, WrittenSidecar, default_folder
from zsl_tagger.teach.review import GonePhotoError, Review, UnknownPhotoError
from zsl_tagger.teach.writing import ChangedError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Return a folder with ``photos``, ten crops of each example photo, and their ``index``."""
    return indexed_crops(tmp_path_factory.mktemp("library"), examples)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: Path) -> Path:
    """Return a copy of the photos for one test, beside a copy of the index that names the copied photos."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "taught"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shutil.copytree(indexed, tmp_path / "library", copy_function=shutil.copy2)
    with sqlite3.connect(tmp_path / "library" / "index" / "index.db") as database:
        for (path,) in database.execute("SELECT path FROM photos").fetchall():
            moved = os.fsencode(tmp_path / "library" / "photos" / os.path.basename(os.fsdecode(path)))  # noqa: PTH119
            database.execute("UPDATE photos SET path = ? WHERE path = ?", (moved, path))
    database.close()
    return tmp_path / "library" / "photos"


@pytest.fixture
def review(photos: Path) -> Review:
    return Review(Library.open(photos.parent / "index"), Marks(default_folder()))


def numbers(review: Review, name: str, query: str = "cup") -> list[str]:
    """Return the photos whose name begins with ``name``, best first."""
    return [one.photo for one in review.show(query, top=100).photos if Path(one.path).name.startswith(name)]


def sidecar(photo: Path) -> Path:
    return photo.with_name(f"{photo.name}.xmp")


# --- looking


def test_photos_come_as_search_finds_them(review: Review, photos: Path) -> None:
    with Library.open(photos.parent / "index") as library:
        expected = library.rank(["cup"], 40)[0]
    shown = review.show("cup", top=12)
    assert [(one.path, one.score, one.passes) for one in shown.photos] == [
        (one.path, round(one.score, 4), one.passes) for one in expected.found[:12]
    ]
    assert (shown.counted, shown.more) == (expected.counted(), True)
    assert not review.show("cup", top=40).more
    around = review.show("cup", top=4, around=True).photos
    assert [one.path for one in around] == [one.path for one in expected.found[expected.passing - 2 :][:4]]
    assert [one.passes for one in around] == [True, True, False, False]
    marked = [one.photo for one in shown.photos[:5]]
    review.mark("our cup", marked[:3], marked[3:], [])
    rest = review.show("cup", "our cup", top=12, unmarked=True)
    assert [one.path for one in rest.photos] == [one.path for one in expected.found[5:17]]
    assert (rest.yes, rest.no) == (3, 2)


def test_a_copy_is_shown_once_and_written_twice(review: Review, photos: Path) -> None:
    best = Path(review.show("cup").photos[0].path)
    shutil.copy2(best, photos / "same.png")
    with Library.open(photos.parent / "index") as library:
        library.add(photos)
    first = review.show("cup").photos[0]
    assert first.copies == 2
    review.mark("our cup", [first.photo], [], [])
    changed = [Path(one.path).name for one in review.preview("our cup").changes]
    assert changed == [f"{best.name}.xmp", "same.png.xmp"]


@pytest.mark.parametrize("word", ["cup", "cup of coffee on a wooden table"])  # stored, and not stored
def test_many_copies_of_the_best_photo_do_not_crowd_out_the_others(review: Review, photos: Path, word: str) -> None:
    expected = [one.photo for one in review.show(word, top=40).photos]
    passing = sum(one.passes for one in review.show(word, top=40).photos)
    best = Path(review.show(word).photos[0].path)
    for number in range(50):
        shutil.copy2(best, photos / f"copy {number}.png")
    with Library.open(photos.parent / "index") as library:
        library.add(photos)
    for top, more in ((12, True), (40, False)):
        shown = review.show(word, top=top)
        assert ([one.photo for one in shown.photos], shown.more) == (expected[:top], more)
    assert shown.photos[0].copies == 51
    around = review.show(word, top=4, around=True)
    start = max(0, passing - 2)
    assert [one.photo for one in around.photos] == expected[start : start + 4]
    review.mark("our cup", expected[:3], [], [])
    unmarked = review.show(word, "our cup", top=12, unmarked=True)
    assert ([one.photo for one in unmarked.photos], unmarked.more) == (expected[3:15], True)


def test_pictures_are_of_the_index_only(review: Review, photos: Path, tmp_path: Path) -> None:
    number = numbers(review, "coffee 00")[0]
    assert review.picture(number, 64)[:3] == b"\xff\xd8\xff"
    for other in ("0" * 64, str(photos / "coffee 00.png"), "../index.db", ""):
        with pytest.raises(UnknownPhotoError, match="no photo of the index"):
            review.picture(other, 64)
    secret = tmp_path / "secret.png"
    shutil.copy(photos / "cat 00.png", secret)
    (photos / "coffee 00.png").unlink()
    (photos / "coffee 00.png").symlink_to(secret)  # another photo in its place
    with pytest.raises(GonePhotoError, match="was deleted or changed since it was indexed"):
        review.picture(number, 64)


# --- marks


def test_marks_are_kept_and_survive_a_move_and_a_new_index(review: Review, photos: Path) -> None:
    yes, no = numbers(review, "coffee")[:3], numbers(review, "cat")[:2]
    assert vars(review.mark("Our  Cup", yes, no, [])) == {"yes": 3, "no": 2}
    assert vars(review.mark("our cup", [no[0]], [], [no[1]])) == {"yes": 4, "no": 0}
    assert review.tags() == ["our cup"]
    (photos / "coffee 00.png").rename(photos / "moved.png")
    shutil.rmtree(photos.parent / "index")
    with Library.open(photos.parent / "index") as library:
        library.add(photos)
    new = Review(Library.open(photos.parent / "index"), Marks(default_folder()))
    marked = {one.photo for one in new.show("cup", "our cup", top=40).photos if one.mark}
    assert marked == {*yes, no[0]}


def test_invalid_marks_are_refused(review: Review) -> None:
    one, two = numbers(review, "coffee")[:2]
    with pytest.raises(UserError, match="a photo is marked twice"):
        review.mark("our cup", [one], [one], [])
    with pytest.raises(UnknownPhotoError, match="no photo of the index has this SHA-256"):
        review.mark("our cup", [one, "f" * 64], [], [])
    for name in ("", "a, b", "-cup", "a" * 101):
        with pytest.raises(UserError, match="name"):
            review.mark(name, [two], [], [])
    assert review.tags() == []
    assert not Marks(default_folder()).path.exists()


def test_a_damaged_or_foreign_file_of_marks_is_refused(review: Review) -> None:
    path = default_folder() / MARKS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database, but long enough to be looked at" * 99)
    with pytest.raises(UserError, match=r"marks\.db is damaged .*move it away"):
        review.mark("our cup", numbers(review, "coffee")[:1], [], [])
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA application_id = 7")
    other.close()
    with pytest.raises(UserError, match="was written by another program"):
        review.tags()


# --- teaching


def test_a_tag_follows_its_corrections(review: Review) -> None:
    """The score of a photo marked no falls, and earlier marks are still used."""
    cups = numbers(review, "coffee")
    review.mark("our cup", cups[:4], numbers(review, "rocket")[:1], [])
    lesson = review.teach("our cup")
    assert (lesson.name, lesson.yes, lesson.no, lesson.refined, lesson.left_out) == ("our cup", 4, 1, None, [])
    before = {one.photo: one for one in review.show("our cup", "our cup", top=40).photos}
    assert sum(one.passes for one in before.values()) == int(lesson.counted.split()[0])
    assert [before[cup].mark for cup in cups[:4]] == [True] * 4
    wrong = next(photo for photo, one in before.items() if one.passes and one.mark is None)
    review.mark("our cup", [], [wrong], [])
    assert review.teach("our cup").no == 2
    after = {one.photo: one for one in review.show("our cup", "our cup", top=40).photos}
    assert after[wrong].mark is False
    assert after[wrong].score < before[wrong].score - 0.05
    assert [after[cup].mark for cup in cups[:4]] == [True] * 4
    status, told, _ = run_command("teach", "--list")  # it is a tag like any other
    assert status == 0
    assert "our cup" in told


def test_a_withdrawn_mark_is_forgotten_by_the_next_lesson(review: Review) -> None:
    cups = numbers(review, "coffee")
    review.mark("our cup", cups[:5], [], [])
    review.teach("our cup")
    review.mark("our cup", [], [], cups[:1])
    shown = review.show("our cup", "our cup")
    assert (shown.yes, shown.taught) == (4, True)
    assert review.teach("our cup").yes == 4
    review.mark("our cup", [], [], cups[1:3])
    with pytest.raises(UserError, match=r"expected at least 3 different photos of .our cup. .* got 2"):
        review.teach("our cup")
    assert review.show("our cup", "our cup").yes == 2  # nothing was lost


def test_examples_of_the_command_are_marks_too(review: Review, photos: Path) -> None:
    cups = [photos / f"coffee 0{number}.png" for number in (0, 1, 2)]
    run_command("teach", "our cup", *cups, "--not", photos / "cat 00.png")
    shown = review.show("our cup", "our cup", top=40)
    marks = {Path(one.path).name: one.mark for one in shown.photos if one.mark is not None}
    assert marks == {"coffee 00.png": True, "coffee 01.png": True, "coffee 02.png": True, "cat 00.png": False}


def test_invalid_lessons_are_refused(review: Review, photos: Path) -> None:
    cups = numbers(review, "coffee")
    review.mark("our cup", cups[:2], [], [])
    with pytest.raises(UserError, match=r"expected at least 3 different photos of .our cup. .* got 2"):
        review.teach("our cup")
    again = photos / "again.png"
    Image.open(photos / "coffee 00.png").save(again, compress_level=1)  # the same pixels in another file
    with Library.open(photos.parent / "index") as library:
        library.add(photos)
    same = [*numbers(review, "coffee 00"), *numbers(review, "again")]
    review.mark("our cup", [same[0]], [same[1]], [])
    with pytest.raises(UserError, match="is given as an example and as a counterexample"):
        review.teach("our cup")


def test_a_deleted_photo_is_left_out(review: Review, photos: Path) -> None:
    review.mark("our cup", numbers(review, "coffee")[:5], [], [])
    (photos / "coffee 00.png").unlink()
    lesson = review.teach("our cup")
    assert (lesson.yes, lesson.left_out) == (4, [str(photos / "coffee 00.png")])
    seen = review.preview("our cup")
    assert seen.problems == {
        str(photos / "coffee 00.png"): "was deleted or changed since it was indexed: run zsl-tagger index again"
    }
    assert len(seen.changes) == 4


def test_a_known_word_is_refined(review: Review) -> None:
    review.mark("cup", numbers(review, "coffee")[:4], [], [])
    assert review.teach("cup").refined == "cup"


# --- sidecars


def test_what_the_preview_shows_is_written_and_undone(review: Review, photos: Path) -> None:
    yes, no = numbers(review, "coffee")[:3], numbers(review, "cat 0")
    review.mark("our cup", yes, no, [])
    kept = photos / "coffee 00.png"
    own = photos / "cat 00.png"
    Sidecars("xmp").tagged(Record(str(kept), [Tag("table", 0.9)]))
    Sidecars("xmp").tagged(Record(str(own), [Tag("our cup", 0.9), Tag("cat", 0.9)]))
    before = {path.name: path.read_bytes() for path in photos.glob("*.xmp")}
    seen = review.preview("our cup")
    assert {path.name: path.read_bytes() for path in photos.glob("*.xmp")} == before
    told = {Path(one.path).name: (one.became, one.gained, one.lost) for one in seen.changes}
    assert told == {
        "cat 00.png.xmp": ("changed", [], ["our cup"]),
        "coffee 00.png.xmp": ("changed", ["our cup"], []),
        "coffee 01.png.xmp": ("new", ["our cup"], []),
        "coffee 07.png.xmp": ("new", ["our cup"], []),
    }
    assert seen.unchanged == 9
    written = review.write("our cup", seen.fingerprint)
    assert (written.changes, written.problems, written.undoable) == (seen.changes, {}, 4)
    assert xmp.owned_keywords(sidecar(kept).read_bytes()) == ["table", "our cup"]
    assert xmp.owned_keywords(sidecar(own).read_bytes()) == ["cat"]
    assert review.preview("our cup").changes == []
    undone = Review(Library.open(photos.parent / "index"), Marks(default_folder())).undo()  # after a restart
    assert (len(undone.changes), undone.problems, undone.undoable) == (4, {}, 0)
    after = {path.name: path.read_bytes() for path in photos.glob("*.xmp")}
    assert after.keys() == before.keys()
    assert after["coffee 00.png.xmp"] == before["coffee 00.png.xmp"]
    assert sorted(xmp.owned_keywords(after["cat 00.png.xmp"])) == ["cat", "our cup"]
    with pytest.raises(UserError, match="there is nothing to undo"):
        review.undo()


def test_only_the_previewed_changes_are_written(review: Review, photos: Path) -> None:
    cups = numbers(review, "coffee")
    review.mark("our cup", cups[:1], [], [])
    seen = review.preview("our cup")
    review.mark("our cup", cups[1:2], [], [])
    with pytest.raises(ChangedError, match="nothing was written"):
        review.write("our cup", seen.fingerprint)
    seen = review.preview("our cup")
    Sidecars("xmp").tagged(Record(str(photos / "coffee 00.png"), [Tag("table", 0.9)]))
    with pytest.raises(ChangedError, match="nothing was written"):
        review.write("our cup", seen.fingerprint)
    assert [path.name for path in photos.glob("*.xmp")] == ["coffee 00.png.xmp"]
    assert review.undoable() == 0


def test_writing_without_a_change_keeps_the_last_undo(review: Review, photos: Path) -> None:
    review.mark("our cup", numbers(review, "coffee")[:2], [], [])
    review.write("our cup", review.preview("our cup").fingerprint)
    seen = review.preview("our cup")
    assert (seen.changes, seen.unchanged) == ([], 2)
    assert review.write("our cup", seen.fingerprint).undoable == 2
    assert len(review.undo().changes) == 2
    assert list(photos.glob("*.xmp")) == []


def test_a_broken_sidecar_is_unchanged_and_the_others_are_written(review: Review, photos: Path) -> None:
    review.mark("our cup", numbers(review, "coffee")[:2], [], [])
    broken = sidecar(photos / "coffee 00.png")
    broken.write_text("<x>")
    seen = review.preview("our cup")
    assert list(seen.problems) == [str(photos / "coffee 00.png")]
    written = review.write("our cup", seen.fingerprint)
    assert (len(written.changes), len(written.problems)) == (1, 1)
    assert broken.read_text() == "<x>"


def test_undo_can_be_repeated_for_sidecars_that_failed(review: Review, photos: Path) -> None:
    review.mark("our cup", numbers(review, "coffee")[:2], [], [])
    review.write("our cup", review.preview("our cup").fingerprint)
    path = sidecar(photos / "coffee 00.png")
    whole = path.read_bytes()
    path.write_text("<x>")
    undone = review.undo()
    assert (len(undone.changes), len(undone.problems), undone.undoable) == (1, 1, 1)
    path.write_bytes(whole)
    assert len(review.undo().changes) == 1
    assert list(photos.glob("*.xmp")) == []


def files(photos: Path) -> dict[str, bytes]:
    """Return the content of every sidecar."""
    return {path.name: path.read_bytes() for path in photos.glob("*.xmp")}


def write_tag(review: Review, tag: str) -> None:
    review.write(tag, review.preview(tag).fingerprint)


def test_three_writes_are_undone_one_by_one(review: Review, photos: Path) -> None:
    """Each undo leaves every sidecar as it was before the write, byte for byte, also after a restart."""
    cups = numbers(review, "coffee")
    Sidecars("xmp").tagged(Record(str(photos / "coffee 00.png"), [Tag("table", 0.9)]))
    states = [files(photos)]
    review.mark("our cup", cups[:4], [], [])
    write_tag(review, "our cup")
    states.append(files(photos))
    review.mark("breakfast", cups[2:6], [], [])
    write_tag(review, "breakfast")
    states.append(files(photos))
    review.mark("breakfast", [], cups[2:4], [])  # taken out of sidecars that the write before has changed
    review.mark("breakfast", cups[6:7], [], [])
    write_tag(review, "breakfast")
    assert len({tuple(sorted(state.items())) for state in (*states, files(photos))}) == 4
    for count, state in ((3, states[2]), (4, states[1]), (4, states[0])):
        again = Review(Library.open(photos.parent / "index"), Marks(default_folder()))
        assert again.undoable() == count
        assert len(again.undo().changes) == count
        assert files(photos) == state
    with pytest.raises(UserError, match="there is nothing to undo"):
        review.undo()


def test_what_cannot_be_undone_does_not_block_the_write_before(review: Review, photos: Path) -> None:
    cups = numbers(review, "coffee")
    review.mark("our cup", cups[:3], [], [])
    write_tag(review, "our cup")
    review.mark("our cup", [], cups[:2], [])
    write_tag(review, "our cup")
    path = sidecar(photos / "coffee 00.png")
    path.write_text("<x>")
    assert review.undo().undoable == 1  # the broken one, which is tried again on its own
    assert review.undo().undoable == 3  # with the write before
    path.unlink()  # as the last write had left it
    undone = review.undo()
    assert (len(undone.changes), undone.problems, undone.undoable) == (2, {}, 0)
    assert files(photos) == {}


def test_two_writes_to_one_sidecar_cancel_out() -> None:
    first, later = WrittenSidecar("a.jpg", ("cup", "cat"), ("table",)), WrittenSidecar("a.jpg", ("table",), ("cup",))
    assert first.then(later) == WrittenSidecar("a.jpg", ("cat",), ())
    assert later.then(WrittenSidecar("a.jpg", (), ("dog",))) == WrittenSidecar("a.jpg", ("table",), ("cup", "dog"))


def test_a_limited_number_of_writes_is_kept(tmp_path: Path) -> None:
    marks, library = Marks(tmp_path), tmp_path / "index"
    for number in range(KEPT_WRITES + 5):
        marks.add_written(library, [WrittenSidecar(f"{number}.jpg", ("cup",), ())])
    undone = []
    while written := marks.written(library):
        undone += [one.photo for one in written]
        marks.keep_unwritten(library, [])
    assert undone == [f"{number}.jpg" for number in reversed(range(5, KEPT_WRITES + 5))]


def test_the_last_write_of_an_older_file_of_marks_can_be_undone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / MARKS_FILE) as database:
        database.executescript(
            """CREATE TABLE tags (key TEXT PRIMARY KEY, name TEXT NOT NULL);
            CREATE TABLE marks (tag TEXT, photo TEXT, mark INTEGER, PRIMARY KEY (tag, photo)) WITHOUT ROWID;
            CREATE TABLE written (library BLOB, path BLOB, gained TEXT, lost TEXT, PRIMARY KEY (library, path));
            INSERT INTO tags VALUES ('our cup', 'our cup'); INSERT INTO marks VALUES ('our cup', 'f00', 1);
            PRAGMA application_id = 1515408461; PRAGMA user_version = 1"""
        )
        row = (os.fsencode(tmp_path / "index"), b"a.jpg", '["our cup"]', "[]")
        database.execute("INSERT INTO written VALUES (?, ?, ?, ?)", row)
    database.close()
    marks = Marks(tmp_path)
    assert marks.of("our cup") == {"f00": True}
    assert marks.written(tmp_path / "index") == [WrittenSidecar("a.jpg", ("our cup",), ())]
    marks.add_written(tmp_path / "index", [WrittenSidecar("b.jpg", (), ("our cup",))])
    marks.keep_unwritten(tmp_path / "index", [])
    assert [one.photo for one in marks.written(tmp_path / "index")] == ["a.jpg"]


def test_undo_writes_to_no_photo_that_left_the_index(review: Review, photos: Path, tmp_path: Path) -> None:
    review.mark("our cup", numbers(review, "coffee 00"), [], [])
    review.write("our cup", review.preview("our cup").fingerprint)
    shutil.move(photos / "coffee 00.png", tmp_path / "elsewhere.png")
    with Library.open(photos.parent / "index") as library:
        library.add(photos)
    undone = review.undo()
    assert (undone.changes, undone.undoable) == ([], 1)
    assert "no longer in the index" in next(iter(undone.problems.values()))


def test_parents_are_written_as_tag_writes_them(review: Review, photos: Path) -> None:
    review.mark("cat", numbers(review, "cat 00", "cat"), [], [])
    review.write("cat", review.preview("cat").fingerprint)
    from_page = sidecar(photos / "cat 00.png").read_bytes()
    assert b"animal|" in from_page
    review.mark("dog", [], numbers(review, "cat 00", "cat"), [])
    assert review.preview("dog").changes == []
    review.mark("pet", numbers(review, "cat 00", "cat"), [], [])
    review.write("pet", review.preview("pet").fingerprint)
    assert b"animal|" in sidecar(photos / "cat 00.png").read_bytes()  # of cat, which stays
