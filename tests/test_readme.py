"""The README and the pages in ``docs/`` keep their word."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import shlex
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import typer.main
from made_data import (
    NusArchive,
    write_coco,
    write_lvis,
    write_mirflickr,
    write_open_images,
    write_photo,
    write_visual_genome,
    write_voc,
)
from paths import ROOT
from released_reference import filled, head_shapes, tresnet_shapes
from typer.core import TyperGroup
from typer.testing import CliRunner

import cli
from benchmarks.readme_tables import with_headline, with_search_tables, with_tables, with_teach_tables
from data_prep import nus_wide_archive
from data_prep.coco import CLASSES
from zsl_tagger.datasets.format import SPLITS
from zsl_tagger.export import proof
from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars.xmp import merged
from zsl_tagger.tagging.taught import FOLDER_VARIABLE

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    "README.md": README,
    **{f"docs/{page.name}": page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))},
}
TEXT = "\n".join(PAGES.values())


def test_tables_come_from_the_result_files() -> None:
    assert with_headline(README) == README
    assert with_tables(PAGES["docs/figures.md"]) == PAGES["docs/figures.md"]
    assert with_search_tables(PAGES["docs/search.md"]) == PAGES["docs/search.md"]
    assert with_teach_tables(PAGES["docs/teach.md"]) == PAGES["docs/teach.md"]
    size = json.loads((ROOT / "benchmarks/results/install_size.json").read_text())["figures"]["base_install_mb"]
    assert f"The base install takes {size:.0f} MB" in README


def commands() -> list[tuple[str, str]]:
    """(command, output) of every block that starts with ``$ zsl-tagger``."""
    return re.findall(r"```\n\$ zsl-tagger (.+)\n([^`]+)```", TEXT)


def write_tresnet_m(path: Path) -> None:
    """A checkpoint with the released names and shapes, and no sense in its values."""
    body = tresnet_shapes((3, 4, 11, 3), 64, bottlenecks=False)
    head = head_shapes(2048, 768, 2048, classes=80, groups=80)
    state = filled({**body, **{f"head.{name}": shape for name, shape in head.items()}})
    torch.save({"model": state, "idx_to_class": dict(enumerate(CLASSES))}, path)


@pytest.mark.parametrize(("command", "output"), commands())
def test_shown_output_is_real(command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # where index writes
    if command.startswith("search "):
        assert CliRunner().invoke(cli.app, ["index", "examples"]).exit_code == 0
    if "tresnet_m.pth" in command:
        write_tresnet_m(tmp_path / "tresnet_m.pth")
    result = CliRunner().invoke(cli.app, shlex.split(command))
    shutil.rmtree(tmp_path / "imported", ignore_errors=True)  # pytest would keep it and the checkpoint, 450 MB
    (tmp_path / "tresnet_m.pth").unlink(missing_ok=True)
    assert result.exit_code == 0
    assert re.sub(r"\d\.\d+|█+", "#", result.stdout) == re.sub(r"\d\.\d+|█+", "#", output)
    scores, shown = (list(map(float, re.findall(r"\d\.\d+", text))) for text in (result.stdout, output))
    assert scores == pytest.approx(shown, abs=0.02)  # processors differ in the last digits


def test_the_prepare_commands_run_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made data under the names that the page uses."""
    NusArchive(tmp_path / "NUS-WIDE")
    monkeypatch.setattr(nus_wide_archive, "EXPECTED", NusArchive.COUNTS)
    shown = {"train": [[("person", 0)], [("bear", 0)], [("dog", 0)]], "val": [[("dog", 0), ("person", 0)]]}
    write_coco(tmp_path / "COCO", CLASSES, shown, 2014)
    for seed in range(24):
        write_photo(tmp_path / "photos" / ("cat", "dog", "bird", "fish")[seed % 4] / f"{seed}.jpg", seed)
    write_lvis(
        tmp_path / "LVIS",
        {"dog": "f", "bat_(animal)": "r"},
        {"train": [{"shown": ["dog"]}, {"shown": ["dog"]}], "val": [{"shown": ["bat_(animal)"], "absent": ["dog"]}]},
    )
    names = [f"{first}{second}" for first in "abcdefghijklmnopqrstuvwxyz" for second in "abcdefghijklmnopqrst"]
    write_visual_genome(tmp_path / "VG", {n: [(name, []) for name in names] for n in range(3)})
    rows: dict[str, list[tuple[int, str, float]]] = {
        split: [(n, "/m/0bt9lr", 1), (n + 1, "/m/01yrx", 1)] for n, split in enumerate(SPLITS)
    }
    write_open_images(tmp_path / "OpenImages", {"/m/0bt9lr": "Dog", "/m/01yrx": "Cat"}, ["/m/0bt9lr"], rows)
    (tmp_path / "unseen.txt").write_text("Cat\n")
    write_voc(tmp_path / "VOCdevkit", 2007, {split: {str(n): [("dog", 0)]} for n, split in enumerate(SPLITS)})
    write_mirflickr(tmp_path / "MIRFLICKR", {"dog": [1, 2, 3], "sky": [3, 4, 5]}, {})
    table = {"path": [f"photos/dog/{seed}.jpg" for seed in (1, 5, 9)], "tags": ["dog,grass", "dog", "dog,ball"]}
    pandas.DataFrame(table).to_parquet(tmp_path / "tags.parquet")
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    for seed in range(24, 36):
        write_photo(tmp_path / "pictures" / f"{seed}.jpg", seed)
        sidecar = merged(None, [Tag("boat" if seed % 2 else "dog", 1.0)])
        assert sidecar is not None
        by_hand = sidecar.replace(b"zslTagger:added", b"zslTagger:was")  # as if a person had given it
        (tmp_path / "pictures" / f"{seed}.jpg.xmp").write_bytes(by_hand.replace(b"madeFile", b"was"))
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"^\| `zsl-tagger (prepare [^`]+)` \|", PAGES["docs/prepare.md"], re.MULTILINE)
    for command in found:
        result = CliRunner().invoke(cli.app, shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"
    archives = ["nus-wide", "coco", "lvis", "visual-genome", "open-images", "voc", "mirflickr"]
    names = [*archives, "folders", "table", "library", "wordvecs", "check"]
    assert [command.split()[1] for command in found] == names


def test_the_train_commands_run_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made photos, and with fewer steps than the recipe takes."""
    for seed in range(24):
        write_photo(tmp_path / "photos" / ("cat", "dog", "bird")[seed % 3] / f"{seed}.jpg", seed)
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```\n(zsl-tagger prepare folders [^`]+)```", PAGES["docs/tutorial_training.md"])
    assert block
    for command in block[1].splitlines():
        fewer = " --set epochs=1 --set min_epoch_steps=2 --set cache_views=1" if " train " in command else ""
        result = CliRunner().invoke(cli.app, shlex.split(command.removeprefix("zsl-tagger ") + fewer))
        assert result.exit_code == 0, f"{command}: {result.output}"
    assert (tmp_path / "my-model" / "README.md").is_file()


def test_the_export_command_runs_and_says_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and words to the letter; times and differences are the machine's."""
    block = re.search(r"```\n(zsl-tagger export [^`\n]+)\n```\n\n```\n([^`]+)```", PAGES["docs/export.md"])
    assert block
    for name in ("examples", "zsl_tagger"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(proof, "SECONDS", 0.0)
    result = CliRunner().invoke(cli.app, shlex.split(block[1].removeprefix("zsl-tagger ")))
    assert result.exit_code == 0, result.output
    measured = r"[\d.]+ ms|[\d.]+e-\d+|[\d.]+ %|\d+ core| +"
    assert re.sub(measured, "#", result.stdout) == re.sub(measured, "#", block[2])
    tagged = CliRunner().invoke(
        cli.app, ["tag", "examples/cat.jpg", "--labels", "cat,dog,beach", "--model", "small-model"]
    )
    assert re.sub(r"[\d.]+ +█+", "#", tagged.stdout) == "examples/cat.jpg\n  cat  #\n"


def test_the_long_run_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, and its query as the sqlite3 program prints it."""
    block = re.search(
        r'```\n(zsl-tagger tag .+)\nsqlite3 tags.sqlite "(.+)"\n```\n\n```\n([^`]+)```', PAGES["docs/tag.md"]
    )
    assert block
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = CliRunner().invoke(cli.app, shlex.split(block[1].removeprefix("zsl-tagger ")))
        assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "note: done already and skipped: 4\nnote: 2 files skipped, not photos: .csv\n"
    with contextlib.closing(sqlite3.connect("tags.sqlite")) as database:
        rows = ["|".join(map(str, row)) for row in database.execute(block[2])]
    assert [re.sub(r"0\.\d+", "#", row) for row in rows] == re.sub(r"0\.\d+", "#", block[3]).splitlines()


def test_there_are_commands_with_output() -> None:
    assert len(commands()) >= 3
    assert re.search(r'pip install \. && zsl-tagger tag examples/cat.jpg --labels "cat,dog,beach"', README)


def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("examples", "zsl_tagger"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat1", "cat2", "cat3", "cat4", "neighbours_cat", "new")):
        write_photo(tmp_path / f"{name}.jpg", number)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # where index writes
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "taught"))
    assert CliRunner().invoke(cli.app, ["index", "examples"]).exit_code == 0
    for page, text in PAGES.items():
        for block in re.findall(r"```python\n([^`]+)```", text):
            exec(compile(block, page, "exec"), {})


def test_the_notebook_has_the_blocks_of_its_page() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_notebook.py"))
    page, notebook = PAGES["docs/paper.md"], json.loads((ROOT / "docs" / "paper.ipynb").read_text(encoding="utf-8"))
    assert notebook == made["notebook"](page), "run: python docs/make_notebook.py"
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code[0] == made["FIRST"]
    assert [f"{cell}\n" for cell in code[1:]] == re.findall(r"```python\n([^`]+)```", page)
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert len(code) == 5
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert "```" not in text


#: Figures of papers that pages and recipes quote, with what introduces them.
PUBLISHED = re.compile(r"91\.4|90\.1|96\.41|95\.1 %|80\.7|31\.1|\+1\.2\b")
QUOTED = re.compile(r"paper|arXiv|README states")


def quotations() -> list[tuple[str, str]]:
    """(file, paragraph or row) of each place that quotes a published figure."""
    files = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
    found = []
    for path in [*files, *(ROOT / "zsl_tagger" / "training" / "recipes").glob("*.py")]:
        text = re.sub(r"\n(?=[|-] ?)", "\n\n", path.read_text(encoding="utf-8"))  # rows and items are paragraphs
        parts = (" ".join(part.split()) for part in text.split("\n\n"))
        found += [(path.name, part) for part in parts if PUBLISHED.search(part) and QUOTED.search(part)]
    return found


def test_published_figures_stand_beside_their_protocol() -> None:
    places = quotations()
    assert {name for name, _ in places} >= {"train.md", "README.md", "nus_wide_zsl.py", "stanford_cars.py"}
    assert [(name, part) for name, part in places if "protocol" not in part] == []


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def shell_commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a block without a language that starts with ``zsl-tagger``."""
    found = []
    for page, text in PAGES.items():
        for block in re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page, line.removeprefix("$ ")) for line in lines if re.match(r"(\$ )?zsl-tagger [a-z-]", line)]
    return found


@pytest.mark.parametrize(("page", "command"), shell_commands())
def test_every_command_has_options_that_exist(page: str, command: str) -> None:  # noqa: ARG001
    """Files and folders of other people's need not be there: the command is read, not run."""
    words = shlex.split(command, comments=True)[1:]
    command_or_group: Any = typer.main.get_command(cli.app)
    while isinstance(command_or_group, TyperGroup) and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command_or_group.commands, name
        command_or_group = command_or_group.commands[name]
    known = {spelling for option in command_or_group.params for spelling in (*option.opts, *option.secondary_opts)}
    given = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    assert set(given) <= known | {"--help"}
