"""Use open_clip's text towers as word sources (needs the [clip] extra)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.errors import UserError, first_line, require
from zsl_tagger.words.prompts import CLIP_TEMPLATES, TextEncoderSource
from zsl_tagger.words.table import unit_length

#: File that open_clip writes next to the weights in its own model folders.
FOLDER_CONFIG = "open_clip_config.json"

SENTENCES_A_BATCH = 256


class OpenClipSource(TextEncoderSource):
    """Word source with the text tower of an open_clip model.

    Args:
        name: ``NAME:PRETRAINED``, where PRETRAINED is a tag of open_clip or a checkpoint file; ``NAME`` alone selects
            OpenAI's weights or the first ones that open_clip lists; or a folder with open_clip_config.json.
        templates: prompts; None: "a photo of a {}."

    Attributes:
        logit_scale: factor of the cosines in training.
        hub: repository of the weights; "" for files.
        logit_bias: bias of SigLIP's training; None for CLIP.

    Raises:
        UserError: open_clip has no such model, or its weights cannot be downloaded or do not fit.
    """

    def __init__(self, name: str, templates: Sequence[str] | None = None):
        require("open_clip", "clip")
        import open_clip

        self.templates = CLIP_TEMPLATES if templates is None else tuple(templates)
        architecture, weights = _resolve(name)
        known = open_clip.get_pretrained_cfg(architecture, weights or "")
        quick_gelu = bool(known.get("quick_gelu"))
        self.hub = str(known.get("hf_hub") or "").strip("/")
        try:
            with _without_basic_config():
                # Two thirds of OpenAI's weights were trained with QuickGELU, which the architecture name does not say.
                model = open_clip.create_model(
                    architecture, weights, force_quick_gelu=quick_gelu, require_pretrained=True
                )
                self._tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:  # from the hub, torch, or weights that do not fit
            raise UserError(
                f"cannot open the text tower open_clip:{name}: {_reason(error)}. Expected a tag of "
                "open_clip's (downloaded when first used), a checkpoint that fits the model, or a folder with "
                f"{FOLDER_CONFIG}"
            ) from None
        self._model: Any = model.eval().requires_grad_(False)
        self.logit_scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias)

    @cached_property
    def word_dim(self) -> int:
        return int(self.encode(["a"], unit=False).shape[1])

    def encode(self, sentences: Sequence[str], unit: bool) -> np.ndarray:
        """Encode sentences as float32 ``(n, word_dim)``, L2-normalised if ``unit``."""
        batches = [sentences[at : at + SENTENCES_A_BATCH] for at in range(0, len(sentences), SENTENCES_A_BATCH)]
        rows = np.concatenate([self._model.encode_text(self._tokenizer(list(batch))).numpy() for batch in batches])
        return unit_length(rows) if unit else rows


def _resolve(name: str) -> tuple[str, str | None]:
    """Return open_clip's model name and a tag or file of its weights (None: they are in the folder)."""
    import open_clip

    if Path(name).is_dir():
        if not (Path(name) / FOLDER_CONFIG).is_file():
            raise UserError(f"{name} is not an open_clip model folder: it has no {FOLDER_CONFIG}")
        return f"local-dir:{name}", None
    architecture, _, weights = name.partition(":")
    architecture = architecture.replace("/", "-")
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(f"open_clip has no model {architecture!r}; the nearest names are: {_near(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        if not tags:
            raise UserError(f"open_clip has no weights of {architecture}: give a checkpoint, {architecture}:FILE")
        return architecture, "openai" if "openai" in tags else tags[0]
    if Path(weights).is_file() or open_clip.is_pretrained_cfg(architecture, weights):
        return architecture, weights
    raise UserError(
        f"there is no checkpoint {weights!r}, and open_clip has no weights of that name for {architecture}; the "
        f"nearest names are: {_near(weights, tags)}"
    )


def _near(name: str, known: Sequence[str]) -> str:
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.3)
    return ", ".join(by_lower[one] for one in near) or "none"


def _reason(error: Exception) -> str:
    """Return the cause of an error, without torch's advice to load the file unsafely and its list of all tensors."""
    if "weights_only" in str(error):
        return "the checkpoint contains something other than tensors, or is damaged"
    if "loading state_dict" in str(error):
        return "the tensors of the checkpoint do not match the model"
    return first_line(error).rstrip(".: ")


@contextmanager
def _without_basic_config() -> Iterator[None]:
    """Keep open_clip from adding a root handler, which would print the logs of other libraries too."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
