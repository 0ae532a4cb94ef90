"""Fuzz one target after the other with atheris, which follows the code that each input reaches.

``python tests/fuzz/run.py 15`` takes 15 seconds for each target. An input that fails is left in the current folder, and
``python tests/fuzz/run.py 15 sidecars crash-...`` runs it again.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMES = ("sidecars", "images", "multipart", "queries")
BOUNDS = ("-rss_limit_mb=2048", "-timeout=10", "-max_len=4096", "-print_final_stats=1")


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which atheris ends."""
    import atheris

    logging.disable()  # parsers say of each input what is wrong with it
    with atheris.instrument_imports(include=["zsl_tagger", "PIL", "python_multipart", "starlette"]):
        from targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        inputs = [one for one in arguments if not one.startswith("-")] or [corpus]
        options = [one for one in arguments if one.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *inputs], target.run)
        atheris.Fuzz()


def main(seconds: str, *chosen: str) -> int:
    """Fuzz each target in a process of its own; return how many failed."""
    names = chosen[:1] or NAMES
    paths = [str(ROOT), str(ROOT / "tests" / "helpers"), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    failed = 0
    for name in names:
        print(f"== fuzzing {name} for {seconds} s", flush=True)
        command = [sys.executable, __file__, "--target", name, f"-max_total_time={seconds}", *BOUNDS, *chosen[1:]]
        failed += subprocess.run(command, env=environment, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "--target":
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main(*sys.argv[1:]))
