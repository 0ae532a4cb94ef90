"""Rank the photos of an index for a query.

The scores of a label of the vocabulary are stored in the index. For any other label the decoder runs on the stored
tokens of the most promising photos, at most ``MAX_DECODED`` of them, which is all photos of a small library. They are
found by regression:

1. The decoder's logits of one photo are a smooth function of the label (:mod:`zsl_tagger.tagging.shortlist`). A ridge
   regression from the query states of the vocabulary to that of the label therefore gives weights with which the
   stored logits of each photo predict the logit of the label. The best ``FIRST_DECODED`` photos are decoded.
2. A second regression, from the stored logits of the decoded photos to the errors of the first one, corrects the
   prediction for all photos, and the next best photos are decoded. This is repeated in each round.

Each prediction reads the stored logits once, a few thousand photos at a time (:mod:`.blocks`).

No network is trained. The returned scores are those of ``tag``, within the precision of the index (:mod:`.packing`). A
photo can be missed: benchmarks/results/search.json says how often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from zsl_tagger.search.blocks import StoredScores
from zsl_tagger.search.packing import is_saturated, unpack_classes, unpack_tokens
from zsl_tagger.search.query import Query
from zsl_tagger.search.store import Store
from zsl_tagger.system.threads import map_in_order
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.pooled import with_classes
from zsl_tagger.tagging.reader import Photos
from zsl_tagger.tagging.tagger import Tagger, probabilities

FIRST_DECODED, ROUNDS, DECODED_PER_ROUND = 400, 3, 200  # photos
MAX_DECODED = FIRST_DECODED + ROUNDS * DECODED_PER_ROUND
LABEL_RIDGE, PHOTO_RIDGE = 30.0, 0.01  # penalties, relative to the mean square of the inputs

CANDIDATES = 4096  # photos with the best first predictions, whose stored logits are kept in memory for step 2

_PHOTOS_PER_CALL = 4  # of the decoder
_LOG_ODDS_AT_ONCE = 1024  # photos whose log-odds of thousands of labels are in memory at a time


class SearchResult(NamedTuple):
    """One photo of a ranking.

    Attributes:
        path: absolute path.
        score: 0..1. For one label, the score of ``tag``; for several, the product of the scores of wanted labels and
            of 1 - score of unwanted ones.
        passes: every wanted label reaches its threshold, and no unwanted one does.
    """

    path: str
    score: float
    passes: bool


@dataclass(frozen=True)
class Ranking:
    """Result of one query.

    Attributes:
        query: the query as typed.
        found: the best photos: those that pass, best first, then the others.
        passing: number of photos that pass; a minimum unless ``all_counted``.
        different_passing: the same number, with copies of a photo counted once.
        photos: number of photos in the index.
        all_counted: no more photos are likely to pass.
    """

    query: str
    found: list[SearchResult]
    passing: int
    different_passing: int
    photos: int
    all_counted: bool

    def counted(self) -> str:
        """Return the number of photos that pass, e.g. ``"3 of 9,182 photos"``."""
        return f"{'' if self.all_counted else 'at least '}{self.passing:,} of {self.photos:,} photos"

    def as_dict(self) -> dict[str, object]:
        found = [{"path": one.path, "score": round(one.score, 4), "passes": one.passes} for one in self.found]
        return {"query": self.query, "photos": self.photos, "passing": self.passing, "found": found}


class Ranker:
    """Rank the photos of an index in its present state.

    Args:
        keys: the V spellings that identify the labels whose logits are stored, in the same order.
        vocabulary: returns these labels; called only to predict the logits of other labels.
    """

    def __init__(self, store: Store, tagger: Tagger, keys: Sequence[str], vocabulary: Callable[[], LabelSet]):
        self._store, self._tagger, self._vocabulary = store, tagger, vocabulary
        self._stored = StoredScores(store, len(keys))
        self._classes = store.classes() or 0
        self._column = {key: column for column, key in enumerate(keys)}

    def rank(self, query: Query, labels: LabelSet, top: int, copies: bool = True) -> Ranking:
        """Return the best ``top`` photos.

        Args:
            labels: the prepared ``query.labels``.
            copies: list all copies of a photo; False: only the first by name.
        """
        terms = _Terms(np.array(query.term_of_label), len(query.wanted))
        logits, decoded_in = self._logits(labels, terms)  # (N, K), (N,)
        log_scores = terms.log_scores(logits)  # (N,)
        passing = terms.passes(probabilities(logits) >= labels.thresholds) & (decoded_in >= 0)
        scored = np.flatnonzero(decoded_in >= 0)
        best = scored[_best(log_scores[scored], passing[scored], top)]
        found = [
            SearchResult(path, float(np.exp(log_scores[at])), bool(passing[at]))
            for at in best
            for path in self._store.paths_of(int(self._stored.contents[at]))[: None if copies else 1]
        ]
        # If a photo of the last round passes, more photos might.
        all_counted = len(scored) == len(decoded_in) or not passing[decoded_in == decoded_in.max()].any()
        counts = self._stored.copies
        return Ranking(
            query=query.text,
            found=found[:top],
            passing=int(counts[passing].sum()),
            different_passing=int(passing.sum()),
            photos=int(counts.sum()),
            all_counted=all_counted,
        )

    def _logits(self, labels: LabelSet, terms: _Terms) -> tuple[np.ndarray, np.ndarray]:
        """Return log-odds with biases ``(N, K)``, and the round in which each photo was scored ``(N,)``, or -1."""
        columns, others = self._columns(labels)
        logits = np.zeros((len(self._stored.contents), len(labels)), np.float32)
        for photos in self._stored.parts:
            logits[photos] = self._log_odds(self._read(columns, len(labels), photos), labels, photos)
        if not others:
            return logits, np.zeros(len(logits), np.int64)
        return logits, self._fill_not_stored(labels, terms, others, logits)

    def _columns(self, labels: LabelSet) -> tuple[dict[int, int], list[int]]:
        """Return the column of each stored label by its index, and the indices of the other labels."""
        columns, others = {}, []
        for place, key in enumerate(labels.keys):
            reader = labels.readers.get(place)
            word = key if reader is None else reader.word
            if word is None:  # a taught tag without a word
                continue
            if (column := self._column.get(word)) is None:
                others.append(place)
            else:
                columns[place] = column
        return columns, others

    def _read(self, columns: dict[int, int], count: int, photos: np.ndarray) -> np.ndarray:
        """Return the decoder's logits ``(m, count)`` of photos ``(m,)``, 0 for labels that are not stored."""
        levels = self._stored.columns(list(columns.values()), photos).T  # (m, stored labels)
        stored = levels * self._stored.step[photos, None] + self._stored.low[photos, None]
        if len(columns) == count:
            return stored
        logits = np.zeros((len(photos), count), np.float32)
        logits[:, list(columns)] = stored
        return logits

    def _log_odds(self, logits: np.ndarray, labels: LabelSet, photos: np.ndarray) -> np.ndarray:
        """Return log-odds with biases from the decoder's logits ``(m, K)`` of photos ``(m,)``."""
        evidence = labels.evidence
        if evidence is not None and self._classes:
            columns = self._stored.labels + evidence.columns
            classes = unpack_classes(self._stored.columns(columns, photos).T)  # (m, columns)
            logits = evidence.scales * logits + evidence.added_by(classes)
        if labels.readers:
            logits = labels.read_pooled(logits, self._features(photos))
        return logits + labels.biases

    def _features(self, photos: np.ndarray) -> np.ndarray:
        """Return the features of photos ``(m,)`` for taught tags, float32 ``(m, F)``."""
        levels, step, low = self._store.pooled(self._stored.contents[photos].tolist())
        from_tokens = levels * step[:, None] + low[:, None]  # (m, 2 D)
        classes = unpack_classes(self._packed_classes(photos)) if self._classes else None
        return with_classes(from_tokens, classes)

    def _packed_classes(self, photos: np.ndarray) -> np.ndarray:
        """Return the packed class probabilities of photos ``(m,)``, uint8 ``(m, classes)``."""
        return self._stored.columns(self._stored.labels + np.arange(self._classes), photos).T

    @property
    def contents(self) -> np.ndarray:
        """Return the ids of all contents, ascending, int64 ``(N,)``; photos are numbered by position in it."""
        return self._stored.contents

    @property
    def copies(self) -> np.ndarray:
        """Return the number of files with each content, int64 ``(N,)``."""
        return self._stored.copies

    def not_stored(self, labels: LabelSet) -> list[int]:
        """Return the indices of the labels whose logits are not in the index."""
        return self._columns(labels)[1]

    def stored_log_odds(self, labels: LabelSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield photos ``(m,)`` and their log-odds with biases ``(m, K)`` of stored labels."""
        columns, _ = self._columns(labels)
        for photos in self._in_parts():
            yield photos, self._log_odds(self._read(columns, len(labels), photos), labels, photos)

    def predicted_log_odds(self, labels: LabelSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield photos ``(m,)`` and their predicted log-odds ``(m, K)`` of labels that are not stored."""
        x, coefficients = (part.astype(np.float32) for part in self._regression(labels))  # (V, D + 1), (D + 1, K)
        total = x.sum(axis=0)
        for photos in self._in_parts():
            levels = self._stored.columns(np.arange(len(x)), photos).T.astype(np.float32)  # (m, V)
            known = (levels @ x) * self._stored.step[photos, None] + self._stored.low[photos, None] * total
            yield photos, self._log_odds(known @ coefficients, labels, photos)

    def passing(self, labels: LabelSet) -> np.ndarray:
        """Return which photos reach the threshold of one label, stored or not, bool ``(N,)``."""
        logits, decoded_in = self._logits(labels, _Terms(np.zeros(1, np.int64), 1))
        passes: np.ndarray = (probabilities(logits[:, 0]) >= labels.thresholds[0]) & (decoded_in >= 0)
        return passes

    def _in_parts(self) -> Iterator[np.ndarray]:
        """Yield all photos, at most ``_LOG_ODDS_AT_ONCE`` of one part at a time."""
        for photos in self._stored.parts:
            for start in range(0, len(photos), _LOG_ODDS_AT_ONCE):
                yield photos[start : start + _LOG_ODDS_AT_ONCE]

    def random_photos(self, word: str | None, most: int) -> Photos:
        """Return random photos of the index, for a tag to be compared with.

        Args:
            word: key of the word whose log-odds to return.
        """
        count = len(self._stored.contents)
        return self._photos(np.sort(np.random.default_rng(0).permutation(count)[:most]), word)

    def stored_photos(self, contents: Iterable[int], word: str | None) -> dict[int, tuple[np.ndarray, float]]:
        """Return features ``(F,)`` and log-odds of contents, without those whose features are not exact.

        The index limits the log-odds of very probable classes, which changes a lesson more than all other rounding.

        Args:
            word: key of the word whose log-odds to return.
        """
        photos = np.flatnonzero(np.isin(self._stored.contents, list(contents)))
        photos = photos[~is_saturated(self._packed_classes(photos))]
        found = self._photos(photos, word)
        numbers = self._stored.contents[photos].tolist()
        return dict(zip(numbers, zip(found.features, found.word.tolist(), strict=True), strict=True))

    def _photos(self, photos: np.ndarray, word: str | None) -> Photos:
        """Return features and log-odds of photos ``(m,)``, ascending; zeros without a word."""
        features = self._features(photos)
        if word is None:
            return Photos(features, np.zeros(len(photos), np.float32))
        labels = self._tagger.plain_label_set([word])
        if (column := self._column.get(word)) is None:
            log_odds = self.decode(photos, labels)  # (m, 1)
        else:
            log_odds = self._log_odds(self._read({0: column}, 1, photos), labels, photos)  # (m, 1)
        return Photos(features, (log_odds - labels.biases)[:, 0])

    def _fill_not_stored(self, labels: LabelSet, terms: _Terms, others: list[int], logits: np.ndarray) -> np.ndarray:
        """Fill the columns of labels that are not stored; return the round in which each photo was decoded, or -1."""
        unstored = labels.only(others)
        # Predict the labels for all photos from the stored logits.
        predicted = self._weighted_sums(self._weights(unstored))  # (N, k)
        for photos in self._stored.parts:
            predicted[photos] = self._log_odds(predicted[photos], unstored, photos)
        logits[:, others] = predicted
        log_scores = terms.log_scores(logits)  # (N,)
        candidates = _Candidates(self._stored, _largest(log_scores, min(CANDIDATES, len(log_scores))))
        # Decode the best photos round by round, and correct the prediction of the rest.
        decoded, log_odds = np.zeros(0, np.int64), np.zeros((0, len(others)), np.float32)
        decoded_in = np.full(len(logits), -1)
        for round_number, most in enumerate((FIRST_DECODED, *[DECODED_PER_ROUND] * ROUNDS)):
            count = min(most, int((decoded_in < 0).sum()))
            if not count:
                break
            if round_number:
                errors = log_odds - predicted[decoded]
                logits[:, others] = predicted + self._correction(candidates.logits(decoded), errors)
                log_scores = terms.log_scores(logits)
            more = np.sort(_largest(np.where(decoded_in < 0, log_scores, -np.inf), count))
            decoded_in[more] = round_number
            decoded, log_odds = np.append(decoded, more), np.concatenate([log_odds, self.decode(more, unstored)])
        logits[decoded[:, None], others] = log_odds
        return decoded_in

    def _weights(self, labels: LabelSet) -> np.ndarray:
        """Return weights that predict logits of labels from those of the vocabulary, float32 ``(V, k)``."""
        x, coefficients = self._regression(labels)
        return (x @ coefficients).astype(np.float32)

    def _regression(self, labels: LabelSet) -> tuple[np.ndarray, np.ndarray]:
        """Return the two factors of the weights, ``(V, D + 1)`` and ``(D + 1, k)``."""
        states = self._tagger.query_states(self._vocabulary()).astype(np.float64)  # (V, D)
        mean = states.mean(axis=0)
        x = np.column_stack([states - mean, np.ones(len(states))])  # (V, D + 1)
        wanted = np.column_stack([self._tagger.query_states(labels) - mean, np.ones(len(labels))])  # (k, D + 1)
        penalty = LABEL_RIDGE * np.append(states.var(axis=0) + 1e-9, 0.0)
        return x, np.linalg.solve(x.T @ x + np.diag(penalty), wanted.T)

    def _correction(self, x: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Return corrections of the predictions ``(N, k)``, from errors ``(m, k)`` on photos of logits ``(m, V)``."""
        mean, offset = x.mean(axis=0), errors.mean(axis=0)
        gram = (x - mean) @ (x - mean).T  # (m, m)
        gram[np.diag_indices_from(gram)] += PHOTO_RIDGE * np.trace(gram) / len(gram) + 1e-6
        weights = (x - mean).T @ np.linalg.solve(gram, errors - offset)  # (V, k)
        return self._weighted_sums(weights) - mean @ weights + offset

    def _weighted_sums(self, weights: np.ndarray) -> np.ndarray:
        """Return the product ``(N, k)`` of the stored logits ``(N, V)`` and weights ``(V, k)``."""
        products = np.zeros((weights.shape[1], len(self._stored.contents)), np.float32)  # (k, N)
        for part, photos in enumerate(self._stored.parts):
            product = np.zeros((len(products), len(photos)), np.float32)  # (k, m)
            for labels, levels in self._stored.tiles(part):
                product += weights[labels].T @ levels.astype(np.float32)
            products[:, photos] = product
        return products.T * self._stored.step[:, None] + self._stored.low[:, None] * weights.sum(axis=0)

    def decode(self, photos: np.ndarray, labels: LabelSet) -> np.ndarray:
        """Run the decoder on the stored tokens of photos ``(m,)``; return log-odds with biases, float32 ``(m, k)``."""
        decoded = np.zeros((len(photos), len(labels)), np.float32)
        packed = self._store.tokens(self._stored.contents[photos].tolist())
        parts = iter(lambda: list(islice(packed, _PHOTOS_PER_CALL)), [])
        for places, logits in map_in_order(lambda part: self._decode(part, labels), parts, self._tagger.workers):
            decoded[places] = logits
        if labels.probes is not None:
            decoded += labels.probes.added(self._features(photos), len(labels))
        return self._log_odds(decoded, labels, photos)

    def _decode(self, part: list[tuple[int, bytes]], labels: LabelSet) -> tuple[list[int], np.ndarray]:
        places, packed = zip(*part, strict=True)
        try:
            tokens = np.stack([unpack_tokens(one) for one in packed])  # (b, L, D)
        except ValueError as error:
            raise self._store.damaged(error) from None
        return list(places), self._tagger.logits(Encoded(tokens), labels)


class _Candidates:
    """Stored logits of the photos with the best predictions, read once, and of other photos when needed."""

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
    """Return the indices of the ``count`` largest of values ``(n,)``, unsorted."""
    return np.argpartition(-values, count - 1)[:count] if count else np.zeros(0, np.int64)


def _best(log_scores: np.ndarray, passing: np.ndarray, top: int) -> np.ndarray:
    """Return the indices of the best ``top`` photos: those that pass, best first, then the others."""
    found = []
    for some in (np.flatnonzero(passing), np.flatnonzero(~passing)):
        if len(some) > top:  # sort only those at least as good as the last one to return
            last = log_scores[some[_largest(log_scores[some], top)]].min()
            some = some[log_scores[some] >= last]
        found.append(some[np.argsort(-log_scores[some], kind="stable")])
    return np.concatenate(found)[:top]


@dataclass(frozen=True)
class _Terms:
    """The terms of a query: each is a label, or alternatives of which one is enough.

    Attributes:
        of_label: term of each label, int64 ``(K,)``, ascending.
        wanted: number of terms that a photo should show; they come first, and it should show none of the others.
    """

    of_label: np.ndarray
    wanted: int

    @property
    def _starts(self) -> np.ndarray:
        return np.flatnonzero(np.diff(self.of_label, prepend=-1))  # (terms,)

    def log_scores(self, logits: np.ndarray) -> np.ndarray:
        """Return the logarithm of the scores ``(N,)``, which has no ties at 1, from logits ``(N, K)``."""
        # Negative logarithm of the probability that no label of a term applies.
        absent = np.add.reduceat(np.logaddexp(0, logits), self._starts, axis=1)  # (N, terms)
        present = -_log_of_complement(np.maximum(absent[:, : self.wanted], 1e-37))  # (N, wanted)
        return -(present.sum(axis=1) + absent[:, self.wanted :].sum(axis=1))

    def passes(self, is_tag: np.ndarray) -> np.ndarray:
        """Return which photos show all wanted terms and no unwanted one, bool ``(N,)``, from tags ``(N, K)``."""
        there = np.logical_or.reduceat(is_tag, self._starts, axis=1)  # (N, terms)
        return (there == (np.arange(there.shape[1]) < self.wanted)).all(axis=1)


def _log_of_complement(x: np.ndarray) -> np.ndarray:
    """Return ``log(1 - exp(-x))`` of positive x, precise for small and large values."""
    small, large = np.minimum(x, 1.0), np.maximum(x, 0.5)
    return np.where(x < np.log(2), np.log(-np.expm1(-small)), np.log1p(-np.exp(-large)))
