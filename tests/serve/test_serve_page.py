"""Test the tagging page in a browser, with mouse, keyboard and touch screen."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import CONTRAST, SOON, Visit
from made_data import needs_tool, run_command
from paths import ROOT
from playwright.sync_api import Page, expect
from serving import HeldTagger, listening, metric, picture, until

from zsl_tagger.serve.limits import Limits
from zsl_tagger.tagging.tagger import Tagger

pytestmark = [needs_tool("chromium"), pytest.mark.browser]

PHOTOS = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "rocket.jpg")


@pytest.fixture(scope="module")
def two_workers() -> Tagger:
    return Tagger(workers=2)


@pytest.fixture(scope="module")
def address(two_workers: Tagger) -> Iterator[tuple[str, int]]:
    with listening(two_workers, Limits(photo_bytes=1_000_000)) as address:
        yield address


def paths(examples: Path, *names: str) -> list[str]:
    return [str(examples / name) for name in names]


def finished(page: Page, text: str) -> None:
    expect(page.locator("#status")).to_have_text(text, timeout=SOON)


def shown(page: Page, photo: int) -> list[tuple[str, float]]:
    """Return (label, score) of the tags shown under a photo."""
    rows = page.locator(".card").nth(photo).locator(".tags li:not(.more)")
    texts = [row.locator("span:not(.bar)").all_text_contents() for row in rows.all() if row.is_visible()]
    return [(label, float(score)) for label, score in texts]


def test_chosen_photos_show_the_tags_that_the_command_prints(
    visit: Visit, address: tuple[str, int], examples: Path, tagger: Tagger
) -> None:
    page = visit(address)
    page.set_input_files("#files", paths(examples, *PHOTOS))
    finished(page, "4 photos tagged")
    for place, name in enumerate(PHOTOS):
        expected = [(tag.label, float(f"{tag.score:.2f}")) for tag in tagger.tag(examples / name)]
        assert shown(page, place) == [(label, pytest.approx(score, abs=0.011)) for label, score in expected[:8]]
        more = page.locator(".card").nth(place).locator(".more")
        if len(expected) > 8:
            expect(more).to_have_text(f"{len(expected) - 8} more")
            more.locator("button").click()
            assert len(shown(page, place)) == len(expected)
    cat = page.locator(".card").nth(1)
    assert cat.locator("img").get_attribute("alt") == "cat.jpg"
    widths = [bar.bounding_box()["width"] for bar in cat.locator(".bar").all()]  # type: ignore[index]
    scores = [score for _, score in shown(page, 1)]
    assert np.array(widths) / widths[0] == pytest.approx(np.array(scores) / scores[0], abs=0.02)


def test_new_words_send_requests_and_the_slider_sends_none(
    visit: Visit, address: tuple[str, int], examples: Path
) -> None:
    page = visit(address)
    page.set_input_files("#files", paths(examples, "cat.jpg"))
    finished(page, "1 photo tagged")
    page.fill("#labels", "dog, cat,red saucer")
    page.press("#labels", "Enter")
    expect(page.locator(".tags li")).to_have_count(1)
    assert shown(page, 0) == [("cat", 0.98)]
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.locator("#threshold").fill("0")
    expect(page.locator(".tags li")).to_have_count(3)
    expect(page.locator("#own")).not_to_be_checked()
    expect(page.locator("#threshold-value")).to_have_text("0.00")
    page.locator("#threshold").fill("100")
    expect(page.locator(".state")).to_have_text("no tag reaches its minimum score")
    page.check("#own")
    expect(page.locator(".tags li")).to_have_count(1)
    assert requests == []


def test_an_unknown_word(visit: Visit, address: tuple[str, int], examples: Path) -> None:
    page = visit(address)
    page.fill("#labels", "cat, zebar")
    page.set_input_files("#files", paths(examples, "cat.jpg"))
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("“zebar” is not known; did you mean ")
    expect(problem).to_contain_text("“zebra”")
    expect(page.locator("#labels")).to_have_attribute("aria-invalid", "true")
    finished(page, "0 of 1 photos tagged")
    page.fill("#labels", "cat")
    page.get_by_role("button", name="Tag", exact=True).click()
    finished(page, "1 photo tagged")
    expect(problem).to_be_empty()


def test_photos_with_errors(visit: Visit, address: tuple[str, int], tmp_path: Path, examples: Path) -> None:
    (tmp_path / "note.jpg").write_text("no photo")
    (tmp_path / "large.png").write_bytes(picture(700))
    page = visit(address)
    page.set_input_files("#files", [examples / "cat.jpg", tmp_path / "note.jpg", tmp_path / "large.png"])
    finished(page, "1 photo tagged, 2 could not be read")
    states = page.locator(".state").all_text_contents()
    assert states == [
        "", "cannot be read: not an image that Pillow can read", "cannot be read: too large: 2 MB, the limit is 1 MB"
    ]  # fmt: skip


def canvas_alpha(page: Page) -> np.ndarray:
    """Return the opacity of the map at the centre of 12 x 12 cells, 0..1."""
    values = page.evaluate(
        """() => {
            const canvas = document.querySelector(".looking canvas"), {width, height} = canvas, values = [];
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const middle = (place, side) => Math.floor((place + .5) * side / 12);
            for (let row = 0; row < 12; row++) for (let column = 0; column < 12; column++)
                values.push(pixels[4 * (middle(row, height) * width + middle(column, width)) + 3]);
            return values;
        }"""
    )
    return np.array(values).reshape(12, 12) / 255


def test_pointing_at_a_tag_shows_its_heat_map(
    visit: Visit, address: tuple[str, int], examples: Path, tagger: Tagger
) -> None:
    page = visit(address)
    page.fill("#labels", "cat,pet")
    page.set_input_files("#files", paths(examples, "cat.jpg"))
    finished(page, "1 photo tagged")
    expected = tagger.heatmap(tagger.encode(examples / "cat.jpg"), ["cat", "pet"])
    for label, heat in zip(("cat", "pet"), expected, strict=True):
        page.get_by_role("button", name=label).hover()
        expect(page.locator(".looking")).to_have_count(1)
        got = canvas_alpha(page)
        assert np.corrcoef(got.ravel(), heat.ravel())[0, 1] > 0.95
        assert np.abs(got - heat).mean() < 0.08
    page.locator("h1").hover()
    expect(page.locator(".looking")).to_have_count(0)
    page.get_by_role("button", name="cat").click()  # stays
    page.locator("h1").hover()
    expect(page.get_by_role("button", name="cat")).to_have_attribute("aria-pressed", "true")


def test_heat_maps_on_a_touch_screen(visit: Visit, address: tuple[str, int], examples: Path) -> None:
    page = visit(address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.set_input_files("#files", paths(examples, "cat.jpg", "coffee.jpg"))
    finished(page, "2 photos tagged")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    cup = page.locator(".card").nth(1).locator(".tags button").first
    cup.tap()
    expect(page.locator(".card").nth(1).locator(".looking")).to_have_count(1)
    cup.tap()
    expect(cup).to_have_attribute("aria-pressed", "false")
    assert all(box.bounding_box()["height"] >= 32 for box in page.locator("button:visible, .button").all())  # type: ignore[index]


def test_the_keyboard_alone(visit: Visit, address: tuple[str, int], examples: Path) -> None:
    """Every control is reached in reading order, none traps the focus, and each shows it."""
    page = visit(address)
    page.on("filechooser", lambda _: None)  # from here on: Playwright does not wait until it is listened to
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#labels")).to_be_focused()
    page.keyboard.type("cat,pet,cup")
    for _ in range(4):  # Tag, automatic, slider, choose photos
        page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(paths(examples, "cat.jpg", "coffee.jpg"))
    finished(page, "2 photos tagged")
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            """() => {
                const one = document.activeElement, ring = one.closest(".button") ?? one;
                return [one.id || one.textContent, getComputedStyle(ring).outlineStyle];
            }"""
        )
        if focus[0].startswith("cat"):
            expect(page.locator(".looking")).to_have_count(1)
        if focus[0] in ("labels", "") or "Skip" in focus[0]:
            break
        seen.append(focus)
    assert [name for name, _ in seen][:3] == ["folder", "csv", "clear"]
    assert [name[:-4] for name, _ in seen[3:-1]] == ["cat", "pet", "cup"]
    assert seen[-1][0] == "From a program"
    assert {ring for _, ring in seen} <= {"solid", "auto"}


def data_transfer(page: Page, *files: Path) -> Any:
    contents = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in files]
    return page.evaluate_handle(
        """(contents) => {
            const transfer = new DataTransfer();
            for (const [name, text] of contents)
                transfer.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name));
            return transfer;
        }""",
        contents,
    )


def test_dropped_and_pasted_photos(visit: Visit, address: tuple[str, int], examples: Path) -> None:
    page = visit(address)
    page.dispatch_event("#drop", "dragover", {"dataTransfer": data_transfer(page, examples / "cat.jpg")})
    expect(page.locator("body")).to_have_class("dragging")
    page.dispatch_event("#drop", "drop", {"dataTransfer": data_transfer(page, examples / "cat.jpg")})
    finished(page, "1 photo tagged")
    expect(page.locator("body")).not_to_have_class("dragging")
    pasted = data_transfer(page, examples / "coffee.jpg", examples / "cat.jpg")
    page.evaluate(
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))",
        pasted,
    )
    finished(page, "3 photos tagged")  # a pasted file has another date: it counts as new
    assert page.locator("h3").all_text_contents() == ["cat.jpg", "coffee.jpg", "cat.jpg"]
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#bar")).to_be_hidden()


def test_a_folder_and_its_csv(
    visit: Visit, address: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file equals the output of ``tag --format csv`` for the same folder."""
    folder = tmp_path / "my photos"
    (folder / "inner").mkdir(parents=True)
    for name in PHOTOS[:2]:
        (folder / name).write_bytes((ROOT / "examples" / name).read_bytes())
    (folder / "inner" / 'a "b", c.jpg').write_bytes((ROOT / "examples" / "coffee.jpg").read_bytes())
    (folder / "broken.png").write_text("broken")
    (folder / ".hidden.jpg").write_text("broken")
    (folder / "text.txt").write_text("text")
    page = visit(address)
    page.fill("#labels", "cat,mug,person,snow")
    page.set_input_files("#folder", folder)
    finished(page, "3 photos tagged, 1 could not be read")
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "tags.csv"
    got = Path(download.value.path()).read_bytes().decode()
    monkeypatch.chdir(tmp_path)
    _, expected, _ = run_command("tag", "my photos", "--labels", "cat,mug,person,snow", "--format", "csv")
    assert got.endswith("\r\n")
    assert sorted(csv.reader(io.StringIO(got))) == sorted(csv.reader(io.StringIO(expected)))
    assert sorted(got.splitlines()) == sorted(expected.splitlines())


