"""Test the index of a photo library: its values, updates from folders, and searches."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from made_data import change_index, pretend_another_model, write_crops, write_photo
from paths import ROOT

from zsl_tagger import Library, Tagger, UnknownLabelError, UserError
from zsl_tagger.search import rank
from zsl_tagger.search.packing import (
    pack_classes,
    pack_logits,
    pack_tokens,
    unpack_classes,
    unpack_logits,
    unpack_tokens,
)
from zsl_tagger.search.query import Query, parse_query
from zsl_tagger.search.rank import _Terms
from zsl_tagger.search.store import INDEX_FILE, Store, default_folder
from zsl_tagger.search.update import Counts
from zsl_tagger.system import progress
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelFolder

pytestmark = pytest.mark.slow

FLOATS = st.floats(-1000, 1000, width=32)


# --- packing


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=FLOATS))
@settings(deadline=None)
def test_unpacked_tokens_are_within_half_a_step(tokens: np.ndarray) -> None:
    unpacked = unpack_tokens(pack_tokens(tokens))
    assert unpacked.shape == tokens.shape
    span = tokens.max(axis=1) - tokens.min(axis=1)
    assert (np.abs(unpacked - tokens) <= span[:, None] / 510 + 1e-3).all()


@given(arrays(np.float32, (3, 7), elements=FLOATS))
@settings(deadline=None)
def test_unpacked_logits_are_within_half_a_step(logits: np.ndarray) -> None:
    levels, step, low = unpack_logits([pack_logits(row) for row in logits], 7)
    span = logits.max(axis=1) - logits.min(axis=1)
    assert (np.abs(levels * step[:, None] + low[:, None] - logits) <= span[:, None] / 510 + 1e-3).all()


def test_zeros_stay_zeros() -> None:
    """Most values of real tokens are 0, and must be 0 after unpacking."""
    tokens = np.maximum(np.random.default_rng(0).standard_normal((11, 13)), 0.5).astype(np.float32) - 0.5
    assert ((unpack_tokens(pack_tokens(tokens)) == 0) >= (tokens == 0)).all()


@given(arrays(np.float64, st.integers(1, 23), elements=st.floats(0.001, 0.997)))
@settings(deadline=None)
def test_unpacked_class_probabilities_are_within_half_a_step(classes: np.ndarray) -> None:
    """Compare log-odds, in which a step is 16/255."""
    packed = pack_classes(classes.astype(np.float32))
    assert len(packed) == len(classes)
    unpacked = unpack_classes(np.frombuffer(packed, np.uint8)).astype(np.float64)
    off = np.log(unpacked / (1 - unpacked)) - np.log(classes / (1 - classes))
    assert np.abs(off).max() <= 8 / 255 + 1e-4


def test_class_probabilities_of_0_and_1_and_no_classes() -> None:
    packed = np.frombuffer(pack_classes(np.array([0.0, 1.0, 1e-9], np.float32)), np.uint8)
    np.testing.assert_allclose(unpack_classes(packed.reshape(1, 3)), [[0, 1, 0]], atol=3e-3)
    assert unpack_classes(packed)[[0, 2]].tolist() == [0, 0]  # many unlikely classes do not add up to a likely word
    assert pack_classes(None) == b""


def test_damaged_tokens_are_an_error() -> None:
    packed = pack_tokens(np.random.default_rng(0).random((5, 7), np.float32))
    for damaged in (packed[:-9], packed[:30] + packed[40:]):
        with pytest.raises(ValueError, match="while decompressing data"):
            unpack_tokens(damaged)
    with pytest.raises(ValueError, match="buffer is smaller than requested size"):
        unpack_tokens(b"")


# --- what is typed


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("red bicycle", [("red bicycle",)], ()),
        ("beach, sunset", [("beach",), ("sunset",)], ()),
        ("snow -dog", [("snow",)], ("dog",)),
        (" beach ,sunset  -person -hot-dog, t-shirt", [("beach",), ("sunset",), ("t-shirt",)], ("person", "hot-dog")),
        ("-dog", [], ("dog",)),
        ("-dog, snow,", [("snow",)], ("dog",)),
        ("dog or cat, beach -person", [("dog", "cat"), ("beach",)], ("person",)),
        ("red bicycle or motor scooter or bus", [("red bicycle", "motor scooter", "bus")], ()),
        ("oregano, corridor", [("oregano",), ("corridor",)], ()),
    ],
)
def test_queries(text: str, wanted: list[tuple[str, ...]], unwanted: tuple[str, ...]) -> None:
    query = parse_query(text)
    assert query == Query(text, tuple(wanted), unwanted)
    assert len(query.term_of_label) == len(query.labels) == sum(map(len, wanted)) + len(unwanted)


def test_one_alternative_is_enough() -> None:
    """Compute the expected score from probabilities, in float64."""
    terms = _Terms(np.array([0, 0, 1, 2]), wanted=2)
    logits = np.array([[2.0, -3.0, 0.5, -1.0], [-40.0, 50.0, 40.0, -60.0], [-70.0, -75.0, 3.0, 2.0]])
    p = 1 / (1 + np.exp(-logits))
    expected = (1 - (1 - p[:, 0]) * (1 - p[:, 1])) * p[:, 2] * (1 - p[:, 3])
    log_scores = terms.log_scores(logits)
    np.testing.assert_allclose(log_scores[:2], np.log(expected[:2]), rtol=1e-9, atol=1e-15)
    assert log_scores[2] == pytest.approx(np.log(p[2, 0] + p[2, 1]) + np.log(p[2, 2] * (1 - p[2, 3])))
    tags = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1]], bool)
    assert terms.passes(tags).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" , ", "is empty"),
        ("snow - dog", 'a "-" without a word'),
        ("dog or", 'an "or" without a word on each side'),
        ("or, snow", 'an "or" without a word on each side'),
        ("snow -", 'a "-" without a word'),
        ("snow -hot dog", 'write "-hot-dog" if they belong together, or "-hot, dog"'),
        ("-dog snow", 'or "-dog, snow" if the photo should show "snow"'),
    ],
)
def test_queries_that_could_mean_two_things_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_query(text)


# --- searching


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """A library of 40 crops of the example photos."""
    return write_crops(tmp_path_factory.mktemp("crops"), examples)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, crops: Path) -> Iterator[Library]:
    with Library.open(tmp_path_factory.mktemp("index")) as library:
        assert library.add(crops) == Counts(added=40)
        yield library


@pytest.fixture(scope="module")
def exact(tagger: Tagger, crops: Path) -> dict[str, Encoded]:
    """Return the encoded photos by path."""
    return {str(path): tagger.encode(path) for path in crops.iterdir()}


@pytest.mark.parametrize("label", ["cat", "person", "red saucer", "launch pad"])
def test_scores_are_those_of_tag(library: Library, tagger: Tagger, exact: dict[str, Encoded], label: str) -> None:
    """Check stored and other labels, within the tolerance that docs/search.md states."""
    found = library.search(label, top=1000)
    assert len(found) == 40
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    labels = tagger.label_set([label])
    for path, score, passes in found:
        expected = tagger.scores(exact[path], labels)[0, 0]
        assert score == pytest.approx(expected, abs=0.01)
        if abs(expected - labels.thresholds[0]) > 0.01:
            assert passes == (expected >= labels.thresholds[0])


def test_several_labels_are_a_product(library: Library) -> None:
    cat, saucer, sky = ({one.path: one for one in library.search(label, 99)} for label in ("cat", "red saucer", "sky"))
    for one in library.search("sky, red saucer -cat", 99):
        expected = sky[one.path].score * saucer[one.path].score * (1 - cat[one.path].score)
        assert one.score == pytest.approx(expected, rel=1e-4)
        assert one.passes == (sky[one.path].passes and saucer[one.path].passes and not cat[one.path].passes)


def test_photos_that_pass_are_counted_and_come_first(library: Library) -> None:
    ranking = library.rank(["person -tower"], top=40)[0]
    passes = [one.passes for one in ranking.found]
    assert passes == sorted(passes, reverse=True)
    assert ranking.passing == sum(passes) > 0
    assert ranking.photos == 40
    assert library.rank(["person -tower"], top=2)[0].passing == ranking.passing


def test_few_photos_are_decoded_and_the_best_are_found(
    library: Library, tagger: Tagger, exact: dict[str, Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For labels that are not in the vocabulary, 28 of 40 photos are decoded."""
    labels = ["red saucer", "launch pad", "shiny helmet", "white porcelain", "brown wood", "furry animal"]
    monkeypatch.setattr(rank, "FIRST_DECODED", 10)
    monkeypatch.setattr(rank, "DECODED_PER_ROUND", 6)
    decoded: list[int] = []
    decode = rank.Ranker.decode

    def counted(ranker: rank.Ranker, photos: np.ndarray, labels: LabelSet) -> np.ndarray:
        decoded.append(len(photos))
        return decode(ranker, photos, labels)

    monkeypatch.setattr(rank.Ranker, "decode", counted)
    for label in labels:
        assert label not in tagger.vocabulary.labels
        scores = {path: tagger.scores(encoded, [label])[0, 0] for path, encoded in exact.items()}
        best = sorted(scores, key=lambda path: -scores[path])[:10]
        assert len({one.path for one in library.search(label, 10)} & set(best)) >= 9, label
    assert decoded == [10, 6, 6, 6] * len(labels)


