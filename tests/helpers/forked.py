"""Start processes that have imported the project and torch already: a test of a kill need not wait for the imports.

The standard library's fork server imports once; each process is a fork of it, in a session of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

import cli

#: Seconds; a process ends much sooner, but a test that hangs must not hang for ever.
LIMIT = 600

PRELOADED = [
    "pytest", "cli", "data_prep.folders", "zsl_tagger.bulk.run", "zsl_tagger.search.library", "zsl_tagger.training.run",
]  # fmt: skip


class Forked:
    """A process that calls a function of a module; the methods are those of ``subprocess.Popen``.

    Args:
        folder: where it runs.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self._printed = Path(tempfile.mkdtemp(prefix="forked"))
        self._texts = ("", "")
        place = (folder or Path.cwd(), {**os.environ, **(environment or {})}, self._printed)
        self._process = _context().Process(target=_call, args=(*place, function, arguments))
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = LIMIT) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        if self._printed.exists():
            out, err = ((self._printed / name) for name in ("stdout", "stderr"))
            self._texts = (out.read_text() if out.exists() else "", err.read_text() if err.exists() else "")
            shutil.rmtree(self._printed)
        return status

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        """Wait for its end; what it printed on stdout and on stderr."""
        self.wait(timeout)
        return self._texts


def forked_command(*arguments: object, folder: Path | None = None) -> Forked:
    """Start ``zsl-tagger`` with these arguments."""
    return Forked(run_cli, *map(str, arguments), folder=folder)


def run_cli(*arguments: str) -> None:
    cli.app(list(arguments))


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _call(
    folder: Path,
    environment: dict[str, str],
    printed: Path,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # not that of this process, which its children would inherit
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        with (printed / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    import torch

    torch.set_num_threads(1)  # as the tests do: sums of more threads differ in their last digits
    function(*arguments)
