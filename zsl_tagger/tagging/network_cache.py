"""Cache networks after ONNX Runtime has optimised them for this CPU, so that the next start is faster.

Optimising the packaged encoder takes longer than loading it. The optimised network is stored in the user's cache
folder, under a name derived from the source file, the version of ONNX Runtime and the CPU. Its weights are in a file of
their own, which ONNX Runtime maps into memory: that takes a third of the time of reading one file with everything. The
source file is identified by its path, size and times rather than its SHA-256, which would take half of the time saved.
Without a writable folder, there is no cache.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import onnxruntime

from zsl_tagger.system.files import FileIdentity
from zsl_tagger.tagging.external_data import has_external_data
from zsl_tagger.tagging.model_folder import ModelFolderError

logger = logging.getLogger(__name__)

#: Environment variable with the cache folder; empty: no cache.
CACHE_VARIABLE = "ZSL_TAGGER_CACHE"
#: Minimum size; smaller networks are optimised in a few milliseconds.
LEAST_BYTES = 3 * 2**20
#: Number of most recently used networks to keep.
KEPT = 8
#: Files of a copy, which is a folder.
NETWORK_FILE, WEIGHTS_FILE = "network.onnx", "weights.bin"
#: Setting of ONNX Runtime: the file for the weights of an optimised network, beside it.
WEIGHTS_IN = "session.optimized_model_external_initializers_file_name"


def open_on_processor(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network on the CPU.

    Raises:
        ModelFolderError: its weights are in another file.
        Exception: from ONNX Runtime, if it cannot be loaded.
    """
    refuse_external_data(path)
    return _open(path, options)


def refuse_external_data(path: Path) -> None:
    """Raise ModelFolderError if a network has its weights in another file, which could be any file of the user."""
    if has_external_data(path):
        raise ModelFolderError(
            f"{path} stores weights in another file, which is not opened: expected all weights in the .onnx file"
        )


def open_optimised(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network on the CPU: its optimised copy if there is one, otherwise the network itself, and store a copy.

    Scores are bit-identical: ONNX Runtime would apply the same optimisation in any case.

    Raises:
        ModelFolderError, Exception: see :func:`open_on_processor`; the network itself cannot be loaded.
    """
    copy = _place(path)
    if copy is None:
        return open_on_processor(path, options)
    if copy.exists():
        try:
            session = _open_copy(copy, options)
        except Exception as error:  # onnxruntime's own exception classes share no public base
            logger.debug("cannot load the optimised copy %s, creating it again: %s", copy, error)
            _delete(copy)
        else:
            with suppress(OSError):
                os.utime(copy)  # mark it as most recently used
            return session
    return _open_and_keep(path, copy, options)


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _open_copy(copy: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    level = options.graph_optimization_level
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return _open(copy / NETWORK_FILE, options)
    finally:
        options.graph_optimization_level = level


def _open_and_keep(path: Path, copy: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network and write the optimised copy to a temporary folder, then rename it."""
    try:
        folder = Path(tempfile.mkdtemp(suffix=".part", dir=copy.parent))
    except OSError as error:
        logger.debug("cannot keep an optimised copy of %s: %s", path, error)
        return open_on_processor(path, options)
    options.optimized_model_filepath = str(folder / NETWORK_FILE)
    options.add_session_config_entry(WEIGHTS_IN, WEIGHTS_FILE)
    try:
        session = open_on_processor(path, options)
        with suppress(OSError):  # another process was faster
            folder.rename(copy)
        _forget_old(copy.parent)
    except Exception as error:  # a full disk, or an error of the network itself, which is raised again below
        logger.debug("cannot keep an optimised copy of %s: %s", path, error)
        options.optimized_model_filepath = ""
        return open_on_processor(path, options)
    finally:
        options.optimized_model_filepath = ""
        _delete(folder)
    return session


def _forget_old(folder: Path) -> None:
    """Delete all but the most recently used copies, and what killed processes and older versions left."""
    with suppress(OSError):
        copies = sorted(folder.iterdir(), key=lambda copy: copy.stat().st_mtime, reverse=True)
        for old in copies[KEPT:]:
            _delete(old)


def _delete(copy: Path) -> None:
    """Delete a copy: a folder, or a file of an older version."""
    shutil.rmtree(copy, ignore_errors=True)
    with suppress(OSError):
        copy.unlink(missing_ok=True)


def _place(path: Path) -> Path | None:
    """Return the path of a network's optimised copy; None if it is not cached."""
    try:
        identity = FileIdentity.of(path)
        folder = _cache_folder() if identity.size >= LEAST_BYTES else None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        logger.debug("cannot keep an optimised copy of %s: %s", path, error)
        return None
    if folder is None:
        return None
    numbers = "-".join(f"{number:x}" for number in (*identity, zlib.crc32(_processor().encode())))
    return folder / f"{path.stem}-{numbers}-{onnxruntime.__version__}"


def _cache_folder() -> Path | None:
    """Return the cache folder, creating it if needed; None if others can write to it."""
    named = os.environ.get(CACHE_VARIABLE)
    if named == "":
        return None
    if named is None:
        import platformdirs  # here, since a folder that is named needs no looking up

        folder = platformdirs.user_cache_path("zsl-tagger", appauthor=False) / "networks"
    else:
        folder = Path(named) / "networks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        logger.debug("%s is not used: other users can write to it", folder)
        return None
    return folder


def _processor() -> str:
    """Return the CPU features that determine ONNX Runtime's choice of kernels."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
        return file.read(8192).partition("\n\n")[0].partition("flags")[2].partition("\n")[0]  # of the first core
    return f"{platform.machine()} {platform.processor()}"
