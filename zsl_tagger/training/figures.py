"""Hold what is measured on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from zsl_tagger.system.json_record import JsonRecord

#: Names in checkpoints, ``metrics.csv`` and model folders of older versions.
OLD_NAMES = {"val_mAP": "val_map", "val_F1@3": "val_f1_at_3", "heldout_mAP": "heldout_map"}


@dataclass(frozen=True, kw_only=True)
class ValidationFigures(JsonRecord):
    """Hold the figures on validation images, shares in 0..1; None: not measured, for want of images or of such labels.

    Attributes:
        val_map: mean over the trained labels with positives of average precision, on the images that show a trained
            label or none.
        val_f1_at_3: micro F1 of the three best trained labels; multi-label data only.
        val_top1: share of the images whose best trained label is right; single-label data only.
        heldout_map: as ``val_map``, over the labels of ``holdout_labels``, on all images.
        harmonic_mean: of ``val_map`` and ``heldout_map``.
    """

    val_map: float | None = None
    val_f1_at_3: float | None = None
    val_top1: float | None = None
    heldout_map: float | None = None
    harmonic_mean: float | None = None

    @classmethod
    def from_saved(cls, saved: Mapping[str, float]) -> ValidationFigures:
        """Return figures that :meth:`measured` gave, also those of an older version; other keys are left out."""
        values = {OLD_NAMES.get(name, name): value for name, value in saved.items()}
        return cls(**{name: values[name] for name in FIGURES if name in values})

    def measured(self) -> dict[str, float]:
        """Return the figures that were measured, by name."""
        values = ((name, getattr(self, name)) for name in FIGURES)
        return {name: value for name, value in values if value is not None}

    def decisive(self) -> tuple[str, float] | None:
        """Return the name and value of the figure whose best value decides which step's weights are kept."""
        found = self.measured()
        for name in ("harmonic_mean", "val_top1", "val_map", "heldout_map"):
            if name in found:
                return name, found[name]
        return None


FIGURES = tuple(field.name for field in fields(ValidationFigures))
