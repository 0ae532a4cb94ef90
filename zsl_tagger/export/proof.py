"""Compare exported networks with torch on synthetic and real images, for several batch sizes and label counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from zsl_tagger.evaluation.thresholds import sigmoid
from zsl_tagger.export.networks import ExportError
from zsl_tagger.export.results import Agreement
from zsl_tagger.model.cosine import CosineHead
from zsl_tagger.model.local_global import LocalGlobalHead
from zsl_tagger.model.tagger_model import TaggerModel, softmax_log_odds
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelConfig
from zsl_tagger.tagging.onnx_model import LABELS_PER_CALL, OnnxModel
from zsl_tagger.words.table import unit_length

#: Maximum difference of a logit from torch; relative for logits above 1.
TOLERANCE = 1e-4

#: Label counts besides the whole vocabulary: one, a prime number, and more than fit into one decoder call.
LABEL_COUNTS = (1, 7, LABELS_PER_CALL + 3)

BATCH = 5  # for most images; the first ones come alone and in a pair
TOP = 10  # number of best labels to compare per image
REPEATS, SECONDS = 5, 1.0  # minimum number of timed calls, and minimum duration


class Networks(Protocol):
    """Exported networks of any kind, such as :class:`zsl_tagger.tagging.onnx_model.OnnxModel`."""

    def encode(self, images: np.ndarray) -> Encoded:
        """Encode images, uint8 ``(B, S, S, 3)``."""

    def logits(self, encoded: Encoded, queries: np.ndarray) -> np.ndarray:
        """Return logits, float32 ``(B, K)``, for word vectors ``(K, word_dim)`` or class numbers ``(K,)``."""


@dataclass(frozen=True)
class Case:
    """Inputs and torch's output.

    Attributes:
        images: uint8 ``(B, S, S, 3)``.
        queries: unit word vectors float32 ``(K, word_dim)``, or class numbers int64 ``(K,)``.
        logits: float32 ``(B, K)``.
        classes: probabilities float32 ``(B, N)``; None without class evidence.
    """

    images: np.ndarray
    queries: np.ndarray
    logits: np.ndarray
    classes: np.ndarray | None


class Proof:
    """Reference outputs of torch for comparison with exported networks.

    Args:
        vocabulary: labels whose thresholds and ranking are compared.
        photos: uint8 ``(S, S, 3)`` each, in addition to three synthetic images.
    """

    def __init__(
        self, model: TaggerModel, config: ModelConfig, vocabulary: LabelSet, photos: Sequence[np.ndarray] = ()
    ):
        self.vocabulary = vocabulary
        # A cosine head multiplies by its scale, so the tolerance of logits scales too.
        of_cosines = isinstance(model.head, CosineHead | LocalGlobalHead)
        self.tolerance = TOLERANCE * (max(1.0, model.head.scale.item()) if of_cosines else 1.0)
        images = np.stack([*synthetic_images(config.image_size), *photos])  # (N, S, S, 3)

        def case(some: np.ndarray, queries: np.ndarray) -> Case:
            return Case(some, queries, torch_logits(model, config, some, queries), torch_classes(model, some))

        self.on_vocabulary = [case(batch, vocabulary.queries) for batch in _batches(images)]
        self.on_counts = [case(images[-2:], some_queries(count, config, vocabulary)) for count in LABEL_COUNTS]

    def check(self, networks: Networks, what: str) -> None:
        """Raise an ExportError, with ``what`` as the name, if a logit differs by more than the tolerance."""
        for case in (*self.on_vocabulary, *self.on_counts):
            encoded = networks.encode(case.images)
            _check_classes(encoded.classes, case.classes, what)
            logits = networks.logits(encoded, case.queries)
            if logits.shape != case.logits.shape:  # the export has fixed the number of images or labels
                raise ExportError(f"{what} gives logits {logits.shape} where torch gives {case.logits.shape}")
            differences = np.abs(logits - case.logits)
            if not (differences <= self.tolerance * np.maximum(1, np.abs(case.logits))).all():
                raise ExportError(
                    f"{what} and torch differ by {differences.max():.1e} in a logit, more than {self.tolerance:.0e}, "
                    f"on {len(case.images)} images and {len(case.queries)} labels"
                )

    def compare(self, networks: Networks) -> Agreement:
        """Compare networks of any precision with torch, one image at a time as in ``tag``."""
        images = np.concatenate([case.images for case in self.on_vocabulary])  # (N, S, S, 3)
        expected = np.concatenate([self.vocabulary.log_odds(case.logits, case.classes) for case in self.on_vocabulary])
        logits = np.concatenate([self._log_odds(networks, image[None]) for image in images])  # (N, K)
        off = [np.abs(_logits(networks, case.images, case.queries) - case.logits).max() for case in self.on_counts]
        tags, expected_tags = self._is_tag(logits), self._is_tag(expected)
        either = tags | expected_tags
        return Agreement(
            difference=float(max(np.abs(logits - expected).max(), *off)),
            same_side=float((tags == expected_tags).mean()),
            same_tags=float((tags & expected_tags)[either].mean()) if either.any() else 1.0,
            same_top=_same_top(logits, expected),
            moved=self._moved(networks),
        )

    def _log_odds(self, networks: Networks, images: np.ndarray) -> np.ndarray:
        """Return log-odds of the vocabulary, float32 ``(B, K)``."""
        encoded = networks.encode(images)
        return self.vocabulary.log_odds(networks.logits(encoded, self.vocabulary.queries), encoded.classes)

    def _moved(self, networks: Networks) -> float:
        """Return the effect of scoring labels alone, on the last image and ten labels."""
        encoded, queries = networks.encode(self.on_vocabulary[-1].images[-1:]), self.vocabulary.queries
        together = networks.logits(encoded, queries)[0]  # (K,)
        some = np.linspace(0, len(queries) - 1, 10).astype(int)
        return max(abs(float(networks.logits(encoded, queries[i : i + 1])[0, 0] - together[i])) for i in some)

    def _is_tag(self, logits: np.ndarray) -> np.ndarray:
        """Return whether each label is a tag, bool ``(N, K)``, by the rule of ``tag``."""
        return sigmoid(logits + self.vocabulary.biases) >= self.vocabulary.thresholds

    def milliseconds(self, several: Sequence[OnnxModel]) -> list[tuple[float, float]]:
        """Return encoder and decoder times of each model, for one image and the prepared vocabulary, as in ``tag``."""
        image, queries = self.on_vocabulary[0].images, self.vocabulary.queries
        encoded = several[0].encode(image)
        encoding = _median_times([partial(one.encode, image) for one in several])
        scoring = _median_times([partial(one.logits, encoded, one.prepare(queries)) for one in several])
        return list(zip(encoding, scoring, strict=True))


def synthetic_images(size: int) -> np.ndarray:
    """Return two noise images and one with gradients and a rectangle, uint8 ``(3, S, S, 3)``."""
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    slope = np.linspace(0, 255, size).astype(np.uint8)  # (S,)
    picture = np.stack(np.broadcast_arrays(slope, slope[:, None], slope[::-1]), axis=-1)  # (S, S, 3)
    picture[size // 4 : size // 2, size // 3 :] = (200, 40, 30)
    return np.concatenate([noise, picture[None]])


def some_queries(count: int, config: ModelConfig, vocabulary: LabelSet) -> np.ndarray:
    """Return random unit vectors ``(count, word_dim)``, or repeated class numbers ``(count,)``."""
    if config.closed_set:
        return np.arange(count) % len(vocabulary)
    vectors = np.random.default_rng(count).standard_normal((count, config.word_dim))
    return unit_length(vectors).astype(np.float32)


@torch.inference_mode()
def torch_logits(model: TaggerModel, config: ModelConfig, images: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return logits, float32 ``(B, K)``, by the forward pass of training."""
    pixels, labels = torch.from_numpy(images.copy()), torch.from_numpy(queries)
    if not config.closed_set:
        return model(pixels, labels).numpy()
    logits = model(pixels)  # (B, all classes)
    if config.architecture.get("softmax"):
        logits = softmax_log_odds(logits)
    return logits[:, labels].numpy()


