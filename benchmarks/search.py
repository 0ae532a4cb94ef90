"""Measure search over 10,000 photos: time, size, agreement with exact scores, recall of the exact best.

    python -m benchmarks.search --photos FOLDER --unseen FOLDER --index FOLDER

Photos are indexed as ``zsl-tagger index`` does it (an index that is there is brought up to date, which takes a second).
Where they are fewer than 10,000, token maps of the first ones are added again, mirrored; the result says how many.

Agreement is measured on ``--unseen``, photos that the model was not trained on: the forms in which tokens could be kept
against the tokens as they are, over all labels of the vocabulary. "Recall" is the share of the 100 photos with the best
scores, all photos asked, that a search finds among its 100; of labels that are not in the vocabulary. Times are of a
query in a process that has the index open ("warm": after one other query; "first": it reads the stored logits), and of
``zsl-tagger search`` from start to exit with the index in the page cache, and dropped from it ("cold").
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import ROOT, write_result
from zsl_tagger.images.finding import find_images
from zsl_tagger.search import rank
from zsl_tagger.search.blocks import StoredScores
from zsl_tagger.search.library import Library
from zsl_tagger.search.packing import (
    pack_classes,
    pack_logits,
    pack_tokens,
    unpack_classes,
    unpack_logits,
    unpack_tokens,
)
from zsl_tagger.search.store import INDEX_FILE, IndexedPhoto, Store
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.pooled import pooled_tokens
from zsl_tagger.tagging.tagger import Tagger, probabilities

PHOTOS, TOP = 10_000, 100
PHRASES = [
    "red bicycle", "snowy mountain", "blue car", "old man", "wooden house", "white dog", "kitchen table", "black cat",
    "yellow flower", "night street", "green field", "baby elephant", "stone bridge", "city skyline", "birthday party",
    "foggy forest", "sailing boat", "football stadium", "rusty truck", "empty beach",
]  # fmt: skip
WORDS = 60  # other words, drawn from the 20,000 most common ones
MIRRORED = "mirrored"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--unseen", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    arguments = parser.parse_args()
    tagger = Tagger(workers=available_cores())
    with Library.open(arguments.index) as library:
        start = time.perf_counter()
        counts = library.add(arguments.photos)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        library.add(arguments.photos)
        again = time.perf_counter() - start
        mirrored = fill(arguments.index, library, tagger)
        figures = {
            "photos": len(library),
            "of these mirrored token maps": mirrored,
            "indexed, photos/s": round(counts.added / seconds, 1) if counts.added > 1000 else None,
            "nothing new, s": round(again, 2),
            "bytes a photo": sizes(arguments.index),
            "forms of tokens": forms(tagger, arguments.unseen),
            "search": searches(library, tagger, arguments.index),
        }
    figures["command"] = commands(arguments.index)
    write_result("search", figures)


def fill(index: Path, library: Library, tagger: Tagger) -> int:
    """Add mirrored token maps up to ``PHOTOS`` in total; return the number of photos."""
    with Store(index, library._meta) as store:
        photos = store.photos()
        real = sorted(path for path in photos if not path.startswith(MIRRORED))
        wanted = [path for path in real[: max(0, PHOTOS - len(real))] if f"{MIRRORED}/{path}" not in photos]
        contents, classes = [photos[path].content for path in wanted], packed_classes(store)

        def made(numbered: tuple[int, tuple[int, bytes]]) -> tuple[int, bytes, bytes, bytes]:
            tokens = unpack_tokens(numbered[1][1])
            side = int(len(tokens) ** 0.5)
            tokens = tokens.reshape(side, side, -1)[:, ::-1].reshape(tokens.shape)
            logits = tagger.logits(Encoded(tokens[None]), tagger.vocabulary)[0]
            pooled = pack_logits(pooled_tokens(tokens[None])[0])
            return numbered[1][0], pack_tokens(tokens), pack_logits(logits), pooled

        for place, tokens, logits, pooled in map_in_order(made, enumerate(store.tokens(contents)), tagger.workers):
            path = f"{MIRRORED}/{wanted[place]}"
            with store.transaction():
                same = classes[contents[place]].tobytes()  # their windows are mirrored too
                store.set_photo(path, IndexedPhoto(0, 0, store.add_content(path, tokens, logits, same, pooled)))
        return store.count() - len(real)


def packed_classes(store: Store) -> dict[int, np.ndarray]:
    """Return the classes of each content: uint8 ``(C,)``."""
    labels = len(store.meta.labels)
    stored = StoredScores(store, labels)
    columns = np.arange(labels, labels + (store.classes() or 0))
    classes = stored.columns(columns, np.arange(len(stored.contents))).T  # (N, C)
    return dict(zip(stored.contents.tolist(), classes, strict=True))


def unpacked_classes(packed: np.ndarray) -> np.ndarray | None:
    """Convert uint8 ``(N, C)`` to float32 ``(N, C)``; return None for a model without class evidence."""
    return unpack_classes(packed) if packed.shape[1] else None


def sizes(index: Path) -> dict[str, float]:
    with Store(index) as store:
        contents = [known.content for known in store.photos().values()]
        packed = [len(tokens) for _, tokens in store.tokens(sorted(set(contents)))]
        classes = store.classes() or 0
        return {
            "file over photos": round((index / INDEX_FILE).stat().st_size / len(contents)),
            "tokens, mean": round(float(np.mean(packed))),
            "tokens, largest": max(packed),
            "logits": len(store.meta.labels) + 8,
            "classes": classes,
        }


# --- forms of tokens


def quantised(bits: int, axis: int) -> Callable[[np.ndarray], np.ndarray]:
    """Quantise to a number of bits per value, with a scale along an axis of ``(L, D)``."""

    def form(tokens: np.ndarray) -> np.ndarray:
        low, high = tokens.min(axis=axis, keepdims=True), tokens.max(axis=axis, keepdims=True)
        step = np.where(high > low, (high - low) / (2**bits - 1), 1)
        return np.rint((tokens - low) / step) * step + low

    return form


def pooled(tokens: np.ndarray) -> np.ndarray:
    """Return the mean of each 2 x 2 positions."""
    side = int(len(tokens) ** 0.5)
    return tokens.reshape(side // 2, 2, side // 2, 2, -1).mean(axis=(1, 3)).reshape(len(tokens) // 4, -1)


def projected(tokens: np.ndarray, basis: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Project to principal components in 8 bits, and back."""
    parts = (tokens - mean) @ basis.T
    step = np.abs(parts).max() / 127
    return np.maximum(np.rint(parts / step) * step @ basis + mean, 0)


