"""Files that are whole or not there, and folders that one run at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from zsl_tagger.errors import UserError

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".writing"
MOVING = ".moving"


def write_whole(
    path: Path, content: bytes | Callable[[BinaryIO], Any], to_disk: bool = True, like: os.stat_result | None = None
) -> None:
    """Write a file; it appears under its name when it is whole. A link of that name is replaced, not followed.

    Args:
        content: bytes, or a function that writes into the open file.
        to_disk: wait until the disk has it, so that it is whole even after a power cut.
        like: status of the file it replaces, whose mode and owner it gets, as far as the system allows.

    Raises:
        UserError: it cannot be written (a full disk); what was there before is still there.
    """
    # A name that nobody can guess, created exclusively: no link that an archive brought is there. It is short, so that
    # it fits where `path` does.
    temporary = path.with_name(f".{os.urandom(8).hex()}{TEMPORARY}")
    with write_errors(path):
        try:
            with temporary.open("xb") as file:
                if like is not None:  # first, so that nobody reads in between what is not for them
                    _make_like(file, like)
                _ = file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                if to_disk:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _make_like(file: BinaryIO, status: os.stat_result) -> None:
    if hasattr(os, "fchown"):
        with contextlib.suppress(OSError):
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))


def open_unlinked(path: Path, mode: str, **options: Any) -> Any:
    """Open a file in place, as :func:`open` does, but refuse a symbolic link of that name.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    return open(path, mode, opener=_open_no_link, **options)


def _open_no_link(path: str | Path, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path} is a symbolic link, which could lead anywhere: delete it") from None
        raise


def folder_inside(root: Path, relative: str | Path) -> Path:
    """Create a folder below ``root`` and return it.

    Raises:
        UserError: it cannot be created, or a symbolic link in ``root`` leads out of it.
    """
    folder = root / relative
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"cannot write {folder}: a symbolic link leads out of {root}: delete it")
    return folder


def remove_leftovers(folder: Path) -> None:
    """Delete unfinished files of killed runs; only where no other run can be writing."""
    with write_errors(folder):
        for leftover in folder.glob(f".*{TEMPORARY}"):
            if leftover.is_symlink() or leftover.is_file():
                leftover.unlink()


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
    """Make an empty folder inside another one, to write what :func:`move_whole` then moves there; gone at the end."""
    scratch = folder / TEMPORARY
    with write_errors(scratch):
        finish_move(folder)
        _remove(scratch)  # of a killed run
        scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move_whole(scratch: Path, folder: Path) -> None:
    """Move every file of a folder on the same disk into another, where each replaces what was there: all or none.

    All are written to the disk first, and then the scratch folder becomes ``folder/.moving``. If the process is killed
    after that, :func:`finish_move` moves the rest; until then a reader can see by that folder that files are missing.
    """
    with write_errors(folder):
        for path in _files_in(scratch):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        scratch.replace(folder / MOVING)
        finish_move(folder)


def finish_move(folder: Path) -> None:
    """Move what a :func:`move_whole` into a folder has not moved yet, if one was killed.

    Raises:
        OSError: a file cannot be moved.
    """
    if is_half_moved(folder):
        for path in _files_in(folder / MOVING):
            path.replace(folder / path.name)
        shutil.rmtree(folder / MOVING)


def is_half_moved(folder: Path) -> bool:
    """Return whether a :func:`move_whole` into a folder was killed, or is at work."""
    moving = folder / MOVING
    return moving.is_dir() and not moving.is_symlink()


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def json_bytes(content: Any) -> bytes:
    """JSON as UTF-8; where a file name is not, in ASCII with escapes, which reads back as the same name."""
    try:
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(content, indent=1) + "\n").encode()


def parse_json(content: str | bytes) -> Any:
    """Return the content of a JSON text.

    Raises:
        ValueError: it is not JSON, or it is nested too deeply to be read.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an error of writing a file into one line that says what is left."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Nothing half-written was left; "
            "when that is put right, the same command goes on where it stopped"
        ) from None


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder to write to, which takes its name when all is written, and leaves nothing where that fails.

    Args:
        path: where it shall be; nothing, or an empty folder.

    Raises:
        UserError: something is there already, or it cannot be written.
    """
    check_free(path)
    path = path.resolve()
    temporary = _beside(path, TEMPORARY)
    with write_errors(path):
        _remove(temporary)  # of a run that was killed
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.is_dir():
                path.rmdir()  # not every system replaces an empty folder
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _remove(path: Path) -> None:
    """Delete a folder with all that is in it, or a link to one, if it is there."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    """Return a hidden name for what belongs to ``path``, as long as disks allow (255 bytes)."""
    import hashlib

    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > 255:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{ending}"
    return path.with_name(name)


def check_free(path: Path) -> None:
    """Raise a UserError where something is at ``path``, other than an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is there already: give a folder that is new or empty")


_held: set[int] = set()  # locks of this process


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process meanwhile, where the system can; the lock goes when the process dies.

    Unfinished files of killed runs are deleted.

    Raises:
        UserError: another process has it.
    """
    if fcntl is None:
        yield
        return
    with _opened(folder) as lock:
        if _claim(lock, f"{folder}: another run is writing here: wait for it, or give another folder"):
            remove_leftovers(folder)
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
    beside = _beside(path, ".lock")
    while True:
        with _opened(beside, os.O_RDWR | os.O_CREAT, _open_no_link) as lock:
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
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _claim(lock: int, refusal: str) -> bool:
    """Take a lock; False on a file system without locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(refusal) from None
    except OSError:
        return False
    return True


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
def _opened(path: Path, flags: int = os.O_RDONLY, open_file: Callable[..., int] = os.open) -> Iterator[int]:
    """Its file descriptor, for a lock."""
    lock = open_file(path, flags | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    _held.add(lock)
    try:
        yield lock
    finally:
        if lock in _held:  # a forked child has let go already
            _held.discard(lock)
            os.close(lock)


def _let_go_in_child() -> None:
    """Let go of the locks in a forked worker, which would keep them for some seconds after its parent was killed."""
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
