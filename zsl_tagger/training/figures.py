"""Figures measured on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from zsl_tagger.system.json_record import JsonRecord

#: Former names of figures, in checkpoints, ``metrics.csv`` and model folders.
OLD_NAMES = {"val_mAP": "val_map", "val_F1@3": "val_f1_at_3", "heldout_mAP": "heldout_map"}


@dataclass(frozen=True, kw_only=True)
class ValidationFigures(JsonRecord):
    """Figures on validation images, in 0..1; None if there are no images or labels to measure them on.

    Attributes:
        val_map: average precision averaged over the trained labels with positives. Single-label data: without images
            of held-out labels.
        val_f1_at_3: micro F1 of the three best trained labels; multi-label data only.
        val_top1: share of images whose best trained label is correct; single-label data only.
        heldout_map: like ``val_map``, for the labels of ``holdout_labels``, on all images.
        harmonic_mean: harmonic mean of ``val_map`` and ``heldout_map``.
    """

    val_map: float | None = None
    val_f1_at_3: float | None = None
    val_top1: float | None = None
    heldout_map: float | None = None
    harmonic_mean: float | None = None

    @classmethod
    def from_saved(cls, saved: Mapping[str, float]) -> ValidationFigures:
        """Return the figures saved by :meth:`measured`, by this or an older version; other keys are ignored."""
        values = {OLD_NAMES.get(name, name): value for name, value in saved.items()}
        return cls(**{name: values[name] for name in FIGURES if name in values})

    def measured(self) -> dict[str, float]:
        """Return the figures that are not None, by name."""
        values = ((name, getattr(self, name)) for name in FIGURES)
        return {name: value for name, value in values if value is not None}

    def selection_metric(self) -> tuple[str, float] | None:
        """Return the name and value of the figure that selects the step whose weights are kept."""
        found = self.measured()
        for name in ("harmonic_mean", "val_top1", "val_map", "heldout_map"):
            if name in found:
                return name, found[name]
        return None


FIGURES = tuple(field.name for field in fields(ValidationFigures))
