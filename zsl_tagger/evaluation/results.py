"""Results of an evaluation, for ``report.json``, the page and the printed tables.

Every figure is a share in 0..1, never a percentage, unless its docstring says otherwise. Metrics have one spelling:
``map`` (mean average precision), ``f1_at_3``, ``f1_at_threshold`` and ``f1_at_half``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from zsl_tagger.system.json_record import JsonRecord

Task = Literal["zsl", "seen", "gzsl"]
Group = Literal["unseen", "seen"]
#: Bounds of a 95 % interval, in the unit of the figure.
Interval = tuple[float, float]

MAP, F1_AT_THRESHOLD, F1_AT_HALF = "map", "f1_at_threshold", "f1_at_half"


def f1_at(k: int) -> str:
    """Return the name of the metric F1@K."""
    return f"f1_at_{k}"


def metric_title(metric: str) -> str:
    """Return the name of a metric as in papers, such as "F1@3"."""
    titles = {MAP: "mAP", F1_AT_THRESHOLD: "F1 at threshold", F1_AT_HALF: "F1 at 0.5"}
    return titles.get(metric) or metric.replace("f1_at_", "F1@")


@dataclass(frozen=True, kw_only=True)
class ImageTotals(JsonRecord):
    """Numbers of images in the split.

    Attributes:
        evaluated: images that the figures are computed on; the number for GZSL if tasks differ.
        left_out_by_protocol: images that the protocol does not evaluate.
    """

    evaluated: int
    left_out_by_protocol: int


@dataclass(frozen=True, kw_only=True)
class LabelTotals(JsonRecord):
    """Numbers of evaluated labels.

    Attributes:
        without_positives: labels without a positive image.
        without_positives_count_as: their average precision in the mean; None: they are excluded from it.
        with_ties: labels whose average precision depends on the order of equal scores.
        tied_images: images with such scores, summed over the labels.
    """

    seen: int
    unseen: int
    without_positives: int
    without_positives_count_as: int | None
    with_ties: int
    tied_images: int


@dataclass(frozen=True, kw_only=True)
class LabelRanking(JsonRecord):
    """Ranking figures of one label.

    Attributes:
        positives: number of images with the label.
        unknown: number of images without an annotation of it, which are excluded.
        average_precision: 0..1; NaN without positives.
        average_precision_interval: 95 % interval; None without resamples.
        tied_images: images that share a score with an image of the opposite truth.
        threshold: minimum value of a tag, in the unit of the scores (logits or probabilities).
    """

    label: str
    seen: bool
    positives: int
    unknown: int
    average_precision: float
    average_precision_interval: Interval | None
    tied_images: int
    threshold: float


@dataclass(frozen=True, kw_only=True)
class LabelFigures(LabelRanking):
    """All figures of one label.

    Attributes:
        precision, recall, f1: 0..1, at its threshold.
    """

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class TopFigures(JsonRecord):
    """Micro figures of the K best labels of every image.

    Attributes:
        precision, recall, f1: 0..1.
        tied_images: images in which equal scores share the K-th place.
        f1_interval: 95 % interval; None without resamples.
    """

    precision: float
    recall: float
    f1: float
    tied_images: int
    f1_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class LevelFigures(JsonRecord):
    """Figures of the tags, i.e. the labels that reach a threshold.

    Attributes:
        precision, recall, f1: 0..1, over all tags together (OP, OR and OF1 in papers).
        f1_interval: 95 % interval of ``f1``; None without resamples.
        cp, cr: 0..1, precision and recall averaged over labels; None without labels.
        cf1: 0..1, harmonic mean of ``cp`` and ``cr``.
        macro_f1: 0..1, mean of the F1 of labels with positives; None without such labels.
    """

    precision: float
    recall: float
    f1: float
    cp: float | None
    cr: float | None
    cf1: float | None
    macro_f1: float | None
    f1_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class TaskFigures(JsonRecord):
    """Figures of one task.

    Attributes:
        images: number of evaluated images.
        labels: number of labels.
        labels_in_mean: number of labels in the mean of ``map``.
        map: 0..1, mean average precision; None without labels in the mean.
        map_interval: 95 % interval; None without resamples.
        at_k: figures at each K up to the number of labels.
        at_threshold: tags at each label's own threshold, or at the requested one; None without images.
        at_half: tags at a probability of 0.5.
    """

    images: int
    labels: int
    labels_in_mean: int
    map: float | None
    map_interval: Interval | None
    at_k: dict[int, TopFigures]
    at_threshold: LevelFigures | None
    at_half: LevelFigures | None

    def figure(self, metric: str) -> float | None:
        """Return a figure by the name of its metric, or None if the task lacks it."""
        levels = {F1_AT_THRESHOLD: self.at_threshold, F1_AT_HALF: self.at_half}
        of_f1 = levels | {f1_at(k): top for k, top in self.at_k.items()}
        if metric == MAP:
            return self.map
        found = of_f1[metric]
        return None if found is None else found.f1


@dataclass(frozen=True, kw_only=True)
class RecallPair(JsonRecord):
    """Recall@K (0..1) of seen and unseen positives with all labels ranked together, and their harmonic mean."""

    seen: float
    unseen: float
    harmonic_mean: float


@dataclass(frozen=True, kw_only=True)
class BiasedFigures(JsonRecord):
    """Figures with the model's bias added to the logits of labels that it was never trained on.

    Attributes:
        recall_at_k, at_k: by K, as for GZSL without the bias.
    """

    recall_at_k: dict[int, RecallPair]
    at_k: dict[int, TopFigures]


@dataclass(frozen=True, kw_only=True)
class RecallCurve(JsonRecord):
    """Points of the curve of unseen and seen recall (0..1) as the bias of unseen labels grows."""

    seen: list[float]
    unseen: list[float]


@dataclass(frozen=True, kw_only=True)
class SeenAndUnseen(JsonRecord):
    """GZSL figures of seen and unseen labels ranked together.

    Attributes:
        harmonic_mean_of_map: 0..1, of the mAP of seen and unseen labels; None if one of them has none.
        recall_at_k: recall of both groups, by K.
        with_model_bias: None for a model without a bias.
        ausuc: 0..1, area under the curve of seen over unseen recall@K.
        ausuc_k: K of that recall.
        best_bias: in the unit of the scores (logits or probabilities), chosen on these images; None: minus infinity.
        best_harmonic_mean: 0..1, the maximum over all biases.
    """

    harmonic_mean_of_map: float | None
    recall_at_k: dict[int, RecallPair]
    with_model_bias: BiasedFigures | None
    ausuc: float
    ausuc_k: int
    best_bias: float | None
    best_harmonic_mean: float
    curve: RecallCurve


@dataclass(frozen=True, kw_only=True)
class Probabilities(JsonRecord):
    """Distribution of the probabilities of a group of labels, in 50 equal bins of 0..1.

    Attributes:
        false, true: number of entries (an image and a label) in each bin, by their truth.
        mean_probability: 0..1, mean of the entries of each bin; 0 for an empty bin.
        calibration_error: 0..1, |mean probability - share of true entries| of each bin, averaged over entries.
    """

    false: list[int]
    true: list[int]
    mean_probability: list[float]
    calibration_error: float


@dataclass(frozen=True, kw_only=True)
class Figures(JsonRecord):
    """All figures of scores compared with the ground truth.

    Attributes:
        protocol: name of the protocol.
        definition: sentences that define its figures.
        kind: unit of the scores, "logits" or "probabilities".
        threshold: probability 0..1 used as the threshold of every label; None: each label has its own.
        tasks: figures by task; GZSL only if there are seen and unseen labels.
        seen_and_unseen: None if there is only one group of labels.
        precision_recall: per group, mean precision over labels at each recall 0, 0.01, ..., 1; empty without positives.
        probabilities: per group.
    """

    protocol: str
    definition: list[str]
    images: ImageTotals
    labels: LabelTotals
    kind: str
    threshold: float | None
    tasks: dict[Task, TaskFigures]
    seen_and_unseen: SeenAndUnseen | None
    precision_recall: dict[Group, list[float]]
    probabilities: dict[Group, Probabilities]


@dataclass(frozen=True, kw_only=True)
class Difference(JsonRecord):
    """Comparison of one metric of two evaluations.

    Attributes:
        ours, other: the figures, 0..1.
        difference: ``ours - other``.
        interval: 95 % interval of the difference; None without resamples.
        p: two-sided p-value of no difference, 0..1.
    """

    ours: float
    other: float
    difference: float
    interval: Interval | None
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison(JsonRecord):
    """Comparison of two evaluations on the same resamples of the same images.

    Attributes:
        evaluated: path of the other model or scores file.
        tasks: differences by task and metric ("map", "f1_at_3", "f1_at_threshold", "f1_at_half").
    """

    evaluated: str
    tasks: dict[Task, dict[str, Difference]]


@dataclass(frozen=True, kw_only=True)
class Report(Figures):
    """Content of ``report.json``, written by ``zsl-tagger evaluate --output``. Figures are shares in 0..1.

    Attributes:
        evaluated: path of the model folder or scores file.
        data: name of the data set; ``split``: the split used.
        resamples: number of bootstrap resamples; 0 for no intervals.
        unreadable_images: number of images that could not be read and were skipped.
        against: the comparison of ``--against``.
        notes: remarks on the figures for the reader.
    """

    evaluated: str
    data: str
    split: str
    resamples: int
    unreadable_images: int
    against: Comparison | None
    notes: list[str]

    @classmethod
    def of(
        cls,
        figures: Figures,
        *,
        evaluated: str,
        data: str,
        split: str,
        resamples: int = 0,
        unreadable_images: int = 0,
        against: Comparison | None = None,
        notes: list[str] | None = None,
    ) -> Report:
        """Return a report of figures with their origin."""
        return cls(
            **{field.name: getattr(figures, field.name) for field in fields(Figures)},
            evaluated=evaluated,
            data=data,
            split=split,
            resamples=resamples,
            unreadable_images=unreadable_images,
            against=against,
            notes=notes or [],
        )


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord(JsonRecord):
    """Content of ``provenance.calibration`` in ``config.json``: the data of ``zsl-tagger calibrate``.

    Attributes:
        data: name of the data set; ``split``: the split used.
        images: number of images.
        precision: requested share of correct tags (0..1); None: the best F1.
    """

    data: str
    split: str
    images: int
    precision: float | None
