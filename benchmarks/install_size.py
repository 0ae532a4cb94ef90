"""Measure the size of the wheel, and of the base install in an empty virtual environment.

python benchmarks/install_size.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.common import ROOT, write_result


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT], check=True
        )
        wheel = next(folder.glob("*.whl"))
        venv.create(folder / "env", with_pip=True)
        before = _bytes(folder / "env")
        subprocess.run([folder / "env" / "bin" / "pip", "install", "-q", wheel], check=True)
        write_result(
            "install_size",
            {
                "wheel_mb": round(wheel.stat().st_size / 1e6, 1),
                "base_install_mb": round((_bytes(folder / "env") - before) / 1e6, 1),
            },
        )


def _bytes(folder: Path) -> int:
    """Return disk use like ``du``, in blocks of 512 bytes."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


if __name__ == "__main__":
    main()
