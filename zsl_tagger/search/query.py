"""Parse queries such as ``"beach, sunset -person"``.

Commas separate the terms that a photo must all show. Each term is a label as in ``tag``, of one or more words, or
several labels joined by ``or``, of which one is enough (``"dog or cat, beach"``). ``-word`` at the end of a term names
what the photo must not show: one word, in which hyphens join several (``-hot-dog``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from zsl_tagger.errors import UserError
from zsl_tagger.words.label_lists import split_labels


@dataclass(frozen=True)
class Query:
    """A parsed query, with at least one label.

    Attributes:
        text: the query as typed.
        wanted: terms that must all apply, each with its alternative labels.
        unwanted: labels of which none may apply.
    """

    text: str
    wanted: tuple[tuple[str, ...], ...]
    unwanted: tuple[str, ...]

    @property
    def term_of_label(self) -> list[int]:
        """Return the number of the term of each of ``labels``; each unwanted label is a term of its own."""
        numbers = [number for number, labels in enumerate(self.wanted) for _ in labels]
        return [*numbers, *range(len(self.wanted), len(self.wanted) + len(self.unwanted))]

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(label for labels in self.wanted for label in labels), *self.unwanted)


def parse_query(text: str, known: Collection[str] = ()) -> Query:
    """Parse a query.

    Args:
        known: labels that contain commas, at which they are not split.

    Raises:
        UserError: it is empty, a word contains a control character, or it is unclear whether the words after a
            ``-word`` belong to it.
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
        raise UserError(f'the query {text!r} is empty: give words, e.g. "snow -dog"')
    return Query(text, tuple(wanted), tuple(unwanted))


def _alternatives(text: str, phrase: str) -> tuple[str, ...]:
    """Split ``"dog or cat"`` into its labels."""
    labels = [label.strip() for label in re.split(r"(?:^|(?<=\s))or(?=\s|$)", phrase)]
    if len(labels) > 1 and not all(labels):
        raise UserError(f'the query {text!r} has an "or" without a word on each side: write "dog or cat"')
    return tuple(labels)


def _one_word(text: str, word: str) -> str:
    """Return the word after a "-"."""
    if not word or word[0].isspace():
        raise UserError(f'the query {text!r} has a "-" without a word: write "-dog", without a space')
    first, *rest = word.split()
    if rest:
        raise UserError(
            f'the query {text!r} has words after "-{first}": write "-{"-".join([first, *rest])}" if they belong '
            f'together, or "-{first}, {" ".join(rest)}" if the photo should show "{" ".join(rest)}"'
        )
    return first