def test_harmful_names_are_escaped(visit: Visit, address: tuple[str, int], tmp_path: Path) -> None:
    """They are escaped in the CSV file and on the page."""
    photo = tmp_path / "=1+1\u202egpj.jpg"
    photo.write_bytes((ROOT / "examples" / "cat.jpg").read_bytes())
    page = visit(address)
    page.fill("#labels", "cat")
    page.set_input_files("#files", photo)
    finished(page, "1 photo tagged")
    assert page.locator("h3").all_text_contents() == ["=1+1\\u202egpj.jpg"]
    with page.expect_download() as download:
        page.click("#csv")
    got = Path(download.value.path()).read_text(encoding="utf-8")
    assert [row[0] for row in csv.reader(io.StringIO(got))] == ["path", "'=1+1\u202egpj.jpg"]


def test_a_few_at_a_time_and_again_when_the_server_is_busy(visit: Visit, two_workers: Tagger, tmp_path: Path) -> None:
    files = []
    for number in range(7):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(picture(40 + number))
    held = HeldTagger(two_workers)
    with listening(held, Limits(photos=1, waiting=1)) as address:
        page = visit(address)
        page.fill("#labels", "cat")
        page.set_input_files("#files", files)
        refused = 'zsl_tagger_requests_total{path="/v1/tag",status="429"}'
        until(lambda: metric(address, refused) >= 2)
        assert metric(address, "zsl_tagger_waiting_photos") == 1
        expect(page.locator("#stop")).to_be_visible()
        held.go.set()
        finished(page, "7 photos tagged")
        assert metric(address, 'zsl_tagger_requests_total{path="/v1/tag",status="200"}') == 7
    visit.complaints = [text for text in visit.complaints if "429" not in text]  # the browser tells of each
    page.fill("#labels", "dog")
    page.press("#labels", "Enter")
    expect(page.get_by_role("alert")).to_have_text("the server cannot be reached: is zsl-tagger serve still running?")
    visit.complaints = [text for text in visit.complaints if "ERR_CONNECTION_REFUSED" not in text]


