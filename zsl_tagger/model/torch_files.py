"""Read files of ``torch.save`` as tensors and plain data, without running code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from zsl_tagger.errors import UserError, first_line
from zsl_tagger.system.pickles import safe_globals


def read_torch_file(path: Path, expected: str = "a torch file of tensors and plain data") -> Any:
    """Return the content of a file; other objects in it, such as an argparse.Namespace, are inert.

    Args:
        expected: description of a valid file, for the error message.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is broken, or contains something other than tensors and plain data.
    """
    try:
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises nearly anything on a broken file
        raise UserError(f"{path} cannot be read: expected {expected}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return the cause of an error, without torch's advice to load the file unsafely."""
    text = str(error)
    if named := re.search(r"GLOBAL (\S+) ", text):
        return (
            f"it contains {named[1]}, which is code and was not run. Where it was written, save only the tensors: "
            "torch.save(model.state_dict(), FILE)"
        )
    if "weights_only" in text:
        detail = re.search(r"WeightsUnpickler error: \s*(.+)", text)
        return detail[1] if detail else "torch.save did not write it, or it is damaged"
    return first_line(error)
