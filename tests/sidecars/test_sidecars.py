"""``tag --sidecar`` as a person types it: which file, what is shown, what goes wrong, who else writes at the time."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from made_data import needs_tool, run_command
from paths import ROOT
from sidecar_samples import DARKTABLE, DIGIKAM, EXIFTOOL, SAMPLES

from zsl_tagger.bulk import run as tag_run
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.sidecars.run import Sidecars

pytestmark = pytest.mark.slow

LABELS = ("--labels", "cat,pet,wheel", "--threshold", "0.5")  # the cat photo shows the first two

Snapshot = dict[str, tuple[bytes, int]]


def snapshot(folder: Path) -> Snapshot:
    """Bytes and time of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sidecar(*arguments: object, kind: str = "xmp") -> tuple[int, str, str]:
    return run_command("tag", *arguments, *LABELS, "--sidecar", kind)


def exiftool(*arguments: object) -> str:
    command = ["exiftool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def keywords(path: Path) -> dict[str, Any]:
    """As exiftool reads them."""
    read = json.loads(exiftool("-json", "-G1", "-struct", "-XMP:all", path))[0]
    return {name.partition(":")[2]: value for name, value in read.items() if ":" in name}


def tagged(photo: Path, *labels: str) -> Record:
    return Record(str(photo), [Tag(label, 0.9) for label in labels])


@pytest.fixture
def cat(examples: Path, tmp_path: Path) -> Path:
    """A folder of a photo's own."""
    (tmp_path / "photos").mkdir()
    return Path(shutil.copy(examples / "cat.jpg", tmp_path / "photos" / "cat.jpg"))


# --- what is shown ---


def test_new_again_and_removed(cat: Path) -> None:
    before = snapshot(cat.parent)
    status, out, err = sidecar(cat.parent)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [str(cat), "cat", "pet"]
    assert err == "note: sidecars: 1 new\n"
    after = snapshot(cat.parent)
    assert set(after) == {"cat.jpg", "cat.jpg.xmp"}
    assert sidecar(cat.parent)[2] == "note: sidecars: 1 unchanged\n"
    assert snapshot(cat.parent) == after
    status, out, err = run_command("tag", cat.parent, "--sidecar", "xmp", "--remove")
    assert (status, err) == (0, "note: sidecars: 1 deleted\n")
    assert out == f"{cat}.xmp (deleted)\n  - cat\n  - pet\n"
    assert snapshot(cat.parent) == before


@pytest.mark.parametrize(("kind", "ending"), [("xmp", ".xmp"), ("txt", ".txt"), ("json", ".tags.json")])
def test_a_dry_run_says_what_would_be_and_writes_nothing(cat: Path, kind: str, ending: str) -> None:
    before = snapshot(cat.parent)
    status, out, err = sidecar(cat, "--dry-run", kind=kind)
    assert (status, out) == (0, f"{cat}{ending} (new)\n  + cat\n  + pet\n")
    assert err == "note: sidecars would be: 1 new\n"
    assert snapshot(cat.parent) == before
    sidecar(cat, kind=kind)
    before = snapshot(cat.parent)
    status, out, err = run_command(
        "tag", cat, "--labels", "cat,animal", "--threshold", 0.5, "--sidecar", kind, "--dry-run"
    )
    assert (status, out) == (0, f"{cat}{ending}\n  + animal\n  - pet\n")
    assert err == "note: sidecars would be: 1 changed\n"
    status, out, _ = run_command("tag", cat, "--sidecar", kind, "--remove", "--dry-run")
    assert (status, out) == (0, f"{cat}{ending} (deleted)\n  - cat\n  - pet\n")
    assert snapshot(cat.parent) == before


def test_no_tag_no_sidecar(cat: Path) -> None:
    arguments = ("tag", cat, "--sidecar", "xmp", "--labels", "wheel", "--threshold", 0.5)
    assert run_command(*arguments)[2] == "note: sidecars: 1 unchanged\n"
    sidecar(cat)
    assert run_command(*arguments)[2] == "note: sidecars: 1 deleted\n"
    assert names(cat.parent) == ["cat.jpg"]


def test_removing_loads_no_model_and_asks_no_labels(cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar(cat)
    monkeypatch.delattr(tag_run, "Tagger")
    assert run_command("tag", cat, "--sidecar", "xmp", "--remove", "--model", "gone", "--labels-file", "gone")[0] == 0
    assert names(cat.parent) == ["cat.jpg"]


def test_removing_works_without_the_photo(cat: Path) -> None:
    sidecar(cat)
    cat.unlink()
    assert run_command("tag", cat, "--sidecar", "xmp", "--remove")[0] == 0
    assert names(cat.parent) == []


def test_a_photo_that_cannot_be_read_keeps_its_sidecar(cat: Path) -> None:
    sidecar(cat)
    cat.write_bytes(b"broken")
    before = snapshot(cat.parent)
    assert sidecar(cat)[0] == 1
    assert snapshot(cat.parent) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--remove"], "--remove applies to sidecars: add --sidecar xmp"),
        (["--dry-run"], "--dry-run applies to sidecars"),
        (["--sidecar-stem"], "--sidecar-stem applies to sidecars"),
        (["--sidecar", "txt", "--sidecar-stem"], "--sidecar-stem is for --sidecar xmp"),
        (["--sidecar", "xmp", "--dry-run", "--output", "out.txt"], "leave out --output"),
        (["--sidecar", "xmp", "--remove", "--format", "json"], "leave out --output, --format"),
        (["--sidecar", "xmp", "--dry-run", "--heatmap", "maps"], "and --heatmap"),
    ],
)
def test_options_that_do_not_go_together(cat: Path, options: list[str], told: str) -> None:
    before = snapshot(cat.parent)
    status, out, err = run_command("tag", cat, *options)
    assert (status, out) == (2, "")
    assert told in err
    assert snapshot(cat.parent) == before


