"""The picture of docs/search.md: the contact sheet of two searches of the example photos.

python docs/make_search_picture.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        environment = {**os.environ, "XDG_DATA_HOME": folder}
        sheet = Path(folder, "sheet.html")
        for command in (
            ["index", "examples"],
            ["search", "coffee cup", "sky -person", "--top", "4", "--html", str(sheet)],
        ):
            subprocess.run([sys.executable, "cli.py", *command], cwd=ROOT, env=environment, check=True)
        browser = play.chromium.launch(executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 660, "height": 400}, color_scheme="light")
        page.goto(sheet.as_uri())
        page.screenshot(path=ROOT / "docs" / "search.jpg", type="jpeg", quality=85, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
