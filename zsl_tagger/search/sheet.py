"""Write rankings as a contact sheet: one self-contained HTML file with linked thumbnails."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from zsl_tagger.images.preprocessing import ImageError, load_small
from zsl_tagger.reports.pages import jpeg_url
from zsl_tagger.search.rank import Ranking, SearchResult
from zsl_tagger.system.threads import default_workers, map_in_order
from zsl_tagger.system.untrusted_text import printable, printable_path

SIDE = 320  # longer side of a thumbnail in pixels: twice its size on the page, for high-resolution screens

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1e; --soft: #5f6368; --edge: #dadce0; --bar: #1a73e8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161618; --ink: #ececee; --soft: #a2a6ad; --edge: #3a3b3f; --bar: #8ab4f8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.4 system-ui, sans-serif; }
h1 { margin: 1rem 0 .75rem; font-size: 1.3rem; overflow-wrap: anywhere; }
h1 small, h2 { color: var(--soft); font-size: .95rem; font-weight: 400; }
h1 small { display: block; }
section + section { margin-top: 2.5rem; }
h2 { margin: 1.25rem 0 .5rem; }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem .75rem; margin: 0;
  padding: 0; list-style: none; }
a { display: block; color: inherit; text-decoration: none; border-radius: 6px; }
a:hover .name, a:focus .name { text-decoration: underline; }
a:focus-visible { outline: 3px solid var(--bar); outline-offset: 3px; }
.frame { display: grid; place-items: center; aspect-ratio: 1; overflow: hidden; border: 1px solid var(--edge);
  border-radius: 6px; color: var(--soft); font-size: .85rem; text-align: center; }
img { display: block; width: 100%; height: 100%; object-fit: contain; }
.name { display: block; margin-top: .3rem; overflow: hidden; font-size: .85rem; text-overflow: ellipsis;
  white-space: nowrap; }
.score { display: flex; align-items: center; gap: .4rem; color: var(--soft); font-size: .85rem; }
.score i { flex: 1; height: 5px; border-radius: 3px; overflow: hidden; background: var(--edge); }
.score b { display: block; height: 100%; background: var(--bar); }
"""


def contact_sheet(rankings: Sequence[Ranking]) -> str:
    """Return a page with one section per query."""
    paths = list({one.path: None for ranking in rankings for one in ranking.found})
    thumbnails = dict(zip(paths, map_in_order(_thumbnail, paths, default_workers()), strict=True))
    title = _escaped("; ".join(ranking.query for ranking in rankings))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "".join(_section(ranking, thumbnails) for ranking in rankings)
        + "</main>\n</body>\n</html>\n"
    )


def _section(ranking: Ranking, thumbnails: dict[str, str | None]) -> str:
    passing = [one for one in ranking.found if one.passes]
    below = [one for one in ranking.found if not one.passes]
    counted = f"{ranking.counted()} reach the threshold"
    return (
        f"<section>\n<h1>{_escaped(ranking.query)} <small>{counted}</small></h1>\n"
        + _grid(passing, thumbnails)
        + (f"<h2>Below the threshold</h2>\n{_grid(below, thumbnails)}" if below else "")
        + "</section>\n"
    )


def _grid(found: Iterable[SearchResult], thumbnails: dict[str, str | None]) -> str:
    items = "".join(_item(one, thumbnails[one.path]) for one in found)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _item(one: SearchResult, picture: str | None) -> str:
    path = printable_path(one.path)
    name = html.escape(Path(path).name)
    shown = f'<img src="{picture}" alt="{name}" loading="lazy">' if picture else "cannot be read now"
    return (
        f'<li><a href="{html.escape(Path(one.path).as_uri())}" title="{html.escape(path)}">'
        f'<span class="frame">{shown}</span><span class="name">{name}</span>'
        f'<span class="score">{one.score:.2f} <i><b style="width:{100 * one.score:.0f}%"></b></i></span></a></li>\n'
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _thumbnail(path: str) -> str | None:
    """Return a data URL; None if the photo cannot be read."""
    try:
        return jpeg_url(load_small(path, SIDE))
    except ImageError:
        return None
