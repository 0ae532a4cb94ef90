"""Tag photos and look up labels for the API, on worker threads."""

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
    """Share one tagger among threads; the vocabulary and all networks are loaded at the start."""

    def __init__(self, tagger: Tagger, limits: Limits):
        self._tagger, self._limits = tagger, limits
        self._label_sets = lru_cache(_KEPT_LABEL_SETS)(tagger.label_set)
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
        """Return the record of one photo, as in ``tag --format json``, with heat maps of the best ``heatmaps`` tags.

        Raises:
            UnknownLabelError: a label is unknown.
        """
        label_set = self.label_set(labels)
        try:
            pixels = load_upload(photo.content, self._tagger.preprocessing, self._limits.pixels)
        except ImageError as error:
            return Record(photo.name, [], str(error)).as_dict()
        encoded = self._tagger.encode_pixels(pixels)
        tags = self._tagger.tag_encoded(encoded, label_set, threshold=threshold, top_k=top_k)
        record = Record(photo.name, tags).as_dict()
        shown = [tag.label for tag in tags[:heatmaps]] if self.has_heatmaps else []
        if shown:
            maps = self._tagger.heatmap(encoded, shown).astype(float).round(3).tolist()  # shown, rows, columns
            for tag, heat in zip(record["tags"], maps, strict=False):
                tag["heatmap"] = heat
            if self._tagger.preprocessing.crop_pct is not None:  # else the maps cover the whole photo
                record["seen"] = seen_part_of(photo.content, self._tagger.preprocessing, self._limits.pixels)
        return record

    @property
    def names_with_marks(self) -> tuple[str, ...]:
        """Return the model's words that contain a comma, for :func:`read_labels`."""
        return self._tagger.words.names_with_marks

    def label_set(self, labels: tuple[str, ...]) -> LabelSet:
        """Prepare labels; the vocabulary if there are none."""
        if (changes := self._tagger.taught_changes()) != self._taught:
            self._taught = changes
            self._tagger.forget_taught()
            self._label_sets.cache_clear()
        return self._label_sets(labels) if labels else self._tagger.vocabulary

    def look_up(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return known labels with their minimum scores, and unknown ones with suggestions."""
        unknown: dict[str, list[str]] = {}
        try:
            label_set = self.label_set(labels)
        except UnknownLabelError as error:
            unknown = error.suggestions
            known = tuple(label for label in labels if label not in unknown)
            if not known:
                return {"labels": [], "unknown": unknown}
            label_set = self.label_set(known)
        thresholds = zip(label_set.labels, label_set.thresholds.tolist(), strict=True)
        found = [{"label": label, "threshold": round(threshold, 4)} for label, threshold in thresholds]
        return {"labels": found, "unknown": unknown}


def read_labels(text: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """Split ``"dog, beach"`` into distinct labels.

    Args:
        known: labels that contain commas, at which they are not split.

    Raises:
        UserError: there are too many labels, or one is too long.
    """
    unique: dict[str, str] = {}
    for label in split_labels(text, known):
        if len(label) > LABEL_LENGTH:
            raise UserError(f"expected labels of at most {LABEL_LENGTH} characters, got one of {len(label):,}")
        unique.setdefault(normalize_label(label), label)
    if len(unique) > LABELS:
        raise UserError(f"expected at most {LABELS:,} labels, got {len(unique):,}")
    return tuple(unique.values())
