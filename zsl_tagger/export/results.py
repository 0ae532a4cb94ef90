"""Hold what an export measures: the printed table, and what ``config.json`` records of it."""

from __future__ import annotations

from dataclasses import dataclass

from zsl_tagger.system.json_record import JsonRecord


@dataclass(frozen=True, kw_only=True)
class Agreement(JsonRecord):
    """Compare exported networks with torch in float32.

    Attributes:
        difference: largest difference of a logit, over all cases; in logits.
        same_side: share (0..1) of the vocabulary, over the images, that is on the same side of its threshold.
        same_tags: of the labels that reach their threshold in either, the share (0..1) that does in both; 1 where none
            does.
        same_top: share (0..1) of an image's ten best labels that are among torch's ten best, mean over the images.
        moved: the most that a logit changes where the same label is asked alone; in logits.
    """

    difference: float
    same_side: float
    same_tags: float
    same_top: float
    moved: float


@dataclass(frozen=True, kw_only=True)
class AgainstTorch(Agreement):
    """Record the agreement, and what it was measured on.

    Attributes:
        photos: number of photos beside the three made images.
        labels: number of labels in the vocabulary.
    """

    photos: int
    labels: int


@dataclass(frozen=True, kw_only=True)
class ExportRecord(JsonRecord):
    """Hold ``provenance.export`` of ``config.json``.

    Attributes:
        by: name and version of the program.
        precision: fp32, fp16 or int8.
    """

    by: str
    precision: str
    against_torch: AgainstTorch


@dataclass(frozen=True, kw_only=True)
class Row(JsonRecord):
    """Hold what was measured of one precision.

    Attributes:
        bytes: size of the encoder, and of the decoder.
        milliseconds: for one image in the encoder, and for its vocabulary in the decoder.
        labels: number of labels in the vocabulary.
    """

    precision: str
    bytes: tuple[int, int]
    milliseconds: tuple[float, float]
    agreement: Agreement
    labels: int
