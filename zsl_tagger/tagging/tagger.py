"""The tagger: load once, encode an image once, ask any labels.

>>> tagger = Tagger()
>>> tagger.tag("photo.jpg", labels=["dog", "beach"])
[Tag(label='dog', score=0.93)]
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError, ImageSource, Preprocessing, load_array
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.tagging.background import Background, standing_out
from zsl_tagger.tagging.class_evidence import ClassWord, LabelEvidence
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.heatmap import relative_maps
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelFolder, ModelFolderError, VocabularyLabel
from zsl_tagger.tagging.onnx_model import OnnxModel
from zsl_tagger.tagging.shortlist import Shortlist
from zsl_tagger.words.table import UnknownLabelError, WordTable

#: Up to so many labels each one is asked; of more, a shortlist (:mod:`zsl_tagger.tagging.shortlist`).
EXACT_UP_TO = 20_000
#: Up to so many labels that labels.json does not list get thresholds of their own (:mod:`.background`); of more, all
#: get the common one.
BACKGROUND_UP_TO = 200
#: About so many words stand for all in a heat map.
WORDS_IN_GENERAL = 256


class Tagger:
    """Tags images with any words.

    Args:
        model: a model folder; None for the packaged model.
        workers: images in work at a time by :meth:`tag_many`. One worker uses every processor core for one
            image; as many workers as cores use one core each, which is faster for many images.
        device: where the networks run: "cpu", "cuda" (an NVIDIA GPU, by onnxruntime-gpu), or "auto", the GPU where it
            works.

    Raises:
        ModelFolderError: the folder is missing, incomplete or inconsistent.
        UserError: the device is not available; the message says what is.
    """

    def __init__(self, model: str | Path | None = None, workers: int = 1, device: str = "auto"):
        if workers < 1:
            raise UserError(f"expected at least 1 worker, got {workers}")
        self._folder = ModelFolder(model)
        self.workers = workers
        threads = max(1, available_cores() // workers)
        self._model = OnnxModel(self._folder.path, self._folder.config, threads, device, keep=True)

    @property
    def folder(self) -> ModelFolder:
        """The model folder it was loaded from."""
        return self._folder

    @property
    def device(self) -> str:
        """Return where its networks run: "cpu" or "cuda"."""
        return self._model.device

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
        """The default labels, each with its own threshold; parents and synonyms of others are not said."""
        default = [label for label in self._listed if label.default]
        try:
            labels = self.label_set([label.name for label in default])
        except UnknownLabelError as error:
            raise ModelFolderError(f"{self._folder.path}: labels.json asks what words.txt lacks: {error}") from None
        if any(label.implies for label in default):
            labels.implied = [frozenset(self.key(word) for word in label.implies) for label in default]
        return labels

    def for_precision(self, labels: LabelSet, precision: float) -> LabelSet:
        """Return labels with the thresholds at which the tags of photos held out from training had this precision.

        Args:
            precision: share of the tags that are right, 0..1.

        Raises:
            UserError: the model does not say which thresholds those are, or none of them reaches it.
        """
        known = self._folder.config.precision_shifts
        if not known:
            raise UserError("this model does not say which thresholds give which precision: give a threshold instead")
        lowest, highest = known[0][0], known[-1][0]
        if not lowest <= precision <= highest:
            raise UserError(
                f"expected a precision from {lowest:g} to {highest:g}, which this model knows; got {precision}"
            )
        return labels.shifted(float(np.interp(precision, *np.array(known).T)))

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
        made = LabelSet.of_listed(labels, keys, queries, listed, config.unseen_bias, self._evidence(keys))
        unknown = [index for index, key in enumerate(keys) if key not in self._by_key]
        if 0 < len(unknown) <= BACKGROUND_UP_TO and self._background is not None:
            some = made.only(unknown)
            made.thresholds[unknown] = probabilities(
                standing_out(self.log_odds(self._background.encoded, some) + some.biases)
            )
        return made

    def _evidence(self, keys: Sequence[str]) -> LabelEvidence | None:
        scoring = self._folder.config.scoring
        return None if scoring is None else LabelEvidence.of(keys, self._class_words, scoring)

    @cached_property
    def _background(self) -> Background | None:
        return self._folder.background(self._model.token_width, self._model.classes)

    @cached_property
    def _class_words(self) -> dict[str, ClassWord]:
        return self._folder.class_words(self._model.classes)

    def encode(self, image: ImageSource) -> Encoded:
        """Look at an image once, to ask any labels of it with :meth:`scores`.

        Args:
            image: a path, the bytes of an image file, a binary file object, a PIL image, or an array (see
                :func:`zsl_tagger.images.preprocessing.load_array`).

        Raises:
            ImageError: it cannot be read.
            UserError: it is of another kind.
        """
        return self.encode_pixels(load_array(image, self._model.preprocessing))

    def encode_pixels(self, pixels: np.ndarray) -> Encoded:
        """Look at an image that :func:`~zsl_tagger.images.preprocessing.load_array` has read for this model.

        Args:
            pixels: uint8 ``(S, S, 3)``; :meth:`encode` would take it for a photo, and cut a part from it once more.
        """
        return self._model.encode(pixels[None])

    def scores(self, encoded: Encoded, labels: LabelSet | Sequence[str]) -> np.ndarray:
        """Score of every label, float32 ``(B, K)`` in 0..1, for B images of :meth:`encode`.

        A label's score does not depend on which other labels are asked.

        Raises:
            UserError: ``encoded`` is no result of :meth:`encode`, or that of another model.
        """
        self._check_encoded(encoded)
        label_set = labels if isinstance(labels, LabelSet) else self.label_set(labels)
        return probabilities(self.log_odds(encoded, label_set) + label_set.biases)

    def log_odds(self, encoded: Encoded, labels: LabelSet) -> np.ndarray:
        """Logarithm of the odds of every label, float32 ``(B, K)``, without the bias of labels never trained."""
        return labels.log_odds(self.logits(encoded, labels), encoded.classes)

    def logits(self, encoded: Encoded, labels: LabelSet) -> np.ndarray:
        """What the decoder alone says of every label, float32 ``(B, K)``, without class evidence."""
        return self._model.logits(encoded, labels.prepared(self._model))

    def query_states(self, labels: LabelSet) -> np.ndarray:
        """What the decoder makes of labels before it sees a photo, float32 ``(K, D)``; else their word vectors."""
        asked = labels.prepared(self._model)
        return asked.get("states", labels.queries)

    def _check_encoded(self, encoded: Encoded) -> None:
        if not isinstance(encoded, Encoded):
            raise UserError(f"expected what Tagger.encode(image) returns, got {type(encoded).__name__}")
        if not self._model.fits(encoded):
            raise UserError(
                f"tokens of shape {encoded.tokens.shape} are not from this model: encode the image with the same Tagger"
            )

    def heatmap(self, image: ImageSource | Encoded, labels: LabelSet | Sequence[str]) -> np.ndarray:
        """Return where the decoder looks for each label, relative to words in general (:mod:`.heatmap`).

        Args:
            image: as for :meth:`encode`, or one image that it has encoded.

        Returns:
            float32 ``(K, R, R)``, 0..1: rows and columns of the photo, to lay over it with
            :func:`zsl_tagger.tagging.heatmap.overlay`.

        Raises:
            UserError: a model whose tokens are not one square map.
        """
        encoded = image if isinstance(image, Encoded) else self.encode(image)
        self._check_encoded(encoded)
        label_set = self._label_set(labels)
        attention = self._model.attention(encoded, label_set.prepared(self._model))[0]  # (K, L)
        usual = self._model.attention(encoded, self._any_words.prepared(self._model))[0].mean(axis=0)  # (L,)
        return relative_maps(attention, usual)

    @cached_property
    def _any_words(self) -> LabelSet:
        """Words in general: some spread evenly over all that are known, or the classes of a closed set."""
        known = self.words.words
        return self.label_set(known[:: max(1, len(known) // WORDS_IN_GENERAL)])

    def tag(
        self,
        image: ImageSource,
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> list[Tag]:
        """The labels that are true of an image, best first.

        Args:
            image: as for :meth:`encode`.
            labels: words to choose from; None for the default vocabulary.
            threshold: least score, 0..1; None for each label's own.
            top_k: at most so many tags.
            exact: ask every label also of more than ``EXACT_UP_TO``. Else of so many a shortlist is asked, which finds
                nearly all of the best ones (README, "How good, how fast"); where all labels are wanted
                (``threshold=0`` without ``top_k``) every one is asked anyway.
        """
        return self.tag_encoded(self.encode(image), labels, threshold=threshold, top_k=top_k, exact=exact)

    def tag_encoded(
        self,
        encoded: Encoded,
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> list[Tag]:
        """:meth:`tag` of one image that was looked at already with :meth:`encode`."""
        self._check_encoded(encoded)
        label_set = self._label_set(labels)
        _check_limits(threshold, top_k)
        each = exact or len(label_set) <= EXACT_UP_TO or (threshold == 0 and top_k is None)
        shortlist = None if each else label_set.shortlist(self._model)
        if shortlist is None:
            return _choose(label_set, np.arange(len(label_set)), self.scores(encoded, label_set)[0], threshold, top_k)
        return _choose(label_set, *self._best(encoded, label_set, shortlist), threshold, top_k)

    def _best(self, encoded: Encoded, labels: LabelSet, shortlist: Shortlist) -> tuple[np.ndarray, np.ndarray]:
        """(indices of labels ``(n,)``, their scores ``(n,)``), the best ones among them."""
        asked = labels.prepared(self._model)

        def ask(some: np.ndarray) -> np.ndarray:
            return self._model.logits(encoded, {name: rows[some] for name, rows in asked.items()})[0]

        scales, added = labels.terms(encoded.classes)  # (K,), (K,)
        found, logits = shortlist.best(ask, added, scales)
        order = np.argsort(found)  # as exact tagging has them, which matters among equal scores
        found = found[order]
        return found, probabilities(scales[found] * logits[order] + added[found])

    def tag_many(
        self,
        images: Iterable[ImageSource],
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> Iterator[Record]:
        """One record for each image, in the given order; an unreadable one gives an error record.

        The options are those of :meth:`tag`.

        Args:
            images: each as for :meth:`encode`. A record's ``path`` is that of the image, or of the file it was opened
                from; else ``images[0]``, ``images[1]`` and so on, by its place.

        Raises:
            UserError: a single image, or one of another kind.
        """
        if isinstance(images, (str, bytes, bytearray, os.PathLike, Image.Image)) or hasattr(images, "read"):
            raise UserError(f"expected several images, got a single {type(images).__name__}: write [image]")
        if isinstance(images, np.ndarray) and images.ndim < 4:
            raise UserError(f"expected several images, got an array of shape {images.shape}: write [image]")
        label_set = self._label_set(labels)
        _check_limits(threshold, top_k)

        def work(numbered: tuple[int, ImageSource]) -> Record:
            number, image = numbered
            name = _name_of(image) or f"images[{number}]"
            try:
                return Record(name, self.tag(image, label_set, threshold=threshold, top_k=top_k, exact=exact))
            except ImageError as error:
                return Record(name, [], str(error))

        return map_in_order(work, enumerate(images), self.workers)

    def _label_set(self, labels: LabelSet | Sequence[str] | None) -> LabelSet:
        if labels is None:
            return self.vocabulary
        return labels if isinstance(labels, LabelSet) else self.label_set(labels)


def _name_of(image: ImageSource) -> str:
    """Return the path of an image, or of the file that it was opened from; "" where there is none."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    name = getattr(image, "filename" if isinstance(image, Image.Image) else "name", "")
    return os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""  # a descriptor has a number as its name


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
    best_first = passing[np.argsort(-scores[passing], kind="stable")]
    said = best_first[labels.folded(indices[best_first], scores[best_first])][:top_k]
    return [Tag(labels.labels[indices[index]], float(scores[index])) for index in said]