@torch.inference_mode()
def torch_classes(model: TaggerModel, images: np.ndarray) -> np.ndarray | None:
    """Return class probabilities, float32 ``(B, N)``, or None without class evidence."""
    if not model.class_evidence:
        return None
    return model.classes(model.backbone_tokens(torch.from_numpy(images.copy()))).numpy()


def _check_classes(found: np.ndarray | None, expected: np.ndarray | None, what: str) -> None:
    """Compare class probabilities; the objects of a detector behind them are not torch's."""
    if (found is None) != (expected is None):
        raise ExportError(f"{what} and torch disagree on whether there are class probabilities")
    if found is None or expected is None:
        return
    difference = np.abs(found[:, : expected.shape[1]] - expected).max()
    if difference > TOLERANCE:
        raise ExportError(
            f"{what} and torch differ by {difference:.1e} in a class probability, more than {TOLERANCE:.0e}"
        )


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Split ``(N, ...)`` into batches of one, two, then five."""
    ends = [0, 1, 3, *range(3 + BATCH, len(images), BATCH), len(images)]
    for start, end in pairwise(ends):
        if end > start:
            yield images[start:end]


def _logits(networks: Networks, images: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return networks.logits(networks.encode(images), queries)


def _same_top(logits: np.ndarray, expected: np.ndarray) -> float:
    best, expected_best = (np.argsort(-rows, axis=1, kind="stable")[:, :TOP] for rows in (logits, expected))
    shares = [np.isin(own, other).mean() for own, other in zip(best, expected_best, strict=True)]
    return float(np.mean(shares))


def _median_times(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median milliseconds of each call, measured in turns so that other load affects all equally."""
    times: list[list[float]] = [[] for _ in calls]
    while len(times[0]) < REPEATS or sum(times[0]) < SECONDS:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) for taken in times]