def forms(tagger: Tagger, unseen: Path) -> dict[str, dict[str, float]]:
    photos = [path for path in find_images([str(unseen)]) if isinstance(path, str)]
    encoded = joined([tagger.encode(photo) for photo in photos])
    tokens, vocabulary = encoded.tokens, tagger.vocabulary  # (N, L, D)
    logits = decoded(tagger, encoded, vocabulary)
    exact = scores(logits, encoded.classes, vocabulary)
    flat = tokens.reshape(-1, tokens.shape[-1])
    mean = flat.mean(axis=0)
    basis = np.linalg.svd(flat[::5] - mean, full_matrices=False)[2][:128]
    nibbles = tokens[0].size / 2
    tried: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
        "8 bits, a scale a token, zlib by channel": (
            lambda own: unpack_tokens(pack_tokens(own)),
            float(np.mean([len(pack_tokens(own)) for own in tokens])),
        ),
        "8 bits, a scale a token": (quantised(8, 1), 2 * nibbles + 8 * tokens.shape[1]),
        "8 bits, a scale a token, zlib by token": (
            quantised(8, 1),
            float(np.mean([len(zlib.compress(as_bytes(own, 8, 1).tobytes())) for own in tokens])),
        ),
        "4 bits, a scale a token": (quantised(4, 1), nibbles + 8 * tokens.shape[1]),
        "4 bits, a scale a channel": (quantised(4, 0), nibbles + 8 * tokens.shape[2]),
        "6 x 6 places, 8 bits": (lambda own: quantised(8, 1)(pooled(own)), nibbles / 2 + 2 * tokens.shape[1]),
        "128 principal components, 8 bits": (lambda own: projected(own, basis, mean), nibbles),
    }
    found = {}
    for name, (form, size) in tried.items():
        as_kept = Encoded(np.stack([form(own) for own in tokens]).astype(np.float32))
        kept = scores(decoded(tagger, as_kept, vocabulary), encoded.classes, vocabulary)
        found[name] = {"bytes": round(size), **agreement(kept, exact, vocabulary.thresholds)}
    levels, step, low = unpack_logits([pack_logits(own) for own in logits], logits.shape[1])
    each = [None] * len(logits) if encoded.classes is None else encoded.classes
    packed = np.stack([np.frombuffer(pack_classes(own), np.uint8) for own in each])  # (N, C)
    kept = scores(levels * step[:, None] + low[:, None], unpacked_classes(packed), vocabulary)
    found["stored scores of the vocabulary"] = {
        "bytes": logits.shape[1] + 8 + packed.shape[1], **agreement(kept, exact, vocabulary.thresholds)
    }  # fmt: skip
    return found


