"""Read other people's pickles as data: nothing that a pickle names is imported, created or called.

Each class or function that a pickle names becomes a :class:`StandIn`, which only records what it is given. Names
outside a short list are refused. Stand-ins are created for each load, so one file cannot prepare anything for the next.
:func:`safe_globals` gives torch's own reader such stand-ins for what people save beside their tensors.
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

#: Names in checkpoints that other programs wrote, by module. torch reads ``OrderedDict`` and ``Counter`` itself.
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
    """Return the content of a pickle; objects other than texts, numbers and containers are stand-ins.

    Args:
        encoding: how to decode strings that Python 2 wrote; "bytes" keeps them as bytes.

    Raises:
        pickle.UnpicklingError: it names something that is not data.
    """
    with path.open("rb") as file:
        return _DataOnlyUnpickler(file, encoding).load()


def safe_globals() -> list[Any]:
    """Return new stand-ins with the names that they replace, for ``torch.serialization.safe_globals``.

    A ``defaultdict`` is read as a plain dictionary, a scalar of numpy as a plain number or text.
    """
    return [
        (_dict_without_factory if name == "defaultdict" else _stand_in(name), f"{module}.{name}")
        for module, names in _IN_CHECKPOINTS.items()
        for name in sorted(names)
    ]


def _dict_without_factory(*_: Any) -> dict[Any, Any]:
    """Return the empty dictionary that a pickled ``defaultdict`` is read into."""
    return {}


def attributes_of(value: Any, classes: frozenset[str]) -> dict[str, Any] | None:
    """Return the attributes of an object of one of some classes, named without module; None for anything else."""
    if not isinstance(value, StandIn) or value.class_name not in classes:
        return None
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    return state if isinstance(state, dict) else {}


def kind_of(value: Any) -> str:
    """Return the name of a value's class, as the pickle has it."""
    return value.class_name if isinstance(value, StandIn) else type(value).__name__


def array_of(value: Any) -> np.ndarray:
    """Return an array of numbers that a pickle holds, read-only.

    Raises:
        pickle.UnpicklingError: it is something else.
    """
    if not isinstance(value, _Array):
        raise pickle.UnpicklingError(f"expected an array of numbers, got {kind_of(value)}")
    return value.array()


class StandIn:
    """What a pickle says of one object: the name of its class, its arguments and its state."""

    class_name = ""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> Any:
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __setstate__(self, *state: Any) -> None:
        if len(state) != 1:  # called on the class itself
            raise pickle.UnpicklingError("it changes a class, which is no data: not opened")
        self.state = state[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item: no reader needs those of dictionaries that are not plain ones."""


class _Reconstructed(StandIn):
    """``copyreg._reconstructor``: how protocols 0 and 1 create an object."""

    def __new__(cls, created: Any = None, *_: Any) -> Any:
        if not (isinstance(created, type) and issubclass(created, StandIn)):
            raise pickle.UnpicklingError("it creates an object of no class: not opened")
        return created()


class _Latin1(StandIn):
    """``_codecs.encode``: how protocols up to 2 write bytes."""

    def __new__(cls, text: Any = None, encoding: Any = None) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError(f"expected bytes as Latin-1, got {encoding!r}")
        return text.encode("latin1")


class _NoBytes(StandIn):
    """``bytes()``: how protocols up to 2 write none."""

    def __new__(cls) -> Any:
        return b""


class _Scalar(StandIn):
    """``numpy.core.multiarray.scalar``, read as a plain number or text."""

    def __new__(cls, dtype: Any = None, raw: Any = None) -> Any:
        if (code := _code(dtype)) and re.fullmatch(r"U\d{1,6}", code) and isinstance(raw, bytes):
            return np.frombuffer(raw, f"{_byte_order(dtype)}{code}")[0].item()
        return _numbers(dtype, raw)[0].item()


class _Array(StandIn):
    """An array of numpy, in either form that its pickles have."""

    def array(self) -> np.ndarray:
        if self.class_name == "_frombuffer":
            raw, dtype, shape, order, *axes = self.arguments
            if order == "K" and axes:
                return _numbers(dtype, raw).reshape(shape).transpose(axes[0])
            return _numbers(dtype, raw).reshape(shape, order=order)
        *_, shape, dtype, by_column, raw = self.state
        return _numbers(dtype, raw).reshape(shape, order="F" if by_column else "C")


def _numbers(dtype: Any, raw: Any) -> np.ndarray:
    """Return raw bytes as a flat array, if they are numbers: other types could hold pointers."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # as Python 2 wrote it
    code = _code(dtype)
    if not isinstance(code, str) or not re.fullmatch(r"[biuf]\d{1,2}", code) or not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError(f"expected an array of numbers, got one of {code!r}")
    return np.frombuffer(raw, f"{_byte_order(dtype)}{code}")


def _code(dtype: Any) -> Any:
    """Return numpy's code of a type, such as "f4"; None for something else."""
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
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no data: not opened")
        if (module, name) not in self._stand_ins:
            self._stand_ins[module, name] = _stand_in(name)
        return self._stand_ins[module, name]


def _stand_in(name: str) -> type[StandIn]:
    return type(name, (_READ_AS.get(name, StandIn),), {"class_name": name})
