"""Run the command line: the ``zsl-tagger`` script, and ``python -m zsl_tagger``."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any


def main(prog_name: str | None = None) -> None:
    """Run cli.py, which is found by its path.

    ``cli`` is a name that other projects and folders use too: an import by name could find theirs.
    """
    package = Path(__file__).parent
    installed = package / "cli.py"  # the wheel keeps it inside the package
    path = installed if installed.is_file() else package.parent / "cli.py"  # a checkout has it beside the package
    loader = SourceFileLoader("zsl_tagger.cli", str(path))
    cli: Any = module_from_spec(ModuleSpec(loader.name, loader, origin=str(path)))
    sys.modules[loader.name] = cli  # typer reads the annotations through it
    loader.exec_module(cli)
    cli.app(prog_name=prog_name)


if __name__ == "__main__":
    main("python -m zsl_tagger")
