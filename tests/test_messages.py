"""Messages that callers of the Python API get: no option of the command line stands in them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

ROOMS = ("datasets", "images", "model", "search", "system", "tagging", "words")
OF_THE_COMMANDS = {"search/run.py", "search/sheet.py"}  # the second has the variables of a style sheet
FILES = [path for room in ROOMS for path in sorted((ROOT / "zsl_tagger" / room).glob("*.py"))]
OPTION = re.compile(r"(?<![\w-])--[a-z]")


def texts(tree: ast.Module) -> Iterator[str]:
    """Strings of a file that are not docstrings; an f-string as one, without its values."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_message_of_the_library_names_no_option(path: Path) -> None:
    if path.relative_to(ROOT / "zsl_tagger").as_posix() in OF_THE_COMMANDS:
        pytest.skip("not for callers of the Python API")
    found = [text for text in texts(ast.parse(path.read_text(encoding="utf-8"))) if OPTION.search(text)]
    assert [text for text in found if "zsl-tagger " not in text] == []  # a whole command may be run by anybody


@pytest.mark.parametrize("name", ["zsl_tagger.words", "data_prep.text"])
def test_a_program_that_sets_up_no_logging_sees_nothing(name: str) -> None:
    code = f"import logging, zsl_tagger.system; logging.getLogger({name!r}).warning('lines were skipped')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
