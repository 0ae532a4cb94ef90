"""A browser for the tests of the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browsing import Visit
    from playwright.sync_api import Browser, Playwright


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    from playwright.sync_api import sync_playwright  # not of the base install

    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    from browsing import Visit

    visit = Visit(browser)
    yield visit
    for context in browser.contexts:
        context.close()
    own = {origin for origin in visit.origins if origin.startswith(("http://127.0.0.1:", "blob:http:"))}
    assert visit.origins == own
    assert not [text for text in visit.complaints if "willReadFrequently" not in text]  # of canvas_alpha
