"""Files that are whole or not there, and folders that one run at a time writes to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from zsl_tagger.errors import UserError

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".writing"


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], Any], to_disk: bool = True) -> None:
    """Write a file; it appears under its name when it is whole.

    Args:
        content: bytes, or a function that writes into the open file.
        to_disk: wait until the disk has it, so that it is whole even after a power cut.

    Raises:
        UserError: it cannot be written (a full disk); what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with write_errors(path):
        try:
            with temporary.open("wb") as file:
                _ = file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                if to_disk:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    import hashlib  # 5 ms that a start without it need not pay

    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def scratch_inside(folder: Path) -> Iterator[Path]:
    """An empty folder inside another one, to write what :func:`move_whole` then moves there; gone at the end."""
    scratch = folder / TEMPORARY
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed run
    with write_errors(scratch):
        scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move_whole(scratch: Path, folder: Path, last: str = "") -> None:
    """Move every file of a folder on the same disk into another, where each replaces what was there, and is whole.

    Args:
        last: the name of a file that comes last.
    """
    files = sorted((path for path in scratch.iterdir() if path.is_file()), key=lambda path: (path.name == last, path))
    with write_errors(folder):
        for path in files:  # first all to the disk: nothing is replaced where that fails
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        for path in files:
            path.replace(folder / path.name)


def json_bytes(content: Any) -> bytes:
    """JSON as UTF-8; where a file name is not, in ASCII with escapes, which reads back as the same name."""
    try:
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(content, indent=1) + "\n").encode()


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Nothing half-written was left; "
            "when that is put right, the same command goes on where it stopped"
        ) from None


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which takes its name when all is written, and leaves nothing where that fails.

    Args:
        path: where it shall be; nothing, or an empty folder.

    Raises:
        UserError: something is there already, or it cannot be written.
    """
    check_free(path)
    path = path.resolve()
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with write_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.is_dir():
                path.rmdir()  # not every system replaces an empty folder
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_free(path: Path) -> None:
    """Raise a UserError where something is at ``path``, other than an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is there already: give a folder that is new or empty")


_held: set[int] = set()  # locks of this process


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process meanwhile, where the system can; the lock goes when the process dies.

    Raises:
        UserError: another process has it.
    """
    if fcntl is None:
        yield
        return
    with _opened(folder) as lock:
        _claim(lock, f"{folder}: another run is writing here: wait for it, or give another folder")
        yield


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Keep a file, there or not, to this process meanwhile, as :func:`locked` does a folder.

    What is locked is an empty file ``.NAME.lock`` beside it, so that the file itself may be replaced. It goes with the
    lock; one that a killed process left is of no importance.

    Raises:
        UserError: another process has it.
        OSError: the lock cannot be made in this folder.
    """
    if fcntl is None:
        yield
        return
    beside = path.with_name(f".{path.name}.lock")
    while True:
        with _opened(beside, os.O_RDWR | os.O_CREAT) as lock:
            _claim(lock, f"{path}: another run is writing to it: wait for it, or give another file")
            if not _is_at(lock, beside):  # its last holder removed it after it was opened here
                continue
            try:
                yield
            finally:
                beside.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _claim(lock: int, refusal: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(refusal) from None
    except OSError:  # a file system without locks
        pass


@contextlib.contextmanager
def waited_lock(path: Path) -> Iterator[None]:
    """Keep other runs from the files beside ``path`` meanwhile: wait for the one that has it. ``path`` stays as it is.

    Where the system cannot, or ``path`` cannot be opened, nothing is kept.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(stack.enter_context(_opened(path)), fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Its file descriptor, for a lock."""
    lock = os.open(path, flags | os.O_NONBLOCK, 0o666)  # opening a pipe would wait for its writer
    _held.add(lock)
    try:
        yield lock
    finally:
        if lock in _held:  # a forked child has let go already
            _held.discard(lock)
            os.close(lock)


def _let_go_in_child() -> None:
    """A forked worker would keep its parent's lock for some seconds after the parent was killed."""
    for lock in _held:
        os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def content_of(path: str) -> str | None:
    """Return the SHA-256 of a file's content, taken before it is decoded so that a later change is noticed."""
    try:
        return sha256_of(Path(path)) if os.path.isfile(path) else None  # noqa: PTH113 (a null character is no error)
    except OSError:  # the image reader reports it
        return None
