"""Calibrate the packaged model's labels on held-out photos: biases, thresholds and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zsl_tagger.evaluation.metrics import mean_average_precision
from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.calibration import (
    HeldOutPhotos,
    Reliability,
    WordsOfLabels,
    fit_biases,
    fit_scoring,
    precision_shifts,
)
from zsl_tagger.packaged.targets import Knowledge
from zsl_tagger.tagging.class_evidence import KINDS, OBJECT_KINDS, ClassWord, EvidenceWords, Scoring
from zsl_tagger.tagging.model_folder import VocabularyLabel
from zsl_tagger.words.spelling import normalize_label

#: Minimum score of a tag.
THRESHOLD = 0.5
#: Minimum score of words that name one of the backbone's classes. Chosen on photos of single classes and on coco100
#: (benchmarks/README.md): with 0.5, the names of too many classes are missing on photos that show nothing else.
NAMES_THRESHOLD = 0.4
#: Minimum score of tags about age and sex, which are harmful if wrong.
STRICT_THRESHOLD = 0.7

#: Annotators miss things, so medium scores fitted to their tags are too low. Scale and shift of log-odds correct this;
#: they were fitted to tags on coco100 that were judged one by one (benchmarks/README.md).
JUDGED_SCALE, JUDGED_SHIFT = 0.62, 0.45

MIN_POSITIVES = 5  # minimum number of positives on held-out photos for a word to count in the model card's mAP


@dataclass(frozen=True)
class CalibratedLabels:
    """Result of the calibration on held-out photos.

    Attributes:
        precision_shifts: see :class:`~zsl_tagger.tagging.model_folder.ModelConfig`.
        figures: figures of the model card, shares in 0..1.
        scores: scores of the held-out photos, float ``(N, V)``, each calibrated on the other half of the photos.
        reliability: reliability of these scores for the default vocabulary, without unknown labels.
    """

    labels: list[VocabularyLabel]
    scoring: Scoring
    precision_shifts: list[tuple[float, float]]
    figures: dict[str, float]
    scores: np.ndarray
    reliability: Reliability


def calibrate_labels(
    photos: HeldOutPhotos,
    names: Sequence[str],
    is_default: np.ndarray,
    is_trained: np.ndarray,
    evidence_words: EvidenceWords,
    knowledge: Knowledge,
    probes: Sequence[int | None],
) -> CalibratedLabels:
    """Calibrate V labels on held-out photos.

    Args:
        photos: with logits that include the probes.
        names: names of the labels, as printed.
        is_default: bool ``(V,)``, labels of the default vocabulary.
        is_trained: bool ``(V,)``, labels with positives in training.
        probes: number of each label's probe in ``probes.npy``.
    """
    keys = [normalize_label(name) for name in names]
    words = WordsOfLabels.of(keys, evidence_words)
    scoring, biases = _fit(photos, words, is_default)
    thresholds = np.array([_threshold(*of_label) for of_label in zip(keys, words.classes, words.objects, strict=True)])
    log_odds = _log_odds(photos, words, scoring, biases)
    shown = is_default & is_trained
    levels = np.log(thresholds / (1 - thresholds))
    shifts = precision_shifts(log_odds[:, shown], levels[shown], photos.truth[:, shown], photos.known[:, shown])
    scores, evaluated = _cross_fitted(photos, words, is_default), photos.known & shown
    reliability = Reliability.of(scores[evaluated], photos.truth[evaluated])
    common = photos.truth.sum(axis=0) >= MIN_POSITIVES
    figures = {
        "photos": len(photos.truth),
        "labels": int(common.sum()),
        "mean_average_precision": mean_average_precision(log_odds[:, common], photos.truth[:, common].astype(np.int64)),
        "calibration_error": reliability.error,
        **_figures_of_tags(scores, photos.truth, evaluated, evaluated & (scores >= thresholds)),
    }
    default = {key for key, is_one in zip(keys, is_default, strict=True) if is_one}
    labels = [
        VocabularyLabel(
            name,
            float(thresholds[at]),
            seen=bool(is_trained[at]),
            bias=round(float(biases[at]), 3) if is_trained[at] else 0.0,
            default=bool(is_default[at]),
            implies=sorted((knowledge.implied(key) & default) - {key}) if is_default[at] else (),
            probe=probes[at],
        )
        for at, (name, key) in enumerate(zip(names, keys, strict=True))
    ]
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return CalibratedLabels(labels, scoring, shifts, rounded, scores, reliability)


def _threshold(key: str, of_classes: ClassWord | None, of_objects: ClassWord | None) -> float:
    if key in lexicon.AGE_AND_SEX:
        return STRICT_THRESHOLD
    if of_objects is not None and of_objects.names:  # the detector leaves fewer of them out than the classifier does
        return THRESHOLD
    return NAMES_THRESHOLD if of_classes is not None and of_classes.names else THRESHOLD


def unprobed_scoring(photos: HeldOutPhotos, words: WordsOfLabels) -> Scoring:
    """Return the scoring of words without a probe, from the decoder's logits of trained words."""
    return _corrected(fit_scoring(photos, words))


