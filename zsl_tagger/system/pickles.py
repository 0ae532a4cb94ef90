"""Read untrusted pickles as data: nothing that a pickle names is imported, created or called.

Each class or function that a pickle names becomes a :class:`StandIn`, which only records its arguments. Names outside a
short list are refused. Stand-ins are created per load, so that one file cannot affect the next. :func:`safe_globals`
provides such stand-ins to torch's own reader, for objects that people save next to their tensors.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_ALLOWED = {
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "collections": {"OrderedDict", "defaultdict"},
    "_codecs": {"encode"},
    "builtins": {
        "set", "frozenset", "list", "dict", "tuple", "slice", "range", "bytearray", "bytes", "object", "int",
    },
    "__builtin__": {
        "set", "frozenset", "list", "dict", "tuple", "slice", "xrange", "bytearray", "bytes", "object", "long",
    },
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "gensim.models.keyedvectors": {
        "KeyedVectors", "CompatVocab", "Vocab", "EuclideanKeyedVectors", "Word2VecKeyedVectors",
        "WordEmbeddingsKeyedVectors", "FastTextKeyedVectors",
    },
    "gensim.models.fasttext": {"FastTextKeyedVectors"},
}  # fmt: skip

_KINDS = (
    "Bool",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float16",
    "Float32",
    "Float64",
)
_PATHS = {"Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"}

#: Names in checkpoints of other programs, by module. torch reads ``OrderedDict`` and ``Counter`` itself.
_IN_CHECKPOINTS = {
    **{module: names for module, names in _ALLOWED.items() if module.startswith("numpy.")},
    "numpy": _ALLOWED["numpy"] | {kind.lower() for kind in _KINDS} | {"bool_"},
    "numpy.dtypes": {f"{kind}DType" for kind in _KINDS},
    "argparse": {"Namespace"},
    "builtins": {"bool", "dict", "float", "frozenset", "int", "list", "object", "range", "slice", "str", "tuple"},
    "collections": {"defaultdict"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
}


def load_data(path: Path, encoding: str = "latin1") -> Any:
    """Return the content of a pickle; objects other than strings, numbers and containers become stand-ins.

    Args:
        encoding: how to decode strings that Python 2 wrote; "bytes" keeps them as bytes.

    Raises:
        pickle.UnpicklingError: it names something other than data.
    """
    with path.open("rb") as file:
        return _DataOnlyUnpickler(file, encoding).load()


def safe_globals() -> list[Any]:
    """Return new stand-ins and the names they replace, for ``torch.serialization.safe_globals``.

    A ``defaultdict`` is read as a plain dictionary, a NumPy scalar as a plain number or string.
    """
    return [
        (_dict_without_factory if name == "defaultdict" else _stand_in(name), f"{module}.{name}")
        for module, names in _IN_CHECKPOINTS.items()
        for name in sorted(names)
    ]


def _dict_without_factory(*_: Any) -> dict[Any, Any]:
    """Return an empty dictionary in place of a pickled ``defaultdict``."""
    return {}


def attributes_of(value: Any, classes: frozenset[str]) -> dict[str, Any] | None:
    """Return the attributes of an instance of ``classes`` (names without module); None for anything else."""
    if not isinstance(value, StandIn) or value.class_name not in classes:
        return None
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    return state if isinstance(state, dict) else {}


def kind_of(value: Any) -> str:
    """Return the class name of a value as written in the pickle."""
    return value.class_name if isinstance(value, StandIn) else type(value).__name__


def array_of(value: Any) -> np.ndarray:
    """Return a numeric array from a pickle, read-only.

    Raises:
        pickle.UnpicklingError: ``value`` is not a numeric array.
    """
    if not isinstance(value, _Array):
        raise pickle.UnpicklingError(f"expected an array of numbers, got {kind_of(value)}")
    return value.array()


class StandIn:
    """Stand-in for one pickled object: the name of its class, its arguments and its state."""

    class_name = ""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> Any:
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __setstate__(self, *state: Any) -> None:
        if len(state) != 1:  # called on the class itself
            raise pickle.UnpicklingError("it changes a class, which is not data: not opened")
        self.state = state[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore items of dictionary subclasses; no reader needs them."""


class _Reconstructed(StandIn):
    """Stand-in for ``copyreg._reconstructor``, with which protocols 0 and 1 create objects."""

    def __new__(cls, created: Any = None, *_: Any) -> Any:
        if not (isinstance(created, type) and issubclass(created, StandIn)):
            raise pickle.UnpicklingError("it creates an object without a class: not opened")
        return created()


class _Latin1(StandIn):
    """Stand-in for ``_codecs.encode``, with which protocols up to 2 write bytes."""

    def __new__(cls, text: Any = None, encoding: Any = None) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"expected bytes as Latin-1, got {encoding!r}")
        return text.encode("latin1")


class _NoBytes(StandIn):
    """Stand-in for ``bytes()``, with which protocols up to 2 write empty bytes."""

    def __new__(cls) -> Any:
        return b""


class _Scalar(StandIn):
    """Stand-in for ``numpy.core.multiarray.scalar``, read as a plain number or string."""

    def __new__(cls, dtype: Any = None, raw: Any = None) -> Any:
        if (code := _code(dtype)) and re.fullmatch(r"U\d{1,6}", code) and isinstance(raw, bytes):
            return np.frombuffer(raw, f"{_byte_order(dtype)}{code}")[0].item()
        return _numbers(dtype, raw)[0].item()


class _Array(StandIn):
    """Stand-in for a NumPy array, in either of its pickled forms."""

    def array(self) -> np.ndarray:
        if self.class_name == "_frombuffer":
            raw, dtype, shape, order, *axes = self.arguments
            if order == "K" and axes:
                return _numbers(dtype, raw).reshape(shape).transpose(axes[0])
            return _numbers(dtype, raw).reshape(shape, order=order)
        *_, shape, dtype, by_column, raw = self.state
        return _numbers(dtype, raw).reshape(shape, order="F" if by_column else "C")


def _numbers(dtype: Any, raw: Any) -> np.ndarray:
    """Return raw bytes as a flat numeric array; other types could hold pointers and are refused."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # as Python 2 wrote it
    code = _code(dtype)
    if not isinstance(code, str) or not re.fullmatch(r"[biuf]\d{1,2}", code) or not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError(f"expected an array of numbers, got one of {code!r}")
    return np.frombuffer(raw, f"{_byte_order(dtype)}{code}")


def _code(dtype: Any) -> Any:
    """Return the NumPy type code, such as "f4"; None for anything else."""
    code = dtype.arguments[0] if isinstance(dtype, StandIn) and dtype.class_name == "dtype" else None
    return code.decode("latin1") if isinstance(code, bytes) else code


def _byte_order(dtype: StandIn) -> str:
    return ">" if dtype.state is not None and dtype.state[1] in (">", b">") else "<"


_READ_AS: dict[str, type[StandIn]] = {
    "_reconstruct": _Array,
    "_frombuffer": _Array,
    "scalar": _Scalar,
    "encode": _Latin1,
    "bytes": _NoBytes,
    "_reconstructor": _Reconstructed,
}


class _DataOnlyUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, encoding: str):
        super().__init__(file, encoding=encoding)
        self._stand_ins: dict[tuple[str, str], type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not data: not opened")
        if (module, name) not in self._stand_ins:
            self._stand_ins[module, name] = _stand_in(name)
        return self._stand_ins[module, name]


def _stand_in(name: str) -> type[StandIn]:
    return type(name, (_READ_AS.get(name, StandIn),), {"class_name": name})
