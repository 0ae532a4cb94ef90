"""Scores stored by label in blocks equal the rows they were built from, after additions, removals and kills."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import write_crops
from paths import ROOT

from zsl_tagger import Library
from zsl_tagger.search import rank, store, update
from zsl_tagger.search.blocks import COLUMNS_PER_ROW, Part, Row, StoredScores
from zsl_tagger.search.packing import unpack_logits
from zsl_tagger.search.rank import Ranking, _best
from zsl_tagger.search.store import INDEX_FILE, Store
from zsl_tagger.search.update import Counts

QUERIES = ["cat", "person -tower", "animal", "sky, red saucer -cat", "launch pad or boat", "furry animal", "red lion"]
SIZE = 7  # photos a block


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    return write_crops(tmp_path_factory.mktemp("crops"), examples)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, crops: Path) -> Path:
    """Return an index of 40 photos as version 3 wrote it: each has a row of scores, and there are no blocks."""
    folder = tmp_path_factory.mktemp("rows")
    with Library.open(folder) as library:
        assert library.add(crops) == Counts(added=40)
    with sqlite3.connect(folder / INDEX_FILE) as database:
        assert database.execute("SELECT count(*) FROM scores").fetchone() == (40,)
        database.executescript("DROP TABLE blocks; DROP TABLE columns; PRAGMA user_version = 3")
    database.close()
    return folder


@pytest.fixture
def index(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the index, and make new blocks small."""
    for module in (store, update):
        monkeypatch.setattr(module, "PHOTOS_PER_BLOCK", SIZE)
    return Path(shutil.copytree(rows, tmp_path / "index"))


def rankings(folder: Path) -> list[Ranking]:
    with Library.open(folder) as library:
        return library.rank(QUERIES, top=99)


def by_path(ranking: Ranking) -> dict[str, tuple[float, bool]]:
    return {one.path: (one.score, one.passes) for one in ranking.found}


def shape(folder: Path) -> tuple[list[int], int]:
    """Return the number of contents of each block, and the number of rows."""
    with Store(folder) as opened:
        parts = opened.parts()
        return [int((part.contents >= 0).sum()) for part in parts if part.block is not None], opened.loose()


def add(folder: Path, photos: Path) -> Counts:
    with Library.open(folder) as library:
        return library.add(photos)


@pytest.mark.slow
def test_every_level_is_where_it_was(index: Path, crops: Path) -> None:
    with sqlite3.connect(index / INDEX_FILE) as database:
        content, logits, classes = zip(*database.execute("SELECT * FROM scores ORDER BY content"), strict=True)
    database.close()
    with Store(index) as opened:
        count = len(opened.meta.labels)
    levels, step, low = unpack_logits(logits, count)
    expected = np.concatenate([levels, [list(one) for one in classes]], axis=1).T  # (V + C, 40)
    assert add(index, crops) == Counts()
    assert shape(index) == ([SIZE] * 5, 5)
    random = np.random.default_rng(0)
    with Store(index) as opened:
        scores = StoredScores(opened, count)
        assert scores.contents.tolist() == list(content)
        np.testing.assert_array_equal([scores.step, scores.low], [step, low])
        for columns, photos in ((3, 40), (200, 11), (len(expected), 40), (1, 1), (0, 5), (COLUMNS_PER_ROW, 40)):
            some, of = random.integers(len(expected), size=columns), random.permutation(40)[:photos]
            np.testing.assert_array_equal(scores.columns(some, of), expected[some][:, of])
        for part, numbers in enumerate(scores.parts):
            for labels, tile in scores.tiles(part):
                np.testing.assert_array_equal(tile, expected[labels, numbers])


