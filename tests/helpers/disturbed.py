"""Run the command with Ray in a process of its own, and interfere with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from paths import ROOT

#: Much more than is ever needed, so that a busy machine fails no test.
LIMIT = 600


def disturbed(
    arguments: list[object],
    begun: Callable[[], bool],
    interfere: Callable[[subprocess.Popen[str]], object],
    cluster: str = "",
) -> tuple[int, str]:
    """Run the command, on a cluster or with a Ray of its own, and interfere when it has begun.

    Returns:
        exit status and all that it printed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, arguments), "--engine", "ray"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "RAY_ADDRESS": cluster},
    )  # fmt: skip
    try:
        until(begun)
        interfere(process)
        printed = process.communicate(timeout=LIMIT)[0]
    finally:
        process.kill()
    return process.returncode, printed


def with_killed_workers(arguments: list[object], begun: Callable[[], bool]) -> tuple[int, str]:
    """Run the command on the Ray of this process, and kill all workers when it has begun."""
    import ray

    killed: list[int] = []

    def kill_all(_: subprocess.Popen[str]) -> None:
        killed.extend(below(os.getpid(), "ray::MapWorker"))
        for worker in killed:
            os.kill(worker, signal.SIGKILL)

    result = disturbed(arguments, begun, kill_all, ray.get_runtime_context().gcs_address)
    assert killed
    return result


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def below(process: int, name: str = "") -> list[int]:
    """Processes that a process started, and theirs, whose command line begins so."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()]
    family = {process}
    for _ in range(4):
        family |= {int(row[0]) for row in rows if int(row[1]) in family}
    return [int(row[0]) for row in rows if int(row[0]) in family - {process} and row[2].startswith(name)]
