"""Prompt templates, and word sources that encode text: a label's vector is the mean over its prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.words.label_lists import read_lines
from zsl_tagger.words.table import Resolved, unit_length

#: Placeholder for the label in a template.
PLACE = "{}"

#: The label alone, for sentence encoders.
LABEL_ALONE = (PLACE,)

#: Default for CLIP's text towers: the prompt of the CLIP paper.
CLIP_TEMPLATES = ("a photo of a {}.",)

#: Sentences encoded before averaging; bounds memory for many labels and templates.
SENTENCES_AT_ONCE = 1 << 16


def read_templates(path: Path) -> tuple[str, ...]:
    """Read prompt templates from a file, one per line; blank lines are ignored.

    Raises:
        UserError: it cannot be read, has no template, or a line lacks the placeholder.
    """
    numbered = [(number, line.strip()) for number, line in enumerate(read_lines(path, "templates"), start=1)]
    templates = [(number, line) for number, line in numbered if line]
    if not templates:
        raise UserError(f'{path} has no template: expected one per line, such as "a photo of a {PLACE}."')
    for number, template in templates:
        if PLACE not in template:
            raise UserError(
                f"{path}, line {number}: expected {PLACE} where the label goes, got {template!r}: "
                f'write e.g. "a photo of a {PLACE}."'
            )
    return tuple(template for _, template in templates)


class TextEncoderSource(ABC):
    """Base class of word sources that encode text, and so have a vector for any label.

    Attributes:
        templates: prompts with ``{}`` in place of the label.
    """

    templates: tuple[str, ...]

    @property
    @abstractmethod
    def word_dim(self) -> int: ...

    @abstractmethod
    def encode(self, sentences: Sequence[str], unit: bool) -> np.ndarray:
        """Encode sentences as float32 ``(n, word_dim)``, L2-normalised if ``unit``."""

    def resolve(self, label: str) -> Resolved | None:
        return Resolved(label, (label,), "as is") if label.strip() else None

    def vectors_of(self, resolved: Iterable[Resolved], unit: bool = True) -> np.ndarray:
        """Return the mean vector over the templates, float32 ``(K, word_dim)``.

        Args:
            unit: average unit vectors and normalise the mean, as CLIP's prompt ensembles do.
        """
        labels = [" ".join(found.words) for found in resolved]
        count, step = len(self.templates), max(1, SENTENCES_AT_ONCE // len(self.templates))
        parts = [np.zeros((0, self.word_dim), np.float32)]
        for start in range(0, len(labels), step):
            some = labels[start : start + step]
            sentences = [template.replace(PLACE, label) for label in some for template in self.templates]
            vectors = self.encode(sentences, unit)  # (k * T, word_dim)
            if count > 1:
                vectors = vectors.reshape(len(some), count, -1).mean(axis=1)  # (k, word_dim)
                vectors = unit_length(vectors) if unit else vectors
            parts.append(vectors.astype(np.float32, copy=False))
        return np.concatenate(parts)  # (K, word_dim)

    def suggest(self, label: str, count: int = 3) -> list[str]:  # noqa: ARG002
        return []


def templates_of(source: object) -> tuple[str, ...]:
    """Return the templates to store with the name of a word source; empty for a table or the label alone."""
    templates = source.templates if isinstance(source, TextEncoderSource) else ()
    return () if templates == LABEL_ALONE else templates