def test_all_unknown_words_are_named(library: Library) -> None:
    with pytest.raises(UnknownLabelError, match=r"'zebbra', did you mean .*'zebra'.*'catt'"):
        library.rank(["zebbra", "dog -catt"])


@pytest.mark.parametrize("top", [0, -3])
def test_top_is_at_least_1(library: Library, top: int) -> None:
    with pytest.raises(UserError, match=f"expected top of at least 1, got {top}"):
        library.search("cat", top)


# --- following the folders


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(4):
        write_photo(tmp_path / "photos" / ("a" if seed < 2 else "b") / f"{seed}.jpg", seed)
    return tmp_path / "photos"


@pytest.fixture
def small(tmp_path: Path, photos: Path) -> Iterator[Library]:
    """A library of four photos in two folders."""
    with Library.open(tmp_path / "index") as library:
        assert library.add(photos) == Counts(added=4)
        yield library


def paths(library: Library) -> list[str]:
    return sorted(os.path.relpath(one.path, library.folder.parent / "photos") for one in library.search("cat", 99))


def test_no_photo_is_encoded_twice(small: Library, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tagger, "encode", None)  # calling it fails
    assert small.add(photos) == Counts()
    os.utime(photos / "a/0.jpg")  # touched: the content is the same
    assert small.add() == Counts()
    shutil.copy(photos / "a/0.jpg", photos / "a/copy.jpg")
    assert small.add() == Counts(added=1)
    (photos / "a/1.jpg").rename(photos / "b/else.jpg")
    assert small.add() == Counts(moved=1)
    photos.rename(photos.with_name("pictures"))
    assert small.add(photos.with_name("pictures")) == Counts(moved=5)
    assert len(small) == 5


