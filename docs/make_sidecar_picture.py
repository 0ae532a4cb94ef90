"""The README's picture of a sidecar: a run on the coffee photo, whose sidecar has the user's own words already.

python docs/make_sidecar_picture.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).parent.parent
OF_USER = ("-XMP-dc:Subject=Lisbon", "-XMP-dc:Subject=holiday", "-XMP:Rating=4")
READ = "exiftool -S -Rating -Subject -HierarchicalSubject coffee.jpg.xmp"
TAG = "zsl-tagger tag coffee.jpg --sidecar xmp"
TYPED = (READ, f"{TAG} --dry-run", TAG, READ, f"{TAG} --remove", READ)
WIDTH, TEXT, LINE, PAD = 520, 700, 22, 18
COLUMNS = 72
COLOURS = {"$": "#ffffff", "+": "#7ee787", "-": "#ff9b8e"}


def main() -> None:
    lines = session()
    height = 2 * PAD + LINE * len(lines)
    picture = Image.new("RGB", (WIDTH + TEXT, height), "#14181f")
    with Image.open(ROOT / "examples" / "coffee.jpg") as photo:
        picture.paste(ImageOps.fit(photo, (WIDTH, height), centering=(0.25, 0.5)))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"), 15)
    for row, line in enumerate(lines):
        colour = COLOURS.get(line.strip()[:1], "#b8c0cc")
        draw.text((WIDTH + PAD, PAD + row * LINE), line, fill=colour, font=font)
    picture.save(ROOT / "docs" / "sidecars.jpg", quality=88)


def session() -> list[str]:
    """Return the commands and their output, without the tags that the run prints."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(ROOT / "examples" / "coffee.jpg", name)
        subprocess.run(["exiftool", "-q", *OF_USER, "coffee.jpg.xmp"], cwd=name, check=True)
        for typed in TYPED:
            command = typed.replace("zsl-tagger", f"{sys.executable} -m cli").split()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            result = subprocess.run(command, cwd=name, check=True, capture_output=True, text=True, env=environment)
            out = result.stderr if typed == TAG else result.stdout
            lines += [
                f"$ {typed}",
                *(
                    part
                    for line in out.rstrip().splitlines()
                    for part in textwrap.wrap(line, COLUMNS, subsequent_indent="  ")
                ),
                "",
            ]
    return lines[:-1]


if __name__ == "__main__":
    main()