def test_names_of_any_kind(cat: Path) -> None:
    given = [
        b"a b'c\"&<.jpg",
        b"new\nline.jpg",
        b"caf\xe9.jpg",
        "日本.jpg".encode(),
        b"no suffix",
        b"x.tar.jpg",
        b"b.xmp",
    ]
    for name in given:
        Path(os.fsdecode(os.fsencode(cat.parent) + b"/" + name)).write_bytes(cat.read_bytes())
    cat.unlink()
    paths = [os.fsencode(cat.parent) + b"/" + name for name in given]
    before = snapshot(cat.parent)
    assert sidecar(*map(os.fsdecode, paths))[0] == 0
    made = {os.fsencode(name) for name in names(cat.parent)} - set(given)
    assert made == {name + b".xmp" for name in given}
    assert run_command("tag", *map(os.fsdecode, paths), "--sidecar", "xmp", "--remove")[0] == 0
    assert snapshot(cat.parent) == before


# --- which file ---


@pytest.mark.parametrize("name", ["cat.jpg.xmp", "cat.xmp"])
def test_the_one_that_is_there_is_merged_into(cat: Path, name: str) -> None:
    (cat.parent / name).write_text(EXIFTOOL)
    assert sidecar(cat)[2] == "note: sidecars: 1 changed\n"
    assert names(cat.parent) == sorted(["cat.jpg", name])
    assert b"<rdf:li>pet</rdf:li>" in (cat.parent / name).read_bytes()


def test_of_two_the_one_with_the_whole_name(cat: Path) -> None:
    for name in ("cat.jpg.xmp", "cat.xmp"):
        (cat.parent / name).write_text(EXIFTOOL)
    sidecar(cat)
    assert (cat.parent / "cat.xmp").read_text() == EXIFTOOL
    assert (cat.parent / "cat.jpg.xmp").read_text() != EXIFTOOL


def test_removing_looks_at_both_names(cat: Path) -> None:
    (cat.parent / "cat.xmp").write_text(EXIFTOOL)
    sidecar(cat)
    (cat.parent / "cat.jpg.xmp").write_text(EXIFTOOL)
    run_command("tag", cat, "--sidecar", "xmp", "--remove")
    assert (cat.parent / "cat.xmp").read_text() == EXIFTOOL


def test_a_new_one_by_the_stem(cat: Path) -> None:
    sidecar(cat, "--sidecar-stem")
    assert names(cat.parent) == ["cat.jpg", "cat.xmp"]


