"""What the HTML reports are made of: thumbnails and plots that need no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from made_data import write_photo
from PIL import Image

from zsl_tagger.reports.pages import THUMBNAIL, figure, render, svg, thumbnail
from zsl_tagger.reports.text import aligned


def test_a_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg", 1, side=300)
    url = thumbnail(tmp_path / "a.jpg")
    assert url is not None
    kind, _, content = url.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (THUMBNAIL, THUMBNAIL))
    assert thumbnail(tmp_path / "a.jpg") == url


@pytest.mark.parametrize("content", [None, b"", b"no photo", b"\xff\xd8\xff\xe0 cut"])
def test_no_thumbnail_of_what_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    assert thumbnail(tmp_path / "a.jpg") is None
    assert thumbnail(tmp_path) is None


def drawn() -> str:
    plot, axes = figure()
    axes.plot([0, 1], [0, 1], "o-", label="a < b & c")
    axes.set(xlabel="recall", yscale="log")
    axes.legend()
    return svg(plot)


@pytest.mark.slow
@pytest.mark.plots
def test_a_plot_is_the_same_bytes_twice_and_says_its_text() -> None:
    first = drawn()
    assert first == drawn()
    assert first.startswith("<svg")
    assert "recall" in first
    assert "a &lt; b &amp; c" in first
    assert "<!DOCTYPE" not in first


def test_a_page_shows_control_characters_of_names_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_page"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "page.j2").write_text("{{ name }}\n{{ plot | safe }}")
    monkeypatch.syspath_prepend(tmp_path)
    page = render("made_page", "page.j2", name="<a>\u202egpj\x1b\n", plot="<svg>\n</svg>")
    assert page == "&lt;a&gt;\\u202egpj\\x1b\\n\n<svg>\n</svg>"


def test_columns_fit_what_is_shown() -> None:
    assert aligned([["a\x1b\n", "1"], ["b", "22"]]) == ["a\\x1b\\n  1", "b        22"]


def test_a_page_without_a_value_it_asks_for_is_a_fault() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="'report' is undefined"):
        render("zsl_tagger.evaluation", "report.html.j2")
