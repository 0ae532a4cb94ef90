"""Suggest photos and words to review in a library: photos without a tag, near-duplicates, and words not used as tags.

All three lists are computed from the index; no photo is opened. Words are predicted for all photos from the stored
logits, as in a search (:mod:`.rank`). The decoder then scores the most promising words on their best photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.search.near_duplicates import near_duplicates
from zsl_tagger.search.rank import Ranker
from zsl_tagger.search.store import LibraryError, Store
from zsl_tagger.system.json_record import JsonRecord
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger, probabilities

#: Number of words to examine: those with the most predicted photos.
PROMISING = 200
#: Minimum number of words that the decoder scores (or twice the number wanted).
DECODED_WORDS = 20
#: Number of photos per word that the decoder scores, in addition to ``least``.
BEST_PHOTOS = 16
#: Overlap of their photos from which a word means the same as a tag: 2 |both| / (|one| + |other|).
SAME_PHOTOS = 0.6
#: Minimum frequency of a word in the library, relative to its frequency in arbitrary photos.
TIMES_AS_FREQUENT = 2


@dataclass(frozen=True, kw_only=True)
class UntaggedPhoto(JsonRecord):
    """Describe a photo on which no tag reaches its threshold.

    Attributes:
        path: absolute path.
        nearest: the tag that is nearest to its threshold.
        score: score of that tag, 0..1.
    """

    path: str
    nearest: str
    score: float


@dataclass(frozen=True, kw_only=True)
class NearDuplicates(JsonRecord):
    """Describe photos that are nearly the same.

    Attributes:
        similarity: the lowest cosine that joined them; 1 for copies of one file.
        same_file: all are copies of one file.
        paths: absolute paths.
    """

    similarity: float
    same_file: bool
    paths: list[str]


@dataclass(frozen=True, kw_only=True)
class SuggestedWord(JsonRecord):
    """Describe a word that photos show and that is neither a default tag nor taught.

    Attributes:
        word: spelling of the model.
        photos: minimum number of photos that reach its threshold.
        example: absolute path of the best photo.
    """

    word: str
    photos: int
    example: str


@dataclass(frozen=True, kw_only=True)
class Suggestions(JsonRecord):
    """Hold the first entries of the three lists, and the lengths of the first two.

    Attributes:
        photos: number of photos in the index.
        untagged_photos: number of photos without any tag.
        untagged: the photos farthest from having a tag.
        duplicate_groups: number of groups of near-duplicates.
        duplicates: the largest groups.
        words: words that stand out, by number of photos, most first.
    """

    photos: int
    untagged_photos: int
    untagged: list[UntaggedPhoto]
    duplicate_groups: int
    duplicates: list[NearDuplicates]
    words: list[SuggestedWord]


class Suggester:
    """Compute the lists for an index in its present state.

    Args:
        ranker: ranker of the same index.
        top: maximum length of each list.
        least: minimum number of photos that show a word.
    """

    def __init__(self, store: Store, tagger: Tagger, ranker: Ranker, top: int, least: int):
        self._store, self._tagger, self._ranker = store, tagger, ranker
        self._top, self._least = top, least
        self._tagged: list[tuple[np.ndarray, np.ndarray]] = []  # photos and their tags as bits, uint8 (m, K / 8)

    def suggestions(self) -> Suggestions:
        """Return the three lists.

        Raises:
            LibraryError: the index has no photos, or an earlier version created it and it was not updated.
        """
        if not len(self._ranker.contents):
            raise LibraryError(f"the index {self._store.folder} has no photos: add some first")
        if self._store.lacks_pooled():
            raise LibraryError(
                f"the index {self._store.folder} lacks the features for near-duplicates, because an earlier version "
                "created it: run zsl-tagger index on it again, which adds them without opening the photos"
            )
        untagged_photos, untagged = self._untagged()
        duplicate_groups, duplicates = self._duplicates()
        return Suggestions(
            photos=int(self._ranker.copies.sum()),
            untagged_photos=untagged_photos,
            untagged=untagged,
            duplicate_groups=duplicate_groups,
            duplicates=duplicates,
            words=self._words(),
        )

    def _paths(self, number: int) -> list[str]:
        return self._store.paths_of(int(self._ranker.contents[number]))

    # --- photos without any tag

    def _untagged(self) -> tuple[int, list[UntaggedPhoto]]:
        vocabulary = self._tagger.vocabulary
        others = self._ranker.not_stored(vocabulary)  # taught tags with a word that is not stored
        stored = vocabulary.only([number for number in range(len(vocabulary)) if number not in set(others)])
        bounds = _log_odds_of(stored.thresholds)
        count = len(self._ranker.contents)
        margin, nearest, score = np.zeros(count), np.zeros(count, np.int64), np.zeros(count)
        for part, log_odds in self._ranker.stored_log_odds(stored):
            over = log_odds - bounds  # (m, K)
            self._tagged.append((part, np.packbits(log_odds >= bounds, axis=1)))
            best = over.argmax(axis=1)  # (m,)
            rows = np.arange(len(best))
            margin[part], nearest[part] = over[rows, best], best
            score[part] = probabilities(log_odds[rows, best])
        without = margin < 0
        for number in others:
            without &= ~self._ranker.passing(vocabulary.only([number]))
        found = np.flatnonzero(without)
        farthest = found[np.argsort(margin[found], kind="stable")[: self._top]]
        listed = [
            UntaggedPhoto(path=path, nearest=stored.labels[nearest[at]], score=round(float(score[at]), 4))
            for at in farthest
            for path in self._paths(at)
        ]
        return int(self._ranker.copies[found].sum()), listed[: self._top]

    # --- near-duplicates

    def _duplicates(self) -> tuple[int, list[NearDuplicates]]:
        groups = near_duplicates(self._store.pooled(self._ranker.contents.tolist()))
        grouped = {int(number) for members, _ in groups for number in members}
        copied = np.flatnonzero(self._ranker.copies > 1)
        groups += [(np.array([number]), 1.0) for number in copied if int(number) not in grouped]
        sizes = [int(self._ranker.copies[members].sum()) for members, _ in groups]
        largest = sorted(range(len(groups)), key=lambda at: (-sizes[at], -groups[at][1], groups[at][0][0]))
        listed = [
            NearDuplicates(
                similarity=round(min(groups[at][1], 1.0), 4),
                same_file=len(groups[at][0]) == 1,
                paths=[path for number in groups[at][0] for path in self._paths(number)],
            )
            for at in largest[: self._top]
        ]
        return len(groups), listed

    # --- words that are not tagged yet

    def _words(self) -> list[SuggestedWord]:
        promising = self._promising()
        words, best = self._other_than_tags(promising) if len(promising) else (promising, np.zeros(0, np.int64))
        if not len(words):
            return []
        photos = np.unique(best)
        passes = probabilities(log_odds := self._ranker.decode(photos, words)) >= words.thresholds  # (m, k)
        counts = self._ranker.copies[photos] @ passes  # (k,)
        most = np.argsort(-counts, kind="stable")
        return [
            SuggestedWord(
                word=words.labels[number],
                photos=int(counts[number]),
                example=self._paths(photos[log_odds[:, number].argmax()])[0],
            )
            for number in most[: self._top]
            if counts[number] >= self._least
        ]

    def _promising(self) -> LabelSet:
        """Return the listed words that are not tags yet and have the most predicted photos, best first."""
        vocabulary = self._tagger.vocabulary
        names = self._tagger.listed_beside(vocabulary.keys)
        words = self._tagger.plain_label_set(names) if names else vocabulary.only([])
        words = words.only(self._ranker.not_stored(words))
        if not len(words):
            return words
        counts = np.zeros(len(words), np.int64)
        for _, log_odds in self._ranker.predicted_log_odds(words):
            counts += (log_odds >= _log_odds_of(words.thresholds)).sum(axis=0)
        most = np.argsort(-counts, kind="stable")[:PROMISING]
        keep = most[counts[most] >= max(1, self._least // 2)]
        return self._without_usual(words.only(keep.tolist()), counts[keep])

    def _without_usual(self, words: LabelSet, counts: np.ndarray) -> LabelSet:
        """Leave out words that are nearly as frequent in arbitrary photos as in the library."""
        background = self._tagger.background
        if background is None or not len(words):
            return words
        shown = (self._tagger.scores(background, words) >= words.thresholds).sum(axis=0)  # (k,)
        usual = shown / len(background.tokens)
        stands_out = (shown < 2) | (counts / len(self._ranker.contents) >= TIMES_AS_FREQUENT * usual)
        return words.only(np.flatnonzero(stands_out).tolist())

    def _other_than_tags(self, words: LabelSet) -> tuple[LabelSet, np.ndarray]:
        """Return words that differ from the tags and from better words, and the best photos of each, ``(n, k)``.

        "Automobile" is left out if its photos are those of "car".
        """
        tags = self._tagger.vocabulary
        tags = tags.only(sorted(set(range(len(tags))) - set(self._ranker.not_stored(tags))))
        predicted = np.concatenate([log_odds for _, log_odds in self._ranker.predicted_log_odds(words)])  # (N, k)
        over = predicted - _log_odds_of(words.thresholds)
        shown = (over >= 0).astype(np.float32)
        both, of_tags = np.zeros((len(words), len(tags)), np.float32), np.zeros(len(tags), np.float32)
        for part, bits in self._tagged:
            tagged = np.unpackbits(bits, axis=1, count=len(tags)).astype(np.float32)  # (m, K)
            both += shown[part].T @ tagged
            of_tags += tagged.sum(axis=0)
        as_tags = _overlaps(both, shown.sum(axis=0), of_tags).max(axis=1)  # (k,)
        as_words = _overlaps(shown.T @ shown, shown.sum(axis=0), shown.sum(axis=0))  # (k, k)
        chosen: list[int] = []
        for number in np.flatnonzero(as_tags < SAME_PHOTOS).tolist():
            if len(chosen) < max(2 * self._top, DECODED_WORDS) and not (as_words[number, chosen] >= SAME_PHOTOS).any():
                chosen.append(number)
        best = np.argsort(-over[:, chosen], axis=0, kind="stable")[: BEST_PHOTOS + self._least]
        return words.only(chosen), best


def _log_odds_of(thresholds: np.ndarray) -> np.ndarray:
    inside = np.clip(thresholds, 1e-6, 1 - 1e-6)
    odds: np.ndarray = np.log(inside / (1 - inside))
    return odds


def _overlaps(both: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return overlaps of sets, 0..1 ``(n, m)``, from the sizes of their intersections ``(n, m)`` and of the sets."""
    overlaps: np.ndarray = 2 * both / np.maximum(one[:, None] + other, 1)
    return overlaps


def check_limits(top: int, least: int) -> None:
    """Validate the limits.

    Raises:
        UserError: one of them is less than 1.
    """
    if top < 1:
        raise UserError(f"expected top of at least 1, got {top}")
    if least < 1:
        raise UserError(f"expected least of at least 1, got {least}")
