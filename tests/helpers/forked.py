"""Run functions in processes that have imported torch already: a test of a killed training need not wait for that.

The standard library's fork server imports once, in about 8 seconds; each process is a fork of it, in a session of its
own. Where torch is not needed, a process that is started as usual is as quick.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

import cli

#: Seconds; a process ends much sooner, but a test that hangs must not hang for ever.
LIMIT = 600


def run_forked(function: Callable[..., object], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call a module's function in another process and wait for its end."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        process = _context().Process(target=_call, args=(dict(os.environ), outputs, function, arguments))
        process.start()
        process.join(LIMIT)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            raise subprocess.TimeoutExpired(function.__name__, LIMIT)
        return subprocess.CompletedProcess(function.__name__, process.exitcode, *(path.read_text() for path in outputs))


def run_cli(*arguments: str) -> None:
    """Run ``zsl-tagger`` with these arguments and exit."""
    cli.app(list(arguments))


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "cli", "zsl_tagger.training.run"])
    return context


def _call(
    environment: dict[str, str],
    outputs: tuple[Path, Path],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # not that of this process, which its children would inherit
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(outputs, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    import torch

    torch.set_num_threads(1)  # as the tests do: sums of more threads differ in their last digits
    function(*arguments)