def joined(several: list[Encoded]) -> Encoded:
    classes = [one.classes for one in several if one.classes is not None]
    return Encoded(np.concatenate([one.tokens for one in several]), np.concatenate(classes) if classes else None)


def as_bytes(tokens: np.ndarray, bits: int, axis: int) -> np.ndarray:
    low, high = tokens.min(axis=axis, keepdims=True), tokens.max(axis=axis, keepdims=True)
    return np.rint((tokens - low) / np.where(high > low, (high - low) / (2**bits - 1), 1)).astype(np.uint8)


def decoded(tagger: Tagger, encoded: Encoded, labels: LabelSet) -> np.ndarray:
    """Return logits ``(N, K)``, without class evidence."""
    fours = [Encoded(encoded.tokens[at : at + 4]) for at in range(0, len(encoded.tokens), 4)]
    return np.concatenate([tagger.logits(four, labels) for four in fours])


def scores(logits: np.ndarray, classes: np.ndarray | None, labels: LabelSet) -> np.ndarray:
    """Convert logits of the decoder ``(N, K)`` to the tagger's log-odds."""
    return probabilities(labels.log_odds(logits, classes) + labels.biases)


def agreement(kept: np.ndarray, exact: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """Return the figures for scores ``(N, K)``."""
    off = np.abs(kept - exact)
    logits = np.abs(_log_odds(kept) - _log_odds(exact))
    tags, exact_tags = kept >= thresholds, exact >= thresholds
    union = (tags | exact_tags).sum(axis=1)
    shared = (tags & exact_tags).sum(axis=1)[union > 0] / union[union > 0]
    ranks, exact_ranks = (values.argsort(axis=0).argsort(axis=0).astype(float) for values in (kept, exact))
    spearman = [np.corrcoef(ranks[:, k], exact_ranks[:, k])[0, 1] for k in range(kept.shape[1])]
    best, exact_best = (np.argsort(-values, axis=0, kind="stable")[:10] for values in (kept, exact))
    same = [len(set(best[:, k]) & set(exact_best[:, k])) / 10 for k in range(kept.shape[1])]
    return {
        "score off by, mean": round(float(off.mean()), 5),
        "score off by, 99.9 %": round(float(np.percentile(off, 99.9)), 4),
        "score off by, most": round(float(off.max()), 4),
        "logit off by, mean": round(float(logits.mean()), 4),
        "logit off by, 99 %": round(float(np.percentile(logits, 99)), 4),
        "tags shared": round(float(shared.mean()), 4),
        "rank correlation of photos": round(float(np.mean(spearman)), 5),
        "same ten best photos": round(float(np.mean(same)), 4),
    }


def _log_odds(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    return np.log(inside / (1 - inside))


# --- searches


def searches(library: Library, tagger: Tagger, index: Path) -> dict[str, object]:
    stored = set(tagger.vocabulary.keys)
    drawn = np.random.default_rng(0).permutation(20_000)
    table = tagger.words.words
    words = [table[at] for at in drawn if table[at] not in stored and tagger.key(table[at]) == table[at]][:WORDS]
    phrases = [phrase for phrase in PHRASES if tagger.key(phrase) not in stored]
    best = exact_best(index, tagger, [*phrases, *words])
    library.close()
    first, _ = timed(library, "dog")
    taken: dict[str, list[float]] = {"phrases": [], "words": [], "vocabulary": []}
    recall: dict[str, list[float]] = {"phrases": [], "words": []}
    recall_20: dict[str, list[float]] = {"phrases": [], "words": []}
    alone: dict[str, list[float]] = {"phrases": [], "words": []}
    processor = time.process_time()
    for kind, asked in (("phrases", phrases), ("words", words), ("vocabulary", tagger.vocabulary.labels[:200:5])):
        for label in asked:
            seconds, found = timed(library, label)
            taken[kind].append(seconds)
            if kind in recall:
                recall[kind].append(len(set(found) & set(best[label])) / TOP)
                recall_20[kind].append(len(set(found[:20]) & set(best[label][:20])) / 20)
    processor = (time.process_time() - processor) / (len(phrases) + len(words))  # the vocabulary takes almost none
    asked_photos, rank.FIRST_DECODED, rank.ROUNDS = rank.MAX_DECODED, rank.MAX_DECODED, 0
    for kind, asked in (("phrases", phrases), ("words", words)):
        alone[kind] = [len(set(timed(library, label)[1]) & set(best[label])) / TOP for label in asked]
    return {
        "asked of the decoder, photos": asked_photos,
        "queries": {kind: len(own) for kind, own in taken.items()},
        "processor seconds of all cores, a query of phrases or words": round(processor, 2),
        "first query, s": round(first, 3),
        "warm, median s": {kind: round(median(own), 3) for kind, own in taken.items()},
        "warm, slowest s": {kind: round(max(own), 3) for kind, own in taken.items()},
        "of the exact 100 best found": {kind: round(float(np.mean(own)), 4) for kind, own in recall.items()},
        "of the exact 100 best found by the first step alone": {
            kind: round(float(np.mean(own)), 4) for kind, own in alone.items()
        },
        "worst query": {kind: min(own) for kind, own in recall.items()},
        "of the exact 20 best found": {kind: round(float(np.mean(own)), 4) for kind, own in recall_20.items()},
    }


def timed(library: Library, query: str) -> tuple[float, list[str]]:
    start = time.perf_counter()
    found = library.search(query, TOP)
    return time.perf_counter() - start, [one.path for one in found]


def exact_best(index: Path, tagger: Tagger, labels: list[str]) -> dict[str, list[str]]:
    """Return the best photos of each label by exact scores of all photos."""
    asked = tagger.label_set(labels)
    with Store(index) as store:
        contents = sorted({known.content for known in store.photos().values()})
        classes = packed_classes(store)

        def ask(packed: tuple[int, bytes]) -> np.ndarray:
            own = unpacked_classes(classes[contents[packed[0]]][None])
            return tagger.log_odds(Encoded(unpack_tokens(packed[1])[None], own), asked)[0]

        log_odds = np.stack(list(map_in_order(ask, store.tokens(contents), tagger.workers)))
        order = np.argsort(-log_odds, axis=0, kind="stable")[:TOP]
        return {
            label: [path for at in order[:, place] for path in store.paths_of(contents[at])][:TOP]
            for place, label in enumerate(labels)
        }


def commands(index: Path) -> dict[str, float]:
    def run(query: str, drop: bool = False) -> float:
        if drop:
            with (index / INDEX_FILE).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        arguments = ["cli.py", "search", query, "--index", str(index)]
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    run("dog")
    return {
        f'"{query}", {"cold" if drop else "warm"}, s': round(median(run(query, drop) for _ in range(5)), 2)
        for query in ("dog", "red bicycle")
        for drop in (False, True)
    }


if __name__ == "__main__":
    main()
