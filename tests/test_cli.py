"""``zsl-tagger tag`` as a person types it, in a process of its own where that matters."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from paths import ROOT
from PIL import Image
from typer.testing import CliRunner

import cli
import zsl_tagger
from zsl_tagger.bulk import run as tag_run
from zsl_tagger.system.messages import show_messages
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "cli", "tag"]


def run(*arguments: str | Path, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    result = CliRunner().invoke(cli.app, ["tag", *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_messages_show_control_characters_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = tmp_path / "a\x1b[2J\u202e\nerror: none"
    shown = f"{tmp_path}/a\\x1b[2J\\u202e\\nerror: none"
    assert run("photo.jpg", "--labels-file", evil)[1:] == (
        "", f"error: cannot read the labels file {shown}: No such file or directory\n"
    )  # fmt: skip
    with pytest.raises(typer.Exit), cli._errors_in_one_line("stopped"):
        evil.read_bytes()
    show_messages(logging.INFO)
    logging.getLogger("zsl_tagger.bulk").info("left out: %s", evil)
    cli._print([f"written: {evil}"])
    out, errors = capsys.readouterr()
    assert out == f"written: {shown}\n"
    assert errors == f"error: {shown}: No such file or directory\nnote: left out: {shown}\n"


def test_table_for_people(examples: Path) -> None:
    status, out, _ = run(examples / "cat.jpg", "--labels", "cat,dog,beach")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == str(examples / "cat.jpg")
    assert lines[1].split()[0] == "cat"
    assert 0.5 < float(lines[1].split()[1]) <= 1


def test_json_lines_have_the_documented_shape(examples: Path) -> None:
    status, out, _ = run(examples / "cat.jpg", "--labels", "cat, dog", "--threshold", "0", "--format", "jsonl")
    record = json.loads(out)
    assert status == 0
    assert record["path"] == str(examples / "cat.jpg")
    assert [tag["label"] for tag in record["tags"]] == ["cat", "dog"]
    assert all(0 <= tag["score"] <= 1 for tag in record["tags"])


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_other_formats_say_the_same(examples: Path, kind: str) -> None:
    arguments: list[str | Path] = [examples, "--labels", "cat,cup", "--threshold", "0"]
    expected = [json.loads(line) for line in run(*arguments, "--format", "jsonl")[1].splitlines()]
    out = run(*arguments, "--format", kind)[1]
    if kind == "json":
        assert json.loads(out) == expected
    else:
        rows = [(row["path"], row["label"], float(row["score"])) for row in csv.DictReader(io.StringIO(out))]
        assert rows == [(r["path"], tag["label"], tag["score"]) for r in expected for tag in r["tags"]]


def test_without_labels_the_packaged_vocabulary_is_asked(examples: Path) -> None:
    status, out, _ = run(examples / "coffee.jpg")
    assert status == 0
    assert "cup" in [line.split()[0] for line in out.splitlines()[1:]]


def test_folders_globs_and_stdin(examples: Path, tmp_path: Path) -> None:
    nested = tmp_path / "a" / "b"
    nested.mkdir(parents=True)
    Image.new("RGB", (20, 30), "red").save(nested / "red.PNG")
    (tmp_path / "notes.txt").write_text("not a photo")
    arguments = ["--labels", "red", "--threshold", "0", "--format", "jsonl"]
    assert json.loads(run(tmp_path, *arguments)[1])["path"] == str(nested / "red.PNG")
    assert json.loads(run(tmp_path / "**" / "*.PNG", *arguments)[1])["path"] == str(nested / "red.PNG")
    listing = f"{nested / 'red.PNG'}\n\n{examples / 'cat.jpg'}\n"
    records = [json.loads(line) for line in run("-", *arguments, stdin=listing)[1].splitlines()]
    assert [record["path"] for record in records] == [str(nested / "red.PNG"), str(examples / "cat.jpg")]


def test_a_list_on_stdin_may_begin_with_a_byte_order_mark(examples: Path) -> None:
    status, out, _ = run("-", "--labels", "cat", "--format", "jsonl", stdin=f"\ufeff{examples / 'cat.jpg'}\r\n")
    assert status == 0
    assert json.loads(out)["path"] == str(examples / "cat.jpg")


def test_images_are_tagged_while_the_list_goes_on(examples: Path) -> None:
    """A folder of a million files, or a list that another program goes on writing."""
    process = subprocess.Popen(
        [*COMMAND, "-", "--labels", "cat", "--format", "jsonl", "--workers", "2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=examples.parent,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"examples/cat.jpg\n" * 10)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["path"] == "examples/cat.jpg"
    process.send_signal(signal.SIGTERM)  # while it waits for the next line
    assert process.wait(timeout=60) == 143
    process.communicate()


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_as_many_workers_as_cores_but_no_more_than_images(
    examples: Path, count: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image is on all cores."""
    seen: list[int] = []

    class Counted(Tagger):
        def __init__(self, model: Path | None, workers: int, device: str):
            seen.append(workers)
            super().__init__(model, workers, device)

    monkeypatch.setattr(tag_run, "Tagger", Counted)
    monkeypatch.setattr(tag_run, "default_workers", lambda: 3)
    assert run(*[examples / "cat.jpg"] * count, "--labels", "cat")[0] == 0
    assert seen == [workers]


