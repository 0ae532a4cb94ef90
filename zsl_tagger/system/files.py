"""Write files atomically, and lock folders so that only one run writes to them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
    """Write a file atomically. A symbolic link at ``path`` is replaced, not followed.

    Args:
        content: bytes, or a function that writes into the open file.
        to_disk: flush it to disk, so that it is complete even after a power cut.
        like: status of the file it replaces; the new file gets its mode and owner where the system allows it.

    Raises:
        UserError: it cannot be written (e.g. the disk is full); the previous file is kept.
    """
    # An unguessable name, created exclusively, cannot be a link from an archive. It is short enough to fit wherever
    # `path` fits.
    temporary = path.with_name(f".{os.urandom(8).hex()}{TEMPORARY}")
    with write_errors(path):
        try:
            with temporary.open("xb") as file:
                if like is not None:  # before writing, so that nobody else can read it in between
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
    """Open a file like :func:`open`, but refuse symbolic links.

    Raises:
        OSError: it is a link or cannot be opened.
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
    """Delete temporary files of killed runs; call it only if no other run can be writing."""
    with write_errors(folder):
        for leftover in folder.glob(f".*{TEMPORARY}"):
            if leftover.is_symlink() or leftover.is_file():
                leftover.unlink()


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    import hashlib  # imported here because it takes 5 ms

    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class FileIdentity(NamedTuple):
    """Numbers of which at least one changes whenever a file is changed or replaced."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Return the identity of a file.

        Raises:
            OSError: the file cannot be found.
        """
        file = path.stat()
        return cls(file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)


@contextlib.contextmanager
def scratch_inside(folder: Path) -> Iterator[Path]:
    """Create a temporary folder inside ``folder`` to write files for :func:`move_whole`; it is deleted at the end."""
    scratch = folder / TEMPORARY
    with write_errors(scratch):
        finish_move(folder)
        _remove(scratch)  # left by a killed run
        scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move_whole(scratch: Path, folder: Path) -> None:
    """Move all files of a folder on the same disk into another, replacing existing ones: all or none.

    All files are flushed to disk first, then the scratch folder is renamed to ``folder/.moving``. If the process is
    killed after that, :func:`finish_move` moves the rest; until then that folder shows readers that files are missing.
    """
    with write_errors(folder):
        for path in _files_in(scratch):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        scratch.replace(folder / MOVING)
        finish_move(folder)


def finish_move(folder: Path) -> None:
    """Finish a :func:`move_whole` that was killed.

    Raises:
        OSError: a file cannot be moved.
    """
    if is_half_moved(folder):
        for path in _files_in(folder / MOVING):
            path.replace(folder / path.name)
        shutil.rmtree(folder / MOVING)


def is_half_moved(folder: Path) -> bool:
    """Return whether a :func:`move_whole` into a folder is unfinished."""
    moving = folder / MOVING
    return moving.is_dir() and not moving.is_symlink()


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def json_bytes(content: Any) -> bytes:
    """Return JSON as UTF-8, or as escaped ASCII if a file name is not valid UTF-8, so that it reads back unchanged."""
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
    """Turn an OSError while writing into a UserError that says what is left on disk."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. No half-written file was left; "
            "fix that, then run the same command again to continue where it stopped"
        ) from None


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder and rename it to ``path`` on success; on failure, delete it.

    Args:
        path: final place, which must be free or an empty folder.

    Raises:
        UserError: something exists there, or it cannot be written.
    """
    check_free(path)
    path = path.resolve()
    temporary = _hidden_path(path, TEMPORARY)
    with write_errors(path):
        _remove(temporary)  # left by a killed run
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.is_dir():
                path.rmdir()  # not every system replaces an empty folder on rename
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _remove(path: Path) -> None:
    """Delete a folder and its content, or a link to one, if it exists."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _hidden_path(path: Path, ending: str) -> Path:
    """Return a hidden path next to ``path``, within the length limit of file systems (255 bytes)."""
    import hashlib

    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > 255:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{ending}"
    return path.with_name(name)


def check_free(path: Path) -> None:
    """Raise a UserError if ``path`` exists and is not an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} already exists: give a new or empty folder")


_locks_held: set[int] = set()  # descriptors of locks that this process holds


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, if the system supports locks; the lock ends with the process.

    Temporary files of killed runs are deleted.

    Raises:
        UserError: another process holds the lock.
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
    """Lock a file, which need not exist, like :func:`locked` locks a folder.

    The lock is held on an empty file ``.NAME.lock`` next to it, so that the file itself can be replaced. The lock file
    is removed afterwards; one left by a killed process does no harm.

    Raises:
        UserError: another process holds the lock.
        OSError: the lock file cannot be created in this folder.
    """
    if fcntl is None:
        yield
        return
    lock_path = _hidden_path(path, ".lock")
    while True:
        with _opened(lock_path, os.O_RDWR | os.O_CREAT, _open_no_link) as lock:
            _claim(lock, f"{path}: another run is writing to it: wait for it, or give another file")
            if not _is_at(lock, lock_path):  # the previous holder removed it after we opened it
                continue
            try:
                yield
            finally:
                lock_path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _claim(lock: int, refusal: str) -> bool:
    """Take a lock; return False on a file system without locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(refusal) from None
    except OSError:
        return False
    return True


@contextlib.contextmanager
def waited_lock(path: Path) -> Iterator[None]:
    """Lock ``path`` to protect the files next to it, waiting for any other holder; ``path`` itself is not changed.

    Without locks in the system, or if ``path`` cannot be opened, nothing is locked.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(stack.enter_context(_opened(path)), fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY, open_file: Callable[..., int] = os.open) -> Iterator[int]:
    """Yield the file descriptor of ``path`` for locking."""
    lock = open_file(path, flags | os.O_NONBLOCK)  # opening a pipe would block until it has a writer
    _locks_held.add(lock)
    try:
        yield lock
    finally:
        if lock in _locks_held:  # a forked child has already released it
            _locks_held.discard(lock)
            os.close(lock)


def _release_in_child() -> None:
    """Release the locks in a forked worker, which would hold them for seconds after its parent was killed."""
    for lock in _locks_held:
        os.close(lock)
    _locks_held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def content_of(path: str) -> str | None:
    """Return the SHA-256 of a file's content, or None; taken before decoding so that a later change is noticed."""
    try:
        return sha256_of(Path(path)) if os.path.isfile(path) else None  # noqa: PTH113 (a null character is no error)
    except OSError:  # the image reader reports it
        return None
