"""The picture of docs/serve.md: parts of the example photos in the library, some of them marked.

python docs/make_review_picture.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parent.parent
SIZE = {"width": 1200, "height": 860}
PARTS = 6  # of each photo


def write_parts(folder: Path) -> None:
    for path in (ROOT / "examples").glob("*.jpg"):
        with Image.open(path) as image:
            width, height = image.width * 2 // 3, image.height * 2 // 3
            for number in range(PARTS):
                left, top = number % 3 * (image.width - width) // 2, number // 3 * (image.height - height)
                image.crop((left, top, left + width, top + height)).save(folder / f"{path.stem}-{number}.jpg")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        environment = {**os.environ, "XDG_DATA_HOME": folder, "ZSL_TAGGER_TAUGHT": f"{folder}/taught"}
        photos, index = Path(folder, "photos"), str(Path(folder, "index"))
        photos.mkdir()
        write_parts(photos)
        subprocess.run(
            [sys.executable, "cli.py", "index", str(photos), "--index", index], cwd=ROOT, env=environment, check=True
        )
        command = [sys.executable, "cli.py", "serve", "--port", "0", "--library", index]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            server.stdout.readline()
            address = server.stdout.readline().split()[0]
            browser = play.chromium.launch(
                executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox"]
            )
            page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
            page.goto(address)
            page.fill("#query", "cup")
            page.fill("#tag", "our cup")
            page.press("#tag", "Enter")
            expect(page.locator(".card").first).to_be_focused(timeout=60_000)
            page.keyboard.type("yyyyyynn")
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(1500)  # the photos come one by one
            page.screenshot(path=ROOT / "docs" / "review.jpg", type="jpeg", quality=80)
            browser.close()
            server.terminate()


if __name__ == "__main__":
    main()
