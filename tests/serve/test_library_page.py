"""The library in a real browser: 100 photos reviewed with the keyboard alone, and what a finger does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CONTRAST, SOON, Visit
from made_data import needs_tool
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from serving import listening

from zsl_tagger import Library, Tagger
from zsl_tagger.serve.limits import Limits
from zsl_tagger.sidecars import xmp
from zsl_tagger.tagging.taught import FOLDER_VARIABLE
from zsl_tagger.teach.marks import Marks
from zsl_tagger.teach.review import Review

pytestmark = [needs_tool("chromium"), pytest.mark.browser]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
A_PHOTO = 26  # crops of each example photo: 104 photos in all, of which 100 are shown at first


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """A folder with 104 ``photos`` and their ``index``."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "photos").mkdir()
    for path in sorted(examples.glob("*.jpg")):
        with Image.open(path) as image:
            side = min(image.size) * 2 // 3
            for number in range(A_PHOTO):
                left, top = number % 6 * (image.width - side) // 5, number // 6 * (image.height - side) // 4
                crop = image.crop((left, top, left + side, top + side))
                crop.resize((240, 240)).save(folder / "photos" / f"{path.stem} {number:02d}.jpg")
    with Library.open(folder / "index") as opened:
        opened.add(folder / "photos")
    return folder


