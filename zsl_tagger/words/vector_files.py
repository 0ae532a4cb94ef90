"""Read word vectors in the formats of gensim, fastText, word2vec and GloVe.

gensim reads its own and the binary formats. Text is read here, since gensim rejects words with spaces, which GloVe's
largest file contains, and does not report the broken line.
"""

from __future__ import annotations

import gzip
import logging
import mmap
import struct
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zsl_tagger.errors import UserError, require
from zsl_tagger.system.pickles import StandIn, array_of, attributes_of, kind_of, load_data

logger = logging.getLogger(__name__)

#: Classes of any gensim version that hold words and their vectors.
_KEYED_VECTORS = frozenset(
    f"{kind}KeyedVectors" for kind in ("", "Euclidean", "Word2Vec", "WordEmbeddings", "FastText")
)

#: Attributes that hold the words, in gensim 4 and earlier.
_WORDS = ("index_to_key", "index2word", "index2entity")

BOM = b"\xef\xbb\xbf"

#: The vector width of a text file is the most frequent one in this many lines.
LINES_FOR_WIDTH = 100

#: Maximum share of junk lines in a text file; they are skipped, and a file with more is refused.
MOST_JUNK = 0.01

_FASTTEXT_MAGIC = struct.pack("<i", 793712314)
_FASTTEXT_HEADER = struct.calcsize("<ii12id")  # magic, version, twelve settings, a threshold


def read_vector_file(path: Path) -> tuple[Sequence[str], np.ndarray]:
    """Read W words and their vectors, float32 ``(W, word_dim)``; words with an all-zero vector are skipped.

    Args:
        path: .kv (gensim), .bin (word2vec or fastText), or text with or without a header; word2vec's .bin and text may
            be compressed as .gz.

    Raises:
        UserError: it has another format, or is broken.
    """
    try:
        words, vectors = _read(path)
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"cannot read word vectors from {path}: not enough memory") from None
    except Exception as error:  # gensim raises nearly anything on a broken file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read word vectors from {path}: {reason}") from None
    return known_vectors(words, vectors, str(path))


def known_vectors(words: Sequence[Any], vectors: np.ndarray, source: str) -> tuple[Sequence[str], np.ndarray]:
    """Return the words that have a vector, with their vectors.

    Raises:
        UserError: the numbers of words and vectors differ.
    """
    if vectors.ndim != 2 or len(words) != len(vectors) or not vectors.size:
        raise UserError(
            f"cannot read word vectors from {source}: expected a vector for each word, got {len(words)} words and "
            f"vectors of shape {vectors.shape}"
        )
    used = vectors.any(axis=1) & np.array([word is not None for word in words])  # None: gensim found a duplicate word
    if used.all():
        return [str(word) for word in words], vectors
    return [str(words[row]) for row in np.flatnonzero(used).tolist()], vectors[used]


def _read(path: Path) -> tuple[Sequence[Any], np.ndarray]:
    kind, packed = _kind(path)
    if kind == ".kv":
        if packed:
            raise UserError(f"cannot read word vectors from {path}: unpack it first")
        return _read_kv(path)
    if kind == ".bin" or _is_binary_word2vec(path):
        return _read_bin(path)
    with _open(path) as file:
        return _read_text(file, path)


def _kind(path: Path) -> tuple[str, bool]:
    """Return the last suffix before .gz, in lower case, and whether the name ends in .gz."""
    packed = path.suffix.lower() == ".gz"
    return (path.with_suffix("") if packed else path).suffix.lower(), packed


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_kv(path: Path) -> tuple[Sequence[Any], np.ndarray]:
    """Read a pickle, and large arrays from .npy files next to it, without gensim's loader, which would run its code."""
    content = load_data(path)
    saved = attributes_of(content, _KEYED_VECTORS)
    if saved is None:
        raise UserError(f"cannot read word vectors from {path}: expected gensim KeyedVectors, got {kind_of(content)}")
    for name in ("__scipys", "__recursive_saveloads"):
        files = saved.get(name, [])
        if type(files) is not list or files:
            raise UserError(f"cannot read word vectors from {path}: it refers to other pickles, which are not opened")
    words = next((saved[name] for name in _WORDS if name in saved), None)
    if type(words) is not list or any(isinstance(word, StandIn) for word in words):
        raise UserError(f"cannot read word vectors from {path}: expected a list of words, got {kind_of(words)}")
    vectors = _saved_array(path, saved, "vectors", "syn0")
    return words, _fasttext_vectors(path, saved, words) if vectors is None else vectors


def _saved_array(path: Path, saved: dict[str, Any], *names: str) -> np.ndarray | None:
    """Return an array by any of its names, from the pickle or the file next to it; None if it was not saved."""
    apart = saved.get("__numpys", [])
    for name in names:
        if name in apart:
            with path.with_name(f"{path.name}.{name}.npy").open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        if saved.get(name) is not None:
            return array_of(saved[name])
    return None


