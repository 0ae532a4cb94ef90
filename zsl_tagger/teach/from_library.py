"""Teach every keyword of a photo library that has enough photos."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zsl_tagger.errors import UserError, some
from zsl_tagger.reports.text import aligned
from zsl_tagger.sidecars.reading import KeywordCounts
from zsl_tagger.system.json_record import JsonRecord
from zsl_tagger.system.progress import Progress
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.tagging.taught import TaughtTag, checked_name
from zsl_tagger.tagging.teaching import PhotoLibrary

logger = logging.getLogger(__name__)

#: Maximum number of examples per keyword; more take time and help little.
MAX_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class TaughtKeywords(JsonRecord):
    """Summarise what was taught from a library.

    Attributes:
        photos: number of photos read.
        with_keywords: number of photos with a keyword.
        taught: number of examples, and of examples found when left out, of each taught keyword.
        rare: number of keywords with too few photos.
        refused: keywords that could not be taught, with the reason.
    """

    photos: int
    with_keywords: int
    taught: dict[str, tuple[int, int]]
    rare: int
    refused: dict[str, str]

    def lines(self) -> list[str]:
        """Return the lines to print."""
        rows = [[name, f"{photos} photos", f"found {found}"] for name, (photos, found) in self.taught.items()]
        return [
            f"{self.photos:,} photos, {self.with_keywords:,} with keywords; taught: {len(self.taught):,}, with too few "
            f"photos: {self.rare:,}, refused: {len(self.refused):,}",
            *aligned(rows),
        ]


def teach_keywords(
    tagger: Tagger, counts: KeywordCounts, least: int, library: PhotoLibrary | None = None
) -> TaughtKeywords:
    """Teach every keyword that at least ``least`` photos have.

    Args:
        library: as for :meth:`Tagger.teach`.
    """
    by_keyword = counts.by_keyword()
    enough = {word: paths for word, paths in by_keyword.items() if len(paths) >= least}
    taught: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    with Progress("teaching", len(enough), unit="keywords") as progress:
        for word, paths in progress.over(iter(enough.items())):
            try:
                tag = _teach(tagger, word, paths, library)
            except UserError as error:
                refused[word] = str(error)
                logger.warning("keyword %r is not taught: %s", word, error)
            else:
                taught[tag.name] = tag.positives, tag.found
    if not taught:
        most_common = some([f"{word} ({len(paths)})" for word, paths in by_keyword.items()])
        raise UserError(
            f"no keyword of at least {least} photos could be taught; the most common are: {most_common or 'none'}"
        )
    return TaughtKeywords(
        photos=counts.photos,
        with_keywords=counts.with_keywords,
        taught=taught,
        rare=len(by_keyword) - len(enough),
        refused=refused,
    )


def _teach(tagger: Tagger, word: str, paths: Sequence[str], library: PhotoLibrary | None) -> TaughtTag:
    checked_name(word)  # before photos are read
    return tagger.teach(word, list(_spread(paths)), library=library)


def _spread(paths: Sequence[str]) -> Iterator[str]:
    """Yield up to ``MAX_EXAMPLES`` evenly spaced paths; neighbours often show the same moment."""
    step = max(1.0, len(paths) / MAX_EXAMPLES)
    for number in range(min(len(paths), MAX_EXAMPLES)):
        yield paths[int(number * step)]
