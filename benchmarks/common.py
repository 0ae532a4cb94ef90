"""Write the result file of a benchmark: figures, command, machine, date and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def write_result(name: str, figures: dict[str, Any]) -> None:
    """Print the figures and write ``results/<name>.json``."""
    result = {
        "figures": figures,
        "command": _command(),
        "machine": machine(),
        "date": str(date.today()),
        "commit": _commit(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


def timed(command: list[str]) -> tuple[float, int]:
    """Return the seconds of a process from its start to its end, and its peak memory in MB."""
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, dict(os.environ, PYTHONPATH=str(ROOT)))
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return round(time.perf_counter() - start, 1), round(usage.ru_maxrss / 1000)


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _command() -> str:
    """Return the command as typed, with folders outside the repository shortened to their names."""
    words = ["-m", f"benchmarks.{Path(sys.argv[0]).stem}"]
    words += [f".../{Path(word).name}" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python", *words])


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!*.md") else ""
    return git("rev-parse", "--short", "HEAD") + changed
