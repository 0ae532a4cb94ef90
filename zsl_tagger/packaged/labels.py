"""The packaged model's labels: their biases and thresholds, what they imply, and how good held-out photos show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zsl_tagger.evaluation.metrics import mean_average_precision
from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.calibration import (
    Judged,
    Reliability,
    fit_biases,
    fit_scoring,
    precision_shifts,
)
from zsl_tagger.packaged.targets import Knowledge
from zsl_tagger.tagging.class_evidence import KINDS, ClassWord, LabelEvidence, Scoring
from zsl_tagger.tagging.model_folder import VocabularyLabel
from zsl_tagger.words.spelling import normalize_label

#: Score from which a label is a tag.
THRESHOLD = 0.5
#: The same of words of age and sex, which do harm where they are wrong.
SURE = 0.7

#: Annotators leave out a part of what is there, so scores fitted on their tags are too low where they are middling.
#: These turn their log-odds into those of the tags that were judged one by one on coco100 (benchmarks/README.md).
JUDGED_SCALE, JUDGED_SHIFT = 0.62, 0.45

JUDGED_POSITIVES = 5  # least positives on the held-out photos of a word that the model card's mAP counts


@dataclass(frozen=True)
class JudgedLabels:
    """What the held-out photos say.

    Attributes:
        precision_shifts: see :class:`~zsl_tagger.tagging.model_folder.ModelConfig`.
        figures: of the model card, shares 0..1.
        scores: of the held-out photos, float ``(N, V)``, each by a calibration on the other half of them.
        reliability: of those of the default vocabulary, against what is known.
    """

    labels: list[VocabularyLabel]
    scoring: Scoring
    precision_shifts: list[tuple[float, float]]
    figures: dict[str, float]
    scores: np.ndarray
    reliability: Reliability


def judge_labels(
    judged: Judged,
    names: Sequence[str],
    is_default: np.ndarray,
    is_trained: np.ndarray,
    class_words: Mapping[str, ClassWord],
    knowledge: Knowledge,
) -> JudgedLabels:
    """Calibrate V labels on held-out photos.

    Args:
        names: as they are printed.
        is_default, is_trained: bool ``(V,)``: of the default vocabulary; with positives in training.
    """
    keys = [normalize_label(name) for name in names]
    words = [class_words.get(key) for key in keys]
    scoring, biases = _fit(judged, words)
    thresholds = np.where([key in lexicon.AGE_AND_SEX for key in keys], SURE, THRESHOLD)
    log_odds = _log_odds(judged, words, scoring, biases)
    shown = is_default & is_trained
    levels = np.log(thresholds / (1 - thresholds))
    shifts = precision_shifts(log_odds[:, shown], levels[shown], judged.truth[:, shown], judged.known[:, shown])
    scores, asked = _cross_fitted(judged, words), judged.known & shown
    reliability = Reliability.of(scores[asked], judged.truth[asked])
    common = judged.truth.sum(axis=0) >= JUDGED_POSITIVES
    figures = {
        "photos": len(judged.truth),
        "labels": int(common.sum()),
        "mean_average_precision": mean_average_precision(log_odds[:, common], judged.truth[:, common].astype(np.int64)),
        "calibration_error": reliability.error,
        **_figures_of_tags(scores, judged.truth, asked, asked & (scores >= thresholds)),
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
        )
        for at, (name, key) in enumerate(zip(names, keys, strict=True))
    ]
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return JudgedLabels(labels, scoring, shifts, rounded, scores, reliability)


def _fit(judged: Judged, words: list[ClassWord | None]) -> tuple[Scoring, np.ndarray]:
    scoring = fit_scoring(judged, words)
    plain = _log_odds(judged, words, scoring, np.zeros(len(words)))
    biases = fit_biases(plain, judged.truth, judged.known)
    return _as_judged(scoring), JUDGED_SCALE * biases


def _as_judged(scoring: Scoring) -> Scoring:
    weights = {kind: JUDGED_SCALE * np.array(getattr(scoring, kind)) for kind in KINDS}
    return Scoring(
        **{kind: (*values[:2].tolist(), float(values[2] + JUDGED_SHIFT)) for kind, values in weights.items()}
    )


def _log_odds(judged: Judged, words: list[ClassWord | None], scoring: Scoring, biases: np.ndarray) -> np.ndarray:
    """Float ``(N, V)``, as the tagger computes them."""
    return LabelEvidence(words, scoring).join(judged.logits, judged.classes) + biases


def _cross_fitted(judged: Judged, words: list[ClassWord | None]) -> np.ndarray:
    """Return scores float ``(N, V)``, each calibrated on the other half of the photos."""
    half = np.arange(len(judged.truth)) % 2 == 0
    scores = np.zeros(judged.truth.shape)
    for rows in (half, ~half):
        scoring, biases = _fit(judged.some(~rows), words)
        scores[rows] = sigmoid(_log_odds(judged.some(rows), words, scoring, biases))
    return scores


def _figures_of_tags(scores: np.ndarray, truth: np.ndarray, asked: np.ndarray, tags: np.ndarray) -> dict[str, float]:
    """Return figures of those of the asked (photo, word) pairs that are tags, all ``(N, V)``."""
    return {
        "calibration_error_of_tags": Reliability.of(scores[tags], truth[tags]).error,
        "tags_a_photo": float(tags.sum() / len(tags)),
        "precision": float(truth[tags].mean()),
        "recall": float((tags & truth).sum() / (asked & truth).sum()),
    }
