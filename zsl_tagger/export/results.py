"""Measurements of an export, for the printed table and ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass

from zsl_tagger.system.json_record import JsonRecord


@dataclass(frozen=True, kw_only=True)
class Agreement(JsonRecord):
    """Agreement of exported networks with torch in float32.

    Attributes:
        difference: maximum difference of a logit over all cases.
        same_side: share (0..1) of labels and images on the same side of the threshold.
        same_tags: share (0..1) of the labels above the threshold in either that are above it in both; 1 if there are
            none.
        same_top: share (0..1) of an image's ten best labels that are among torch's ten best, averaged over images.
        moved: maximum change of a logit if its label is scored alone.
    """

    difference: float
    same_side: float
    same_tags: float
    same_top: float
    moved: float


@dataclass(frozen=True, kw_only=True)
class AgainstTorch(Agreement):
    """Agreement, and the data it was measured on.

    Attributes:
        photos: number of photos in addition to the three synthetic images.
        labels: number of labels in the vocabulary.
    """

    photos: int
    labels: int


@dataclass(frozen=True, kw_only=True)
class ExportRecord(JsonRecord):
    """Content of ``provenance.export`` in ``config.json``.

    Attributes:
        by: name and version of the program.
        precision: fp32, fp16 or int8.
    """

    by: str
    precision: str
    against_torch: AgainstTorch


@dataclass(frozen=True, kw_only=True)
class Row(JsonRecord):
    """Measurements of one precision.

    Attributes:
        bytes: sizes of the encoder and the decoder.
        milliseconds: for one image in the encoder, and for its vocabulary in the decoder.
        labels: number of labels in the vocabulary.
    """

    precision: str
    bytes: tuple[int, int]
    milliseconds: tuple[float, float]
    agreement: Agreement
    labels: int
