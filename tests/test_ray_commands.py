"""``index`` and ``evaluate`` with ``--engine ray``: the files of the local engine, byte for byte."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disturbed import with_killed_workers
from made_data import run_command, write_photo

from zsl_tagger import Library, UserError
from zsl_tagger.assets import PACKAGED
from zsl_tagger.evaluation import processes, scoring
from zsl_tagger.evaluation.processes import Compute, ScoreTask
from zsl_tagger.evaluation.run import SCORES_FILE
from zsl_tagger.records.record import Record
from zsl_tagger.search.new_photos import IndexTask, NewPhoto
from zsl_tagger.search.store import INDEX_FILE
from zsl_tagger.system.files import sha256_of
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.ray

USES_RAY = pytest.mark.usefixtures("ray_runs")
PHOTOS = 48
MODEL = ["--model", "packaged"]


# --- without a Ray -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"processes": 2},
            "^--processes works on this machine only: leave out --engine ray, or give --workers instead$",
        ),
        ({"device": "cuda"}, "^device cuda works with the local engine only: the workers of Ray use CPUs$"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Compute(engine="ray", **options)


def test_the_library_checks_the_engine(tmp_path: Path) -> None:
    engine: Any = "spark"
    with (
        Library.open(tmp_path / "index") as library,
        pytest.raises(UserError, match=r"^expected engine local or ray, got"),
    ):
        library.add(tmp_path, engine=engine)


@pytest.mark.parametrize(
    "arguments",
    [["index", "gone"], ["evaluate", *MODEL, "--data", "gone"], ["calibrate", *MODEL, "--data", "gone"]],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_extra(arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is reported before anything is read, in the words of ``tag``."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    more = ["--index", tmp_path / "index"] if arguments[0] == "index" else ["--processes", 1]
    message = 'error: ray is not installed: in a clone of zsl-tagger, run pip install ".[ray]"\n'
    assert run_command(*arguments, *more, "--engine", "ray") == (2, "", message)
    assert list(tmp_path.iterdir()) == []


class Full:
    log_odds = None

    def encode(self, _: str) -> None:
        raise MemoryError("no room")


def test_a_task_of_the_index_encodes_only_what_is_new(tagger: Tagger, examples: Path) -> None:
    """Here a photo that it encodes is an error, which is one of that photo only."""
    labels = tagger.label_set(["cat"])
    cat, rocket = str(examples / "cat.jpg"), str(examples / "rocket.jpg")
    task = IndexTask.of(labels, ["0" * 64, sha256_of(Path(cat)), "f" * 64])
    known: Any = task(Full(), cat)  # type: ignore[arg-type]
    assert isinstance(known, NewPhoto)
    assert (known.packed, known.sha256) == (None, sha256_of(Path(cat)))
    error = "cannot be indexed: MemoryError: no room"
    assert task(Full(), rocket) == Record(rocket, [], error)  # type: ignore[arg-type]
    assert task.given_up(cat, "3 workers died") == Record(cat, [], "3 workers died")
    assert IndexTask.of(labels, [])(Full(), cat) == Record(cat, [], error)  # type: ignore[arg-type]


def test_an_evaluation_does_not_leave_out_images_for_other_errors(tagger: Tagger) -> None:
    task = ScoreTask(tagger.label_set(["cat"]))
    with pytest.raises(MemoryError, match=r"^no room$"):
        task(Full(), "cat.jpg")  # type: ignore[arg-type]
    assert task.given_up("cat.jpg", "3 workers died") == "3 workers died"


# --- with one Ray for all ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(PHOTOS):
        write_photo(folder / f"{seed:03d}.jpg", seed)
    return folder


def index_of(folder: Path) -> bytes:
    assert not (folder / f"{INDEX_FILE}-wal").exists() or not (folder / f"{INDEX_FILE}-wal").stat().st_size
    return (folder / INDEX_FILE).read_bytes()


@USES_RAY
def test_the_same_index_as_the_local_engine_makes(photos: Path, tmp_path: Path) -> None:
    """Index new, unreadable, copied, changed, moved and deleted photos, with a model folder that is sent to workers."""
    folder, model = tmp_path / "photos", tmp_path / "model"
    folder.mkdir()
    model.mkdir()
    for path in PACKAGED.iterdir():
        (model / path.name).symlink_to(path)
    for number in range(14):
        shutil.copy(photos / f"{number:03d}.jpg", folder)
    shutil.copy(folder / "003.jpg", folder / "copy.jpg")
    (folder / "empty.jpg").touch()

    def both(*arguments: object) -> tuple[int, str, str]:
        local, by_ray = (
            run_command("index", folder, *arguments, "--index", tmp_path / engine, "--engine", engine)
            for engine in ("local", "ray")
        )
        assert by_ray == local
        assert index_of(tmp_path / "ray") == index_of(tmp_path / "local")
        return by_ray

    status, printed, _ = both("--model", model)
    assert (status, printed) == (
        1, "15 photos in the index: added 15, changed 0, moved 0, removed 0, failed 1\n"
    )  # fmt: skip
    write_photo(folder / "002.jpg", 100)
    write_photo(folder / "new.jpg", 101)
    (folder / "001.jpg").unlink()
    (folder / "000.jpg").rename(folder / "moved.jpg")
    (folder / "empty.jpg").unlink()
    printed = both()[1]
    assert printed == "15 photos in the index: added 1, changed 1, moved 1, removed 1, failed 0\n"


@USES_RAY
def test_killed_workers_change_nothing_in_the_index(photos: Path, tmp_path: Path) -> None:
    """The command runs in another process and joins this Ray, as one joins a cluster."""
    index = tmp_path / "ray" / INDEX_FILE

    def begun() -> bool:
        if not index.exists():
            return False
        with closing(sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True)) as database:
            try:
                return int(database.execute("SELECT count(*) FROM photos").fetchone()[0]) >= 8
            except sqlite3.OperationalError:  # its tables are not there yet
                return False

    status, printed = with_killed_workers(["index", photos, "--index", tmp_path / "ray"], begun)
    assert status == 0, printed
    assert "a worker died while indexing; its images were indexed again" in printed
    assert run_command("index", photos, "--index", tmp_path / "local")[0] == 0
    assert index_of(tmp_path / "ray") == index_of(tmp_path / "local")


@USES_RAY
def test_evaluate_continues_a_local_run_and_gives_its_scores(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, of images in a relative folder, one of them unreadable."""
    names = [f"{number:03d}.jpg" for number in range(20)]
    (tmp_path / "images").mkdir()
    for name in names:
        shutil.copy(photos / name, tmp_path / "images")
    (tmp_path / "images" / "013.jpg").write_bytes(b"no photo")
    rows = [f"{name},{number % 2},{number % 3 == 0:d},1" for number, name in enumerate(names)]
    (tmp_path / "targets.csv").write_text("\n".join(["image,cat,sky,table", *rows]))
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", *MODEL, "--targets", "targets.csv", "--images", "images", "--resamples", 0]
    assert run_command(*arguments, "--output", "local")[0] == 0

    def stopped(*given: Any) -> Generator[np.ndarray | str, None, None]:
        with closing(processes.score_images(*given)) as results:
            for _ in range(7):
                yield next(results)
        raise KeyboardInterrupt

    sent: list[int] = []
    on_ray = processes._on_ray

    def counted(scorer: processes.Scorer, paths: Sequence[str], workers: int | None) -> Any:
        sent.append(len(paths))
        return on_ray(scorer, paths, workers)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "SAVE_EVERY", 1)
        patch.setattr(scoring, "score_images", stopped)
        assert run_command(*arguments, "--output", "ray")[0] == 130
    monkeypatch.setattr(processes, "_on_ray", counted)
    status, printed, _ = run_command(*arguments, "--output", "ray", "--engine", "ray")
    assert (status, sent) == (0, [13])
    assert "19 images" in printed
    for name in (SCORES_FILE, "report.json", "per_label.csv"):
        assert Path("ray", name).read_bytes() == Path("local", name).read_bytes()
    assert {path.name for path in Path("ray").iterdir()} == {path.name for path in Path("local").iterdir()}