@pytest.fixture
def folder(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, without anything marked, taught or written."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "taught"))
    yield library
    for left in (library / "photos").glob("*.xmp"):
        left.unlink()


def review_of(folder: Path, marks: Path) -> tuple[Tagger, Review]:
    opened = Library.open(folder / "index", workers=2)
    return opened.tagger, Review(opened, Marks(marks))


@pytest.fixture(autouse=True)  # so it is there before the pages are, and after
def address(folder: Path, tmp_path: Path) -> Iterator[tuple[str, int]]:
    tagger, review = review_of(folder, tmp_path / "marks")
    with listening(tagger, Limits(), review=review) as address:
        yield address


def searched(page: Page, query: str, tag: str = "") -> None:
    page.fill("#query", query)
    page.fill("#tag", tag)
    page.press("#tag", "Enter")
    expect(cards(page).first).to_be_focused(timeout=SOON)


def cards(page: Page) -> Locator:
    return page.locator(".card")


def label_of_focus(page: Page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label')"))


def sidecars(folder: Path) -> dict[str, list[str]]:
    """Return the keywords in each sidecar."""
    return {path.name[:-8]: xmp.owned_keywords(path.read_bytes()) for path in sorted((folder / "photos").glob("*.xmp"))}


def test_a_review_of_100_photos_with_the_keyboard_alone(
    visit: Visit, address: tuple[str, int], folder: Path, tmp_path: Path
) -> None:
    """Search, mark, teach, look at the preview, write and undo: no pointer, and nothing but the screen to go by."""
    page = visit(address, "library")
    keys = page.keyboard
    for _ in range(4):  # skip link, two links, search
        keys.press("Tab")
    expect(page.locator("#query")).to_be_focused()
    keys.type("cup")
    keys.press("Tab")
    keys.press("Tab")
    expect(page.locator("#tag")).to_be_focused()
    keys.type("our cup")
    keys.press("Enter")
    expect(cards(page)).to_have_count(100, timeout=SOON)
    expect(cards(page).first).to_be_focused()
    expected = {True: 0, False: 0}
    for _ in range(100):
        name = label_of_focus(page)
        is_cup = name.startswith("coffee")
        expected[is_cup] += 1
        keys.press("y" if is_cup else "n")
        page.wait_for_function("(name) => document.activeElement.ariaLabel !== name", arg=name)
    expect(cards(page)).to_have_count(104, timeout=SOON)  # the rest came when the last one was left
    expect(page.locator("#status")).to_contain_text(f"“our cup”: {expected[True]} yes, {expected[False]} no")
    keys.press("t")
    expect(page.locator("#news")).to_contain_text(f"was taught with {expected[True]} yes", timeout=2 * SOON)
    expect(cards(page).first).to_be_focused(timeout=SOON)
    assert label_of_focus(page).endswith(", yes")
    assert sidecars(folder) == {}
    keys.press("s")
    expect(page.locator("#write")).to_be_focused(timeout=SOON)
    expect(page.locator("#changes li")).to_have_count(expected[True])
    assert sidecars(folder) == {}
    keys.press("Escape")  # not yet
    expect(page.locator("#review")).to_be_hidden()
    expect(cards(page).first).to_be_focused()
    keys.press("s")
    expect(page.locator("#write")).to_be_focused(timeout=SOON)
    keys.press("Enter")
    expect(page.locator("#news")).to_contain_text(f"{expected[True]} sidecars written", timeout=SOON)
    marked = Marks(tmp_path / "marks").of("our cup")
    assert (list(marked.values()).count(True), len(marked)) == (expected[True], 100)
    assert sidecars(folder) == {f"coffee {number:02d}": ["our cup"] for number in range(A_PHOTO)}
    keys.press("Shift+Tab")
    expect(page.locator("#undo")).to_be_focused()
    keys.press("Enter")
    expect(page.locator("#news")).to_contain_text(f"{expected[True]} sidecars put back", timeout=SOON)
    expect(page.locator("#undo")).to_be_hidden()
    assert sidecars(folder) == {}


def test_keys_move_and_take_back(visit: Visit, address: tuple[str, int], folder: Path) -> None:
    page = visit(address, "library", viewport={"width": 1280, "height": 900})
    searched(page, "cup")
    names = [card.locator("h3").text_content() or "" for card in cards(page).all()[:20]]
    across = page.evaluate("getComputedStyle(document.getElementById('photos')).gridTemplateColumns.split(' ').length")
    for key, place in (
        ("j", 1), ("ArrowRight", 2), ("k", 1), ("ArrowLeft", 0), ("ArrowDown", across), ("ArrowUp", 0), ("k", 0),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert label_of_focus(page).startswith(f"{names[place]}, "), key
    page.keyboard.press("y")
    page.keyboard.press("k")
    assert label_of_focus(page).endswith(", yes")
    page.keyboard.press("u")
    assert label_of_focus(page).endswith(", not marked")
    page.keyboard.press("n")
    page.keyboard.press("k")
    assert label_of_focus(page).endswith(", no")
    page.keyboard.press("Control+y")  # is the browser's
    assert label_of_focus(page).endswith(", no")
    page.wait_for_load_state("networkidle")
    page.reload()
    page.get_by_role("button", name="cup", exact=True).click()  # below "Your tags"
    expect(cards(page).first).to_be_focused(timeout=SOON)
    assert label_of_focus(page) == f"{names[0]}, score {label_of_focus(page).split()[3]} no"
    expect(page.locator("#status")).to_contain_text("“cup”: 0 yes, 1 no")
    assert sidecars(folder) == {}


def test_one_photo_large(visit: Visit, address: tuple[str, int]) -> None:
    page = visit(address, "library")
    searched(page, "cup", "our cup")
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    expect(viewer).to_be_visible()
    expect(page.locator("#viewer-place")).to_contain_text("1 of 100+ · our cup")
    page.keyboard.press("y")
    expect(page.locator("#viewer-place")).to_contain_text("2 of 100+")
    viewer.get_by_role("button", name="Yes").click()
    viewer.get_by_role("button", name="Next photo").click()
    expect(page.locator("#viewer-place")).to_contain_text("4 of 100+")
    page.keyboard.press("k")
    page.keyboard.press("k")
    expect(viewer.get_by_role("button", name="Yes")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(cards(page).nth(1)).to_be_focused()
    expect(page.locator(".card.yes")).to_have_count(2)


def swipe(page: Page, by: int) -> None:
    """Push the large photo with a finger."""
    box = page.locator(".stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 6):
        point = {"x": x + by * step / 5, "y": y}
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_marks_too(visit: Visit, address: tuple[str, int]) -> None:
    page = visit(address, "library", **PHONE)
    searched(page, "cup", "our cup")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [one.bounding_box() for one in page.locator(".answers button:visible").all()[:8]]
    assert all(box is not None and box["height"] >= 44 and box["width"] >= 44 for box in boxes)
    cards(page).nth(0).get_by_role("button", name="Yes").tap()
    expect(cards(page).nth(0)).to_have_class("card yes")
    cards(page).nth(0).get_by_role("button", name="Yes").tap()
    expect(cards(page).nth(0)).to_have_class("card")
    cards(page).nth(0).locator(".photo").tap()
    expect(page.locator("#viewer-place")).to_contain_text("1 of 100+")
    swipe(page, 150)
    expect(page.locator("#viewer-place")).to_contain_text("2 of 100+")
    swipe(page, -150)
    expect(page.locator("#viewer-place")).to_contain_text("3 of 100+")
    swipe(page, 30)  # too little
    page.locator("#close").tap()
    expect(cards(page).nth(0)).to_have_class("card yes")
    expect(cards(page).nth(1)).to_have_class("card no")
    expect(cards(page).nth(2)).to_have_class("card")


def test_what_is_wrong_is_said(visit: Visit, address: tuple[str, int], folder: Path) -> None:
    page = visit(address, "library")
    problem = page.get_by_role("alert")
    page.fill("#query", "zebar")
    page.press("#query", "Enter")
    expect(problem).to_contain_text("unknown label 'zebar', did you mean")
    searched(page, "cup, table -dog")
    expect(problem).to_be_empty()
    page.keyboard.press("y")
    expect(problem).to_contain_text("which tag are they for?")
    expect(page.locator("#teach")).to_be_disabled()
    searched(page, "cup, table -dog", "our cup")
    page.keyboard.press("y")
    page.click("#teach")
    expect(problem).to_contain_text("expected at least 3 different photos of 'our cup'")
    expect(page.locator("#status")).to_contain_text("“our cup”: 1 yes, 0 no")
    hidden = folder / "photos" / "coffee 00.jpg"
    shutil.move(hidden, folder / "away.jpg")
    try:
        searched(page, "cup", "our cup")
        gone = page.locator(".card.failed")
        expect(gone.locator(".state")).to_contain_text("the photo was deleted or changed since it was indexed")
    finally:
        shutil.move(folder / "away.jpg", hidden)
    visit.complaints = [text for text in visit.complaints if "422" not in text and "410" not in text]


def test_marks_that_cannot_be_saved_are_not_lost(visit: Visit, address: tuple[str, int], tmp_path: Path) -> None:
    page = visit(address, "library")
    searched(page, "cup", "our cup")
    page.route("**/marks", lambda route: route.abort())
    page.keyboard.press("y")
    expect(page.get_by_role("alert")).to_contain_text("1 mark is not saved: the server cannot be reached")
    page.unroute("**/marks")
    page.keyboard.press("n")  # sends both
    expect(page.locator("#news")).to_contain_text("no: ")
    page.wait_for_timeout(1000)
    assert sorted(map(str, Marks(tmp_path / "marks").of("our cup").values())) == ["False", "True"]
    visit.complaints = [text for text in visit.complaints if "ERR_FAILED" not in text]


def test_the_token_comes_with_the_address_or_is_typed(visit: Visit, folder: Path, tmp_path: Path) -> None:
    tagger, review = review_of(folder, tmp_path / "marks")
    with listening(tagger, Limits(), review=review, token="secret") as address:
        page = visit(address, "library#token=secret")
        expect(page.locator("#promise")).to_contain_text("104 photos")
        assert page.url.endswith("/library")
        searched(page, "cup", "our cup")
        expect(cards(page).first.locator("img")).to_have_js_property("complete", True)
        other = visit(address, "library")
        expect(other.locator("#door")).to_be_visible()
        expect(other.get_by_role("alert")).to_contain_text("expected the token")
        other.fill("#token", "secret")
        other.press("#token", "Enter")
        expect(other.locator("#promise")).to_contain_text("104 photos")
        expect(other.locator("#door")).to_be_hidden()
        page.context.close()
        other.context.close()
    visit.complaints = [text for text in visit.complaints if "401" not in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(visit: Visit, address: tuple[str, int], scheme: Any) -> None:
    """WCAG 2: contrast of text at least 4.5."""
    page = visit(address, "library", color_scheme=scheme)
    searched(page, "cup", "our cup")
    page.keyboard.press("y")
    page.keyboard.press("n")
    expect(page.locator(".card.no")).to_have_count(1)
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, text
    page.keyboard.press("s")
    expect(page.locator("#review")).to_be_visible()
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, text


def test_a_screen_reader(visit: Visit, address: tuple[str, int]) -> None:
    page = visit(address, "library")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    searched(page, "cup", "our cup")
    for role, name in {
        "textbox": "Search", "combobox": "Tag to review", "checkbox": "not marked yet", "navigation": "Pages",
        "link": "Tag photos", "button": "Yes", "list": "",
    }.items():  # fmt: skip
        expect(page.get_by_role(role, name=name).first).to_be_attached()  # type: ignore[arg-type]
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="coffee")).to_be_visible()
    page.keyboard.press("Escape")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, dialog, img")].filter((one) =>
            !(one.textContent || one.ariaLabel || one.alt || one.labels?.[0]?.textContent || one.alt === "")
        ).map((one) => one.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("width", [320, 360, 390])
@pytest.mark.parametrize("path", ["", "library"])
def test_the_navigation_of_a_phone_breaks_between_words(
    visit: Visit, address: tuple[str, int], path: str, width: int
) -> None:
    page = visit(address, path, **{**PHONE, "viewport": {"width": width, "height": 844}})
    expect(page.get_by_role("link", name="Library")).to_be_visible()
    lines = page.evaluate(
        """() => [...document.querySelectorAll("nav a")].map((link) => {
            const text = document.createRange();
            text.selectNodeContents(link);
            return [link.textContent, new Set([...text.getClientRects()].map(({ top }) => Math.round(top))).size];
        })"""
    )
    assert lines == [["Tag photos", 1], ["Library", 1]]
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_two_pages_lead_to_each_other(visit: Visit, address: tuple[str, int]) -> None:
    page = visit(address)
    page.get_by_role("link", name="Library").click()
    expect(page.locator("#promise")).to_contain_text("104 photos")
    page.get_by_role("link", name="Tag photos").click()
    expect(page.locator("#drop")).to_be_visible()
