"""``"beach, sunset -person"`` -> what a photo should show, and what it should not.

Commas stand between things that must all be in the photo; each is a label as ``tag`` takes it, of one word or several,
or several labels with ``or`` between them, of which one is enough (``"dog or cat, beach"``).
``-word`` at its end names what should not be in it: one word, in which hyphens join several (``-hot-dog``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from zsl_tagger.errors import UserError
from zsl_tagger.words.label_lists import split_labels


@dataclass(frozen=True)
class Query:
    """One search.

    Attributes:
        text: as it was typed.
        wanted: things that must all be there: of each the labels of which one is enough.
        unwanted: labels. There is at least one label in all.
    """

    text: str
    wanted: tuple[tuple[str, ...], ...]
    unwanted: tuple[str, ...]

    @property
    def things(self) -> list[int]:
        """Return which thing each of ``labels`` belongs to; each unwanted label is one of its own."""
        numbers = [number for number, labels in enumerate(self.wanted) for _ in labels]
        return [*numbers, *range(len(self.wanted), len(self.wanted) + len(self.unwanted))]

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(label for labels in self.wanted for label in labels), *self.unwanted)


def parse_query(text: str, known: Collection[str] = ()) -> Query:
    """Read a query.

    Args:
        known: names that stay whole although they hold commas.

    Raises:
        UserError: it asks nothing, a word holds a control character, or a ``-word`` is followed by words that may
            belong to it or not.
    """
    wanted: list[tuple[str, ...]] = []
    unwanted: list[str] = []
    for part in split_labels(text, known):
        if part in known:
            wanted.append((part,))
            continue
        phrase, *without = re.split(r"(?:^|(?<=\s))-", part)
        if phrase.strip():
            wanted.append(_alternatives(text, phrase.strip()))
        unwanted += [_one_word(text, word) for word in without]
    if not wanted and not unwanted:
        raise UserError(f'the query {text!r} asks nothing: give words, e.g. "snow -dog"')
    return Query(text, tuple(wanted), tuple(unwanted))


def _alternatives(text: str, phrase: str) -> tuple[str, ...]:
    """``"dog or cat"`` -> both."""
    labels = [label.strip() for label in re.split(r"(?:^|(?<=\s))or(?=\s|$)", phrase)]
    if len(labels) > 1 and not all(labels):
        raise UserError(f'the query {text!r} has an "or" without a word on each side: write "dog or cat"')
    return tuple(labels)


def _one_word(text: str, word: str) -> str:
    """Return the text after a "-"."""
    if not word or word[0].isspace():
        raise UserError(f'the query {text!r} has a "-" without a word: write "-dog", without a space')
    first, *rest = word.split()
    if rest:
        raise UserError(
            f'the query {text!r} has words after "-{first}": write "-{"-".join([first, *rest])}" where they belong '
            f'together, or "-{first}, {" ".join(rest)}" where the photo should show "{" ".join(rest)}"'
        )
    return first
