"""Which words mean which ImageNet classes, for :mod:`zsl_tagger.tagging.class_evidence`."""

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

#: More classes than this tell a word nothing: "artifact" lies above half of them.
MOST_CLASSES = 450

#: The first everyday word for so few classes names them too: "horse" for the one that ImageNet calls "sorrel".
FEW = 2


def class_words(words: Iterable[str], wnids: Sequence[str], knowledge: Knowledge) -> dict[str, ClassWord]:
    """Return the classes of each word that means some.

    Two sources say which: a class's everyday names and what they imply (``lexicon.py``), and WordNet, where a word's
    first meaning is the class or lies above it. Classes that both name count; where they share none, all do.

    Args:
        words: normalised.
        wnids: WordNet ids of the classes, in their order.
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
        if classes and len(classes) <= MOST_CLASSES:
            is_name = bool(names.get(word, set()) & classes) or (
                len(classes) <= FEW and classes <= first[word] and classes <= by_wordnet
            )
            found[word] = ClassWord(tuple(sorted(classes)), is_name)
    return found


def _classes_below(wnids: Sequence[str], wordnet: WordNet) -> dict[str, set[int]]:
    """Return the classes that are a synset or lie below it, by synset."""
    below: dict[str, set[int]] = defaultdict(set)
    for number, wnid in enumerate(wnids):
        for synset in (wnid, *wordnet.ancestors(wnid)):
            below[synset].add(number)
    return below


def write_class_words(path: Path, found: dict[str, ClassWord]) -> None:
    """Write ``class_words.json``.

    Raises:
        OSError: a full disk.
    """
    kinds: dict[str, dict[str, list[int]]] = {NAMES: {}, ABOVE: {}}
    for word, meant in sorted(found.items()):
        kinds[NAMES if meant.names else ABOVE][word] = list(meant.classes)
    write_whole(path, json.dumps(kinds).encode())