@pytest.mark.parametrize("other", ["cat.png", "cat.CR2", "cat.JPG", "cat.mov"])
@pytest.mark.parametrize("options", [[], ["--sidecar-stem"]])
def test_photos_with_one_stem_do_not_share(cat: Path, other: str, options: list[str]) -> None:
    (cat.parent / other).touch()
    (cat.parent / "cat.xmp").write_text(EXIFTOOL)  # whose is it?
    _, _, err = sidecar(cat, *options)
    assert (cat.parent / "cat.xmp").read_text() == EXIFTOOL
    assert (cat.parent / "cat.jpg.xmp").is_file()
    assert err == "note: sidecars: 1 new; cat.xmp could belong to several photos, so cat.jpg uses cat.jpg.xmp\n"


def test_takeout_and_captions_are_not_ours(cat: Path) -> None:
    """photo.jpg.json is Google Takeout's, photo.txt a trainer's caption."""
    for name in ("cat.jpg.json", "cat.txt", "cat.json"):
        (cat.parent / name).write_text("{}")
    sidecar(cat, kind="json")
    sidecar(cat, kind="txt")
    assert all((cat.parent / name).read_text() == "{}" for name in ("cat.jpg.json", "cat.txt", "cat.json"))
    assert {"cat.jpg.tags.json", "cat.jpg.txt"} <= set(names(cat.parent))


def test_a_linked_photo_has_its_sidecar_beside_the_link(cat: Path, tmp_path: Path) -> None:
    link = tmp_path / "album" / "link.jpg"
    link.parent.mkdir()
    link.symlink_to(cat)
    sidecar(link)
    assert names(link.parent) == ["link.jpg", "link.jpg.xmp"]
    assert names(cat.parent) == ["cat.jpg"]


def test_a_linked_sidecar_is_written_where_it_lies(cat: Path, tmp_path: Path) -> None:
    target = tmp_path / "store" / "1.xmp"
    target.parent.mkdir()
    target.write_text(EXIFTOOL)
    (cat.parent / "cat.jpg.xmp").symlink_to(target)
    assert sidecar(cat)[0] == 0
    assert (cat.parent / "cat.jpg.xmp").is_symlink()
    assert b"<rdf:li>pet</rdf:li>" in target.read_bytes()
    run_command("tag", cat, "--sidecar", "xmp", "--remove")
    assert target.read_text() == EXIFTOOL


def test_a_link_out_of_an_archive_reaches_no_other_file(cat: Path, tmp_path: Path) -> None:
    target = tmp_path / ".bashrc"
    target.write_text("# mine\n")
    (cat.parent / "cat.jpg.txt").symlink_to(target)
    status, out, _ = sidecar(cat, kind="txt")
    assert status == 1
    assert "cat.jpg.txt: links to a file that does not end in .txt: left as it is" in out
    assert target.read_text() == "# mine\n"
    target.unlink()
    assert "links to nothing" in sidecar(cat, kind="txt")[1]


# --- what goes wrong ---


def test_a_broken_sidecar_is_left_alone_and_the_run_goes_on(cat: Path) -> None:
    shutil.copy(cat, cat.with_name("dog.jpg"))
    broken = cat.with_name("cat.jpg.xmp")
    broken.write_text(DARKTABLE[:500])
    before = snapshot(cat.parent)
    status, out, err = sidecar(cat.parent)
    assert status == 1
    assert f"  error: sidecar {broken}: not well-formed XML" in out
    assert err == "note: sidecars: 1 new\n"
    assert {name: value for name, value in snapshot(cat.parent).items() if name in before} == before
    assert run_command("tag", cat.parent, "--sidecar", "xmp", "--remove")[0] == 1
    assert snapshot(cat.parent) == before