def _fasttext_vectors(path: Path, saved: dict[str, Any], words: list[Any]) -> np.ndarray:
    """Return the vectors of fastText's words, which gensim does not save: the mean over the word and its n-grams."""
    require("gensim", "train")
    from gensim.models.fasttext import FastTextKeyedVectors

    own, parts = _saved_array(path, saved, "vectors_vocab"), _saved_array(path, saved, "vectors_ngrams")
    sizes = [saved.get(name) for name in ("min_n", "max_n", "bucket")]
    if own is None or parts is None or not all(type(size) is int for size in sizes):
        raise UserError(f"cannot read word vectors from {path}: it has no vectors")
    if saved.get("compatible_hash") is not True or sizes[2] != len(parts):
        raise UserError(
            f"cannot read word vectors from {path}: it was written by gensim before 3.8; "
            "load it with gensim 3.8.3, save it, and give that file"
        )
    keyed = FastTextKeyedVectors(own.shape[1], *sizes)
    keyed.index_to_key, keyed.vectors_vocab, keyed.vectors_ngrams = words, own, parts
    keyed.recalc_char_ngram_buckets()
    keyed.adjust_vectors()
    return keyed.vectors


def _read_bin(path: Path) -> tuple[Sequence[Any], np.ndarray]:
    require("gensim", "train")
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    with _open(path) as file:
        is_fasttext = file.read(4) == _FASTTEXT_MAGIC
    if is_fasttext:
        if path.suffix.lower() == ".gz":
            raise UserError(f"cannot read word vectors from {path}: unpack it first")
        _check_fasttext_words(path)
        vectors = load_facebook_vectors(str(path))
    else:
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=True)
    return vectors.index_to_key, vectors.vectors


def _is_binary_word2vec(path: Path) -> bool:
    """Recognise binary word2vec by what follows its header: gensim's downloads are named just .gz."""
    with _open(path) as file:
        header = file.readline(100).split()
        return len(header) == 2 and all(field.isdigit() for field in header) and b"\0" in file.read(1 << 16)


def _check_fasttext_words(path: Path) -> None:
    """Raise a UserError if the word list is truncated, on which gensim would loop forever."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        counts = struct.Struct("<iiiqq")  # words and labels, words, labels, tokens, pruned
        at = _FASTTEXT_HEADER
        count = counts.unpack_from(content, at)[0] if at + counts.size <= len(content) else 1
        at += counts.size
        for _ in range(count):
            end = content.find(b"\0", at)
            if end < 0 or end + 10 > len(content):
                raise UserError(f"cannot read word vectors from {path}: its word list is truncated")
            at = end + 10  # the word is followed by its count and kind: 9 bytes


def _read_text(file: BinaryIO, path: Path) -> tuple[Sequence[str], np.ndarray]:
    """Read lines that consist of a word and its numbers.

    fastText and word2vec start with a line "words dimensions", GloVe does not.
    """
    first = list(islice(file, LINES_FOR_WIDTH))
    expected, dim = _header(first)
    rows = _TextRows(path, dim)
    for number, line in enumerate(chain(first, file), start=1):
        if line.strip() and not (number == 1 and expected is not None):
            rows.add(number, line)
    rows.check(expected)
    if rows.skipped:
        logger.warning("%s", rows.remark())
    return list(rows.place), np.frombuffer(rows.values, np.float32).reshape(len(rows.place), dim or 1)


def _header(lines: list[bytes]) -> tuple[int | None, int]:
    """Return the number of words and the vector width from the header line.

    Without a header the number is None and the width is the most frequent one in ``lines``, any of which may be junk or
    contain a word with spaces.
    """
    fields = [line.removeprefix(BOM).split() for line in lines if line.strip()]
    if fields and len(fields[0]) == 2 and all(field.isdigit() for field in fields[0]):
        return int(fields[0][0]), int(fields[0][1])
    counts = Counter(map(len, fields))
    return None, max(counts, key=lambda count: counts[count], default=1) - 1


class _TextRows:
    """Words and vectors of a text file being read, and the number of its junk lines.

    Attributes:
        place: word -> row.
        values: values of all rows, concatenated.
        skipped: number of junk lines.
    """

    def __init__(self, path: Path, dim: int):
        self.path, self.dim = path, dim
        self.place: dict[str, int] = {}
        self.values = array("f")
        self.skipped = 0
        self._read = 0
        self._first = ""

    def add(self, number: int, line: bytes) -> None:
        word, *numbers = line.removeprefix(BOM).rsplit(None, self.dim) if self.dim > 0 else [line]
        try:
            row = array("f", map(float, numbers))
        except ValueError:
            row = array("f")
        if self.dim < 1 or len(row) != self.dim:
            self._skip(number, line)
            return
        self._read += 1
        text = word.strip().decode("utf-8", "replace")
        if text not in self.place:  # the first of duplicate words counts
            self.place[text] = len(self.place)
            self.values.extend(row)

    def _skip(self, number: int, line: bytes) -> None:
        self.skipped += 1
        wanted = f"its {self.dim} numbers" if self.dim > 0 else "its numbers"
        came = line[:40].decode("utf-8", "replace").strip()
        self._first = self._first or f"line {number}: expected a word and {wanted}, got {came!r}"
        if not line.endswith(b"\n"):
            raise UserError(f"cannot read word vectors from {self.path}: its last line is truncated: {self._first}")

    def check(self, expected: int | None) -> None:
        """Raise a UserError if too many lines are junk, or the header gives another number of words."""
        if self.skipped > MOST_JUNK * self._read:
            raise UserError(f"cannot read word vectors from {self.path}: {self._first}")
        if expected not in (None, self._read + self.skipped):
            raise UserError(
                f"cannot read word vectors from {self.path}: its header says {expected} words, but it has {self._read}"
            )

    def remark(self) -> str:
        """Return a message with the number of skipped lines and the first one."""
        return (
            f"{self.path}: {self.skipped:,} of {self._read + self.skipped:,} lines skipped, the first is {self._first}"
        )
