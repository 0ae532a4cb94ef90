"""Find the ImageNet classes that words stand for, for :mod:`zsl_tagger.tagging.class_evidence`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.targets import Knowledge
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.class_evidence import ABOVE, NAMES, ClassWord
from zsl_tagger.words.spelling import normalize_label

#: Words for more classes than this get no evidence from them: "artifact" is a hypernym of half of all classes.
MAX_CLASSES = 450

#: The first everyday name of at most this many classes counts as their name: "horse" for ImageNet's "sorrel".
MAX_NAMED_CLASSES = 2


def class_words(words: Iterable[str], wnids: Sequence[str], knowledge: Knowledge) -> dict[str, ClassWord]:
    """Return the classes of each word that stands for any.

    There are two sources: everyday names of classes and the words that these imply (``lexicon.py``), and WordNet, if a
    word's first sense is the class or a hypernym of it. The result is the intersection of both or, if it is empty, the
    union.

    Args:
        words: normalised words.
        wnids: WordNet ids of the classes, in class order.
    """
    everyday: dict[str, set[int]] = defaultdict(set)
    first: dict[str, set[int]] = defaultdict(set)
    names: dict[str, set[int]] = defaultdict(set)
    for number, wnid in enumerate(wnids):
        for word in knowledge.class_words(wnid):
            everyday[word].add(number)
        for name in lexicon.CLASS_NAMES.get(wnid, ())[:1]:
            first[normalize_label(name)].add(number)
        for name in knowledge.wordnet.synsets[wnid].names:
            names[name].add(number)
    below = _classes_below(wnids, knowledge.wordnet)
    found = {}
    for word in words:
        if word in lexicon.OTHER_MEANING:
            continue
        synset = knowledge.synset(word)
        by_wordnet = below.get(synset, set()) if synset else set()
        by_name = everyday.get(word, set()) | names.get(word, set())
        classes = (by_name & by_wordnet) or (by_name | by_wordnet)
        if classes and len(classes) <= MAX_CLASSES:
            is_name = bool(names.get(word, set()) & classes) or (
                len(classes) <= MAX_NAMED_CLASSES and classes <= first[word] and classes <= by_wordnet
            )
            found[word] = ClassWord(tuple(sorted(classes)), is_name)
    return found


def _classes_below(wnids: Sequence[str], wordnet: WordNet) -> dict[str, set[int]]:
    """Return for each synset the classes that are equal to it or below it."""
    below: dict[str, set[int]] = defaultdict(set)
    for number, wnid in enumerate(wnids):
        for synset in (wnid, *wordnet.ancestors(wnid)):
            below[synset].add(number)
    return below


def write_class_words(path: Path, found: dict[str, ClassWord]) -> None:
    """Write ``class_words.json``.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    kinds: dict[str, dict[str, list[int]]] = {NAMES: {}, ABOVE: {}}
    for word, class_word in sorted(found.items()):
        kinds[NAMES if class_word.names else ABOVE][word] = list(class_word.classes)
    write_whole(path, json.dumps(kinds).encode())
