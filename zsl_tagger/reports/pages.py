"""Shared parts of the HTML reports: pages from templates, plots as inline SVG, thumbnails as inline JPEG."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zsl_tagger.errors import require
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
from zsl_tagger.system.untrusted_text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 96  # pixels


class Plot(NamedTuple):
    """A plot and its title."""

    title: str
    svg: str


def render(package: str, template: str, **content: Any) -> str:
    """Render a self-contained page from a Jinja template of a package."""
    require("jinja2", "train")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # keep markup, such as plots
    )
    return environment.get_template(template).render(**content)


def thumbnail(path: Path) -> str | None:
    """Return a thumbnail as a data URL, or None if the image cannot be read."""
    from PIL.Image import fromarray

    try:
        pixels = load_array(path, Preprocessing(THUMBNAIL))
    except (ImageError, OSError):
        return None
    return jpeg_url(fromarray(pixels))


def jpeg_url(picture: Image) -> str:
    """Return a picture as a data URL, to embed in a page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(picture)).decode()


def jpeg_bytes(picture: Image) -> bytes:
    """Return a picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def figure(width: float = 6, height: float = 3.4) -> Any:
    """Return (figure, axes) of matplotlib, without a window."""
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def svg(drawn: Any) -> str:
    """Return a drawing as SVG, with identical bytes in every run."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "zsl-tagger", "svg.fonttype": "none"}):
        drawn.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
