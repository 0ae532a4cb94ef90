"""Read WordNet 3.0 from its database files (Debian ``wordnet-base``: ``/usr/share/wordnet``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zsl_tagger.words.spelling import normalize_label

#: Usage domains: disparagement, ethnic slur, obscenity.
OFFENSIVE = {"06717170", "06718862", "07124340"}


@dataclass(frozen=True)
class Synset:
    """One meaning, with the words for it and its hypernyms."""

    wnid: str  # e.g. "n02084071": "n" and the byte offset in data.noun, as in ImageNet
    names: tuple[str, ...]
    parents: tuple[str, ...]  # wnids of hypernyms
    offensive: bool  # marked as a slur or obscene in WordNet


class WordNet:
    """The contents of a WordNet folder."""

    def __init__(self, folder: Path):
        self.synsets: dict[str, Synset] = {s.wnid: s for s in _read_nouns(folder / "data.noun")}
        self.senses: dict[str, list[str]] = dict(_read_senses(folder / "index.noun"))
        self.verbs: set[str] = {name for name, _ in _read_senses(folder / "index.verb")}
        self.lemmas: set[str] = set(self.senses)
        for part in ("verb", "adj", "adv"):
            self.lemmas |= {name for name, _ in _read_senses(folder / f"index.{part}")}

    def is_offensive(self, word: str) -> bool:
        """Return whether the first sense of a word is a slur or obscene."""
        return any(self.synsets[sense].offensive for sense in self.senses.get(word, ())[:1])

    def ancestors(self, wnid: str) -> set[str]:
        """Return all hypernyms of a synset, without itself."""
        found: set[str] = set()
        queue = list(self.synsets[wnid].parents)
        while queue:
            current = queue.pop()
            if current not in found:
                found.add(current)
                queue += self.synsets[current].parents
        return found


def _read_nouns(path: Path) -> Iterator[Synset]:
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):
            continue  # the licence at the top of the file
        fields = line.split(" | ")[0].split()
        count = int(fields[3], 16)
        names = tuple(normalize_label(fields[4 + 2 * i]) for i in range(count))
        rest = fields[5 + 2 * count :]  # pointers: symbol, offset, part of speech, source/target
        parents = tuple(f"n{rest[i + 1]}" for i in range(0, len(rest) - 3, 4) if rest[i] in ("@", "@i"))
        usage = {rest[i + 1] for i in range(0, len(rest) - 3, 4) if rest[i] == ";u"}
        yield Synset(f"n{fields[0]}", names, parents, bool(usage & OFFENSIVE))


def _read_senses(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (name, synsets) with the most frequent sense first."""
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            count = int(fields[2])
            yield normalize_label(fields[0]), [f"n{offset}" for offset in fields[-count:]]
