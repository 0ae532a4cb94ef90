"""Turn annotated photos into training targets: words that are correct for a photo, wrong, or unknown.

There are three sources:

- the annotation (``annotations.csv``): tags for all visible things in a photo. A tag implies its synonyms and everyday
  hypernyms (WordNet, ``lexicon.py``). Other words are wrong, but words more specific than the most specific tag are
  unknown: "dog" alone does not decide "poodle";
- the folder of a photo (ImageNet or Caltech-101 class): its words are correct, and so are the words that they imply;
- the backbone's own ImageNet classifier: its predictions are soft targets for words that the annotation rarely uses.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.words.spelling import normalize_label, singular_forms
from zsl_tagger.words.table import WordTable


def read_annotations(path: Path) -> dict[str, list[str]]:
    """Read ``path,tags`` rows, tags separated by ``", "``, into normalised tags by photo path.

    Raises:
        UserError: the file is missing, as in an installed wheel.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: rebuild the packaged model in a clone, installed with pip install -e")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"]: [normalize_label(tag) for tag in row["tags"].split(",")] for row in csv.DictReader(file)}


class Knowledge:
    """Relations between words, from WordNet and the lexicon."""

    def __init__(self, wordnet: WordNet, table: WordTable):
        self.wordnet = wordnet
        self.table_words = set(table.words)
        self.synset = cache(self._synset)
        self.implied = cache(self._implied)
        self.ancestor_names = cache(self._ancestor_names)

    def _synset(self, word: str) -> str | None:
        """Return the synset of a tag, WordNet's most frequent noun sense; None if there is none or it is unreliable."""
        if word in lexicon.NOT_FIRST_SENSE:
            return None
        senses = self.wordnet.senses.get(word)
        return senses[0] if senses else None

    def _implied(self, tag: str) -> frozenset[str]:
        """Return all words in the table that a tag implies, including itself."""
        words = {tag}
        if tag not in self.table_words:
            head = tag.rpartition(" ")[2]
            words |= {head, *singular_forms(head)[:1]}
        queue = sorted(words)
        while queue:
            word = queue.pop()
            new = set(lexicon.IMPLIES.get(word, ())) | self._wordnet_implied(word)
            queue += sorted(new - words)
            words |= new
        return frozenset(words & self.table_words)

    def _wordnet_implied(self, word: str) -> set[str]:
        synset = self.synset(word)
        return self.synset_words(synset) if synset else set()

    def synset_words(self, synset: str) -> set[str]:
        """Return the names whose first sense is the synset, and its everyday hypernyms."""
        names = {name for name in self.wordnet.synsets[synset].names if self.synset(name) == synset}
        for ancestor in self.wordnet.ancestors(synset):
            names |= {
                name
                for name in self.wordnet.synsets[ancestor].names
                if name in lexicon.HYPERNYMS and self.synset(name) == ancestor
            }
        return names

    def _ancestor_names(self, word: str) -> frozenset[str]:
        synset = self.synset(word)
        if synset is None:
            return frozenset()
        ancestors = self.wordnet.ancestors(synset)
        return frozenset(name for one in ancestors for name in self.wordnet.synsets[one].names)

    def class_words(self, wnid: str) -> frozenset[str]:
        """Return the words for an ImageNet class."""
        names = lexicon.CLASS_NAMES.get(wnid, self.wordnet.synsets[wnid].names)
        words = {word for name in names for word in self.implied(normalize_label(name))}
        return frozenset((words | self.synset_words(wnid)) & self.table_words)


@dataclass(frozen=True)
class Targets:
    """Soft targets for N photos and V words.

    Attributes:
        words: the V words.
        values: float32 ``(N, V)`` in 0..1.
        weights: float32 ``(N, V)`` in 0..1; 0: unknown.
    """

    words: list[str]
    values: np.ndarray
    weights: np.ndarray

    def select(self, rows: np.ndarray) -> Targets:
        """Return the targets of a subset of the photos."""
        return Targets(self.words, self.values[rows], self.weights[rows])


def build_targets(
    files: list[str],
    annotations: dict[str, list[str]],
    folder_words: dict[str, frozenset[str]],
    class_probabilities: np.ndarray,
    class_words: list[frozenset[str]],
    vocabulary: Iterable[str],
    knowledge: Knowledge,
    *,
    min_count: int = 2,
    trusted_count: int = 20,
) -> Targets:
    """Return the targets of N photos.

    Args:
        files: N paths, as in the annotation.
        folder_words: words that the folder of each photo implies, by path.
        class_probabilities: float ``(N, 1000)``, the ImageNet classifier's maximum over each photo's windows.
        class_words: words of each of the 1000 classes.
        vocabulary: normalised words to train on even if only one photo has them.
        min_count: minimum number of photos for any other word that belongs to no ImageNet class.
        trusted_count: minimum number of photos with a word for its absence from an annotation to count as negative.
    """
    true_words = [_true_words(file, annotations, folder_words, knowledge) for file in files]
    counts = Counter(word for words in true_words for word in words)
    words_of_classes = set().union(*class_words)
    frequent = {word for word, count in counts.items() if count >= min_count}
    words = sorted(frequent | words_of_classes | (set(vocabulary) & set(counts)))
    column = {word: index for index, word in enumerate(words)}
    values = np.zeros((len(files), len(words)), np.float32)
    weights = np.ones_like(values)
    trusted = np.array([counts[word] >= trusted_count for word in words])
    in_class = np.zeros((len(class_words), len(words)), bool)
    for row, names in enumerate(class_words):
        in_class[row, [column[name] for name in names]] = True
    for row, file in enumerate(files):
        seen = _soft_class_words(class_probabilities[row], in_class)
        if file in annotations:
            seen[trusted] = 0.0
            weights[row, _unspecified(annotations[file], words, knowledge)] = 0.0
        else:
            weights[row] = np.where(trusted, 0.0, 0.5)
        weights[row, (seen > 0.05) & (seen < 0.3)] = 0.0
        sure = seen >= 0.3
        values[row, sure], weights[row, sure] = seen[sure], 1.0
        true = [column[word] for word in true_words[row] if word in column]
        values[row, true], weights[row, true] = 1.0, 1.0
    return Targets(words, values, weights)


def _true_words(
    file: str, annotations: dict[str, list[str]], folder_words: dict[str, frozenset[str]], knowledge: Knowledge
) -> set[str]:
    """Return the words of a photo according to its annotation and folder."""
    words = set(folder_words.get(file, ()))
    return words.union(*(knowledge.implied(tag) for tag in annotations.get(file, [])))


def _soft_class_words(probabilities: np.ndarray, in_class: np.ndarray) -> np.ndarray:
    """Return probabilities of words ``(V,)``, the sums over their classes ``(1000,)``, at most 1."""
    seen = np.flatnonzero(probabilities > 0.02)
    return np.minimum(probabilities[seen] @ in_class[seen], 1.0)


def _unspecified(tags: Iterable[str], words: list[str], knowledge: Knowledge) -> list[int]:
    """Return the columns of words that are more specific than the most specific tags."""
    tags = set(tags)
    open_tags = tags - set().union(*(knowledge.ancestor_names(tag) for tag in tags))
    return [column for column, word in enumerate(words) if knowledge.ancestor_names(word) & open_tags]
