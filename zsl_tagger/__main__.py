"""Run the command line: the ``zsl-tagger`` script, and ``python -m zsl_tagger``."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any


def main(prog_name: str | None = None) -> None:
    """Run cli.py, located by its path.

    Other projects have a module ``cli`` too, so an import by name could find the wrong one.
    """
    package = Path(__file__).parent
    installed = package / "cli.py"  # the wheel keeps it inside the package
    path = installed if installed.is_file() else package.parent / "cli.py"  # in a checkout it is next to the package
    loader = SourceFileLoader("zsl_tagger.cli", str(path))
    cli: Any = module_from_spec(ModuleSpec(loader.name, loader, origin=str(path)))
    sys.modules[loader.name] = cli  # typer reads the annotations through it
    loader.exec_module(cli)
    cli.app(prog_name=prog_name)


if __name__ == "__main__":
    main("python -m zsl_tagger")
