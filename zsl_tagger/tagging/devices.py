"""Open ONNX networks on the processor, or on an NVIDIA GPU where the installed ONNX Runtime has it."""

from __future__ import annotations

import functools
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import get_args

import onnxruntime

from zsl_tagger import choices
from zsl_tagger.errors import UserError, first_line
from zsl_tagger.tagging.network_cache import open_on_processor, open_optimised

DEVICES = get_args(choices.Device)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

#: Without TensorFloat-32, which keeps 10 bits of a number: scores are then those of the processor but for rounding.
CUDA_OPTIONS = {"use_tf32": "0"}

INSTALL = 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'


def create_session(
    path: Path, options: onnxruntime.SessionOptions, device: str, keep: bool = False
) -> onnxruntime.InferenceSession:
    """Return a network on a device of ``DEVICES``; "auto" is the GPU where it works, else the processor.

    Args:
        keep: on the processor, keep the optimised network for the next start (:mod:`.network_cache`).

    Raises:
        UserError: there is no such device, or it does not work here.
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
    """Return where a network runs: "cuda" or "cpu"."""
    return "cuda" if CUDA in session.get_providers() else "cpu"


def _on_gpu(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Return a network that asks for CUDA; what the GPU cannot compute runs on the processor."""
    _load_libraries()
    # No fallback of ONNX Runtime's own: it prints to stdout, among the records.
    return onnxruntime.InferenceSession(
        str(path), options, providers=[(CUDA, CUDA_OPTIONS), CPU], enable_fallback=False
    )


@functools.cache
def _load_libraries() -> None:
    """Load the CUDA libraries that came by pip, where ONNX Runtime knows how (1.21 and later)."""
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it did not find
            onnxruntime.preload_dlls()
