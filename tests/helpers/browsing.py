"""Pages in a real browser, and how well their text can be read."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page

SOON = 30_000  # milliseconds, on a busy machine


class Visit:
    """Pages of one test: nothing may be asked of another origin, and nothing complain in the console."""

    def __init__(self, browser: Browser):
        self._browser, self.complaints, self.origins = browser, list[str](), set[str]()

    def __call__(self, address: tuple[str, int], path: str = "", **options: Any) -> Page:
        page = self._browser.new_context(**options).new_page()
        page.set_default_timeout(SOON)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.origins.add("/".join(request.url.split("/")[:3])))
        page.goto(f"http://127.0.0.1:{address[1]}/{path}")
        return page


CONTRAST = """() => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const behind = (one) => { for (; one; one = one.parentElement) {
        const colour = parts(getComputedStyle(one).backgroundColor); if (colour[3] !== 0) return colour; } };
    const worst = [];
    const texts = "h1, h3, p, label, legend, button, .button, summary, output, .tags span, input";
    for (const one of document.querySelectorAll(texts)) {
        if (!one.checkVisibility() || !(one.textContent || one.placeholder)) continue;
        const bar = one.parentElement.querySelector(":scope > .bar");
        const paper = parts(getComputedStyle(bar ?? one).backgroundColor);
        const pair = [parts(getComputedStyle(one).color), paper[3] === 0 ? behind(one) : paper].map(light);
        worst.push([(Math.max(...pair) + .05) / (Math.min(...pair) + .05), one.textContent]);
    }
    return worst.sort((x, y) => x[0] - y[0])[0];
}"""
