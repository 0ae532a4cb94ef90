"""Define the JSON files of ``prepare``: ``split_report.json`` and ``dataset.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zsl_tagger.datasets.format import Split
from zsl_tagger.system.json_record import JsonObject, JsonRecord


@dataclass(frozen=True, kw_only=True)
class SeenUnseenCounts(JsonRecord):
    """Numbers of seen and unseen labels."""

    seen: int
    unseen: int


@dataclass(frozen=True, kw_only=True)
class LabelsPerImage(JsonRecord):
    """Distribution of the number of labels per image in a split; None for a split without images.

    Attributes:
        histogram: number of images with 0, 1, 2, ... labels.
    """

    mean: float | None
    median: float | None
    max: int | None
    histogram: list[int]


@dataclass(frozen=True, kw_only=True)
class ImagesPerLabel(JsonRecord):
    """Number of images with a label in each split."""

    label: str
    seen: bool
    train: int
    val: int
    test: int


@dataclass(frozen=True, kw_only=True)
class LabelsWithoutImages(JsonRecord):
    """Labels that cannot be learnt (seen, no training images) or measured (unseen, no test images)."""

    seen_not_in_train: list[str]
    unseen_not_in_test: list[str]


@dataclass(frozen=True, kw_only=True)
class Twins(JsonRecord):
    """A seen and an unseen label that are singular and plural of the same noun."""

    seen: str
    unseen: str


@dataclass(frozen=True, kw_only=True)
class NearestSeen(JsonRecord):
    """An unseen label, the seen one with the nearest word vector, and their cosine (-1..1)."""

    unseen: str
    seen: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class SplitPair(JsonRecord):
    """Number of near-duplicates between two splits."""

    splits: tuple[str, str]
    pairs: int


@dataclass(frozen=True, kw_only=True)
class DuplicatePair(JsonRecord):
    """Two near-duplicate images, their splits, and the number of bits (0..64) by which their hashes differ."""

    images: tuple[str, str]
    splits: tuple[str, str]
    bits: int


@dataclass(frozen=True, kw_only=True)
class NearDuplicates(JsonRecord):
    """Near-duplicates among the images.

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
    """Number of pairs of an image and a label; in train and val, with seen labels only."""

    positives: int
    negatives: int
    unknown: int


@dataclass(frozen=True, kw_only=True)
class PartialLabels(JsonRecord):
    """Known and unknown labels of a data set with partial labels.

    Attributes:
        counts: counts by split.
        never_absent: by split, labels that are on some images and have no verified negative: training gets no negative
            example, and their average precision is 1 regardless of the scores.
    """

    counts: dict[Split, LabelCounts]
    never_absent: dict[Split, list[str]]


@dataclass(frozen=True, kw_only=True)
class SplitReport(JsonRecord):
    """Content of ``split_report.json``.

    Attributes:
        images: number of images by split.
        twins, nearest_seen: for unseen labels; closest pairs first.
        same_vector: groups of labels with equal word vectors, which no model can tell apart.
        near_duplicates: None if the images were not checked.
        partial_labels: the key is absent if labels are complete.
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
        return _without_none(super().to_json(), "partial_labels")  # like older folders


@dataclass(frozen=True, kw_only=True)
class FoundLabel(JsonRecord):
    """Lookup of a label's vector: how it was found, such as "singular", and the words that were used."""

    how: str
    words: list[str]


@dataclass(frozen=True, kw_only=True)
class VectorsFound(JsonRecord):
    """Origin of the labels' word vectors.

    Attributes:
        source: value of ``--word-vectors``.
        word_dim: dimensions of a vector.
        normalized: vectors have a length of 1.
        found: number of labels by how they were found.
        labels: each label that was not found as written.
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
    """Further facts on the word vectors of a data set.

    Attributes:
        unseen_same_as_seen: unseen label -> the seen one with the same vector.
        papers_use: the 300-dimensional vectors of published results; "" for data without papers.
    """

    unseen_same_as_seen: dict[str, str]
    papers_use: str


@dataclass(frozen=True, kw_only=True)
class WordVectorsRecord(JsonRecord):
    """Content of the JSON file next to the output of ``prepare wordvecs``.

    Attributes:
        labels: names of the rows of the matrix, in order.
        sha256: hash of the matrix file, 64 hexadecimal digits, by file name.
    """

    labels: list[str]
    word_vectors: VectorsFound
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ReleasedRecord(JsonRecord):
    """Files for the released code.

    Attributes:
        images: number of images by split in these files.
        images_without_label: number of images left out of these files.
        labels_on_no_image: labels left out of these files.
    """

    folder: str
    images: dict[str, int]
    images_without_label: int
    labels_on_no_image: list[str]


@dataclass(frozen=True, kw_only=True)
class AppliedProtocol(JsonRecord):
    """Rules for keeping images, see :class:`data_prep.source.Protocol`.

    Attributes:
        min_bytes: minimum file size.
    """

    name: str
    train_shows_seen: bool
    test_shows: str
    min_bytes: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(JsonRecord):
    """Content of ``dataset.json``, which describes a prepared folder.

    Attributes:
        format_version: version of the folder format.
        task: "multi-label" or "single-label".
        image_root: folder to which the paths of ``data.csv`` are relative.
        benchmark: name of the file that lists seen and unseen labels.
        images: number of images by split.
        images_by_protocol: the same for each protocol.
        partial_labels: counts by split if data.csv lists labels that are verified to be absent; the key is absent if
            labels are complete.
        dropped: number of images left out, by reason.
        source: facts about the source data; they depend on the kind of source.
        labels: names of the columns of the word vectors, sorted.
        written_by: name and version of the program.
        released_splits: None without ``--released-splits``.
        sha256: hashes of the files in the folder, 64 hexadecimal digits, by file name.
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
        return _without_none(super().to_json(), "partial_labels")  # like older folders


def _without_none(content: JsonObject, key: str) -> JsonObject:
    """Return the content without a key whose value is None."""
    return {name: value for name, value in content.items() if name != key or value is not None}
