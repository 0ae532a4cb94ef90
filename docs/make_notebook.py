"""Write ``docs/paper.ipynb`` from ``docs/paper.md``: its Python blocks are code cells, the rest is Markdown.

python docs/make_notebook.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from zsl_tagger.system.files import json_bytes

PAGE = Path(__file__).with_name("paper.md")
NOTEBOOK = PAGE.with_suffix(".ipynb")

#: Jupyter starts in the notebook's folder, and the blocks of the page run in the repository's.
FIRST = 'import os\nfrom pathlib import Path\n\nif not Path("examples").is_dir():\n    os.chdir("..")'

BLOCK = re.compile(r"```python\n(.*?)\n```\n", re.DOTALL)


def notebook(page: str) -> dict[str, Any]:
    """Return the notebook of a page, nbformat 4.5, without outputs."""
    parts = BLOCK.split(page)  # text, code, text, code, ..., text
    cells = [_code(FIRST)]
    for number, part in enumerate(parts):
        if part.strip():
            cells.append(_code(part) if number % 2 else _markdown(part.strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _code(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(source)}


def _markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(source)}


def _lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)


def main() -> None:
    """Write the notebook."""
    NOTEBOOK.write_bytes(json_bytes(notebook(PAGE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