@pytest.mark.parametrize("seconds", [0, 4_000_000_000])
def test_a_changed_photo_is_noticed_after_a_clock_change(small: Library, photos: Path, seconds: int) -> None:
    write_photo(photos / "a/0.jpg", 77)
    os.utime(photos / "a/0.jpg", (seconds, seconds))
    assert small.add(photos) == Counts(changed=1)
    assert small.add(photos) == Counts()


def test_changed_and_deleted_photos(small: Library, photos: Path) -> None:
    write_photo(photos / "a/0.jpg", 77)
    (photos / "b/3.jpg").unlink()
    assert small.add(photos) == Counts(changed=1, removed=1)
    assert paths(small) == ["a/0.jpg", "a/1.jpg", "b/2.jpg"]
    with sqlite3.connect(small.folder / INDEX_FILE) as database:
        for table in ("contents", "scores"):  # what no photo shows any more leaves
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (3,)


def test_an_open_library_sees_what_another_wrote(small: Library, photos: Path) -> None:
    assert len(small.search("cat", 99)) == 4
    write_photo(photos / "new.jpg", 5)
    with Library.open(small.folder) as other:
        other.add()
    assert len(small.search("cat", 99)) == 5


def test_photos_of_an_unmounted_disk_are_kept(small: Library, photos: Path, logged: pytest.LogCaptureFixture) -> None:
    photos.rename(photos.with_name("unplugged"))
    counts = small.add(photos)
    assert counts == Counts(failed=1)
    assert logged.messages[0].endswith("photos: No such file or directory")
    assert logged.messages[1].startswith("4 photos are kept in the index although they are missing")
    photos.mkdir()  # an empty mount point
    assert small.add() == Counts()
    photos.rmdir()
    photos.symlink_to("nowhere")
    assert small.add(photos) == Counts(failed=1)
    photos.unlink()
    photos.with_name("unplugged").rename(photos)
    assert small.add() == Counts()
    assert len(small) == 4