def test_another_module_named_cli_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "cli.py").write_text("raise SystemExit('the wrong cli')")
    search = os.pathsep.join([str(tmp_path), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-m", "zsl_tagger", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": search},
        check=True,
    )
    assert result.stdout == f"zsl-tagger {zsl_tagger.__version__}\n"


def test_version() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"zsl-tagger {zsl_tagger.__version__}\n")


def test_labels_file_exclude_and_top_k(examples: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("﻿cat\ndog, car # pets and more\n\n# nothing\nbeach\n", encoding="utf-8")
    arguments: list[str | Path] = [examples / "cat.jpg", "--labels-file", file, "--threshold", "0", "--format", "jsonl"]
    record = json.loads(run(*arguments, "--exclude", "Car,beach")[1])
    assert {tag["label"] for tag in record["tags"]} == {"cat", "dog"}
    assert len(json.loads(run(*arguments, "--top-k", "1")[1])["tags"]) == 1


def test_unreadable_files_are_reported_and_the_rest_goes_on(examples: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes((examples / "cat.jpg").read_bytes()[:9000])
    (tmp_path / "good.jpg").write_bytes((examples / "cat.jpg").read_bytes())
    (tmp_path / "loop").symlink_to(tmp_path)
    status, out, _ = run(tmp_path, tmp_path / "gone.jpg", "--labels", "cat", "--format", "jsonl")
    records = {Path(record["path"]).name: record for record in map(json.loads, out.splitlines())}
    assert status == 1
    assert "empty file" in records["empty.jpg"]["error"]
    assert "not an image" in records["text.jpg"]["error"]
    assert "broken image data" in records["cut.jpg"]["error"]
    assert "folder loop" in records["loop"]["error"]
    assert "no such file" in records["gone.jpg"]["error"]
    assert records["good.jpg"]["tags"][0]["label"] == "cat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "zebrra"], "unknown label 'zebrra', did you mean 'zebra'"),
        (["--labels", " , "], "the label list of --labels is empty"),
        (["--labels", "a", "--labels-file", "x.txt"], "not both"),
        (["--labels-file", "gone.txt"], "cannot read the labels file gone.txt"),
        (["--model", "gone"], "no model folder at gone"),
        (["--output", "no/such/folder/out.jsonl"], "cannot write --output"),
        (["--output", "photo.jpg"], "is an image or one of the inputs"),
        (["--labels", "cat", "--exclude", "cat"], "no label is left"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(examples: Path, options: list[str], message: str) -> None:
    status, out, err = run(examples / "cat.jpg", *options)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert err.startswith("error: ")


def test_an_unknown_format_is_a_usage_error(examples: Path) -> None:
    status, _, err = run(examples / "cat.jpg", "--format", "xml")
    assert status == 2
    assert "xml" in err


def test_skip_unknown_goes_on(examples: Path) -> None:
    status, out, err = run(examples / "cat.jpg", "--labels", "zebrra,cat", "--skip-unknown")
    assert status == 0
    assert "cat" in out
    assert "note: unknown label 'zebrra'" in err


def test_duplicates_are_asked_once(examples: Path) -> None:
    status, out, err = run(examples / "cat.jpg", "--labels", "cat,Cat", "--threshold", "0", "--format", "jsonl")
    assert status == 0
    assert len(json.loads(out)["tags"]) == 1
    assert "'Cat' is given more than once" in err


@pytest.mark.parametrize("label", ["Cats", "DOMESTIC-cat", "café cat"])
def test_plural_hyphen_case_and_accent(examples: Path, label: str) -> None:
    status, out, _ = run(examples / "cat.jpg", "--labels", label, "--threshold", "0", "--format", "jsonl")
    assert status == 0
    assert json.loads(out)["tags"][0]["label"] == label


def test_output_file(examples: Path, tmp_path: Path) -> None:
    status, out, _ = run(examples, "--labels", "cat", "--format", "json", "--output", tmp_path / "tags.json")
    assert (status, out) == (0, "")
    assert len(json.loads((tmp_path / "tags.json").read_text())) == len(list(examples.glob("*.jpg")))


def test_a_broken_model_folder_is_named(examples: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    status, _, err = run(examples / "cat.jpg", "--model", tmp_path)
    assert status == 2
    assert "missing files: labels.json, encoder.onnx" in err


@pytest.mark.parametrize(
    ("kind", "number", "status"),
    [("jsonl", signal.SIGINT, 130), ("json", signal.SIGINT, 130), ("csv", signal.SIGINT, 130),
     ("json", signal.SIGTERM, 143)],
)  # fmt: skip
def test_a_signal_leaves_readable_output(examples: Path, tmp_path: Path, kind: str, number: int, status: int) -> None:
    output = tmp_path / "out"
    listing = f"{examples / 'cat.jpg'}\n" * 2000
    process = subprocess.Popen(
        [*COMMAND, "-", "--labels", "cat", "--format", kind, "--output", str(output)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(examples.parent)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's "&" makes children ignore it
    )
    assert process.stdin is not None
    process.stdin.write(listing)
    process.stdin.close()
    deadline = time.monotonic() + 60
    while not (output.exists() and output.stat().st_size > 500):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    text = output.read_text()
    if kind == "json":
        records = json.loads(text)
    elif kind == "jsonl":
        records = [json.loads(line) for line in text.splitlines()]
    else:
        records = list(csv.DictReader(io.StringIO(text)))
    assert 1 <= len(records) < 2000


def test_a_closed_pipe_is_no_error(examples: Path) -> None:
    command = " ".join([*COMMAND, str(examples), "--labels", "cat", "--format", "jsonl"])
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -c 1 >/dev/null"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(examples.parent)},
    )
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


def test_a_full_disk_is_said(examples: Path) -> None:
    status, _, err = run(examples / "cat.jpg", "--labels", "cat", "--output", "/dev/full")
    assert status == 2
    assert err == "error: cannot write the output: No space left on device\n"


def test_an_input_is_never_overwritten(examples: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes((examples / "cat.jpg").read_bytes())
    status, _, err = run(photo, "--labels", "cat", "--output", photo)
    assert status == 2
    assert "one of the inputs; it would be overwritten" in err
    assert photo.read_bytes() == (examples / "cat.jpg").read_bytes()


def test_what_the_run_reads_is_never_overwritten(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By no name and no link: another image, a list of labels, a list on stdin, a file that a list names."""
    photo = (examples / "cat.jpg").read_bytes()
    (tmp_path / "image").write_bytes(photo)
    (tmp_path / "labels.txt").write_text("cat\n")
    (tmp_path / "scan.dat").write_bytes(b"broken")
    (tmp_path / "linked.json").symlink_to("image")
    monkeypatch.chdir(tmp_path)
    message = "is an image or one of the inputs; it would be overwritten"
    for output in ("image", "linked.json", "scan.dat"):
        status, _, err = run("-", "--labels-file", "labels.txt", "--overwrite", "-o", output, stdin="scan.dat\n")
        assert (status, message in err) == (2, True)
    assert run(examples / "cat.jpg", "--labels-file", "labels.txt", "-o", "labels.txt")[0] == 2
    assert (tmp_path / "image").read_bytes() == photo
    assert (tmp_path / "labels.txt").read_text() == "cat\n"
    assert (tmp_path / "scan.dat").read_bytes() == b"broken"
    (tmp_path / "list.txt").write_text("image\n")
    command = " ".join([*COMMAND, "-", "--labels", "cat", "-o", "list.txt", "< list.txt"])
    environment = {**os.environ, "PYTHONPATH": str(examples.parent)}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (result.returncode, message in result.stderr) == (2, True)
    assert (tmp_path / "list.txt").read_text() == "image\n"


def test_a_closed_output_is_said(examples: Path) -> None:
    command = " ".join([*COMMAND, str(examples / "cat.jpg"), "--labels", "cat", ">&-"])
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=examples.parent)
    assert result.returncode == 2
    assert result.stderr == "error: standard output is closed: give --output FILE\n"


def test_names_need_not_be_utf8(examples: Path, tmp_path: Path) -> None:
    photo = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(photo)).write_bytes((examples / "cat.jpg").read_bytes())
    result = subprocess.run(
        [*COMMAND, "-", "--labels", "cat", "--format", "jsonl"],
        input=photo + b"\r\n",
        capture_output=True,
        cwd=examples.parent,
    )
    assert result.returncode == 0
    assert os.fsencode(json.loads(result.stdout)["path"]) == photo


def test_an_empty_path_is_said() -> None:
    status, out, _ = run("", "--labels", "cat", "--format", "jsonl")
    assert (status, json.loads(out)["error"]) == (1, "empty path")
