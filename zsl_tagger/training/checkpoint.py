"""Write and read the checkpoint of a run: one file, whole or absent."""

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
    """Write it in place of the last one, which stays until this one is on the disk.

    Raises:
        UserError: it cannot be written (a full disk); the last one is still there.
    """
    write_tensors(path, {**content, "format": CHECKPOINT_FORMAT})


def write_tensors(path: Path, content: Any) -> None:
    """``torch.save``, whole or not at all; a full disk is the OSError that it is."""

    def write(file: BinaryIO) -> None:
        disk = _Disk(file)
        try:
            torch.save(content, disk)  # type: ignore[arg-type]  # it needs no more than these two
        except RuntimeError:  # what torch makes of any error of the file
            raise disk.error or UserError(f"cannot write {path}") from None

    write_whole(path, write)


class _Disk:
    """A file that remembers why it could not be written."""

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
    """Read it; nothing in it is executed.

    Raises:
        UserError: it is missing, broken or of another version.
    """
    try:
        content = read_torch_file(path)
    except FileNotFoundError:
        raise UserError(f"nothing to resume: there is no {path}") from None
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is no checkpoint of this version of zsl-tagger")
    return content


def fingerprint(*parts: np.ndarray | Tensor | list[str]) -> str:
    """Return a short hash of what a run depends on besides its settings."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, list):
            digest.update("\n".join(part).encode("utf-8", "surrogateescape"))
        else:
            array = part.detach().cpu().float().numpy() if isinstance(part, Tensor) else part
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


class Stopped(Exception):  # noqa: N818
    """A run that was asked to stop, and has saved.

    Attributes:
        signal: the number of the signal.
        step: steps done.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped at step {step}")
        self.signal, self.step = number, step
