"""Test the choice of the packaged model's words, and of words for classes, with a small WordNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.packaged import class_words as of_classes
from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.class_words import class_words, write_class_words
from zsl_tagger.packaged.targets import Knowledge
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.packaged.words import choose_words, gerunds
from zsl_tagger.tagging.class_evidence import ClassWord, read_class_words
from zsl_tagger.words.table import WordTable

#: Number -> names, parents, and the usage domain if there is one.
SYNSETS: dict[int, tuple[str, str, str]] = {
    1: ("entity", "", ""),
    2: ("animal", "1", ""),
    3: ("dog domestic_dog", "2", ""),
    4: ("poodle poodle_dog", "3", ""),
    5: ("kite", "2", ""),
    6: ("horse", "2", ""),
    7: ("sorrel", "6", ""),
    8: ("hair poodle", "1", ""),
    9: ("crane", "2", ""),
    10: ("machine", "1", ""),
    11: ("crane", "10", ""),
    12: ("mongrel cur", "3", ""),
    13: ("cur", "1", "06717170"),  # disparagement
    14: ("bugger", "1", "07124340"),  # obscenity
    15: ("guy", "1", "06718862"),  # ethnic slur
}

#: Lemma -> synsets, most frequent first; other lemmas have the synset that they name.
SENSES = {"poodle": [4, 8], "crane": [9, 11], "cur": [13, 12], "kite": [5], "guy": [15], "mongrel": [12, 13]}

VERBS = ("applaud", "dance", "run", "see", "take_off", "bugger")


def noun(number: int) -> str:
    """Return a line of data.noun."""
    names, parents, usage = (part.split() for part in SYNSETS[number])
    words = [part for name in names for part in (name, "0")]
    pointers = [f"@ {int(parent):08d} n 0000" for parent in parents] + [f";u {domain} n 0000" for domain in usage]
    return " ".join([f"{number:08d} 05 n {len(names):02x}", *words, f"{len(pointers):03d}", *pointers, "| a gloss"])


def index(lemmas: dict[str, list[int]], part: str) -> str:
    """Return the content of index.noun or index.verb."""
    lines = ["  1 the licence"]
    for lemma, senses in sorted(lemmas.items()):
        offsets = " ".join(f"{number:08d}" for number in senses)
        lines.append(f"{lemma} {part} {len(senses)} 0 {len(senses)} 0 {offsets}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    lines = ["  1 the licence", *map(noun, SYNSETS)]
    senses = {name: [number] for number, (names, _, _) in SYNSETS.items() for name in names.split()} | SENSES
    (tmp_path / "data.noun").write_text("\n".join(lines) + "\n", encoding="latin-1")
    (tmp_path / "index.noun").write_text(index(senses, "n"), encoding="latin-1")
    (tmp_path / "index.verb").write_text(index({verb: [1] for verb in VERBS}, "v"), encoding="latin-1")
    for part in ("adj", "adv"):
        (tmp_path / f"index.{part}").write_text(index({}, part), encoding="latin-1")
    return WordNet(tmp_path)


# --- choice of words


def test_gerunds_of_verbs_among_known_words(wordnet: WordNet) -> None:
    known = ["applauding", "dancing", "running", "seeing", "danceing", "sing", "king", "applaud", "taking off", "ing"]
    assert gerunds(wordnet, known) == {"applauding", "dancing", "running", "seeing", "danceing"}
    assert gerunds(wordnet, []) == set()


@pytest.mark.parametrize(
    ("word", "offensive"),
    [("cur", True), ("bugger", True), ("guy", True), ("mongrel", False), ("dog", False), ("applaud", False),
     ("unheard of", False)],
)  # fmt: skip
def test_word_is_offensive_if_its_first_sense_is(wordnet: WordNet, word: str, offensive: bool) -> None:
    assert wordnet.is_offensive(word) == offensive


def test_gerunds_are_chosen_but_offensive_words_are_not(wordnet: WordNet) -> None:
    frequent = ["the", "dog", "guy", "dancing", "cur", "mongrel", "horse", "bugger", "poodle", "barked", "domestic"]
    chosen = ["dog", "dancing", "mongrel", "horse", "poodle", "the", "domestic", "poodle dog", "domestic dog"]
    assert choose_words([], wordnet, frequent) == chosen
    assert choose_words(["horse", "guy"], wordnet, frequent) == [  # words given explicitly stay
        "horse", "guy", *(word for word in chosen if word != "horse"),
    ]  # fmt: skip


# --- words for classes

CLASSES = ("n00000004", "n00000005", "n00000007", "n00000008", "n00000009", "n00000011")
POODLE, KITE, SORREL, HAIR, CRANE, MACHINE = range(6)

WORDS = (
    "entity", "animal", "dog", "domestic dog", "poodle", "poodle dog", "kite", "horse", "sorrel", "hair", "crane",
    "machine", "mongrel", "theorem",
)  # fmt: skip


@pytest.fixture
def knowledge(wordnet: WordNet) -> Knowledge:
    return Knowledge(wordnet, WordTable(WORDS, np.eye(len(WORDS), dtype=np.float32)))


def test_words_stand_for_classes_that_they_name_or_contain(knowledge: Knowledge) -> None:
    assert class_words(WORDS, CLASSES, knowledge) == {
        "entity": ClassWord((POODLE, KITE, SORREL, HAIR, CRANE, MACHINE), names=False),
        "animal": ClassWord((POODLE, KITE, SORREL, CRANE), names=False),
        "dog": ClassWord((POODLE,), names=False),
        "domestic dog": ClassWord((POODLE,), names=False),
        "poodle": ClassWord((POODLE,), names=True),  # not the hair, its second sense
        "poodle dog": ClassWord((POODLE,), names=True),
        "horse": ClassWord((SORREL,), names=False),
        "sorrel": ClassWord((SORREL,), names=True),
        "hair": ClassWord((HAIR,), names=True),
        "crane": ClassWord((CRANE, MACHINE), names=True),  # ambiguous (NOT_FIRST_SENSE)
        "machine": ClassWord((MACHINE,), names=False),
    }  # not "kite", which is rarely the bird
    assert "kite" in lexicon.OTHER_MEANING
    assert "crane" in lexicon.NOT_FIRST_SENSE


@pytest.mark.parametrize(
    ("names", "word", "expected"),
    [
        ({7: ("Horse", "sorrel")}, "horse", ClassWord((SORREL,), names=True)),
        ({7: ("sorrel", "horse")}, "horse", ClassWord((SORREL,), names=False)),  # a second name
        ({4: ("Dog",), 7: ("dog",)}, "dog", ClassWord((POODLE,), names=True)),  # in WordNet, no horse is one
        ({7: ("mongrel",)}, "mongrel", ClassWord((SORREL,), names=False)),  # nor is this
        ({4: ("animal",), 5: ("animal",), 7: ("animal",), 9: ("animal",)}, "animal",
         ClassWord((POODLE, KITE, SORREL, CRANE), names=False)),  # more than ``MAX_NAMED_CLASSES``
    ],
)  # fmt: skip
def test_first_everyday_name_of_few_classes_counts_as_their_name(
    knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch, names: dict[int, tuple[str, ...]], word: str,
    expected: ClassWord,
) -> None:  # fmt: skip
    monkeypatch.setattr(lexicon, "CLASS_NAMES", {f"n{number:08d}": one for number, one in names.items()})
    assert class_words(WORDS, CLASSES, knowledge)[word] == expected


def test_words_for_too_many_classes_get_none(knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = class_words(WORDS, CLASSES, knowledge)
    monkeypatch.setattr(of_classes, "MAX_CLASSES", 4)
    assert class_words(WORDS, CLASSES, knowledge) == {word: of for word, of in everything.items() if word != "entity"}


def test_only_the_given_words_are_returned(knowledge: Knowledge) -> None:
    assert class_words(["dog", "theorem"], CLASSES, knowledge).keys() == {"dog"}
    assert class_words(WORDS, [], knowledge) == {}


def test_class_words_round_trip(knowledge: Knowledge, tmp_path: Path) -> None:
    found = class_words(WORDS, CLASSES, knowledge)
    write_class_words(tmp_path / "class_words.json", found)
    assert read_class_words(tmp_path / "class_words.json") == found
