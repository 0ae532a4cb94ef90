"""Write and read the checkpoint of a run, a single file that is replaced atomically."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from zsl_tagger.errors import UserError
from zsl_tagger.model.torch_files import read_torch_file
from zsl_tagger.system.files import write_whole

CHECKPOINT_FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace the checkpoint; the previous one stays until the new one is on the disk.

    Raises:
        UserError: it cannot be written, for example because the disk is full; the previous one is kept.
    """
    write_tensors(path, {**content, "format": CHECKPOINT_FORMAT})


def write_tensors(path: Path, content: Any) -> None:
    """Save ``content`` with ``torch.save``, atomically.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """

    def write(file: BinaryIO) -> None:
        disk = _ErrorKeepingFile(file)
        try:
            torch.save(content, disk)  # type: ignore[arg-type]  # torch.save calls only these two methods
        except RuntimeError:  # torch raises it for any error of the file
            raise disk.error or UserError(f"cannot write {path}") from None

    write_whole(path, write)


class _ErrorKeepingFile:
    """Keep the error of a failed write, which torch replaces with a RuntimeError."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing any code from it.

    Raises:
        UserError: it is missing, damaged or from another version.
    """
    try:
        content = read_torch_file(path)
    except FileNotFoundError:
        raise UserError(f"nothing to resume: there is no {path}") from None
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version of zsl-tagger")
    return content


def fingerprint(*parts: np.ndarray | Tensor | list[str]) -> str:
    """Return a short hash of the data that a run depends on."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, list):
            digest.update("\n".join(part).encode("utf-8", "surrogateescape"))
        else:
            array = part.detach().cpu().float().numpy() if isinstance(part, Tensor) else part
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


class Stopped(Exception):  # noqa: N818
    """Raised when a signal stopped a run, after its checkpoint was saved.

    Attributes:
        signal: number of the signal.
        step: number of completed steps.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped at step {step}")
        self.signal, self.step = number, step
