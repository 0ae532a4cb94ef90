"""Labels prepared for scoring: query vectors, thresholds and biases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_tagger.tagging.class_evidence import EvidenceWords, LabelEvidence
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelConfig, ModelFolderError, VocabularyLabel
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.tagging.prefilter import Prefilter, Slopes
from zsl_tagger.tagging.probes import LabelProbes
from zsl_tagger.tagging.reader import Reader
from zsl_tagger.tagging.shortlist import Shortlist
from zsl_tagger.words.table import WordTable

if TYPE_CHECKING:
    from zsl_tagger.tagging.onnx_model import DecoderInputs, OnnxModel

#: Share of its parent's score that a child needs to replace it.
NEARLY = 0.75
#: Score below which a child gives way to its parent: a wrong kind is worse than a general word (benchmarks/README.md).
SURE = 0.65


class LabelSet:
    """Labels prepared for scoring.

    Attributes:
        labels: K names as written by the user.
        keys: K spellings that identify the labels ("dog" for "Dogs").
        queries: float32 ``(K, word_dim)``.
        thresholds: float32 ``(K,)``, 0..1.
        biases: float32 ``(K,)``, added to the log-odds: the bias of untrained labels, 0 for others.
        evidence: converts logits to log-odds; None: logits are log-odds.
        implied: for each label, the keys that it implies (parents and synonyms), which are then not returned as tags
            too; None: every label is returned.
        readers: readers of taught labels, by index.
        probes: probes of trained labels; None: none of them has any.

    The network's states of the queries are computed on first use and cached.
    """

    def __init__(
        self,
        labels: Sequence[str],
        keys: Sequence[str],
        queries: np.ndarray,
        thresholds: np.ndarray,
        biases: np.ndarray,
        evidence: LabelEvidence | None = None,
        implied: Sequence[frozenset[str]] | None = None,
        readers: Mapping[int, Reader] | None = None,
        probes: LabelProbes | None = None,
    ):
        self.labels, self.keys, self.queries = list(labels), list(keys), queries
        self.thresholds, self.biases, self.evidence = thresholds, biases, evidence
        self.implied, self.readers, self.probes = implied, dict(readers or {}), probes
        self._prepared: tuple[OnnxModel, DecoderInputs] | None = None  # keyed by the model
        self._shortlist: Shortlist | None = None
        self._slopes: tuple[Prefilter, Slopes | None] | None = None  # keyed by the prefilter

    @classmethod
    def of_listed(
        cls,
        labels: Sequence[str],
        keys: Sequence[str],
        queries: np.ndarray,
        listed: Sequence[VocabularyLabel],
        unseen_bias: float,
        evidence: LabelEvidence | None = None,
    ) -> LabelSet:
        """Create a set with the thresholds and biases of ``listed``, and ``unseen_bias`` for labels never trained."""
        thresholds = np.array([label.threshold for label in listed], np.float32)
        biases = np.array([label.bias + (0.0 if label.seen else unseen_bias) for label in listed], np.float32)
        return cls(labels, keys, queries, thresholds, biases, evidence)

    def folded(self, passing: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the positions ``(m,)`` of the labels that are neither parents nor synonyms of others.

        The best of several synonyms is kept. A child with a score below ``SURE`` gives way to its parent, unless it
        names one of the backbone's classes. A parent is dropped only if a child scores nearly as high: a confident
        "cat" is kept next to a less confident "kitten".

        Args:
            passing: label indices int64 ``(n,)``, best first.
            scores: their scores, 0..1.
        """
        places = np.arange(len(passing))
        if self.implied is None:
            return places
        implied, numbers = self.implied, passing.tolist()
        names_class = np.zeros(len(self.labels), bool) if self.evidence is None else self.evidence.names_class
        place_of = {self.keys[number]: place for place, number in enumerate(numbers)}
        dropped: set[int] = set()
        for place, number in enumerate(numbers):
            for key in implied[number]:
                other = place_of.get(key, place)
                if other == place:
                    continue
                if self.keys[number] in implied[numbers[other]]:  # a synonym
                    dropped |= {other} if place < other else set()
                elif scores[place] < SURE and not names_class[number]:
                    dropped.add(place)
                elif scores[place] >= NEARLY * scores[other]:
                    dropped.add(other)
        return np.array([place for place in places if place not in dropped], np.int64)

    def parents(self, number: int) -> tuple[str, ...]:
        """Return the parents of a label, most general first."""
        if self.implied is None:
            return ()
        implied, key = self.implied, self.keys[number]
        above = [self._place[word] for word in implied[number] if word in self._place]
        above = [other for other in above if key not in implied[other]]  # otherwise it is a synonym
        above.sort(key=lambda other: (len(implied[other]), self.keys[other]))
        return tuple(self.labels[other] for other in above)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.keys)}

    def unfolded(self) -> LabelSet:
        """Return the same set with parents and synonyms returned too."""
        return self._with(self.thresholds, None)

    def shifted(self, shift: float) -> LabelSet:
        """Return the same set with shifted thresholds.

        Args:
            shift: added to the log-odds of each threshold.
        """
        inside = np.clip(self.thresholds, 1e-6, 1 - 1e-6)
        thresholds = (1 / (1 + (1 - inside) / inside * np.exp(-shift))).astype(np.float32)
        return self._with(thresholds, self.implied)

    def _with(self, thresholds: np.ndarray, implied: Sequence[frozenset[str]] | None) -> LabelSet:
        return LabelSet(
            self.labels, self.keys, self.queries, thresholds, self.biases, self.evidence, implied, self.readers,
            self.probes,
        )  # fmt: skip

    def probed(self, encoded: Encoded) -> np.ndarray:
        """Return what the probes add to the decoder's logits of B images, float32 ``(B, K)``."""
        if self.probes is None:
            return np.zeros((len(encoded.tokens), len(self)), np.float32)
        return self.probes.added(pooled(encoded), len(self))

    def log_odds(self, logits: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        """Return log-odds float32 ``(B, K)`` without biases; taught labels have the log-odds of their words.

        Args:
            logits: decoder output and :meth:`probed`, ``(B, K)``.
            classes: probabilities ``(B, N)`` of the backbone's classes; None if the model has none.
        """
        if self.evidence is None or classes is None:
            return logits
        return self.evidence.join(logits, classes)

    def read(self, log_odds: np.ndarray, encoded: Encoded) -> np.ndarray:
        """Return log-odds ``(B, K)`` of B images in which the readers have replaced the taught labels.

        Args:
            log_odds: log-odds of the words, see :meth:`log_odds`.
        """
        return self.read_pooled(log_odds, pooled(encoded)) if self.readers else log_odds

    def read_pooled(self, log_odds: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Do the same as :meth:`read` from the pooled features of the images, ``(B, F)``."""
        joined = log_odds.copy()
        for number, reader in self.readers.items():
            joined[:, number] = reader.log_odds(features, log_odds[:, number])
        return joined

    def terms(self, classes: np.ndarray | None, probed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scales ``(K,)`` and offsets ``(K,)`` that convert the decoder's logits to log-odds with biases.

        Args:
            classes: see :meth:`log_odds`, of one image, ``(1, N)``.
            probed: result of :meth:`probed`, ``(1, K)``.
        """
        if self.evidence is None or classes is None:
            return np.ones_like(self.biases), probed[0] + self.biases
        scales = self.evidence.scales
        return scales, scales * probed[0] + self.evidence.added(classes)[0] + self.biases

    def prepared(self, model: OnnxModel) -> DecoderInputs:
        """Return these labels as inputs of ``model``'s decoder."""
        if self._prepared is None or self._prepared[0] is not model:
            self._prepared, self._shortlist = (model, model.prepare(self.queries)), None
        return self._prepared[1]

    def shortlist(self, model: OnnxModel) -> Shortlist | None:
        """Return a shortlist to find the best of many labels; None if ``model`` does not expose query states.

        Also None for labels in groups, which are so cheap that all are scored.
        """
        prepared = self.prepared(model)
        states = None if "groups" in prepared else prepared.get("states")
        if self._shortlist is None and states is not None:
            self._shortlist = Shortlist(states)
        return self._shortlist

    def slopes(self, prefilter: Prefilter) -> Slopes | None:
        """Return what ``prefilter`` needs to predict these labels; None if it knows too few of them."""
        if self._slopes is None or self._slopes[0] is not prefilter:
            self._slopes = (prefilter, prefilter.of(self.keys))
        return self._slopes[1]

    def without(self, excluded: Iterable[str]) -> LabelSet:
        """Return the same set without the labels with these keys."""
        out = set(excluded)
        return self.only([index for index, key in enumerate(self.keys) if key not in out])

    def only(self, keep: Sequence[int]) -> LabelSet:
        """Return the labels with the indices ``keep``."""
        labels, keys = [self.labels[i] for i in keep], [self.keys[i] for i in keep]
        evidence = None if self.evidence is None else self.evidence.only(keep)
        implied = None if self.implied is None else [self.implied[i] for i in keep]
        readers = {place: self.readers[i] for place, i in enumerate(keep) if i in self.readers}
        probes = None if self.probes is None else self.probes.only(keep)
        return LabelSet(
            labels, keys, self.queries[keep], self.thresholds[keep], self.biases[keep], evidence, implied, readers,
            probes,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        own = dict.fromkeys(("_prepared", "_shortlist", "_slopes"))  # sessions of ONNX Runtime cannot be pickled
        return {**self.__dict__, **own}


def vocabulary_of(
    labels: list[VocabularyLabel],
    words: WordTable,
    config: ModelConfig,
    evidence_words: EvidenceWords | None = None,
) -> LabelSet:
    """Return the default vocabulary of a model folder, ready for scoring.

    Args:
        evidence_words: words for the backbone's classes, if the encoder returns class probabilities.

    Raises:
        ModelFolderError: there are no labels.
        UnknownLabelError: the word table lacks a label.
    """
    if not labels:
        raise ModelFolderError("labels.json has no labels to compare torch and the export on")
    names = [label.name for label in labels]
    evidence = None
    if config.scoring is not None:
        keys = [resolved.key for resolved in words.resolve_all(names)]
        evidence = LabelEvidence.of(keys, evidence_words or EvidenceWords(), config.scoring)
    return LabelSet.of_listed(names, names, words.vectors(names), labels, config.unseen_bias, evidence)
