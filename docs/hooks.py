"""Build pages of the documentation site from files that lie elsewhere, and the page of commands from the app itself.

A hook of MkDocs (``mkdocs.yml``). Links between files are written as GitHub shows them; here those to files outside
``docs/`` become links to their pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmark_log.md",
    "zsl_tagger/assets/packaged/README.md": "model_card.md",
}
#: Files that a page shows or links to.
ASSETS = ("zsl_tagger/assets/packaged/reliability.svg",)
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")


ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?\.?(?:[\w.]+\.)?([\w<> ]+)`")


class PlainRoles(Preprocessor):
    """Show the names in roles of reStructuredText, which docstrings have, as code."""

    def run(self, lines: list[str]) -> list[str]:
        return [ROLE.sub(r"`\1`", line) for line in lines]


class DocstringRoles(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(PlainRoles(md), "roles", 100)


def on_config(config: Any) -> Any:
    """Read docstrings as they are written."""
    config.markdown_extensions.append(DocstringRoles())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made when the site is built."""
    for source, page in PAGES.items():
        text = with_links(ROOT.joinpath(source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=text))
    for source in ASSETS:
        files.append(File.generated(config, Path(source).name, content=ROOT.joinpath(source).read_bytes()))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files outside of ``docs/`` into links to their pages."""
    if page.file.generated_by:
        return markdown
    return with_links(markdown, f"docs/{page.file.src_uri}")


def with_links(text: str, source: str) -> str:
    """Return the text of a file of the repository with its links as the site needs them."""

    def replaced(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        page = PAGES.get(target) or (Path(target).name if target in ASSETS else None)
        return link[1] + (page or target.removeprefix("docs/")) + link[3]

    return LINK.sub(replaced, text)


def commands() -> str:
    """Return the page of all commands and their options, as ``--help`` has them."""
    import typer.main
    from typer.cli import get_docs_for_click

    import cli

    group = typer.main.get_command(cli.app)
    context = group.make_context("zsl-tagger", [], resilient_parsing=True)
    return "# Commands\n\n" + get_docs_for_click(obj=group, ctx=context, name="zsl-tagger").partition("\n")[2]
