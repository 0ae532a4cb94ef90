"""zsl-tagger: zero-shot image tagging with word-embedding queries.

Public names are loaded on first use: importing the package is cheap, and tagging never imports torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# onnxruntime sends telemetry unless this is set before the import. Nothing may leave the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from zsl_tagger.errors import UserError as UserError
    from zsl_tagger.images.preprocessing import ImageError as ImageError
    from zsl_tagger.images.preprocessing import load_photo as load_photo
    from zsl_tagger.model.drop_in import add_ml_decoder_head as add_ml_decoder_head
    from zsl_tagger.model.ml_decoder import MLDecoder as MLDecoder
    from zsl_tagger.model.pretrained import load_model as load_model
    from zsl_tagger.records.record import Record as Record
    from zsl_tagger.records.record import Tag as Tag
    from zsl_tagger.search.library import Library as Library
    from zsl_tagger.tagging.heatmap import overlay as overlay
    from zsl_tagger.tagging.tagger import Tagger as Tagger
    from zsl_tagger.words.table import UnknownLabelError as UnknownLabelError
    from zsl_tagger.words.table import WordTable as WordTable

_HOME = {
    "ImageError": "images.preprocessing",
    "Library": "search.library",
    "MLDecoder": "model.ml_decoder",
    "Record": "records.record",
    "Tag": "records.record",
    "Tagger": "tagging.tagger",
    "UnknownLabelError": "words.table",
    "UserError": "errors",
    "WordTable": "words.table",
    "add_ml_decoder_head": "model.drop_in",
    "load_model": "model.pretrained",
    "load_photo": "images.preprocessing",
    "overlay": "tagging.heatmap",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("zsl_tagger.system.version").installed_version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
