"""A query -> the photos of an index, best first.

What was asked when the index was made, a label of the vocabulary, is read. Any other label is asked of the photos where
it promises to be, ``ASKED`` of them; of a library no larger, of each. Which ones promise is learned on the way:

1. What the decoder says of one photo is a smooth function of the label (:mod:`zsl_tagger.tagging.shortlist`). So a
   ridge regression from the query states of the vocabulary to that of the label gives weights with which each photo's
   stored logits predict the label's, and the best ``FIRST`` photos are asked.
2. Another one, from the stored logits of the photos asked to what the first was off by, corrects the prediction for all
   photos; the next best are asked; and so on.

Each prediction goes once through the stored logits, some thousand photos in memory at a time (:mod:`.blocks`).

No network is trained. Scores given out are those of ``tag``, as far as the index keeps them (:mod:`.packing`). What can
happen is that a photo is missed: benchmarks/results/search.json says how often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from zsl_tagger.search.blocks import StoredScores
from zsl_tagger.search.packing import unpack_classes, unpack_tokens
from zsl_tagger.search.query import Query
from zsl_tagger.search.store import Store
from zsl_tagger.system.threads import map_in_order
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.pooled import with_classes
from zsl_tagger.tagging.reader import Photos
from zsl_tagger.tagging.tagger import Tagger, probabilities

FIRST, ROUNDS, MORE = 400, 3, 200  # photos asked first; then so many times so many
ASKED = FIRST + ROUNDS * MORE
LABEL_RIDGE, PHOTO_RIDGE = 30.0, 0.01  # of what is regressed on, over its mean square

NEAR = 4096  # photos with the best first predictions, whose stored logits are kept in memory for step 2

_PHOTOS_A_CALL = 4  # of the decoder
_LOG_ODDS_AT_ONCE = 1024  # photos of which the log-odds of thousands of labels are held


class Found(NamedTuple):
    """One photo of a ranking.

    Attributes:
        path: its absolute path.
        score: 0..1. Of one label it is the score of ``tag``; of several, their product, with 1 less the score of what
            should not be there.
        passes: every wanted label reaches its threshold, and no unwanted one does.
    """

    path: str
    score: float
    passes: bool


@dataclass(frozen=True)
class Ranking:
    """What came of one query.

    Attributes:
        query: as it was typed.
        found: the best photos: those that pass, best first, then the others.
        passing: how many photos pass; at least this many where not ``all_counted``.
        different_passing: the same number with copies of a photo counted once.
        photos: how many there are.
    """

    query: str
    found: list[Found]
    passing: int
    different_passing: int
    photos: int
    all_counted: bool

    def counted(self) -> str:
        """``"3 of 9,182 photos"``: how many pass."""
        return f"{'' if self.all_counted else 'at least '}{self.passing:,} of {self.photos:,} photos"

    def as_dict(self) -> dict[str, object]:
        found = [{"path": one.path, "score": round(one.score, 4), "passes": one.passes} for one in self.found]
        return {"query": self.query, "photos": self.photos, "passing": self.passing, "found": found}


class Ranker:
    """Asks queries of an index as it is now.

    Args:
        vocabulary: the labels whose logits are stored, in their order.
    """

    def __init__(self, store: Store, tagger: Tagger, vocabulary: LabelSet):
        self._store, self._tagger, self._vocabulary = store, tagger, vocabulary
        self._stored = StoredScores(store, len(vocabulary))
        self._classes = store.classes() or 0
        self._column = {key: column for column, key in enumerate(vocabulary.keys)}

    def rank(self, query: Query, labels: LabelSet, top: int, copies: bool = True) -> Ranking:
        """Return the best ``top`` photos.

        Args:
            labels: ``query.labels``, made ready.
            copies: list all copies of a photo; False: only the first by name.
        """
        things = _Things(np.array(query.things), len(query.wanted))
        logits, turn = self._logits(labels, things)  # (N, K), (N,)
        promise = things.promise(logits)  # (N,)
        passing = things.passes(probabilities(logits) >= labels.thresholds) & (turn >= 0)
        asked = np.flatnonzero(turn >= 0)
        best = asked[_best(promise[asked], passing[asked], top)]
        found = [
            Found(path, float(np.exp(promise[at])), bool(passing[at]))
            for at in best
            for path in self._store.paths_of(int(self._stored.contents[at]))[: None if copies else 1]
        ]
        all_counted = len(asked) == len(turn) or not passing[turn == turn.max()].any()
        counts = self._stored.copies
        return Ranking(
            query=query.text,
            found=found[:top],
            passing=int(counts[passing].sum()),
            different_passing=int(passing.sum()),
            photos=int(counts.sum()),
            all_counted=all_counted,
        )

    def _logits(self, labels: LabelSet, things: _Things) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds with their biases ``(N, K)``, and the turn in which each photo was asked ``(N,)``, -1 where not."""
        columns, others = self._columns(labels)
        logits = np.zeros((len(self._stored.contents), len(labels)), np.float32)
        for photos in self._stored.parts:
            logits[photos] = self._log_odds(self._read(columns, len(labels), photos), labels, photos)
        if not others:
            return logits, np.zeros(len(logits), np.int64)
        return logits, self._ask_others(labels, things, others, logits)

    def _columns(self, labels: LabelSet) -> tuple[dict[int, int], list[int]]:
        """Return the columns of the labels that are stored, by their numbers, and the numbers of the others."""
        columns, others = {}, []
        for place, key in enumerate(labels.keys):
            reader = labels.readers.get(place)
            word = key if reader is None else reader.word
            if word is None:  # it was taught, and takes no word
                continue
            if (column := self._column.get(word)) is None:
                others.append(place)
            else:
                columns[place] = column
        return columns, others

    def _read(self, columns: dict[int, int], count: int, photos: np.ndarray) -> np.ndarray:
        """Return the decoder's logits ``(m, count)`` of photos ``(m,)``, those that are not stored 0."""
        levels = self._stored.columns(list(columns.values()), photos).T  # (m, stored labels)
        stored = levels * self._stored.step[photos, None] + self._stored.low[photos, None]
        if len(columns) == count:
            return stored
        logits = np.zeros((len(photos), count), np.float32)
        logits[:, list(columns)] = stored
        return logits

    def _log_odds(self, logits: np.ndarray, labels: LabelSet, photos: np.ndarray) -> np.ndarray:
        """Logits of the decoder ``(m, K)`` of photos ``(m,)`` -> log-odds with their biases."""
        evidence = labels.evidence
        if evidence is not None and self._classes:
            columns = len(self._vocabulary) + evidence.columns
            classes = unpack_classes(self._stored.columns(columns, photos).T)  # (m, columns)
            logits = evidence.scales * logits + evidence.added_by(classes)
        if labels.readers:
            logits = labels.read_pooled(logits, self._features(photos))
        return logits + labels.biases

    def _features(self, photos: np.ndarray) -> np.ndarray:
        """Return what taught tags read of photos ``(m,)``, float32 ``(m, F)``."""
        levels, step, low = self._store.pooled(self._stored.contents[photos].tolist())
        from_tokens = levels * step[:, None] + low[:, None]  # (m, 2 D)
        columns = len(self._vocabulary) + np.arange(self._classes)
        classes = unpack_classes(self._stored.columns(columns, photos).T) if self._classes else None
        return with_classes(from_tokens, classes)

    @property
    def contents(self) -> np.ndarray:
        """Return the number of each content, ascending, int64 ``(N,)``; the methods below count them from 0."""
        return self._stored.contents

    @property
    def copies(self) -> np.ndarray:
        """Return how many photos have each content, int64 ``(N,)``."""
        return self._stored.copies

    def not_stored(self, labels: LabelSet) -> list[int]:
        """Return the numbers of the labels whose logits are not in the index."""
        return self._columns(labels)[1]

    def stored_log_odds(self, labels: LabelSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of photos ``(m,)``, and their log-odds ``(m, K)`` of stored labels, with their biases."""
        columns, _ = self._columns(labels)
        for photos in self._in_parts():
            yield photos, self._log_odds(self._read(columns, len(labels), photos), labels, photos)

    def predicted_log_odds(self, labels: LabelSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of photos ``(m,)``, and what is predicted for labels that are not stored, ``(m, K)``."""
        x, coefficients = (part.astype(np.float32) for part in self._regression(labels))  # (V, D + 1), (D + 1, K)
        total = x.sum(axis=0)
        for photos in self._in_parts():
            levels = self._stored.columns(np.arange(len(x)), photos).T.astype(np.float32)  # (m, V)
            known = (levels @ x) * self._stored.step[photos, None] + self._stored.low[photos, None] * total
            yield photos, self._log_odds(known @ coefficients, labels, photos)

    def passing(self, labels: LabelSet) -> np.ndarray:
        """Return which photos reach the threshold of one label, bool ``(N,)``; one that is not stored is asked."""
        logits, turn = self._logits(labels, _Things(np.zeros(1, np.int64), 1))
        passes: np.ndarray = (probabilities(logits[:, 0]) >= labels.thresholds[0]) & (turn >= 0)
        return passes

    def ask(self, photos: np.ndarray, labels: LabelSet) -> np.ndarray:
        """Return the log-odds ``(m, K)`` of labels, with their biases, from the tokens of photos ``(m,)``."""
        return self._ask(photos, labels)

    def _in_parts(self) -> Iterator[np.ndarray]:
        """Yield the numbers of all photos, ``_LOG_ODDS_AT_ONCE`` of one part at a time."""
        for photos in self._stored.parts:
            for start in range(0, len(photos), _LOG_ODDS_AT_ONCE):
                yield photos[start : start + _LOG_ODDS_AT_ONCE]

    def photos_of_anything(self, word: str | None, most: int) -> Photos:
        """Return some photos of the index, for a tag to be compared with.

        Args:
            word: key of the word whose log-odds come with them.
        """
        count = len(self._stored.contents)
        some = np.sort(np.random.default_rng(0).permutation(count)[:most])
        said = np.zeros(len(some), np.float32)
        if word is not None:
            labels = self._tagger.plain_label_set([word])
            if (column := self._column.get(word)) is None:
                said = (self._ask(some, labels) - labels.biases)[:, 0]
            else:
                stored = self._read({0: column}, 1, some)
                said = (self._log_odds(stored, labels, some) - labels.biases)[:, 0]
        return Photos(self._features(some), said)

    def _ask_others(self, labels: LabelSet, things: _Things, others: list[int], logits: np.ndarray) -> np.ndarray:
        """Fill the columns of labels that are not stored where it matters; returns the turns."""
        unstored = labels.only(others)
        predicted = self._times(self._weights(unstored))  # (N, k)
        for photos in self._stored.parts:
            predicted[photos] = self._log_odds(predicted[photos], unstored, photos)
        logits[:, others] = predicted
        promise = things.promise(logits)  # (N,)
        near = _Near(self._stored, _largest(promise, min(NEAR, len(promise))))
        asked, said = np.zeros(0, np.int64), np.zeros((0, len(others)), np.float32)
        turn = np.full(len(logits), -1)
        for number, most in enumerate((FIRST, *[MORE] * ROUNDS)):
            count = min(most, int((turn < 0).sum()))
            if not count:
                break
            if number:
                logits[:, others] = predicted + self._correction(near.logits(asked), said - predicted[asked])
                promise = things.promise(logits)
            more = np.sort(_largest(np.where(turn < 0, promise, -np.inf), count))
            turn[more] = number
            asked, said = np.append(asked, more), np.concatenate([said, self._ask(more, unstored)])
        logits[asked[:, None], others] = said
        return turn

    def _weights(self, labels: LabelSet) -> np.ndarray:
        """float32 ``(V, k)``: with them, a photo's logits of the vocabulary predict those of other labels."""
        x, coefficients = self._regression(labels)
        return (x @ coefficients).astype(np.float32)

    def _regression(self, labels: LabelSet) -> tuple[np.ndarray, np.ndarray]:
        """Return the two factors of the weights, ``(V, D + 1)`` and ``(D + 1, k)``."""
        states = self._tagger.query_states(self._vocabulary).astype(np.float64)  # (V, D)
        mean = states.mean(axis=0)
        x = np.column_stack([states - mean, np.ones(len(states))])  # (V, D + 1)
        asked = np.column_stack([self._tagger.query_states(labels) - mean, np.ones(len(labels))])  # (k, D + 1)
        penalty = LABEL_RIDGE * np.append(states.var(axis=0) + 1e-9, 0.0)
        return x, np.linalg.solve(x.T @ x + np.diag(penalty), asked.T)

    def _correction(self, x: np.ndarray, off_by: np.ndarray) -> np.ndarray:
        """Return what to add to every prediction ``(N, k)``, from errors ``(m, k)`` on photos of logits ``(m, V)``."""
        mean, offset = x.mean(axis=0), off_by.mean(axis=0)
        gram = (x - mean) @ (x - mean).T  # (m, m)
        gram[np.diag_indices_from(gram)] += PHOTO_RIDGE * np.trace(gram) / len(gram) + 1e-6
        weights = (x - mean).T @ np.linalg.solve(gram, off_by - offset)  # (V, k)
        return self._times(weights) - mean @ weights + offset

    def _times(self, weights: np.ndarray) -> np.ndarray:
        """Return the stored logits ``(N, V)`` times weights ``(V, k)``."""
        products = np.zeros((weights.shape[1], len(self._stored.contents)), np.float32)  # (k, N)
        for part, photos in enumerate(self._stored.parts):
            product = np.zeros((len(products), len(photos)), np.float32)  # (k, m)
            for labels, levels in self._stored.tiles(part):
                product += weights[labels].T @ levels.astype(np.float32)
            products[:, photos] = product
        return products.T * self._stored.step[:, None] + self._stored.low[:, None] * weights.sum(axis=0)

    def _ask(self, photos: np.ndarray, labels: LabelSet) -> np.ndarray:
        """Log-odds with the biases of photos that are asked, float32 ``(m, k)``."""
        said = np.zeros((len(photos), len(labels)), np.float32)
        packed = self._store.tokens(self._stored.contents[photos].tolist())
        parts = iter(lambda: list(islice(packed, _PHOTOS_A_CALL)), [])
        for places, logits in map_in_order(lambda part: self._said(part, labels), parts, self._tagger.workers):
            said[places] = logits
        return self._log_odds(said, labels, photos)

    def _said(self, part: list[tuple[int, bytes]], labels: LabelSet) -> tuple[list[int], np.ndarray]:
        places, packed = zip(*part, strict=True)
        try:
            tokens = np.stack([unpack_tokens(one) for one in packed])  # (b, L, D)
        except ValueError as error:
            raise self._store.damaged(error) from None
        return list(places), self._tagger.logits(Encoded(tokens), labels)


class _Near:
    """The stored logits of the photos with the best predictions, read once, and of others as they are needed."""

    def __init__(self, stored: StoredScores, photos: np.ndarray):
        self._stored, self._photos = stored, np.zeros(0, np.int64)
        self._levels = np.zeros((stored.labels, 0), np.uint8)  # (V, m)
        self._read(np.sort(photos))

    def _read(self, photos: np.ndarray) -> None:
        more = self._stored.columns(np.arange(self._stored.labels), photos)
        self._photos = np.append(self._photos, photos)
        self._levels = np.concatenate([self._levels, more], axis=1)

    def logits(self, photos: np.ndarray) -> np.ndarray:
        """Return float32 ``(m, V)`` of photos ``(m,)``."""
        if len(others := np.setdiff1d(photos, self._photos)):
            self._read(others)
        order = np.argsort(self._photos)
        at = order[np.searchsorted(self._photos, photos, sorter=order)]
        return self._levels[:, at].T * self._stored.step[photos, None] + self._stored.low[photos, None]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return where the ``count`` largest of values ``(n,)`` are, in no order."""
    return np.argpartition(-values, count - 1)[:count] if count else np.zeros(0, np.int64)


def _best(promise: np.ndarray, passing: np.ndarray, top: int) -> np.ndarray:
    """Return where the best are, at most ``top``: those that pass, best first, then the others."""
    found = []
    for some in (np.flatnonzero(passing), np.flatnonzero(~passing)):
        if len(some) > top:  # sort only those that are as good as the last one
            last = promise[some[_largest(promise[some], top)]].min()
            some = some[promise[some] >= last]
        found.append(some[np.argsort(-promise[some], kind="stable")])
    return np.concatenate(found)[:top]


@dataclass(frozen=True)
class _Things:
    """What a photo should show, and what it should not.

    Attributes:
        of_label: int64 ``(K,)``, ascending: the thing each label belongs to.
        wanted: so many of the things, the first ones, should be there.
    """

    of_label: np.ndarray
    wanted: int

    @property
    def _starts(self) -> np.ndarray:
        return np.flatnonzero(np.diff(self.of_label, prepend=-1))  # (things,)

    def promise(self, logits: np.ndarray) -> np.ndarray:
        """Return the logarithm of the score ``(N,)``, which has no ties at 1: logits ``(N, K)``."""
        absent = np.add.reduceat(np.logaddexp(0, logits), self._starts, axis=1)  # (N, things): -log of "none is there"
        present = -_log_of_complement(np.maximum(absent[:, : self.wanted], 1e-37))  # (N, wanted)
        return -(present.sum(axis=1) + absent[:, self.wanted :].sum(axis=1))

    def passes(self, is_tag: np.ndarray) -> np.ndarray:
        """Return which photos show all that is wanted and nothing that is not, bool ``(N,)``: bool ``(N, K)``."""
        there = np.logical_or.reduceat(is_tag, self._starts, axis=1)  # (N, things)
        return (there == (np.arange(there.shape[1]) < self.wanted)).all(axis=1)


def _log_of_complement(x: np.ndarray) -> np.ndarray:
    """Return ``log(1 - exp(-x))`` of positive x, exact for small ones and large ones."""
    small, large = np.minimum(x, 1.0), np.maximum(x, 0.5)
    return np.where(x < np.log(2), np.log(-np.expm1(-small)), np.log1p(-np.exp(-large)))
