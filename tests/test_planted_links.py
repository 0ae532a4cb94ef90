"""No writer follows a link that lies where it writes: an unpacked archive may have planted it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.records.record_files import open_record_file
from zsl_tagger.sidecars.run import Sidecars
from zsl_tagger.system.files import (
    folder_inside,
    locked,
    locked_file,
    move_whole,
    scratch_inside,
    whole_folder,
    write_whole,
)
from zsl_tagger.tagging.background import Background
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.heatmap import HeatmapFolder
from zsl_tagger.tagging.model_folder import ModelConfig, VocabularyLabel, write_config, write_labels
from zsl_tagger.words.table import WordTable

SECRET = "the user's own file, without a line end"


def photo(folder: Path) -> Path:
    path = folder / "a.jpg"
    if not path.exists():
        Image.new("RGB", (40, 30)).save(path)
    return path


def write_records(kind: str, resume: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        path = folder / f"tags.{kind}"
        with locked_file(path), open_record_file(kind, path, {"format": kind}, resume) as file:
            file(Record("a.jpg", [Tag("dog", 0.5)], sha256="00" * 32))
            file(Record("a.jpg", [Tag("cat", 0.5)], sha256="11" * 32))

    return write


def write_sidecar(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        record = Sidecars(kind).tagged(Record(str(photo(folder)), [Tag("dog", 0.5)]))
        if record.error is not None:
            raise UserError(record.error)

    return write


def write_model(folder: Path) -> None:
    write_config(folder, ModelConfig(Preprocessing(8), 3, 0.5))
    write_labels(folder, [VocabularyLabel("dog", 0.5)])
    WordTable(["dog"], np.ones((1, 3), np.int8)).save(folder)
    Background(Encoded(np.ones((1, 1, 3), np.float32), None)).save(folder / "background.npz")


def write_heatmap(folder: Path) -> None:
    heats = np.ones((1, 2, 2), np.float32)
    HeatmapFolder(folder / "maps", []).write(str(photo(folder)), ["dog"], heats, Preprocessing(8))


def write_folder(folder: Path) -> None:
    with whole_folder(folder / "model") as made:
        (made / "config.json").write_text("{}")


def write_from_scratch(folder: Path) -> None:
    with scratch_inside(folder) as scratch:
        (scratch / "encoder.onnx").write_text("new")
        move_whole(scratch, folder)


def write_in_locked_folder(folder: Path) -> None:
    with locked(folder):
        write_whole(folder / "a.txt", b"new")


def write_journal(folder: Path) -> None:
    pytest.importorskip("imagehash")
    from data_prep.images import look_at_images

    photo(folder)
    look_at_images(["a.jpg"], folder, folder / "images.jsonl", 1)


def write_prepared(folder: Path) -> None:
    from data_prep.output import OutputFolder

    out = OutputFolder(folder, {"prepare": "folders"}, overwrite=True)
    with out.claimed():
        out.start_replacing()
        out.write("data.csv", b"path")
        out.finish({"benchmark": "benchmark.json"})


def write_unpacked(folder: Path) -> None:
    from data_prep.archives import _unpack

    _unpack(iter([("train", "dog", 0, np.zeros((32, 32, 3), np.uint8))]), folder)


def write_run_log(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from zsl_tagger.training.log import RunLog

    log = RunLog(folder, 0)
    log.write({"step": 1.0, "loss": 0.5})
    log.close()


def write_checkpoint(folder: Path) -> None:
    pytest.importorskip("torch")
    from zsl_tagger.training.checkpoint import save_checkpoint

    save_checkpoint(folder / "checkpoint.pt", {"step": 1})


def write_scores(folder: Path) -> None:
    from zsl_tagger.evaluation.scoring import _Store

    store = _Store(folder, "key", 2, 3)
    store.add(0, np.ones(3, np.float32))
    store.save()


def write_index(folder: Path) -> None:
    from zsl_tagger.search.store import IndexMeta, Store

    with locked(folder), Store(folder, IndexMeta(None, "fingerprint", ["dog"])):
        pass


WRITERS: dict[str, Callable[[Path], None]] = {
    **{f"tags.{kind}": write_records(kind, False) for kind in ("jsonl", "csv", "sqlite", "parquet")},
    **{f"tags.{kind} resumed": write_records(kind, True) for kind in ("jsonl", "csv", "sqlite", "parquet")},
    **{f"sidecar {kind}": write_sidecar(kind) for kind in ("xmp", "txt", "json")},
    "a file": lambda folder: write_whole(folder / "a.txt", b"new"),
    "model folder": write_model,
    "heat map": write_heatmap,
    "whole folder": write_folder,
    "export": write_from_scratch,
    "locked folder": write_in_locked_folder,
    "journal of images": write_journal,
    "prepared folder": write_prepared,
    "unpacked pictures": write_unpacked,
    "run log": write_run_log,
    "checkpoint": write_checkpoint,
    "partial scores": write_scores,
    "index": write_index,
}

#: Names that a user gives or links, and sidecars, which may be links to sidecars (tests/sidecars).
GIVEN = re.compile(r"tags\.(jsonl|csv|sqlite|parquet)|a\.jpg.*")


def in_planted(path: Path, written: Path) -> str:
    """Return where a file of the folder ``written`` is in ``planted``; a heat map's path has the folder's in it."""
    return str(path.relative_to(written)).replace("/written/", "/planted/")


def planted_names(written: Path) -> set[str]:
    """Return every name that a writer leaves, and those under which it used to write first or lock."""
    names = {in_planted(path, written) for path in written.rglob("*") if path.is_file()} - {"a.jpg"}
    names |= {f"tags.{kind}.settings.json" for kind in ("jsonl", "csv")} | {"tags.parquet.journal.jsonl", ".writing"}
    names |= {"tags.parquet.journal.jsonl.settings.json", "partial_scores.npy", "partial_scores.json"}
    beside = {Path(name).with_name(f".{Path(name).name}{end}") for name in names for end in (".writing", ".lock")}
    return {name for name in names if not GIVEN.fullmatch(name)} | {str(name) for name in beside}


@pytest.mark.parametrize("target", ["a file", "nothing"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_planted_link_is_not_followed(name: str, target: str, tmp_path: Path) -> None:
    write, folders = WRITERS[name], [tmp_path / "written", tmp_path / "planted"]
    for folder in folders:
        folder.mkdir()
    write(folders[0])
    secret = tmp_path / "home" / "secret"
    secret.parent.mkdir()
    if target == "a file":
        secret.write_text(SECRET)
    for planted in planted_names(folders[0]):
        (folders[1] / planted).parent.mkdir(parents=True, exist_ok=True)
        (folders[1] / planted).symlink_to(secret)
    with contextlib.suppress(UserError, OSError):  # it may refuse
        write(folders[1])
    assert [path.read_text() for path in secret.parent.iterdir()] == ([SECRET] if target == "a file" else [])


@pytest.mark.parametrize("name", ["heat map", "unpacked pictures", "run log"])
def test_a_planted_folder_is_not_entered(name: str, tmp_path: Path) -> None:
    write, folders = WRITERS[name], [tmp_path / "written", tmp_path / "planted"]
    for folder in folders:
        folder.mkdir()
    write(folders[0])
    inner = next(path.parent for path in sorted(folders[0].rglob("*")) if path.is_file() and path.parent != folders[0])
    place = folders[1] / in_planted(inner, folders[0])
    place.parent.mkdir(parents=True, exist_ok=True)
    home = tmp_path / "home"
    home.mkdir()
    place.symlink_to(home, target_is_directory=True)
    with pytest.raises(UserError, match=r"a symbolic link leads out of .*: delete it"):
        write(folders[1])
    assert list(home.iterdir()) == []


def test_a_link_inside_the_folder_may_stay(tmp_path: Path) -> None:
    (tmp_path / "maps" / "big").mkdir(parents=True)
    (tmp_path / "maps" / "a").symlink_to(tmp_path / "maps" / "big")
    assert folder_inside(tmp_path / "maps", "a/b").is_dir()


#: Ways to write a file that follow links. system/files.py has those that do not.
FOLLOWING = re.compile(
    r"\.write_text\(|\.write_bytes\(|\.open\(\"[wax]|\.open\(\"r\+|np\.save\((?!file)|open_memmap\([^)]*w\+|shutil\.copy|\.touch\("
)

#: Files that the user names, and folders that were created by the run itself.
MAY_FOLLOW = {
    "zsl_tagger/system/files.py",
    "zsl_tagger/bulk/output.py",  # --output in a format that no run resumes
    "zsl_tagger/tagging/ray_pool.py",  # a temporary folder, and os.devnull
    "zsl_tagger/evaluation/calibrate.py",  # into a folder of whole_folder, which is new
    "zsl_tagger/export/run.py",  # into its scratch folder
}


def test_nobody_else_writes_files_by_another_way() -> None:
    files = [*(ROOT / "zsl_tagger").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py"), ROOT / "cli.py"]
    found = {str(path.relative_to(ROOT)) for path in files if FOLLOWING.search(path.read_text(encoding="utf-8"))}
    assert found == MAY_FOLLOW


# --- long names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [242, 243, 251])
def test_photos_of_long_names_have_sidecars(length: int, tmp_path: Path) -> None:
    photo = tmp_path / ("塔" * 70 + "a" * (length - 214) + ".jpg")
    assert len(photo.name.encode()) == length
    photo.touch()
    assert Sidecars("xmp").tagged(Record(str(photo), [Tag("dog", 0.5)])).error is None
    assert {path.name for path in tmp_path.iterdir()} == {photo.name, f"{photo.name}.xmp"}


def test_names_of_255_bytes_are_written_and_locked(tmp_path: Path) -> None:
    path, folder = tmp_path / ("a" * 255), tmp_path / ("b" * 255)
    with locked_file(path):
        write_whole(path, b"new")
        with pytest.raises(UserError, match="another run is writing to it"), locked_file(path):
            pass
    with whole_folder(folder) as made:
        (made / "c").touch()
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, folder.name}


def test_a_locked_folder_loses_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / ".0011223344556677.writing").write_text("half")
    (tmp_path / ".kept").write_text("mine")
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".kept"]