@pytest.mark.slow
def test_searches_find_the_same_to_the_bit(index: Path, crops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All photos are decoded, then few; the labels are stored, or use class evidence, or neither."""
    exact = rankings(index)
    monkeypatch.setattr(rank, "FIRST_DECODED", 9)
    monkeypatch.setattr(rank, "DECODED_PER_ROUND", 4)
    monkeypatch.setattr(rank, "CANDIDATES", 12)
    before = rankings(index)
    assert add(index, crops) == Counts()
    assert rankings(index) == before
    monkeypatch.undo()
    assert rankings(index) == exact


@pytest.mark.slow
def test_removed_contents_take_no_space_and_ids_are_reused(
    index: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "FIRST_DECODED", 999)
    photos = Path(shutil.copytree(crops, tmp_path / "photos"))
    assert add(index, photos) == Counts(added=40)  # copies of known photos
    with Library.open(index) as library:
        library.add(crops.parent / "none", prune=True)
        database = library.folder / INDEX_FILE
    with sqlite3.connect(database) as opened:
        opened.execute("DELETE FROM photos WHERE instr(path, ?)", (str(crops).encode(),))
    opened.close()
    before = {query: by_path(one) for query, one in zip(QUERIES, rankings(index), strict=True)}
    with Store(index) as opened_store:
        last = max(known.content for known in opened_store.photos().values())
        gone = [path for path, known in opened_store.photos().items() if 3 < known.content < 20 or known.content >= 34]
    kept = Path(shutil.copy(gone[-1], tmp_path / "kept.jpg"))
    for path in gone:
        Path(path).unlink()
    assert add(index, photos) == Counts(removed=len(gone))
    sizes, loose = shape(index)
    assert sum(sizes) + loose == 40 - len(gone)
    assert all(one + other > SIZE for one, other in pairwise(sizes))
    with sqlite3.connect(index / INDEX_FILE) as opened:
        stored = opened.execute("SELECT count(DISTINCT place >> 20) FROM columns").fetchone()[0]
    opened.close()
    assert stored == len(sizes)
    shutil.copy(kept, photos / "again.jpg")
    assert add(index, photos) == Counts(added=1)
    with Store(index) as opened_store:
        assert opened_store.photos()[str(photos / "again.jpg")].content <= last
    for query, one in zip(QUERIES, rankings(index), strict=True):
        expected = {path: score for path, score in before[query].items() if path not in gone}
        expected[str(photos / "again.jpg")] = before[query][gone[-1]]
        found = by_path(one)
        assert found.keys() == expected.keys()
        for path, (score, passes) in found.items():  # photos asked together differ, and so do sums of float32
            assert score == pytest.approx(expected[path][0], rel=1e-4)
            assert passes == expected[path][1]


KILLED = """
import os, signal, sys
from zsl_tagger import Library
from zsl_tagger.search import store, update
store.PHOTOS_PER_BLOCK = update.PHOTOS_PER_BLOCK = 7
remove = store.Store._remove_block
turn = 0
def killed(self, block):
    global turn
    turn += 1
    remove(self, block)
    if turn == 3:
        self._database.execute("INSERT INTO blocks VALUES (?, x'', x'', 1)", (block,))
        os.kill(os.getpid(), signal.SIGKILL)
store.Store._remove_block = killed
with Library.open(sys.argv[1]) as library:
    library.add(sys.argv[2])
"""


@pytest.mark.slow
def test_nothing_is_lost_when_building_blocks_is_killed(index: Path, crops: Path) -> None:
    before = rankings(index)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(index), str(crops)], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert shape(index) == ([SIZE] * 2, 40 - 2 * SIZE)
    assert rankings(index) == before
    assert add(index, crops) == Counts()
    assert shape(index) == ([SIZE] * 5, 5)
    assert rankings(index) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE columns SET levels = x'01' WHERE place = (SELECT min(place) FROM columns)",
        "DELETE FROM columns WHERE place = (SELECT min(place) FROM columns)",
        "UPDATE blocks SET ranges = x'010203'",
        "UPDATE blocks SET contents = x'0000000000000000'",
    ],
)
def test_damaged_blocks_are_reported_in_one_line(index: Path, crops: Path, damage: str) -> None:
    add(index, crops)
    with sqlite3.connect(index / INDEX_FILE) as database:
        database.execute(damage)
    database.close()
    with pytest.raises(store.LibraryError, match="is damaged"):
        rankings(index)


@pytest.mark.slow
def test_a_word_of_the_vocabulary_needs_no_network(index: Path) -> None:
    """Nor does a second run with nothing new."""
    program = (
        "import sys; from zsl_tagger import Library\n"
        "with Library.open(sys.argv[1]) as library:\n"
        "    assert len(library.search('cat -dog, animal', 99)) == 40\n"
        "    library.add()\n"
        "assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(index)], cwd=ROOT, check=True)


@given(
    st.lists(st.tuples(st.sampled_from([-3.0, -2.5, -1.0, 0.0]), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_the_best_are_the_same_as_by_sorting_all(photos: list[tuple[float, bool]], top: int) -> None:
    """Ties keep their order."""
    log_scores, passing = np.array([one for one, _ in photos]), np.array([one for _, one in photos])
    expected = np.lexsort((-log_scores, ~passing))[:top]
    assert _best(log_scores, passing, top).tolist() == expected.tolist()


class Made:
    """A store of generated blocks, few of which are in memory at a time."""

    size, blocks, labels = 4096, 12, 640

    def parts(self) -> list[Part]:
        one = np.ones(self.size, np.float32)
        return [Part(block, np.arange(self.size) + block * self.size, one, one) for block in range(self.blocks)]

    def photos_by_content(self) -> tuple[np.ndarray, np.ndarray]:
        contents = np.arange(self.size * self.blocks)
        return contents, np.ones_like(contents)

    def block_rows(self, block: int, first: int, last: int) -> Iterator[bytes]:
        return (bytes([(block + row) % 256]) * (COLUMNS_PER_ROW * self.size) for row in range(first, last + 1))

    def loose_rows(self, first: int, last: int) -> list[Row]:
        raise NotImplementedError(first, last)

    def damaged(self, error: Exception) -> Exception:
        return error


def test_memory_does_not_grow_with_the_library() -> None:
    """All levels would take 31 MB, or 124 MB as float32."""
    scores = StoredScores(Made(), Made.labels)
    total = np.zeros(len(scores.contents), np.int64)
    tracemalloc.start()
    for part, photos in enumerate(scores.parts):
        for _, levels in scores.tiles(part):
            total[photos] += levels.sum(axis=0, dtype=np.int64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    rows = Made.labels // COLUMNS_PER_ROW
    expected = [COLUMNS_PER_ROW * sum(block + row for row in range(rows)) for block in range(Made.blocks)]
    assert total.reshape(Made.blocks, -1).tolist() == [[one] * Made.size for one in expected]
