"""The README keeps its word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from benchmarks.readme_tables import with_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_come_from_the_result_files() -> None:
    assert with_tables(README) == README


def commands() -> list[tuple[str, str]]:
    """(command, output) of every block that starts with ``$ zsl-tagger``."""
    return re.findall(r"```\n\$ zsl-tagger (.+)\n([^`]+)```", README)


@pytest.mark.parametrize(("command", "output"), commands())
def test_shown_output_is_real(command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli.app, shlex.split(command))
    assert result.exit_code == 0
    assert re.sub(r"\d\.\d+|█+", "#", result.stdout) == re.sub(r"\d\.\d+|█+", "#", output)
    scores, shown = (list(map(float, re.findall(r"\d\.\d+", text))) for text in (result.stdout, output))
    assert scores == pytest.approx(shown, abs=0.02)  # processors differ in the last digits


def test_there_are_commands_with_output() -> None:
    assert len(commands()) >= 3
    assert re.search(r'pip install \. && zsl-tagger tag examples/cat.jpg --labels "cat,dog,beach"', README)


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in re.findall(r"```python\n([^`]+)```", README):
        exec(compile(block, "README.md", "exec"), {})


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
