"""The README's picture of the page: the example photos, and where the model saw a cup.

python docs/make_serve_picture.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parent.parent
PHOTOS = ("cat", "coffee", "rocket", "astronaut")
SIZE = {"width": 1200, "height": 840}


def main() -> None:
    command = [sys.executable, "cli.py", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as play:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        browser = play.chromium.launch(executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page.goto(address)
        page.set_input_files("#files", [ROOT / "examples" / f"{name}.jpg" for name in PHOTOS])
        expect(page.locator("#status")).to_have_text("4 photos tagged", timeout=60_000)
        page.get_by_role("button", name="cup").hover()
        page.wait_for_timeout(500)  # the map fades in
        page.screenshot(path=ROOT / "docs" / "serve.jpg", type="jpeg", quality=85)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
