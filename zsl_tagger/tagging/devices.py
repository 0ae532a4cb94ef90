"""Open ONNX networks on the CPU, or on an NVIDIA GPU if the installed ONNX Runtime supports it."""

from __future__ import annotations

import functools
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

import onnxruntime

from zsl_tagger import choices
from zsl_tagger.errors import UserError, first_line
from zsl_tagger.tagging.network_cache import open_on_processor, open_optimised, refuse_external_data

DEVICES = get_args(choices.Device)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

#: TensorFloat-32 is off, since its 10-bit mantissa would change scores by more than rounding.
CUDA_OPTIONS = {"use_tf32": "0"}

INSTALL = 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'


def create_session(
    path: Path, options: onnxruntime.SessionOptions, device: str, keep: bool = False
) -> onnxruntime.InferenceSession:
    """Open a network on a device of ``DEVICES``; "auto" is the GPU if it works, otherwise the CPU.

    Args:
        keep: on the CPU, cache the optimised network for the next start (:mod:`.network_cache`).

    Raises:
        ModelFolderError: its weights are in another file.
        UserError: there is no such device, or it does not work.
    """
    if device not in DEVICES:
        raise UserError(f"expected a device of {', '.join(DEVICES)}; got {device!r}")
    offered = CUDA in onnxruntime.get_available_providers()
    if device == "cuda" and not offered:
        raise UserError(
            "device cuda is not available, only cpu: the installed onnxruntime has no CUDA. On a machine with an "
            f"NVIDIA GPU: {INSTALL}"
        )
    reason = "ONNX Runtime does not say why"
    if device != "cpu" and offered:
        refuse_external_data(path)
        try:
            session = _on_gpu(path, options)
            if device_of(session) == "cuda":
                return session
        except Exception as error:  # onnxruntime's own exception classes share no public base
            reason = first_line(error)
    if device == "cuda":
        raise UserError(
            f"device cuda does not work here, only cpu ({reason}): it needs an NVIDIA GPU with its driver, and the "
            f"CUDA and cuDNN libraries that onnxruntime {onnxruntime.__version__} was built for: {INSTALL}"
        )
    return open_optimised(path, options) if keep else open_on_processor(path, options)


def device_of(session: onnxruntime.InferenceSession) -> str:
    """Return the device of a network: "cuda" or "cpu"."""
    return "cuda" if CUDA in session.get_providers() else "cpu"


def _on_gpu(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network on CUDA; operators that the GPU lacks run on the CPU."""
    _load_libraries()
    # Disable ONNX Runtime's own fallback, which prints to stdout, into the records.
    return onnxruntime.InferenceSession(
        str(path), options, providers=[(CUDA, CUDA_OPTIONS), CPU], enable_fallback=False
    )


@functools.cache
def _load_libraries() -> None:
    """Load CUDA libraries installed by pip, if ONNX Runtime supports it (1.21 and later)."""
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints the libraries that it did not find
            onnxruntime.preload_dlls()