def test_stop(visit: Visit, two_workers: Tagger, tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(picture(40 + number))
    held = HeldTagger(two_workers)
    with listening(held, Limits()) as address:
        page = visit(address)
        page.set_input_files("#files", sorted(tmp_path.iterdir()))
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 3)  # one is in work: four requests
        page.wait_for_timeout(300)
        assert metric(address, "zsl_tagger_waiting_photos") == 3
        page.click("#stop")
        finished(page, "0 of 7 photos tagged")
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 0)
        held.go.set()
        page.get_by_role("button", name="Tag", exact=True).click()
        finished(page, "7 photos tagged")
        assert held.encoded == 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_light_and_dark(
    visit: Visit, address: tuple[str, int], examples: Path, tmp_path: Path, scheme: Any
) -> None:
    """WCAG 2: contrast of text at least 4.5."""
    (tmp_path / "broken.png").write_text("broken")
    page = visit(address, color_scheme=scheme)
    page.set_input_files("#files", [*paths(examples, "cat.jpg", "astronaut.jpg"), str(tmp_path / "broken.png")])
    finished(page, "2 photos tagged, 1 could not be read")
    page.fill("#labels", "zebar")
    page.press("#labels", "Enter")
    expect(page.get_by_role("alert")).not_to_be_empty()
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, text
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


def test_a_screen_reader_and_reduced_motion(visit: Visit, address: tuple[str, int], examples: Path) -> None:
    page = visit(address, reduced_motion="reduce")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    page.fill("#labels", "cat")
    page.set_input_files("#files", paths(examples, "cat.jpg"))
    finished(page, "1 photo tagged")
    for role, name in {
        "textbox": "Words to look for", "slider": "Minimum score, percent", "checkbox": "automatic",
        "heading": "zsl-tagger", "status": "", "img": "cat.jpg",
    }.items():  # fmt: skip
        expect(page.get_by_role(role, name=name).first).to_be_attached()  # type: ignore[arg-type]
    expect(page.get_by_role("button", name="cat 0.98")).to_be_visible()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, a, summary, progress")].filter((one) =>
            !(one.textContent || one.ariaLabel || one.labels?.[0]?.textContent)).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("getComputedStyle(document.querySelector('.photo img')).transitionDuration") == "0s"