def _fit(photos: HeldOutPhotos, words: WordsOfLabels, is_default: np.ndarray) -> tuple[Scoring, np.ndarray]:
    """Return scoring and biases ``(V,)`` fitted to the photos, corrected for tags that annotators miss.

    The scoring is fitted to the default vocabulary: other words, which are rarely printed, would dominate by number.
    """
    scoring = fit_scoring(*photos.of_words(words, np.flatnonzero(is_default)))
    biases = fit_biases(words.log_odds(photos, scoring), photos.truth, photos.known)
    return _corrected(scoring), JUDGED_SCALE * biases


def _corrected(scoring: Scoring) -> Scoring:
    corrected = {}
    for kind in KINDS:
        scale, weight, offset = getattr(scoring, kind)
        corrected[kind] = JUDGED_SCALE * scale, JUDGED_SCALE * weight, JUDGED_SCALE * offset + JUDGED_SHIFT
    for kind in OBJECT_KINDS:  # applied to log-odds that are corrected already
        scale, weight, offset = getattr(scoring, kind)
        corrected[kind] = scale, JUDGED_SCALE * weight, JUDGED_SCALE * offset + (1 - scale) * JUDGED_SHIFT
    return Scoring(**corrected)


def _log_odds(photos: HeldOutPhotos, words: WordsOfLabels, scoring: Scoring, biases: np.ndarray) -> np.ndarray:
    """Return log-odds, float ``(N, V)``, as computed by the tagger."""
    return words.log_odds(photos, scoring) + biases


def _cross_fitted(photos: HeldOutPhotos, words: WordsOfLabels, is_default: np.ndarray) -> np.ndarray:
    """Return scores, float ``(N, V)``, each calibrated on the other half of the photos."""
    half = np.arange(len(photos.truth)) % 2 == 0
    scores = np.zeros(photos.truth.shape)
    for rows in (half, ~half):
        scoring, biases = _fit(photos.select(~rows), words, is_default)
        scores[rows] = sigmoid(_log_odds(photos.select(rows), words, scoring, biases))
    return scores


def _figures_of_tags(
    scores: np.ndarray, truth: np.ndarray, evaluated: np.ndarray, tags: np.ndarray
) -> dict[str, float]:
    """Return the figures of tags; all arguments are ``(N, V)``.

    Args:
        evaluated: pairs of photo and word that count.
        tags: those of them that are tags.
    """
    return {
        "calibration_error_of_tags": Reliability.of(scores[tags], truth[tags]).error,
        "tags_a_photo": float(tags.sum() / len(tags)),
        "precision": float(truth[tags].mean()),
        "recall": float((tags & truth).sum() / (evaluated & truth).sum()),
    }
