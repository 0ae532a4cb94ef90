"""The tagger: load it once, encode an image once, score any labels.

>>> tagger = Tagger()
>>> tagger.tag("photo.jpg", labels=["dog", "beach"])
[Tag(label='dog', score=0.93)]
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError, ImageSource, Preprocessing, load_array
from zsl_tagger.images.urls import fetched
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.tagging.background import Background, standing_out
from zsl_tagger.tagging.class_evidence import EvidenceWords, LabelEvidence
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.heatmap import relative_maps
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelFolder, ModelFolderError, VocabularyLabel
from zsl_tagger.tagging.near_classes import near_classes
from zsl_tagger.tagging.pooled import by_place
from zsl_tagger.tagging.prefilter import Prefilter
from zsl_tagger.tagging.shortlist import Shortlist
from zsl_tagger.tagging.taught import TaughtFolder, TaughtTag, taught_folders
from zsl_tagger.tagging.teaching import Lesson, PhotoLibrary, teach
from zsl_tagger.words.spelling import normalize_label, singular_forms
from zsl_tagger.words.table import Resolved, UnknownLabelError, WordTable

if TYPE_CHECKING:
    from zsl_tagger.tagging.onnx_model import OnnxModel

logger = logging.getLogger(__name__)

#: Up to this many labels, each that can be a tag is scored; above, a shortlist (:mod:`zsl_tagger.tagging.shortlist`).
EXACT_UP_TO = 20_000
#: Up to this many labels that labels.json does not list get individual thresholds (:mod:`.background`); above, all get
#: the default one.
BACKGROUND_UP_TO = 200
#: Minimum score of a taught tag; its reader is calibrated to that.
TAUGHT_THRESHOLD = 0.5
#: Approximate number of words that represent all words in a heat map.
WORDS_IN_GENERAL = 256


Found = tuple[np.ndarray, np.ndarray]  # indices of labels, ascending int64 (n,), and their scores, float32 (n,)


class Tagger:
    """Tags images with any words.

    Args:
        model: a model folder, or ``hf:user/model[@revision]``; None for the packaged model.
        workers: images processed in parallel by :meth:`tag_many`. A single worker uses all CPU cores for one image; as
            many workers as cores use one core each, which is faster for many images.
        device: "cpu", "cuda" (an NVIDIA GPU, with onnxruntime-gpu), or "auto": the GPU if it works, otherwise the CPU.
        taught: folder of taught tags, which can be used like words; True for the user's folder, False for none.

    Raises:
        ModelFolderError: the folder is missing, incomplete or inconsistent.
        UserError: the device is not available.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        workers: int = 1,
        device: str = "auto",
        taught: str | Path | bool = True,
    ):
        self._set_up(model, workers, device, taught)
        self._classes = self._model.classes  # loads the networks, and reports what is wrong with them

    def _set_up(self, model: str | Path | None, workers: int, device: str, taught: str | Path | bool) -> None:
        if workers < 1:
            raise UserError(f"expected at least 1 worker, got {workers}")
        self._folder = ModelFolder(model)
        self.workers, self._device, self._taught_in = workers, device, taught

    @classmethod
    def without_networks(cls, model: str | Path | None, workers: int, classes: int | None) -> Tagger:
        """Return a tagger that loads its networks when they are first needed; many searches do not need them.

        Args:
            model, workers: see :class:`Tagger`.
            classes: number of classes of the encoder's probabilities; None if it returns none.

        Raises:
            ModelFolderError: the folder is missing or incomplete.
        """
        tagger = cls.__new__(cls)
        tagger._set_up(model, workers, "auto", True)
        tagger._classes = classes
        return tagger

    @cached_property
    def _model(self) -> OnnxModel:
        from zsl_tagger.tagging.onnx_model import OnnxModel  # here, as it imports ONNX Runtime

        threads = max(1, available_cores() // self.workers)
        return OnnxModel(self._folder.path, self._folder.config, threads, self._device, keep=True)

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        workers: int = 1,
        device: str = "auto",
    ) -> Tagger:
        """Load a model from the Hugging Face Hub, or its copy in the cache; needs the ``hub`` extra.

        ``HF_HUB_OFFLINE=1``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_ENDPOINT`` apply, as always with huggingface_hub.

        Args:
            repo: ``user/model``.
            revision: a branch, a tag or a commit hash; only a commit hash always gives the same model. None: the main
                branch. The commit is logged.
            cache_dir: cache folder; None: the default cache of huggingface_hub.
            workers, device: see :class:`Tagger`.

        Raises:
            ModelFolderError: there is no such model, access is denied, or it is not a model folder.
            MissingExtraError: huggingface_hub is not installed.
        """
        from zsl_tagger.tagging.hub import HubName, download

        return cls(download(HubName(repo, revision), cache_dir), workers, device)

    def push_to_hub(
        self, repo: str, *, revision: str | None = None, private: bool = False, message: str = "Upload the model"
    ) -> str:
        """Upload the model folder to the Hugging Face Hub, and return the hash of the commit; needs the ``hub`` extra.

        Only files of a model folder are uploaded; other files are ignored. Log in with ``hf auth login`` first.


        Args:
            repo: ``user/model``; it is created if needed.
            revision: branch; None: the main branch.
            private: make a new repository visible to its owner only.
            message: commit message.

        Raises:
            ModelFolderError: the hub cannot be reached or rejects the upload.
            MissingExtraError: huggingface_hub is not installed.
        """
        from zsl_tagger.tagging.hub import HubName, upload

        commit = upload(self._folder.path, HubName(repo, revision), private, message).revision
        assert commit is not None
        return commit

    @property
    def folder(self) -> ModelFolder:
        """Return the model folder that it was loaded from."""
        return self._folder

    @property
    def device(self) -> str:
        """Return the device of its networks: "cpu" or "cuda"."""
        return self._model.device

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the settings for :func:`~zsl_tagger.images.preprocessing.load_array`."""
        return self._folder.config.preprocessing

    @property
    def image_size(self) -> int:
        """Return the side of the model's square input, in pixels."""
        return self.preprocessing.image_size

    @cached_property
    def words(self) -> WordTable:
        """Return the word table, for ``"zebra" in tagger.words`` or ``tagger.words.suggest("zebar")``."""
        return self._folder.words()

    @cached_property
    def vocabulary(self) -> LabelSet:
        """Return the default labels with their thresholds; parents and synonyms of a tag are not returned."""
        default = [label for label in self._listed if label.default]
        listed = {self.key(label.name) for label in default}
        more = [tag.name for key, tag in self.taught.items() if key not in listed]
        try:
            labels = self.label_set([*(label.name for label in default), *more])
        except UnknownLabelError as error:
            raise ModelFolderError(
                f"{self._folder.path}: labels.json has labels missing in words.txt: {error}"
            ) from None
        if any(label.implies for label in default):
            implied = [frozenset(self.key(word) for word in label.implies) for label in default]
            labels.implied = [*implied, *(frozenset[str]() for _ in more)]
        return labels

    @property
    def default_labels(self) -> list[str]:
        """Return the model's own default labels, without taught ones."""
        return [label.name for label in self._listed if label.default]

    def listed_beside(self, keys: Iterable[str]) -> list[str]:
        """Return the labels with individual thresholds in the model folder, except those with the given keys."""
        out = set(keys)
        return [label.name for key, label in self._by_key.items() if key not in out]

    @cached_property
    def identity(self) -> str:
        """Return a hash of the networks and their preprocessing; scores of different models are not comparable."""
        content = self._folder.networks_sha256() + self.preprocessing.other_than_usual()
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def taught(self) -> dict[str, TaughtTag]:
        """Return the tags that this model was taught, by key."""
        return {tag.key: tag for tag in self._all_taught if tag.model == self.identity}

    @cached_property
    def _all_taught(self) -> list[TaughtTag]:
        """Return the taught tags of every model."""
        return [tag for folder in taught_folders(self._folder.path, self._taught_in) for tag in folder.tags()]

    def taught_changes(self) -> tuple[int, ...]:
        """Return numbers that change whenever another program teaches or removes a tag."""
        return tuple(folder.changed() for folder in taught_folders(self._folder.path, self._taught_in))

    def forget_taught(self) -> None:
        """Reload the taught tags when they are next needed."""
        for name in ("taught", "_all_taught", "vocabulary"):
            self.__dict__.pop(name, None)

    def for_precision(self, labels: LabelSet, precision: float) -> LabelSet:
        """Return labels with the thresholds that gave this precision on photos held out from training.

        Args:
            precision: share of the tags that are correct, 0..1.

        Raises:
            UserError: the model has no such thresholds, or none for this precision.
        """
        known = self._folder.config.precision_shifts
        if not known:
            raise UserError("this model stores no thresholds for a given precision: give a threshold instead")
        lowest, highest = known[0][0], known[-1][0]
        if not lowest <= precision <= highest:
            raise UserError(
                f"expected a precision from {lowest:g} to {highest:g}, the range of this model, got {precision}"
            )
        return labels.shifted(float(np.interp(precision, *np.array(known).T)))

    @cached_property
    def _listed(self) -> list[VocabularyLabel]:
        return self._folder.labels()

    @cached_property
    def _by_name(self) -> dict[str, VocabularyLabel]:
        return {label.name: label for label in self._listed}

    @cached_property
    def _by_key(self) -> dict[str, VocabularyLabel]:
        return {self.key(label.name): label for label in self._listed}

    def _listed_as(self, key: str) -> VocabularyLabel | None:
        """Return the listed label of a key; its name usually is the key, and looking up that takes less time."""
        return self._by_name.get(key) or self._by_key.get(key)

    def key(self, label: str) -> str:
        """Return the key of a label (:attr:`Resolved.key`); an unknown label is its own key."""
        return self.words.key(label)

    def label_set(self, labels: Sequence[str]) -> LabelSet:
        """Prepare labels once, to score them on many images.

        Raises:
            UnknownLabelError: names all unknown labels, with suggestions.
            UserError: the list is empty.
        """
        _check_labels(labels)
        return self._make_label_set(labels, [self._taught_tag(label) for label in labels])

    def plain_label_set(self, labels: Sequence[str]) -> LabelSet:
        """Prepare labels as plain words, ignoring taught tags.

        Raises:
            UserError: see :meth:`label_set`.
        """
        _check_labels(labels)
        return self._make_label_set(labels, [None] * len(labels))

    def _make_label_set(self, labels: Sequence[str], tags: Sequence[TaughtTag | None]) -> LabelSet:
        resolved = self._resolved(labels, tags)
        queries, word_keys = self.words.vectors_of(resolved), [found.key for found in resolved]
        config = self._folder.config
        keys = [key if tag is None else tag.key for key, tag in zip(word_keys, tags, strict=True)]
        plain = VocabularyLabel("", config.default_threshold, seen=False)

        numbers = [None if (word := self._listed_as(key)) is None else word.probe for key in word_keys]  # of probes

        def listed_label(key: str, tag: TaughtTag | None) -> VocabularyLabel:
            if tag is not None:
                return VocabularyLabel(key, TAUGHT_THRESHOLD)
            return self._listed_as(key) or plain

        listed = [listed_label(key, tag) for key, tag in zip(keys, tags, strict=True)]
        prepared = LabelSet.of_listed(
            labels, keys, queries, listed, config.unseen_bias, self._evidence(word_keys, numbers)
        )
        prepared.probes = self._folder.probes(numbers)
        prepared.readers = {number: tag.reader for number, tag in enumerate(tags) if tag is not None}
        unknown = [number for number, label in enumerate(listed) if label is plain]
        self._hear_near_classes(prepared, unknown)
        if 0 < len(unknown) <= BACKGROUND_UP_TO and self._background is not None:
            some = prepared.only(unknown)
            prepared.thresholds[unknown] = probabilities(
                standing_out(self.log_odds(self._background.encoded, some) + some.biases)
            )
        return prepared

    def _resolved(self, labels: Sequence[str], tags: Sequence[TaughtTag | None]) -> list[Resolved]:
        """Look up labels in the word table; for a taught tag, the word of its reader, or any word."""
        any_word = self.words.words[0]
        return self.words.resolve_all(
            label if tag is None else tag.reader.word or any_word for label, tag in zip(labels, tags, strict=True)
        )

    def resolve_all(self, labels: Sequence[str]) -> list[Resolved]:
        """Look up every label in the word table; for a taught tag, the word of its reader, or any word.

        Raises:
            UnknownLabelError: names all unknown labels, with suggestions.
            UserError: a tag was taught to another model only.
        """
        return self._resolved(labels, [self._taught_tag(label) for label in labels])

    def _taught_tag(self, label: str) -> TaughtTag | None:
        """Return the taught tag for a label; None if it is a plain word.

        Raises:
            UserError: it was taught to another model only, and is not a word.
        """
        if not self._all_taught:
            return None
        key = normalize_label(label)
        forms = [key, *singular_forms(key), self.key(label)]
        for form in forms:
            if form in self.taught:
                return self.taught[form]
        other = next((tag for tag in self._all_taught if tag.key in forms), None)
        if other is None:
            return None
        how = f"teach it again from its {len(other.examples)} stored examples: zsl-tagger teach {other.name!r}"
        found = self.words.resolve(label)
        if found is not None and found.how != "averaged":
            logger.warning("%r was taught to another model; here it is the plain word (%s)", label, how)
            return None
        raise UserError(f"the tag {label!r} was taught to another model, whose scores are not comparable: {how}")

    def _evidence(self, keys: Sequence[str], probes: Sequence[int | None]) -> LabelEvidence | None:
        config = self._folder.config
        if config.scoring is None:
            return None
        probed = config.probed_scoring or config.scoring
        scoring = [config.scoring if number is None else probed for number in probes]
        return LabelEvidence.of(keys, self._evidence_words, scoring)

    def _hear_near_classes(self, labels: LabelSet, unknown: Sequence[int]) -> None:
        """Let labels that were never trained hear the classes near them (:mod:`zsl_tagger.tagging.near_classes`)."""
        if not 0 < len(unknown) <= EXACT_UP_TO or labels.evidence is None or self._class_vectors is None:
            return
        background = self.background
        if background is not None and background.classes is not None:
            rows = np.array(unknown, np.int64)
            near = near_classes(rows, labels.queries[rows], self._class_vectors, background.classes)
            labels.evidence = labels.evidence.with_near(near)

    @cached_property
    def _class_vectors(self) -> np.ndarray | None:
        return None if self._classes is None else self._folder.class_vectors(self._classes)

    def teach(
        self,
        name: str,
        positives: Sequence[ImageSource] = (),
        negatives: Sequence[ImageSource] = (),
        *,
        like: str | None = None,
        new: bool = False,
        library: PhotoLibrary | None = None,
        forget: Sequence[str] = (),
    ) -> TaughtTag:
        """Learn a tag from photos and store it; from then on it works like any other word, in other programs too.

        An existing tag is learned again from its stored examples and the new ones.

        Args:
            name: one or more words. A known word is refined.
            positives: 3 to 20 photos that show it, in any form that :meth:`encode` accepts, except URLs.
            negatives: photos that look similar but do not show it.
            like: a known word with a similar meaning.
            new: if the name is a known word, teach a separate tag "NAME (taught)".
            library: an index made with this model (:class:`zsl_tagger.Library`): some of its photos are compared with,
                and examples that are in it are not encoded again.
            forget: paths of examples of earlier calls that are no longer examples of either kind.

        Raises:
            UserError: the name is invalid, too few photos can be read, or they contradict each other.
        """
        lesson = Lesson(name=name, positives=positives, negatives=negatives, like=like, new=new, forget=forget)
        folder = self.taught_folder
        with folder.kept():  # another program may be teaching the same tag
            self.forget_taught()
            tag = teach(self, lesson, self._all_taught, library)
            folder.save(tag)
            self.forget_taught()
        return tag

    @property
    def taught_folder(self) -> TaughtFolder:
        """Return the folder in which this tagger stores taught tags.

        Raises:
            UserError: the tagger was created without taught tags.
        """
        folders = taught_folders(self._folder.path, self._taught_in)
        if not folders:
            raise UserError("this Tagger was created with taught=False, so it cannot store a tag: leave that out")
        return folders[-1]

    @property
    def background(self) -> Encoded | None:
        """Return the stored encoder output for arbitrary photos; None if the model folder has none."""
        return None if self._background is None else self._background.encoded

    @cached_property
    def _background(self) -> Background | None:
        return self._folder.background(self._model.token_width, self._model.classes)

    @cached_property
    def _prefilter(self) -> Prefilter | None:
        return self._folder.prefilter(self._model.token_width)

    @cached_property
    def _evidence_words(self) -> EvidenceWords:
        return self._folder.evidence_words(self._classes)

    def encode(self, image: ImageSource) -> Encoded:
        """Encode an image once, to score any labels with :meth:`scores`.

        Args:
            image: a path, the bytes of an image file, a binary file object, a PIL image, or an array (see
                :func:`zsl_tagger.images.preprocessing.load_array`); or a URL that fsspec opens, such as ``https://`` or
                ``s3://`` (the ``urls`` extra).

        Raises:
            ImageError: it cannot be read.
            UserError: its type is not supported.
            MissingExtraError: a URL, and fsspec is not installed.
        """
        return self.encode_pixels(load_array(fetched(image), self.preprocessing))

    def encode_pixels(self, pixels: np.ndarray) -> Encoded:
        """Encode an image that :func:`~zsl_tagger.images.preprocessing.load_array` has read for this model.

        Args:
            pixels: uint8 ``(S, S, 3)``; :meth:`encode` would treat it as a photo and crop it again.
        """
        return self._model.encode(pixels[None])

    def scores(self, encoded: Encoded, labels: LabelSet | Sequence[str]) -> np.ndarray:
        """Return the score of every label, float32 ``(B, K)`` in 0..1, for B images of :meth:`encode`.

        A label's score does not depend on the other labels.

        Raises:
            UserError: ``encoded`` is not a result of :meth:`encode`, or is from another model.
        """
        self._check_encoded(encoded)
        label_set = labels if isinstance(labels, LabelSet) else self.label_set(labels)
        return probabilities(self.log_odds(encoded, label_set) + label_set.biases)

    def log_odds(self, encoded: Encoded, labels: LabelSet) -> np.ndarray:
        """Return the log-odds of every label, float32 ``(B, K)``, without the bias of untrained labels."""
        logits = self.logits(encoded, labels) + labels.probed(encoded)
        return labels.read(labels.log_odds(logits, encoded.classes), encoded)

    def logits(self, encoded: Encoded, labels: LabelSet) -> np.ndarray:
        """Return the decoder's logits of every label, float32 ``(B, K)``, without probes and class evidence."""
        return self._model.logits(encoded, labels.prepared(self._model))

    def query_states(self, labels: LabelSet) -> np.ndarray:
        """Return the decoder's states of labels before it sees a photo, float32 ``(K, D)``, else their word vectors."""
        prepared = labels.prepared(self._model)
        return prepared.get("states", labels.queries)

    def _check_encoded(self, encoded: Encoded) -> None:
        if not isinstance(encoded, Encoded):
            raise UserError(f"expected what Tagger.encode(image) returns, got {type(encoded).__name__}")
        if not self._model.fits(encoded):
            raise UserError(
                f"tokens of shape {encoded.tokens.shape} are not from this model: encode the image with the same Tagger"
            )

    def heatmap(self, image: ImageSource | Encoded, labels: LabelSet | Sequence[str]) -> np.ndarray:
        """Return where the decoder looks for each label, compared with arbitrary words (:mod:`.heatmap`).

        Args:
            image: see :meth:`encode`, or one encoded image.

        Returns:
            float32 ``(K, R, R)``, 0..1: rows and columns of the photo, to overlay with
            :func:`zsl_tagger.tagging.heatmap.overlay`.

        Raises:
            UserError: the model's tokens are not one square grid.
        """
        encoded = image if isinstance(image, Encoded) else self.encode(image)
        self._check_encoded(encoded)
        label_set = self._label_set(labels)
        attention = self._model.attention(encoded, label_set.prepared(self._model))[0]  # (K, L)
        usual = self._model.attention(encoded, self._any_words.prepared(self._model))[0].mean(axis=0)  # (L,)
        maps = relative_maps(attention, usual)
        for number, reader in label_set.readers.items():
            added = by_place(encoded.tokens[0], (reader.weights / reader.scale)[: 2 * self._model.token_width])  # (L,)
            maps[number] = relative_maps(added[None], np.zeros_like(added))[0]
        return maps

    @cached_property
    def _any_words(self) -> LabelSet:
        """Return a sample of words, spread evenly over the table, or the classes of a closed set."""
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
        """Return the labels that apply to an image, best first.

        Args:
            image: see :meth:`encode`.
            labels: words to choose from; None for the default vocabulary.
            threshold: minimum score, 0..1; None: each label's own.
            top_k: maximum number of tags.
            exact: score every label. By default, words of the vocabulary that are predicted to be far below their
                threshold are not scored (:mod:`zsl_tagger.tagging.prefilter`), and of more than ``EXACT_UP_TO``
                labels, a shortlist is scored, which finds nearly all of the best ones (README, "How good, how fast").
                If all labels are requested (``threshold=0`` without ``top_k``), every label is scored anyway.
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
        """Return the tags of one encoded image; see :meth:`tag`."""
        self._check_encoded(encoded)
        label_set = self._label_set(labels)
        _check_limits(threshold, top_k)
        each = exact or len(label_set) <= EXACT_UP_TO or (threshold == 0 and top_k is None)
        shortlist = None if each else label_set.shortlist(self._model)
        if shortlist is not None:
            return _choose(label_set, self._best(encoded, label_set, shortlist), threshold, top_k)
        found = None if exact or threshold == 0 else self._found(encoded, label_set, threshold)
        if found is None:
            found = np.arange(len(label_set)), self.scores(encoded, label_set)[0]
        return _choose(label_set, found, threshold, top_k)

    def _found(self, encoded: Encoded, labels: LabelSet, threshold: float | None) -> Found | None:
        """Return all labels that are tags and some others; None if each label has to be scored."""
        inputs, prefilter = labels.prepared(self._model), self._prefilter
        slopes = None if prefilter is None or "projected" not in inputs else labels.slopes(prefilter)
        if prefilter is None or slopes is None:
            return None
        floors = labels.thresholds if threshold is None else np.full(len(labels), threshold, np.float32)
        probed = labels.probed(encoded)  # (1, K)
        scales, added = labels.terms(encoded.classes, probed)  # (K,), (K,)
        predicted, places = self._model.predicted_logits(encoded, inputs, slopes)[0], slopes.places  # (k,), (k,)
        needed = np.clip(floors[places], 1e-30, 1 - 1e-6)  # whose log-odds are finite
        below = np.full(len(labels), -np.inf, np.float32)  # (K,): log-odds below the threshold
        below[places] = np.log(needed / (1 - needed)) - (scales[places] * predicted + added[places])
        below[list(labels.readers)] = -np.inf  # a taught tag is not its word
        possible = np.flatnonzero(below <= prefilter.margin)
        if len(possible) > len(labels) // 2:
            return None
        scores = self._scores_of(encoded, labels, possible, probed)
        unusual = (scores >= floors[possible]) & (below[possible] > prefilter.margin / 2)
        return None if unusual.any() else (possible, scores)

    def _scores_of(self, encoded: Encoded, labels: LabelSet, some: np.ndarray, probed: np.ndarray) -> np.ndarray:
        """Return the scores float32 ``(n,)`` of the labels with the indices ``some``, as in :meth:`scores`."""
        if not len(some):
            return np.empty(0, np.float32)
        rows = {name: rows[some] for name, rows in labels.prepared(self._model).items()}
        logits = np.full((1, len(labels)), -np.inf, np.float32)
        logits[0, some] = self._model.logits(encoded, rows)[0]
        log_odds = labels.read(labels.log_odds(logits + probed, encoded.classes), encoded)
        return probabilities(log_odds + labels.biases)[0, some]

    def _best(self, encoded: Encoded, labels: LabelSet, shortlist: Shortlist) -> Found:
        """Return the best labels."""
        inputs = labels.prepared(self._model)

        def score(some: np.ndarray) -> np.ndarray:
            return self._model.logits(encoded, {name: rows[some] for name, rows in inputs.items()})[0]

        scales, added = labels.terms(encoded.classes, labels.probed(encoded))  # (K,), (K,)
        found, logits = shortlist.best(score, added, scales)
        order = np.argsort(found)  # the order of exact tagging, which matters among equal scores
        found = found[order]
        if not labels.readers:
            return found, probabilities(scales[found] * logits[order] + added[found])
        found = np.union1d(found, list(labels.readers))  # taught tags are always scored
        return found, self.scores(encoded, labels.only(found.tolist()))[0]

    def tag_many(
        self,
        images: Iterable[ImageSource],
        labels: LabelSet | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        exact: bool = False,
    ) -> Iterator[Record]:
        """Yield one record per image, in order; an unreadable image gives an error record.

        The options are the same as in :meth:`tag`.

        Args:
            images: each as for :meth:`encode`. A record's ``path`` is the path of the image, or of the file that it was
                opened from; otherwise ``images[0]``, ``images[1]`` and so on.

        Raises:
            UserError: a single image, or an unsupported type.
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
    """Return the path of an image, or of the file that it was opened from; "" if there is none."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    name = getattr(image, "filename" if isinstance(image, Image.Image) else "name", "")
    return os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""  # the name of a file descriptor is a number


def _check_labels(labels: Sequence[str]) -> None:
    if isinstance(labels, str):
        raise UserError(f"expected a list of labels, got the single string {labels!r}: write [{labels!r}]")
    if not labels:
        raise UserError("the label list is empty: give at least one label")


def _check_limits(threshold: float | None, top_k: int | None) -> None:
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UserError(f"expected a threshold in 0..1, got {threshold}")
    if top_k is not None and top_k < 1:
        raise UserError(f"expected top_k of at least 1, got {top_k}")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return scores 0..1 of logits, to which biases have been added."""
    return 1.0 / (1.0 + np.exp(-np.maximum(logits, -80)))  # exp(80) still fits into float32


def _choose(labels: LabelSet, found: Found, threshold: float | None, top_k: int | None) -> list[Tag]:
    """Return the best tags of the scored labels."""
    indices, scores = found
    floor = labels.thresholds[indices] if threshold is None else threshold
    passing = np.flatnonzero(scores >= floor)
    best_first = passing[np.argsort(-scores[passing], kind="stable")]
    kept = best_first[labels.folded(indices[best_first], scores[best_first])][:top_k]
    return [Tag(labels.labels[indices[index]], float(scores[index])) for index in kept]
