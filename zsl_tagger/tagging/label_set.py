"""Labels prepared for scoring: their query vectors, thresholds and biases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from zsl_tagger.tagging.model_folder import ModelConfig, ModelFolderError, VocabularyLabel
from zsl_tagger.tagging.onnx_model import Asked, OnnxModel
from zsl_tagger.tagging.shortlist import Shortlist
from zsl_tagger.words.table import WordTable


class LabelSet:
    """Labels made ready to be asked: their query vectors and thresholds.

    Attributes:
        labels: K names as the user wrote them.
        keys: K spellings under which the labels are the same thing ("dog" for "Dogs").
        queries: float32 ``(K, word_dim)``.
        thresholds: float32 ``(K,)``, 0..1.
        biases: float32 ``(K,)``, added to the logits: that of labels never trained, 0 for others.

    What the network makes of the queries is computed when they are first asked, and kept with them.
    """

    def __init__(
        self,
        labels: Sequence[str],
        keys: Sequence[str],
        queries: np.ndarray,
        thresholds: np.ndarray,
        biases: np.ndarray,
    ):
        self.labels, self.keys, self.queries = list(labels), list(keys), queries
        self.thresholds, self.biases = thresholds, biases
        self._prepared: tuple[OnnxModel, Asked] | None = None  # the key is the model
        self._shortlist: Shortlist | None = None

    @classmethod
    def of_listed(
        cls,
        labels: Sequence[str],
        keys: Sequence[str],
        queries: np.ndarray,
        listed: Sequence[VocabularyLabel],
        unseen_bias: float,
    ) -> LabelSet:
        """With the threshold of each label as it is ``listed``, and the bias for those that were never trained."""
        thresholds = np.array([label.threshold for label in listed], np.float32)
        biases = np.array([0.0 if label.seen else unseen_bias for label in listed], np.float32)
        return cls(labels, keys, queries, thresholds, biases)

    def prepared(self, model: OnnxModel) -> Asked:
        """What the decoder of ``model`` takes of these labels."""
        if self._prepared is None or self._prepared[0] is not model:
            self._prepared, self._shortlist = (model, model.prepare(self.queries)), None
        return self._prepared[1]

    def shortlist(self, model: OnnxModel) -> Shortlist | None:
        """To find the best of many; None where the decoder of ``model`` does not show its queries' states."""
        states = self.prepared(model).get("states")
        if self._shortlist is None and states is not None:
            self._shortlist = Shortlist(states, self.biases)
        return self._shortlist

    def without(self, excluded: Iterable[str]) -> LabelSet:
        """The same set less the labels of some keys."""
        out = set(excluded)
        return self.only([index for index, key in enumerate(self.keys) if key not in out])

    def only(self, keep: Sequence[int]) -> LabelSet:
        """Some of the labels, by their numbers."""
        labels, keys = [self.labels[i] for i in keep], [self.keys[i] for i in keep]
        return LabelSet(labels, keys, self.queries[keep], self.thresholds[keep], self.biases[keep])

    def __len__(self) -> int:
        return len(self.labels)


def vocabulary_of(labels: list[VocabularyLabel], words: WordTable, config: ModelConfig) -> LabelSet:
    """Return the default vocabulary of a model folder, ready for scoring.

    Raises:
        ModelFolderError: there are no labels.
        UnknownLabelError: the word table lacks a label.
    """
    if not labels:
        raise ModelFolderError("labels.json has no label: there is nothing to compare torch and the export on")
    names = [label.name for label in labels]
    return LabelSet.of_listed(names, names, words.vectors(names), labels, config.unseen_bias)
