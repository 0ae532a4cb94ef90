"""Keep networks as ONNX Runtime has optimised them for this processor, so that the next start need not do it again.

Optimising the packaged encoder takes longer than loading it does. The optimised network lies in the user's cache
folder, under a name that says of which file it was made, by which ONNX Runtime and for which processor; what differs in
any of them has another name. The file is told from others by its place on the disk, size and times, not by its SHA-256,
which would take half of the time that is won. Where no folder can be written to, networks are opened without a cache.
"""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import onnxruntime

logger = logging.getLogger(__name__)

#: Names the cache folder; empty: nothing is kept.
CACHE_VARIABLE = "ZSL_TAGGER_CACHE"
#: Smaller networks are optimised in a few milliseconds.
LEAST_BYTES = 4 * 2**20
#: The networks used last are kept, so many of them.
KEPT = 4


def open_on_processor(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network on the processor."""
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def open_optimised(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network on the processor: its optimised copy where there is one, else itself, and keep a copy.

    Scores are the same to the bit: the copy is what ONNX Runtime makes of the network in any case.

    Raises:
        Exception: those of ONNX Runtime, where the network itself cannot be loaded.
    """
    copy = _place(path)
    if copy is None:
        return open_on_processor(path, options)
    if copy.is_file():
        try:
            session = _open_copy(copy, options)
        except Exception as error:  # onnxruntime's own exception classes share no public base
            logger.debug("the optimised copy %s cannot be loaded and is made again: %s", copy, error)
        else:
            with suppress(OSError):
                os.utime(copy)  # it was used last
            return session
    return _open_and_keep(path, copy, options)


def _open_copy(copy: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    level = options.graph_optimization_level
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return open_on_processor(copy, options)
    finally:
        options.graph_optimization_level = level


def _open_and_keep(path: Path, copy: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a network and write the optimised copy beside its place, then move it there whole."""
    try:
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=copy.parent)
    except OSError as error:
        logger.debug("no optimised copy of %s is kept: %s", path, error)
        return open_on_processor(path, options)
    os.close(descriptor)
    options.optimized_model_filepath = name
    try:
        session = open_on_processor(path, options)
        Path(name).replace(copy)
        _forget_old(copy.parent)
    except Exception as error:  # of a full disk, or of the network itself, which is then raised below
        logger.debug("no optimised copy of %s is kept: %s", path, error)
        options.optimized_model_filepath = ""
        return open_on_processor(path, options)
    finally:
        options.optimized_model_filepath = ""
        Path(name).unlink(missing_ok=True)
    return session


def _forget_old(folder: Path) -> None:
    """Delete all but the copies used last."""
    with suppress(OSError):
        copies = sorted(folder.glob("*.onnx"), key=lambda copy: copy.stat().st_mtime, reverse=True)
        for old in copies[KEPT:]:
            old.unlink(missing_ok=True)


def _place(path: Path) -> Path | None:
    """Return where the optimised copy of a network belongs; None where none is kept."""
    try:
        file = path.stat()
        folder = _cache_folder() if file.st_size >= LEAST_BYTES else None
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        logger.debug("no optimised copy of %s is kept: %s", path, error)
        return None
    if folder is None:
        return None
    made_of = (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)
    numbers = "-".join(f"{number:x}" for number in (*made_of, zlib.crc32(_processor().encode())))
    return folder / f"{path.stem}-{numbers}-{onnxruntime.__version__}.onnx"


def _cache_folder() -> Path | None:
    """Return the folder of the copies, made where it is not there; None where others may write to it."""
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
        logger.debug("%s is not used: others may write to it", folder)
        return None
    return folder


def _processor() -> str:
    """Return what ONNX Runtime's choice of kernels hangs on."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
        return file.read(8192).partition("\n\n")[0].partition("flags")[2].partition("\n")[0]  # of the first core
    return f"{platform.machine()} {platform.processor()}"
