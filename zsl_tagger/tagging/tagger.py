"""The tagger: load once, encode an image once, ask any labels.

>>> tagger = Tagger()
>>> tagger.tag("photo.jpg", labels=["dog", "beach"])
[Tag(label='dog', score=0.93)]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.tagging.heatmap import relative_maps
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelFolder, ModelFolderError, VocabularyLabel
from zsl_tagger.tagging.onnx_model import OnnxModel
from zsl_tagger.tagging.shortlist import Shortlist
from zsl_tagger.words.table import UnknownLabelError, WordTable

#: Up to so many labels each one is asked; of more, a shortlist (:mod:`zsl_tagger.tagging.shortlist`).
EXACT_UP_TO = 20_000
#: About so many words stand for all in a heat map.
WORDS_IN_GENERAL = 256


class Tagger:
    """Tags images with any words.

    Args:
        model: a model folder; None for the packaged model.
        workers: images in work at a time by :meth:`tag_many`. One worker uses every processor core for one
            image; as many workers as cores use one core each, which is faster for many images.

    Raises:
        ModelFolderError: the folder is missing, incomplete or inconsistent.
    """

    def __init__(self, model: str | Path | None = None, workers: int = 1):
        if workers < 1:
            raise UserError(f"expected at least 1 worker, got {workers}")
        self._folder = ModelFolder(model)
        self.workers = workers
        self._model = OnnxModel(self._folder.path, self._folder.config, threads=max(1, available_cores() // workers))

    @property
    def folder(self) -> ModelFolder:
        """The model folder it was loaded from."""
        return self._folder

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how an image becomes what the model reads, for :func:`~zsl_tagger.images.preprocessing.load_array`."""
        return self._model.preprocessing

    @property
    def image_size(self) -> int:
        """Return the side in pixels of the square that the model reads."""
        return self._model.preprocessing.image_size

    @cached_property
    def words(self) -> WordTable:
        """The word table: ``"zebra" in tagger.words``, ``tagger.words.suggest("zebar")``."""
        return self._folder.words()

    @cached_property
    def vocabulary(self) -> LabelSet:
        """The default labels, each with its own threshold."""
        try:
            return self.label_set([label.name for label in self._listed])
        except UnknownLabelError as error:
            raise ModelFolderError(f"{self._folder.path}: labels.json asks what words.txt lacks: {error}") from None

    @cached_property
    def _listed(self) -> list[VocabularyLabel]:
        return self._folder.labels()

    @cached_property
    def _by_key(self) -> dict[str, VocabularyLabel]:
        return {self.key(label.name): label for label in self._listed}

    def key(self, label: str) -> str:
        """What a label is looked up as (:attr:`Resolved.key`); an unknown one as itself."""
        return self.words.key(label)

    def label_set(self, labels: Sequence[str]) -> LabelSet:
        """Prepare labels once, to ask them of many images.

        Raises:
            UnknownLabelError: labels that are in no way known, all of them, with suggestions.
            UserError: no labels.
        """
        if isinstance(labels, str):
            raise UserError(f"expected a list of labels, got the single string {labels!r}: write [{labels!r}]")
        if not labels:
            raise UserError("the label list is empty: give at least one label")
        resolved = self.words.resolve_all(labels)
        queries, keys = self.words.vectors_of(resolved), [found.key for found in resolved]
        config = self._folder.config
        listed = [self._by_key.get(key) or VocabularyLabel(key, config.default_threshold, seen=False) for key in keys]
        return LabelSet.of_listed(labels, keys, queries, listed, config.unseen_bias)

    def encode(self, image: Any) -> np.ndarray:
        """Look at an image once: tokens float32 ``(1, L, D)``, to ask any labels of with :meth:`scores`.

        Args:
            image: path, PIL image or array (see :func:`zsl_tagger.images.preprocessing.load_array`).

        Raises:
            ImageError: it cannot be read.
        """
        return self._model.encode(load_array(image, self._model.preprocessing)[None])

    def scores(self, tokens: np.ndarray, labels: LabelSet | Sequence[str]) -> np.ndarray:
        """Score of every label, float32 ``(B, K)`` in 0..1, for tokens ``(B, L, D)`` of :meth:`encode`.

        A label's score does not depend on which other labels are asked.
        """
        label_set = labels if isinstance(labels, LabelSet) else self.label_set(labels)
        return probabilities(self.logits(tokens, label_set) + label_set.biases)

    def logits(self, tokens: np.ndarray, labels: LabelSet) -> np.ndarray:
        """What the network says of every label, float32 ``(B, K)``, without the bias of labels never trained."""
        return self._model.logits(tokens, labels.prepared(self._model))

    def query_states(self, labels: LabelSet) -> np.ndarray:
        """What the decoder makes of labels before it sees a photo, float32 ``(K, D)``; else their word vectors."""
        asked = labels.prepared(self._model)
        return asked.get("states", labels.queries)

    def heatmap(self, tokens: np.ndarray, labels: LabelSet | Sequence[str]) -> np.ndarray:
        """Return where the decoder looks for each label, relative to words in general (:mod:`.heatmap`).

        Args:
            tokens: float32 ``(1, L, D)`` of :meth:`encode`.

        Returns:
            float32 ``(K, R, R)``, 0..1: rows and columns of the photo, to lay over it with
            :func:`zsl_tagger.tagging.heatmap.overlay`.

        Raises:
            UserError: a model whose tokens are not one square map.
        """
        label_set = self._label_set(labels)
        attention = self._model.attention(tokens, label_set.prepared(self._model))[0]  # (K, L)
        usual = self._model.attention(tokens, self._any_words.prepared(self._model))[0].mean(axis=0)  # (L,)
        return relative_maps(attention, usual)

    @cached_property
    def _any_words(self) -> LabelSet:
        """Words in general: some spread evenly over all that are known, or the classes of a closed set."""
        known = self.words.words
        return self.label_set(known[:: max(1, len(known) // WORDS_IN_GENERAL)])

    def tag(
        self,
        image: Any,
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> list[Tag]:
        """The labels that are true of an image, best first.

        Args:
            image: path, PIL image or array.
            labels: words to choose from; None for the default vocabulary.
            threshold: least score, 0..1; None for each label's own.
            top_k: at most so many tags.
            exact: ask every label also of more than ``EXACT_UP_TO``. Else of so many a shortlist is asked, which finds
                nearly all of the best ones (README, "How good, how fast"); where all labels are wanted
                (``threshold=0`` without ``top_k``) every one is asked anyway.
        """
        return self.tag_tokens(self.encode(image), labels, threshold=threshold, top_k=top_k, exact=exact)

    def tag_tokens(
        self,
        tokens: np.ndarray,
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> list[Tag]:
        """:meth:`tag` of an image that was looked at already: tokens float32 ``(1, L, D)`` of :meth:`encode`."""
        label_set = self._label_set(labels)
        _check_limits(threshold, top_k)
        each = exact or len(label_set) <= EXACT_UP_TO or (threshold == 0 and top_k is None)
        shortlist = None if each else label_set.shortlist(self._model)
        if shortlist is None:
            return _choose(label_set, np.arange(len(label_set)), self.scores(tokens, label_set)[0], threshold, top_k)
        return _choose(label_set, *self._best(tokens, label_set, shortlist), threshold, top_k)

    def _best(self, tokens: np.ndarray, labels: LabelSet, shortlist: Shortlist) -> tuple[np.ndarray, np.ndarray]:
        """(indices of labels ``(n,)``, their scores ``(n,)``), the best ones among them."""
        asked = labels.prepared(self._model)

        def ask(some: np.ndarray) -> np.ndarray:
            return self._model.logits(tokens, {name: rows[some] for name, rows in asked.items()})[0]

        found, logits = shortlist.best(ask)
        order = np.argsort(found)  # as exact tagging has them, which matters among equal scores
        return found[order], probabilities(logits[order] + labels.biases[found[order]])

    def tag_many(
        self,
        paths: Iterable[str | Path],
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> Iterator[Record]:
        """One record for each image file, in the given order; an unreadable one gives an error record.

        The options are those of :meth:`tag`.
        """
        label_set = self._label_set(labels)
        _check_limits(threshold, top_k)

        def work(path: str | Path) -> Record:
            try:
                return Record(str(path), self.tag(path, label_set, threshold=threshold, top_k=top_k, exact=exact))
            except ImageError as error:
                return Record(str(path), [], str(error))

        return map_in_order(work, paths, self.workers)

    def _label_set(self, labels: LabelSet | Sequence[str] | None) -> LabelSet:
        if labels is None:
            return self.vocabulary
        return labels if isinstance(labels, LabelSet) else self.label_set(labels)


def _check_limits(threshold: float | None, top_k: int | None) -> None:
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UserError(f"expected a threshold in 0..1, got {threshold}")
    if top_k is not None and top_k < 1:
        raise UserError(f"expected top_k of at least 1, got {top_k}")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Scores 0..1 of logits, their biases added."""
    return 1.0 / (1.0 + np.exp(-np.maximum(logits, -80)))  # exp(80) still fits float32


def _choose(
    labels: LabelSet, indices: np.ndarray, scores: np.ndarray, threshold: float | None, top_k: int | None
) -> list[Tag]:
    """The best of those labels that were asked, ``indices`` and ``scores`` ``(n,)``."""
    floor = labels.thresholds[indices] if threshold is None else threshold
    passing = np.flatnonzero(scores >= floor)
    best_first = passing[np.argsort(-scores[passing], kind="stable")][:top_k]
    return [Tag(labels.labels[indices[index]], float(scores[index])) for index in best_first]