def test_a_photo_whose_sidecar_is_not_written_keeps_its_tags(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.xmp").write_text(DARKTABLE[:500])
    record = tagged(tmp_path / "a.jpg", "dog")
    failed = Sidecars("xmp").tagged(record)
    assert failed.error is not None
    assert failed.error.startswith(f"sidecar {tmp_path / 'a.jpg.xmp'}: not well-formed")
    assert failed.tags == record.tags


@pytest.mark.parametrize(("kind", "ending"), [("xmp", ".xmp"), ("txt", ".txt"), ("json", ".tags.json")])
def test_an_empty_sidecar_that_was_there_is_empty_again(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"a.jpg{ending}"
    path.touch()
    sidecars = Sidecars(kind)
    assert sidecars.tagged(tagged(tmp_path / "a.jpg")).error is None  # nothing to write
    assert path.read_bytes() == b""
    assert sidecars.tagged(tagged(tmp_path / "a.jpg", "dog")).error is None
    assert b"dog" in path.read_bytes()
    assert sidecars.remove(str(tmp_path / "a.jpg")) == []
    assert path.read_bytes() == b""
    assert sidecars.summary() == "sidecars: 2 changed, 1 unchanged"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_alone(cat: Path, make: Any) -> None:
    make(cat.parent / "cat.jpg.xmp")
    status, out, _ = sidecar(cat)
    assert status == 1
    assert "cat.jpg.xmp: not a regular file: left as it is" in out


def test_what_cannot_be_written_is_an_error_of_that_photo(cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(cat, cat.with_name("dog.jpg"))
    replace = Path.replace

    def full_for_cat(temporary: Path, path: Path) -> Path:
        if path.name == "cat.jpg.xmp":
            raise OSError(28, "No space left on device")
        return replace(temporary, path)

    monkeypatch.setattr(Path, "replace", full_for_cat)
    status, out, err = sidecar(cat.parent)
    assert status == 1
    assert f"error: cannot write {cat}.xmp" in out
    assert err == "note: sidecars: 1 new\n"
    assert "dog.jpg.xmp" in names(cat.parent)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only(cat: Path) -> None:
    (cat.parent / "cat.jpg.xmp").write_text(EXIFTOOL)
    (cat.parent / "cat.jpg.xmp").chmod(0o444)
    assert "write-protected: left as it is" in sidecar(cat)[1]
    cat.parent.chmod(0o555)
    status, out, _ = sidecar(cat, kind="txt")
    cat.parent.chmod(0o755)
    assert status == 1
    assert "Permission denied" in out


def test_mode_and_owner_stay(cat: Path) -> None:
    path = cat.parent / "cat.jpg.xmp"
    path.write_text(EXIFTOOL)
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    sidecar(cat)
    after = path.stat()
    assert after.st_ino != before.st_ino  # replaced as a whole
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (0o604, before.st_uid, before.st_gid)


# --- who else writes ---

WRITER = """
import sys
from zsl_tagger.sidecars.run import Sidecars
from zsl_tagger.tagging.tagger import Record, Tag
photo, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sidecars = Sidecars("xmp")
print("ready", flush=True)
for turn in range(count):
    tags = [Tag(f"{name} {number}", 0.9) for number in range(turn % 7 + 1)]
    record = sidecars.tagged(Record(photo, tags))
    assert record.error is None, record.error
"""


def writer(photo: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(photo), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_several_runs_at_once_on_one_folder(cat: Path) -> None:
    path = cat.parent / "cat.jpg.xmp"
    path.write_text(DIGIKAM)
    processes = [writer(cat, name, 150) for name in ("one", "two", "three")]
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert names(cat.parent) == ["cat.jpg", "cat.jpg.xmp"]
    assert path.read_text() != DIGIKAM
    Sidecars("xmp").remove(str(cat))
    assert path.read_text() == DIGIKAM


def test_killed_at_any_moment_it_is_whole(cat: Path) -> None:
    path = cat.parent / "cat.jpg.xmp"
    path.write_text(DARKTABLE)
    draw = random.Random(3)
    for _ in range(4):
        process = writer(cat, "killed", 10**9)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0.01, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert Sidecars("xmp").remove(str(cat)) == []
        assert path.read_text() == DARKTABLE
    assert sidecar(cat)[0] == 0  # what a killed run left is no hindrance


def test_other_runs_load_nothing_of_it(examples: Path) -> None:
    code = f"""
import sys, cli
cli.app(["tag", {str(examples / "cat.jpg")!r}, "--labels", "cat"], standalone_mode=False)
print([name for name in sys.modules if "sidecars" in name or "expat" in name])"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "[]"


# --- exiftool reads and writes the same files ---


@needs_tool("exiftool")
def test_exiftool_reads_a_new_one(cat: Path) -> None:
    sidecar(cat)
    read = keywords(cat.parent / "cat.jpg.xmp")
    assert read["Subject"] == read["HierarchicalSubject"] == ["cat", "pet"]
    assert "Warning" not in exiftool("-validate", "-warning", "-a", cat.parent / "cat.jpg.xmp")


@needs_tool("exiftool")
@pytest.mark.parametrize("sample", sorted(SAMPLES.keys() - {"compact"}))  # exiftool does not read that at all
def test_exiftool_reads_what_it_read_before_and_the_tags(tmp_path: Path, sample: str) -> None:
    path = tmp_path / "a.jpg.xmp"
    path.write_text(SAMPLES[sample])
    before = keywords(path)
    Sidecars("xmp").tagged(tagged(tmp_path / "a.jpg", "dog", "red bicycle"))
    after = keywords(path)
    ours = {name for name in after if name.startswith("Added")}
    lists = {"Subject", "HierarchicalSubject", "TagsList", "LastKeywordXMP"}
    assert {k: v for k, v in after.items() if k not in {*ours, *lists}} == {
        k: v for k, v in before.items() if k not in lists
    }
    of_user = before.get("Subject", [])
    assert after["Subject"] == [*([of_user] if isinstance(of_user, str) else of_user), "dog", "red bicycle"]


@needs_tool("exiftool")
def test_exiftool_writes_first_then_we_then_it_then_we_take_back(cat: Path) -> None:
    path = cat.parent / "cat.jpg.xmp"
    exiftool("-q", "-XMP-dc:Subject=mine", "-XMP:Rating=2", "-o", path, cat)
    original = keywords(path)
    sidecar(cat)
    assert keywords(path)["Subject"] == ["mine", "cat", "pet"]
    assert keywords(path)["Rating"] == 2
    exiftool("-q", "-overwrite_original", "-XMP-dc:Subject+=since", "-XMP-dc:Subject+=pet", "-XMP:Rating=5", path)
    assert sidecar(cat)[2] == "note: sidecars: 1 changed\n"  # "since" comes into the other list, "pet" is not ours now
    assert keywords(path)["AddedSubject"] == ["cat"]
    assert sidecar(cat)[2] == "note: sidecars: 1 unchanged\n"
    run_command("tag", cat, "--sidecar", "xmp", "--remove")
    assert keywords(path) == {**original, "Subject": ["mine", "since", "pet"], "Rating": 5}


@needs_tool("exiftool")
def test_we_write_then_exiftool_then_we_take_back_all(cat: Path) -> None:
    path = cat.parent / "cat.jpg.xmp"
    sidecar(cat)
    exiftool("-q", "-overwrite_original", "-XMP:Rating=5", path)
    exiftool("-q", "-overwrite_original", "-XMP:Rating=", path)
    assert keywords(path)["AddedSubject"] == ["cat", "pet"]
    run_command("tag", cat, "--sidecar", "xmp", "--remove")
    assert names(cat.parent) == ["cat.jpg"]


# --- exiv2, which digiKam, darktable and Shotwell read and write with ---


def exiv2(*arguments: object) -> str:
    return subprocess.run(["exiv2", *map(str, arguments)], capture_output=True, text=True, check=True).stdout.strip()


def subjects(path: Path) -> list[str]:
    return exiv2("-K", "Xmp.dc.subject", "-Pv", "pr", path).split(", ")


@needs_tool("exiv2")
def test_exiv2_reads_what_we_write_and_writes_what_we_merge(cat: Path) -> None:
    path = cat.parent / "cat.jpg.xmp"
    sidecar(cat)
    assert subjects(path) == ["cat", "pet"]
    exiv2("-M", "add Xmp.dc.subject holiday", "-M", "set Xmp.xmp.Rating 4", "mo", path)
    sidecar(cat)
    assert sorted(subjects(path)) == ["cat", "holiday", "pet"]
    assert exiv2("-K", "Xmp.xmp.Rating", "-Pv", "pr", path) == "4"
    run_command("tag", cat, "--sidecar", "xmp", "--remove")
    assert subjects(path) == ["holiday"]
    assert exiv2("-K", "Xmp.xmp.Rating", "-Pv", "pr", path) == "4"
