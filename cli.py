"""The ``zsl-tagger`` command: parse, call one function, print. It owns no logic."""

from __future__ import annotations

import gc
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="Zero-shot image tagging: give it photos and any words.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take 60 ms of every start
)


class Format(str, Enum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


@app.callback()
def main() -> None:
    """Zero-shot image tagging: give it photos and any words."""


@app.command()
def tag(
    paths: Annotated[list[str], typer.Argument(help="Files, folders (recursive), globs; - reads a list from stdin.")],
    labels: Annotated[Optional[str], typer.Option(help='Words to ask, e.g. "dog,beach". [default: packaged]')] = None,
    labels_file: Annotated[Optional[Path], typer.Option(help="The same, one a line; # starts a comment.")] = None,
    exclude: Annotated[str, typer.Option(help="Words to leave out, comma-separated.")] = "",
    top_k: Annotated[Optional[int], typer.Option(help="At most so many tags an image.")] = None,
    threshold: Annotated[
        Optional[float], typer.Option(help="Least score, 0..1; 0 shows all. [default: each label's own]")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to write the records.")] = Format.table,
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write to this file.")] = None,
    model: Annotated[Optional[Path], typer.Option(help="A model folder. [default: the packaged model]")] = None,
    workers: Annotated[Optional[int], typer.Option(help="Images in work at a time. [default: one a core]")] = None,
    skip_unknown: Annotated[bool, typer.Option(help="Go on without labels that are not known.")] = False,
) -> None:
    """Tag images with any words.

    Exit status: 0 all tagged, 1 some image could not be read, 2 the command cannot be carried out.
    """
    from zsl_tagger.errors import UserError
    from zsl_tagger.tag_run import TagRun, run_tagging

    run = TagRun(
        paths=paths,
        labels=labels,
        labels_file=labels_file,
        exclude=exclude,
        top_k=top_k,
        threshold=threshold,
        format=format.value,
        output=output,
        model=model,
        workers=workers,
        skip_unknown=skip_unknown,
    )
    try:
        failed = run_tagging(run, note=lambda text: typer.echo(f"note: {text}", err=True))
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        raise typer.Exit(0) from None
    except OSError as error:
        typer.echo(f"error: cannot write the output: {error.strerror or error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted: what was written so far is complete and readable", err=True)
        raise typer.Exit(130) from None
    gc.freeze()  # the process ends here: spares it 30 ms of looking for garbage
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    app()
