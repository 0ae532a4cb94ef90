"""``"beach, sunset -person"`` -> what a photo should show, and what it should not.

Commas stand between things that must all be in the photo; each is a label as ``tag`` takes it, of one word or several.
``-word`` at its end names what should not be in it: one word, in which hyphens join several (``-hot-dog``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zsl_tagger.errors import UserError


@dataclass(frozen=True)
class Query:
    """One search.

    Attributes:
        text: as it was typed.
        wanted, unwanted: labels, at least one in all.
    """

    text: str
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.wanted, *self.unwanted)


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        UserError: it asks nothing, or a ``-word`` is followed by words that may belong to it or not.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    for part in text.split(","):
        phrase, *without = re.split(r"(?:^|(?<=\s))-", part.strip())
        if phrase.strip():
            wanted.append(phrase.strip())
        unwanted += [_one_word(text, word) for word in without]
    if not wanted and not unwanted:
        raise UserError(f'the query {text!r} asks nothing: give words, e.g. "snow -dog"')
    return Query(text, tuple(wanted), tuple(unwanted))


def _one_word(text: str, word: str) -> str:
    """What follows a "-"."""
    if not word or word[0].isspace():
        raise UserError(f'the query {text!r} has a "-" without a word: write "-dog", without a space')
    first, *rest = word.split()
    if rest:
        raise UserError(
            f'the query {text!r} has words after "-{first}": write "-{"-".join([first, *rest])}" where they belong '
            f'together, or "-{first}, {" ".join(rest)}" where the photo should show "{" ".join(rest)}"'
        )
    return first
