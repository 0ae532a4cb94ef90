"""Hold what ``prepare`` writes as JSON: ``split_report.json`` and ``dataset.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zsl_tagger.datasets.format import Split
from zsl_tagger.system.json_record import JsonObject, JsonRecord


@dataclass(frozen=True, kw_only=True)
class SeenUnseenCounts(JsonRecord):
    """Count seen and unseen labels."""

    seen: int
    unseen: int


@dataclass(frozen=True, kw_only=True)
class LabelsPerImage(JsonRecord):
    """Describe how many labels the images of a split have; None for a split without images.

    Attributes:
        histogram: number of images with 0, 1, 2, ... labels.
    """

    mean: float | None
    median: float | None
    max: int | None
    histogram: list[int]


@dataclass(frozen=True, kw_only=True)
class ImagesPerLabel(JsonRecord):
    """Count the images of a label in each split."""

    label: str
    seen: bool
    train: int
    val: int
    test: int


@dataclass(frozen=True, kw_only=True)
class LabelsWithoutImages(JsonRecord):
    """List labels that cannot be learnt (seen ones without training images) or measured (unseen ones not in test)."""

    seen_not_in_train: list[str]
    unseen_not_in_test: list[str]


@dataclass(frozen=True, kw_only=True)
class Twins(JsonRecord):
    """Name a seen and an unseen label that are singular and plural of one noun."""

    seen: str
    unseen: str


@dataclass(frozen=True, kw_only=True)
class NearestSeen(JsonRecord):
    """Name an unseen label, the seen one with the nearest word vector, and the cosine of the two (-1..1)."""

    unseen: str
    seen: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class SplitPair(JsonRecord):
    """Count the near-duplicates between two splits."""

    splits: tuple[str, str]
    pairs: int


@dataclass(frozen=True, kw_only=True)
class DuplicatePair(JsonRecord):
    """Name two images that nearly equal each other, their splits, and the bits (0..64) by which their hashes differ."""

    images: tuple[str, str]
    splits: tuple[str, str]
    bits: int


@dataclass(frozen=True, kw_only=True)
class NearDuplicates(JsonRecord):
    """Hold the near-duplicates among the images.

    Attributes:
        max_distance_bits: two images are near-duplicates if at most this many of 64 bits of their hashes differ.
        pairs_within_a_split: number of pairs.
        across_splits: number of pairs by their two splits.
        pairs: pairs across splits, nearest first; at most 1,000.
    """

    max_distance_bits: int
    pairs_within_a_split: int
    across_splits: list[SplitPair]
    pairs: list[DuplicatePair]


@dataclass(frozen=True, kw_only=True)
class LabelCounts(JsonRecord):
    """Count pairs of an image and a label; in train and val, of the seen labels only."""

    positives: int
    negatives: int
    unknown: int


@dataclass(frozen=True, kw_only=True)
class PartialLabels(JsonRecord):
    """Say what is known where labels are partial.

    Attributes:
        counts: by split.
        never_absent: by split, labels that are on some of its images and known to be absent from none: training cannot
            tell where they are wrong, and their average precision is 1 whatever the scores.
    """

    counts: dict[Split, LabelCounts]
    never_absent: dict[Split, list[str]]


@dataclass(frozen=True, kw_only=True)
class SplitReport(JsonRecord):
    """Hold the content of ``split_report.json``: what to know of a data set before believing a number measured on it.

    Attributes:
        images: number of images by split.
        twins, nearest_seen: for unseen labels; closest pairs first.
        same_vector: groups of labels whose word vectors are equal, so that no model can tell them apart.
        near_duplicates: None where the images were not looked at.
        partial_labels: the key is not there where labels are complete.
    """

    images: dict[Split, int]
    labels: SeenUnseenCounts
    labels_per_image: dict[Split, LabelsPerImage]
    images_per_label: list[ImagesPerLabel]
    labels_without_images: LabelsWithoutImages
    twins: list[Twins]
    nearest_seen: list[NearestSeen]
    same_vector: list[list[str]]
    near_duplicates: NearDuplicates | None
    partial_labels: PartialLabels | None = None

    def to_json(self) -> JsonObject:
        return _without_none(super().to_json(), "partial_labels")  # as older folders have it


@dataclass(frozen=True, kw_only=True)
class FoundLabel(JsonRecord):
    """Say how the vector of a label was found, such as "singular", and of which words it was made."""

    how: str
    words: list[str]


@dataclass(frozen=True, kw_only=True)
class VectorsFound(JsonRecord):
    """Say where the word vectors of the labels come from.

    Attributes:
        source: as of ``--word-vectors``.
        word_dim: width of a vector.
        normalized: vectors have a length of 1.
        found: number of labels by how they were found.
        labels: each label that was not found as it is written.
        dropped: labels without a vector that were left out.
    """

    source: str
    templates: list[str]
    word_dim: int
    normalized: bool
    found: dict[str, int]
    labels: dict[str, FoundLabel]
    dropped: list[str]


@dataclass(frozen=True, kw_only=True)
class DatasetVectors(VectorsFound):
    """Say more of the word vectors of a data set.

    Attributes:
        unseen_same_as_seen: unseen label -> the seen one that has the very same vector.
        papers_use: the vectors, 300 wide, of published results; "" for data without papers.
    """

    unseen_same_as_seen: dict[str, str]
    papers_use: str


@dataclass(frozen=True, kw_only=True)
class WordVectorsRecord(JsonRecord):
    """Hold the content of the JSON file beside the output of ``prepare wordvecs``.

    Attributes:
        labels: names of the rows of the matrix, in order.
        sha256: of the matrix file, 64 hexadecimal digits, by its name.
    """

    labels: list[str]
    word_vectors: VectorsFound
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ReleasedRecord(JsonRecord):
    """Describe the files for the released code.

    Attributes:
        images: number of images by the split that they have there.
        images_without_label: number of images that are left out there.
        labels_on_no_image: labels that are left out there.
    """

    folder: str
    images: dict[str, int]
    images_without_label: int
    labels_on_no_image: list[str]


@dataclass(frozen=True, kw_only=True)
class AppliedProtocol(JsonRecord):
    """Say which images were kept, as :class:`data_prep.pipeline.Protocol` has it.

    Attributes:
        min_bytes: smaller files were left out.
    """

    name: str
    train_shows_seen: bool
    test_shows: str
    min_bytes: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(JsonRecord):
    """Hold the content of ``dataset.json``, which describes a prepared folder.

    Attributes:
        format_version: of the prepared folder.
        task: "multi-label" or "single-label".
        image_root: folder that the paths of ``data.csv`` lie in.
        benchmark: name of the file that lists seen and unseen labels.
        images: number of images by split.
        images_by_protocol: the same for each protocol that was counted.
        partial_labels: counts by split, where data.csv says which labels are verified to be absent; the key is not
            there where labels are complete.
        dropped: number of images left out, by reason.
        source: facts on what was read; they differ by kind of source.
        labels: names of the columns of the word vectors, sorted.
        written_by: name and version of the program.
        released_splits: None without ``--released-splits``.
        sha256: of the files of the folder, 64 hexadecimal digits, by their name.
        prepared_by: source and options of the run.
    """

    format_version: int
    name: str
    task: str
    image_root: str
    benchmark: str
    images: dict[Split, int]
    seen_labels: int
    unseen_labels: int
    protocol: AppliedProtocol
    images_by_protocol: dict[str, dict[Split, int]]
    images_looked_at: bool
    partial_labels: dict[Split, LabelCounts] | None = None
    dropped: dict[str, int]
    source: Mapping[str, object]
    word_vectors: DatasetVectors
    labels: list[str]
    written_by: str
    released_splits: ReleasedRecord | None
    sha256: dict[str, str]
    prepared_by: Mapping[str, object]

    def to_json(self) -> JsonObject:
        return _without_none(super().to_json(), "partial_labels")  # as older folders have it


def _without_none(content: JsonObject, key: str) -> JsonObject:
    """Return the content without a key whose value is None."""
    return {name: value for name, value in content.items() if name != key or value is not None}
