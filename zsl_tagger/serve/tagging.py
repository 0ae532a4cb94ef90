"""Photos and words -> the records of the API: what worker threads do."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError, load_upload, seen_part_of
from zsl_tagger.records.record import Record
from zsl_tagger.serve.limits import LABEL_LENGTH, LABELS, Limits
from zsl_tagger.serve.uploads import Photo
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.words.label_lists import split_labels
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import UnknownLabelError

_KEPT_LABEL_SETS = 8  # up to 3 MB each


class PhotoTagger:
    """One tagger for all threads, warmed up: the vocabulary is prepared and each network has run."""

    def __init__(self, tagger: Tagger, limits: Limits):
        self._tagger, self._limits = tagger, limits
        self._asked = lru_cache(_KEPT_LABEL_SETS)(tagger.label_set)
        self._taught = tagger.taught_changes()
        encoded = tagger.encode(np.zeros((8, 8, 3), np.uint8))
        tagger.tag_encoded(encoded)
        try:
            tagger.heatmap(encoded, tagger.vocabulary.labels[:1])
            self.has_heatmaps = True
        except UserError:
            self.has_heatmaps = False

    def tag(
        self, photo: Photo, labels: tuple[str, ...], threshold: float | None, top_k: int | None, heatmaps: int
    ) -> dict[str, Any]:
        """Return the record of one photo, as ``tag --format json`` has it; the ``heatmaps`` best tags with their map.

        Raises:
            UnknownLabelError: labels that are not known.
        """
        asked = self.label_set(labels)
        try:
            pixels = load_upload(photo.content, self._tagger.preprocessing, self._limits.pixels)
        except ImageError as error:
            return Record(photo.name, [], str(error)).as_dict()
        encoded = self._tagger.encode_pixels(pixels)
        tags = self._tagger.tag_encoded(encoded, asked, threshold=threshold, top_k=top_k)
        record = Record(photo.name, tags).as_dict()
        shown = [tag.label for tag in tags[:heatmaps]] if self.has_heatmaps else []
        if shown:
            maps = self._tagger.heatmap(encoded, shown).astype(float).round(3).tolist()  # shown, rows, columns
            for told, heat in zip(record["tags"], maps, strict=False):
                told["heatmap"] = heat
            if self._tagger.preprocessing.crop_pct is not None:  # else the maps are of the whole photo
                record["seen"] = seen_part_of(photo.content, self._tagger.preprocessing, self._limits.pixels)
        return record

    @property
    def names_with_marks(self) -> tuple[str, ...]:
        """Return the model's words that hold a comma, for :func:`read_labels`."""
        return self._tagger.words.names_with_marks

    def label_set(self, labels: tuple[str, ...]) -> LabelSet:
        """Labels made ready to be asked; the vocabulary where there are none."""
        if (changes := self._tagger.taught_changes()) != self._taught:
            self._taught = changes
            self._tagger.forget_taught()
            self._asked.cache_clear()
        return self._asked(labels) if labels else self._tagger.vocabulary

    def look_up(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """Which labels are known, with the least score each takes to be a tag; and suggestions for the others."""
        unknown: dict[str, list[str]] = {}
        try:
            asked = self.label_set(labels)
        except UnknownLabelError as error:
            unknown = error.suggestions
            known = tuple(label for label in labels if label not in unknown)
            if not known:
                return {"labels": [], "unknown": unknown}
            asked = self.label_set(known)
        told = zip(asked.labels, asked.thresholds.tolist(), strict=True)
        return {"labels": [{"label": label, "threshold": round(least, 4)} for label, least in told], "unknown": unknown}


def read_labels(text: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """``"dog, beach"`` -> labels, each once.

    Args:
        known: names that stay whole although they hold commas.

    Raises:
        UserError: too many or too long.
    """
    unique: dict[str, str] = {}
    for label in split_labels(text, known):
        if len(label) > LABEL_LENGTH:
            raise UserError(f"expected labels of at most {LABEL_LENGTH} characters, got one of {len(label):,}")
        unique.setdefault(normalize_label(label), label)
    if len(unique) > LABELS:
        raise UserError(f"expected at most {LABELS:,} labels, got {len(unique):,}")
    return tuple(unique.values())
