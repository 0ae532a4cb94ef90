"""A tagger that is quick and says what it was asked, for runs of the command over files that stand for photos.

Tags are made of a file's first byte. The photos that the network is asked for are written to the file ``$ASKED``. Each
takes ``$SECONDS``, and longer while there is a file ``$HOLD``. ``python quick_tagger.py tag ...`` is the command in a
process of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cli
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.records.record import Tag
from zsl_tagger.tagging import onnx_model
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelConfig
from zsl_tagger.tagging.tagger import Tagger


class NoNetworks:
    """Stand for the networks of a model, which take longer to open than the rest of a run takes."""

    classes = None

    def __init__(self, _folder: Path, config: ModelConfig, *_: Any, **__: Any) -> None:
        self.preprocessing = config.preprocessing


def encode(self: Tagger, path: str) -> int:  # noqa: ARG001
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError("no such file") from None
    with Path(os.environ["ASKED"]).open("a") as asked:
        asked.write(f"{Path(path).name}\n")
    time.sleep(float(os.environ["SECONDS"]))
    while Path(os.environ.get("HOLD", "no such file")).exists():
        time.sleep(0.005)
    return content[0]


def tag_encoded(self: Tagger, encoded: int, labels: LabelSet, **options: Any) -> list[Tag]:  # noqa: ARG001
    return [Tag(labels.labels[number], 1 - number / 10) for number in range(encoded % 7)]


if __name__ == "__main__":
    onnx_model.OnnxModel = NoNetworks  # type: ignore[assignment,misc]
    Tagger.encode, Tagger.tag_encoded = encode, tag_encoded  # type: ignore[assignment,method-assign]
    cli.app()
