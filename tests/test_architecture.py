"""What is loaded when, and what an installation holds. Imports between rooms: import-linter in pyproject.toml."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

import zsl_tagger
from zsl_tagger.tagging.network_cache import NETWORK_FILE, WEIGHTS_FILE

pytestmark = pytest.mark.slow

HEAVY = {
    "torch", "timm", "torchvision", "pandas", "gensim", "sentence_transformers", "sklearn", "matplotlib", "scipy",
    "pyarrow", "sqlite3", "ray", "fastapi", "uvicorn", "pydantic", "tqdm", "safetensors",
}  # fmt: skip


def loaded_modules(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_tagging_loads_nothing_heavy(examples: Path) -> None:
    code = f"from zsl_tagger import Tagger; Tagger().tag({str(examples / 'cat.jpg')!r}, ['cat'])"
    assert not loaded_modules(code) & HEAVY


def test_the_page_of_public_names_lists_each() -> None:
    page = (ROOT / "docs" / "public.md").read_text(encoding="utf-8")
    names = page[page.index("| name |") : page.index("## How it changes")]
    cells = [row.split("|")[1] for row in names.splitlines()[2:] if row.startswith("|")]
    assert sorted(name.strip(" `") for cell in cells for name in cell.split(",")) == zsl_tagger.__all__


def test_nothing_leaves_the_machine_and_only_the_cache_is_left_in_home(examples: Path, tmp_path: Path) -> None:
    """onnxruntime's usage data (1.32 and later) is kept in HOME before it is sent."""
    code = f"from zsl_tagger import Tagger; Tagger().tag({str(examples / 'cat.jpg')!r}, ['cat'])"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # without CI variables, which switch it off
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=environment)
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parents[1] for path in left} == {Path(".cache/zsl-tagger/networks")}
    assert {path.name for path in left} == {NETWORK_FILE, WEIGHTS_FILE}


@pytest.mark.parametrize("module", ["data_prep.folders", "zsl_tagger.records.record_files", "zsl_tagger.words.sources"])
def test_preparing_loads_no_network_runtime(module: str) -> None:
    assert not loaded_modules(f"import {module}") & {"onnxruntime", "torch", "timm"}


def test_the_package_is_typed_and_runs_as_a_module() -> None:
    assert (ROOT / "zsl_tagger" / "py.typed").is_file()
    result = subprocess.run(
        [sys.executable, "-m", "zsl_tagger", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"zsl-tagger \S+\n", result.stdout)


def test_help_loads_not_even_the_runtime() -> None:
    assert not loaded_modules("import cli, zsl_tagger") & {*HEAVY, "onnxruntime", "numpy", "PIL"}


def test_no_machine_path_in_the_repo() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / line for line in listing.stdout.splitlines() if not line.startswith("tests/")]
    texts = [
        path for path in files if path.suffix in {".py", ".md", ".toml", ".json", ".csv", ".txt"} and path.exists()
    ]
    for path in texts:
        content = path.read_text(encoding="utf-8")
        assert "/root/" not in content, path
        assert "/work/" not in content, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(ROOT),
        ],
        check=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_is_small_and_holds_what_it_should(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"data_prep", "zsl_tagger"}  # no module that takes the name cli
    assert {"zsl_tagger/cli.py", "zsl_tagger/py.typed"} <= set(names)
    assert {"data_prep/report.html.j2", "zsl_tagger/evaluation/report.html.j2"} <= set(names)
    pages = ("index.html", "page.css", "page.js", "common.js", "library.html", "library.css", "library.js", "icon.svg")
    assert {f"zsl_tagger/serve/page/{name}" for name in pages} <= set(names)
    assert "zsl_tagger/assets/packaged/encoder.onnx" in names
    assert "zsl_tagger/assets/packaged/prefilter.npz" in names
    assert "zsl_tagger/assets/packaged/model.safetensors" not in names
    assert "zsl_tagger/packaged/annotations.csv" not in names
    assert wheel.stat().st_size <= 60e6


def test_the_installed_wheel_runs_from_another_folder(wheel: Path, examples: Path, tmp_path: Path) -> None:
    """Installed without dependencies into an environment that sees this one's: no network is needed."""
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]  # an environment's own pip takes seconds to install
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    import numpy

    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(str(Path(numpy.__file__).parent.parent))
    for folder in (tmp_path, site):  # a cli.py of the user, or of another installed project, is not run
        (folder / "cli.py").write_text("raise SystemExit('shadowed')")
    result = subprocess.run(
        [tmp_path / "env" / "bin" / "zsl-tagger", "tag", examples / "cat.jpg", "--labels", "cat,dog"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "cat" in result.stdout
    where = subprocess.run(
        [python, "-c", "import zsl_tagger; print(zsl_tagger.__file__)"], capture_output=True, text=True, cwd="/"
    )
    assert str(site) in where.stdout