def test_photos_of_an_unmounted_disk_below_the_folder_are_kept(small: Library, photos: Path) -> None:
    (photos / "b").rename(photos.with_name("disk"))
    (photos / "b").mkdir()
    assert small.add() == Counts()
    (photos / "b").rmdir()
    (photos / "b").symlink_to(photos.with_name("nowhere"))
    assert small.add() == Counts()
    assert paths(small) == ["a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"]


def test_a_deleted_folder_is_removed_and_prune_removes_the_rest(small: Library, photos: Path) -> None:
    shutil.rmtree(photos / "b")
    assert small.add() == Counts(removed=2)
    shutil.rmtree(photos)
    assert small.add(photos) == Counts(failed=1)
    assert small.add(photos, prune=True) == Counts(removed=2, failed=1)
    with pytest.raises(UserError, match="has no folders of photos yet"):
        small.add()


def test_other_folders_of_the_index_stay(small: Library, photos: Path) -> None:
    write_photo(photos.with_name("more") / "x.jpg", 9)
    assert small.add(photos.with_name("more")) == Counts(added=1)
    (photos / "a/0.jpg").unlink()
    assert small.add(photos.with_name("more")) == Counts()
    assert small.add() == Counts(removed=1)


def test_a_long_run_shows_progress(
    small: Library, photos: Path, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_A_MESSAGE", 0)
    for photo in photos.glob("*/*.jpg"):
        os.utime(photo)  # those that are as they were are counted together
    small.add(photos)
    assert logged.messages[0].startswith("indexing: 1 of 4 photos, ")
    assert [message for message in logged.messages if "4 of 4 photos" in message]


def test_excluded_photos_are_removed_and_other_files_are_counted(
    small: Library, photos: Path, logged: pytest.LogCaptureFixture
) -> None:
    (photos / "a" / "film.mp4").touch()
    (photos / "b" / "film.mp4").touch()
    in_a = len(list((photos / "a").glob("*.jpg")))
    assert small.add(photos, exclude_path=["a"]) == Counts(removed=in_a)
    assert logged.messages == ["1 file skipped, not photos: .mp4"]
    assert not [path for path in paths(small) if path.startswith("a/")]


def test_an_index_among_the_photos_does_not_count_its_own_files(photos: Path, logged: pytest.LogCaptureFixture) -> None:
    (photos / "film.mp4").touch()
    with Library.open(photos) as library:
        assert library.add(photos) == Counts(added=4)
        assert library.add(photos) == Counts()
    assert logged.messages == ["1 file skipped, not photos: .mp4"] * 2


def test_unreadable_photos_are_reported_and_the_rest_is_indexed(
    small: Library, photos: Path, logged: pytest.LogCaptureFixture
) -> None:
    (photos / "a/broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (photos / "a/empty.png").touch()
    os.mkfifo(photos / "a/pipe.jpg")
    (photos / "a/0.jpg").write_bytes(b"half a photo, so far")
    write_photo(photos / "b/last.jpg", 8)
    assert small.add() == Counts(added=1, failed=4)
    assert [message.partition("/a/")[2] for message in logged.messages] == [
        "0.jpg: not an image that Pillow can read",
        "broken.jpg: not an image that Pillow can read",
        "empty.png: empty file (0 bytes)",
        "pipe.jpg: not a regular file",
    ]
    assert "a/0.jpg" in paths(small)  # as it was, until it can be read


def test_a_model_of_ones_own_is_remembered(animal_model: Path, tmp_path: Path, photos: Path) -> None:
    """The model has a closed set and tokens of another size than the packaged model."""
    with Library.open(tmp_path / "index", animal_model) as library:
        assert library.add(photos) == Counts(added=4)
    closed = Tagger(animal_model)
    with Library.open(tmp_path / "index") as library:
        for path, score, _ in library.search("dog -bird", 4):
            dog, bird = closed.scores(closed.encode(path), ["dog", "bird"])[0]
            assert score == pytest.approx(dog * (1 - bird), abs=0.01)
        with pytest.raises(UnknownLabelError, match="unknown label 'bicycle'"):
            library.search("bicycle")


# --- faults


def index_process(photos: Path, index: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "cli.py", "index", str(photos), "--index", str(index), "--workers", "1"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_photos(index: Path, count: int) -> None:
    for _ in range(30_000):
        try:
            with Store(index) as store:
                if store.count() >= count:
                    return
        except UserError:
            pass
        time.sleep(0.01)
    raise AssertionError("no photo came into the index")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_the_photos_it_encoded(tmp_path: Path, number: signal.Signals) -> None:
    for seed in range(24):
        write_photo(tmp_path / "photos" / f"{seed:02d}.jpg", seed)
    process = index_process(tmp_path / "photos", tmp_path / "index")
    wait_for_photos(tmp_path / "index", 3)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    expected = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
    assert process.returncode == expected[number]
    assert ("the photos processed so far are in the index" in told) == (number != signal.SIGKILL)
    with sqlite3.connect(tmp_path / "index" / INDEX_FILE) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = "SELECT count(*) FROM photos JOIN contents ON id = photos.content JOIN scores USING (content)"
        there = database.execute(rows).fetchone()[0]
    assert 3 <= there < 24
    with Library.open(tmp_path / "index") as library:
        assert len(library.search("cat", 99)) == there
        assert library.add(tmp_path / "photos") == Counts(added=24 - there)


def test_only_one_run_writes_while_searches_continue(photos: Path, small: Library) -> None:
    for seed in range(20):
        write_photo(photos / f"more{seed}.jpg", 100 + seed)
    process = index_process(photos, small.folder)
    wait_for_photos(small.folder, 6)
    with pytest.raises(UserError, match="another run is writing here"):
        small.add(photos)
    assert 6 <= len(small.search("cat", 99)) <= 24
    assert process.wait(300) == 0
    assert len(small.search("cat", 99)) == 24


def test_searches_work_while_a_run_is_killed(photos: Path, small: Library) -> None:
    """Each search sees complete photos, and all photos of the search before."""
    for seed in range(20):
        write_photo(photos / f"more{seed}.jpg", 100 + seed)
    process = index_process(photos, small.folder)
    seen = {one.path for one in small.search("cat", 99)}
    assert len(seen) == 4
    while process.poll() is None:
        found = {one.path for one in small.search("cat", 99)}
        assert seen <= found
        seen = found
        if len(seen) >= 8:
            process.kill()
            process.wait(300)
    assert process.returncode == -signal.SIGKILL
    assert 8 <= len(small.search("cat", 99)) < 24
    with Library.open(small.folder) as another:
        assert {one.path for one in another.search("cat", 99)} >= seen
    assert small.add(photos).failed == 0
    assert len(small.search("cat", 99)) == 24


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="by these variables on Linux")
def test_the_default_index_is_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_folder() == tmp_path / ".local" / "share" / "zsl-tagger" / "library"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_folder() == tmp_path / "data" / "zsl-tagger" / "library"
    assert not list(tmp_path.iterdir())  # nothing is made by asking


def test_an_index_killed_while_created_is_no_index(tmp_path: Path, examples: Path) -> None:
    (tmp_path / "index").mkdir()
    database = sqlite3.connect(tmp_path / "index" / INDEX_FILE)
    database.execute("PRAGMA journal_mode = WAL")  # as far as it came
    database.close()
    with Library.open(tmp_path / "index") as library:
        with pytest.raises(UserError, match=r"^no index at .*index: add photos to it first$"):
            library.search("cat")
        assert library.add(examples) == Counts(added=4)


def test_an_index_of_another_model_or_version_is_refused(small: Library, tmp_path: Path) -> None:
    small.close()
    change_index(small.folder, "PRAGMA user_version = 9")
    with pytest.raises(
        UserError,
        match=r"has format 9, this zsl-tagger reads 2, 3 and 4: delete the folder .*index and index the photos",
    ):
        Library.open(small.folder)
    change_index(small.folder, "PRAGMA user_version = 3")
    pretend_another_model(small.folder)
    with pytest.raises(UserError, match=r"made with another model \(packaged\), whose scores are not comparable"):
        Library.open(small.folder)
    change_index(small.folder, f"""UPDATE meta SET value = '"{tmp_path}/gone"' WHERE name = 'model'""")
    with pytest.raises(UserError, match=r"was made with the model .*gone, which no longer exists: give its folder"):
        Library.open(small.folder)


def test_the_fingerprint_is_computed_only_if_a_file_of_the_model_changed(
    animal_model: Path, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, index = tmp_path / "model", tmp_path / "index"
    shutil.copytree(animal_model, model)
    computed: list[ModelFolder] = []
    networks_sha256 = ModelFolder.networks_sha256

    def counted(folder: ModelFolder) -> str:
        computed.append(folder)
        return networks_sha256(folder)

    monkeypatch.setattr(ModelFolder, "networks_sha256", counted)
    with Library.open(index, model) as library:
        library.add(photos)
    computed.clear()
    with Library.open(index) as library:
        library.search("dog")
    assert not computed
    status = (model / "encoder.onnx").stat()
    os.utime(model / "encoder.onnx", ns=(status.st_atime_ns, status.st_mtime_ns))  # the same times, another ctime
    with Library.open(index) as library:
        assert len(computed) == 1
        library.add()  # remembers the file
        assert library.search("dog")
    computed.clear()
    Library.open(index).close()
    assert not computed
    encoder = bytearray((model / "encoder.onnx").read_bytes())
    encoder[len(encoder) // 2] ^= 1
    (model / "encoder.onnx").write_bytes(encoder)
    os.utime(model / "encoder.onnx", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"made with another model \(.*model\), whose scores are not comparable"):
        Library.open(index)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM meta WHERE name IN ('files', 'keys')", """UPDATE meta SET value = '["cat"]' WHERE name = 'keys'"""],
)
def test_an_index_without_files_and_keys_that_fit_is_read(small: Library, photos: Path, statement: str) -> None:
    """An earlier version stored none."""
    expected = small.search("cat")
    small.close()
    change_index(small.folder, statement)
    with Library.open(small.folder) as library:
        assert library.search("cat") == expected
        library.add(photos)
    with Store(small.folder) as store:
        assert store.meta.files == ModelFolder().files_identity()
        assert len(store.meta.keys) == len(store.meta.labels)


def test_thresholds_may_be_recalibrated(small: Library, tmp_path: Path) -> None:
    """An index does not depend on the thresholds, which zsl-tagger calibrate changes."""
    model = tmp_path / "model"
    shutil.copytree(ROOT / "zsl_tagger" / "assets" / "packaged", model)
    labels = (model / "labels.json").read_text()
    (model / "labels.json").write_text(labels.replace('"threshold": 0.', '"threshold": 0.000'))
    with Library.open(small.folder, model) as library:
        assert library.rank(["cat"])[0].passing == 4


@pytest.mark.parametrize("damage", ["text", "middle", "half", "other"])
def test_a_damaged_index_is_reported_with_a_remedy(small: Library, damage: str) -> None:
    small.close()
    path = small.folder / INDEX_FILE
    content = path.read_bytes()
    if damage == "text":
        path.write_bytes(b"not a database at all, but long enough to be looked at" * 99)
    elif damage == "middle":
        path.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
        change_index(small.folder, "CREATE TABLE songs (name)")
    told = r"is damaged \(.*\): delete the folder .* and index the photos again"
    expected = "is not an index of zsl-tagger" if damage == "other" else told
    with pytest.raises(UserError, match=expected), Library.open(small.folder) as library:
        library.search("red saucer")


def test_tokens_damaged_on_the_disk_are_reported(small: Library) -> None:
    small.close()
    change_index(small.folder, "UPDATE contents SET tokens = x'0102030405060708090a'")
    with pytest.raises(UserError, match="is damaged"), Library.open(small.folder) as library:
        library.search("red saucer")


def test_an_index_of_the_packaged_model_stores_no_model_path(tmp_path: Path) -> None:
    with Library.open(tmp_path / "index", "packaged") as library:
        assert library._meta.model is None
