"""Read ``wordvec_array.pth``: a matrix (word_dim, K) of word vectors, one column per label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError, require
from zsl_tagger.system.files import parse_json, sha256_of
from zsl_tagger.words.table import WordTable

#: Report of a prepared folder, which names the columns of its matrix.
LISTING_FILE = "dataset.json"


def load_matrix(path: Path) -> np.ndarray:
    """Read the tensor ``(word_dim, K)`` of a ``wordvec_array.pth`` as float32; nothing in the file is executed."""
    require("torch", "train")
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no word-vector file at {path}") from None
    except Exception:  # torch raises nearly anything on a broken file, and advises to open it unsafely
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


def open_matrix(path: Path, labels: Sequence[str]) -> WordTable:
    """Read a matrix of word vectors; its columns are named by the file next to it, or are the sorted labels."""
    matrix = load_matrix(path)
    names = _column_names(path) or sorted(labels)
    if not names:
        raise UserError(f"{path}: no file next to it says what its {matrix.shape[1]} columns are")
    if len(names) != matrix.shape[1]:
        hint = " (it seems transposed)" if len(names) == matrix.shape[0] else ""
        raise UserError(
            f"{path}: expected {len(names)} columns, one for each label in sorted order, "
            f"got a tensor of shape {matrix.shape}{hint}"
        )
    used = np.flatnonzero(np.isfinite(matrix).all(axis=0) & matrix.any(axis=0))  # a column of zeros is not a vector
    return WordTable([names[column] for column in used], np.ascontiguousarray(matrix.T[used]))


def _column_names(path: Path) -> list[str] | None:
    """Return the column names from our report next to the matrix, or None; the report must match its SHA-256."""
    for listing in (path.with_suffix(".json"), path.parent / LISTING_FILE):
        try:
            content = parse_json(listing.read_text(encoding="utf-8"))
            if content["sha256"][path.name] == sha256_of(path):
                return [str(name) for name in content["labels"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
