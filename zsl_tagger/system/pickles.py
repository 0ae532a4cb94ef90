"""Pickles of others, opened as data: whatever is not an array, a container or gensim's vectors is refused, not run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_ALLOWED = {
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "collections": {"OrderedDict", "defaultdict"},
    "_codecs": {"encode"},
    "builtins": {"set", "frozenset", "list", "dict", "tuple", "slice", "range", "bytearray", "object", "int"},
    "__builtin__": {"set", "frozenset", "list", "dict", "tuple", "slice", "xrange", "bytearray", "object", "long"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "gensim.models.keyedvectors": {
        "KeyedVectors", "CompatVocab", "Vocab", "EuclideanKeyedVectors", "Word2VecKeyedVectors",
        "WordEmbeddingsKeyedVectors", "FastTextKeyedVectors",
    },
    "gensim.models.fasttext": {"FastTextKeyedVectors"},
}  # fmt: skip


class _DataOnlyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no data: not opened")
        return super().find_class(module, name)


def load_data(path: Path, encoding: str = "latin1") -> Any:
    """The content of a pickle that holds data only.

    Args:
        encoding: of texts that Python 2 wrote; "bytes" leaves them bytes.

    Raises:
        pickle.UnpicklingError: it holds something else; nothing of it was run.
    """
    with path.open("rb") as file:
        return _DataOnlyUnpickler(file, encoding=encoding).load()
