"""Teach a tagger a tag: examples -> features -> reader -> a taught tag.

What an earlier call taught under the same name is kept: new examples are added to its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_tagger.errors import UserError, some
from zsl_tagger.images.preprocessing import ImageError, ImageSource, load_array
from zsl_tagger.system.threads import map_in_order
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.pooled import pooled
from zsl_tagger.tagging.reader import Photos, joined, learn
from zsl_tagger.tagging.taught import Example, TaughtTag, checked_name
from zsl_tagger.words.spelling import normalize_label

if TYPE_CHECKING:
    from zsl_tagger.tagging.tagger import Tagger

logger = logging.getLogger(__name__)

LEAST_EXAMPLES = 3
#: Fewer negatives say too little of what photos at large look like.
LEAST_NEGATIVES = 8
#: Cosine of two photos' features from which they count as the same photo.
SAME = 0.995

#: Returns features and word log-odds of photos of a library, by a word's key (None: log-odds of 0).
LibraryPhotos = Callable[[str | None], Photos]


class _Look(NamedTuple):
    """Hold one example that was looked at."""

    example: Example
    features: np.ndarray  # (F,)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Say what a tag is to be taught with.

    Attributes:
        positives: photos that show what it means.
        negatives: photos that show what it does not mean.
        like: a known word that means something similar; None for none but the name itself, where that is known.
        new: where the name is a known word, teach a tag beside it and not in its place.
        forget: paths of earlier examples, of either kind, that are none any more.
    """

    name: str
    positives: Sequence[ImageSource] = ()
    negatives: Sequence[ImageSource] = ()
    like: str | None = None
    new: bool = False
    forget: Sequence[str] = ()


def teach(tagger: Tagger, lesson: Lesson, earlier: Sequence[TaughtTag], library: LibraryPhotos | None) -> TaughtTag:
    """Learn a tag.

    Args:
        earlier: tags taught before, of whatever model; examples of the same name are learned from again.
        library: photos of anything, beside the stored background.

    Raises:
        UserError: the name cannot be one, too few examples can be read, or they contradict each other.
    """
    name = checked_name(lesson.name)
    if lesson.new and is_known_word(tagger, name):
        name = f"{name} (taught)"
    word = _word(tagger, name, lesson.like)
    looks = _looks(tagger, lesson, [tag for tag in earlier if tag.key == normalize_label(name)], word)
    positives, negatives = ([look for look in looks if look.example.positive is kind] for kind in (True, False))
    _check_enough(name, positives)
    examples = np.stack([look.features for look in looks])
    background, more = _background(tagger, word, examples), _library(library, word, examples)
    count = len(background.word) + len(more.word)
    if count + len(negatives) < LEAST_NEGATIVES:
        raise UserError(
            f"this model has no stored photos of anything to compare with: index some photos (zsl-tagger index), or "
            f"give {LEAST_NEGATIVES} photos that do not show it"
        )
    against = _photos(negatives, looks)
    if count < LEAST_NEGATIVES:  # they are all there is to compare with
        background, against = joined(background, against), _photos((), looks)
    learned = learn(_photos(positives, looks), against, background, more, word)
    return TaughtTag(
        name=name,
        model=tagger.identity,
        reader=learned.reader,
        examples=tuple(look.example for look in (*positives, *negatives)),
        features=np.stack([look.features for look in (*positives, *negatives)]).astype(np.float16),
        found=int((learned.positives > 0).sum()),
    )


def is_known_word(tagger: Tagger, name: str) -> bool:
    """Return whether a name is in the word table as one word or phrase, not only as the mean of several."""
    found = tagger.words.resolve(name)
    return found is not None and found.how != "averaged"


def _word(tagger: Tagger, name: str, like: str | None) -> str | None:
    """Return the key of the word whose log-odds the reader takes.

    Raises:
        UnknownLabelError: ``like`` is not known.
    """
    if like is not None:
        return tagger.words.resolve_all([like])[0].key
    return tagger.key(name) if is_known_word(tagger, name) else None  # the mean of "our" and "cat" says little


def _looks(tagger: Tagger, lesson: Lesson, earlier: Sequence[TaughtTag], word: str | None) -> list[_Look]:
    """Look at all examples, each photo once; at earlier ones only where this model has not kept what it saw."""
    given: list[tuple[ImageSource, bool]] = [(photo, True) for photo in lesson.positives]
    given += [(photo, False) for photo in lesson.negatives]
    left_out = {_path_of(photo) for photo in (*(photo for photo, _ in given), *lesson.forget)}
    seen, unseen = _kept(tagger, earlier, word, left_out)
    items = given + [(example.path, example.positive) for example in unseen]

    def look(item: tuple[ImageSource, bool]) -> _Look | str:
        photo, positive = item
        try:
            pixels = load_array(photo, tagger.preprocessing)
        except ImageError as error:
            return f"{_path_of(photo) or 'a photo'}: {error}"
        encoded = tagger.encode_pixels(pixels)
        said = float(word_log_odds(tagger, word, encoded)[0])
        return _Look(Example(_path_of(photo), _sha256(pixels), positive, said), pooled(encoded)[0])

    found = list(map_in_order(look, items, max(tagger.workers, 1)))
    for unreadable in (one for one in found if isinstance(one, str)):
        logger.warning("%s; left out", unreadable)
    looks = [[one for one in part if isinstance(one, _Look)] for part in (found[: len(given)], found[len(given) :])]
    return _distinct(looks[0], [*seen, *looks[1]])


def _kept(
    tagger: Tagger, earlier: Sequence[TaughtTag], word: str | None, left_out: set[str]
) -> tuple[list[_Look], list[Example]]:
    """Return what this model has kept of earlier examples, and those of which it has not, but for some paths."""
    seen, unseen = [], []
    for tag in earlier:
        own = tag.model == tagger.identity and tag.reader.word == word
        for example, features in zip(tag.examples, tag.features, strict=True):
            if example.path and example.path in left_out:
                continue
            if own:
                seen.append(_Look(example, features.astype(np.float32)))
            elif example.path:
                unseen.append(example)
    return seen, unseen


def _sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _distinct(given: Sequence[_Look], earlier: Sequence[_Look]) -> list[_Look]:
    """Return each photo once, as it was given now rather than earlier.

    Raises:
        UserError: the same photo was given as both kinds now.
    """
    unique: dict[str, _Look] = {}
    copies = []
    for look in given:
        first, path = unique.setdefault(look.example.pixels, look).example, look.example.path
        if first.positive is not look.example.positive:
            also = f" (as {first.path})" if first.path != path else ""
            raise UserError(f"{path or 'a photo'} is given as an example and as a counterexample{also}: give it once")
        if first is not look.example:
            copies.append(path)
    if any(copies):
        logger.info("the same photo more than once, counted once: %s", some(sorted(filter(None, copies))))
    for look in earlier:
        unique.setdefault(look.example.pixels, look)
    return list(unique.values())


def _check_enough(name: str, positives: Sequence[_Look]) -> None:
    if len(positives) < LEAST_EXAMPLES:
        raise UserError(
            f"expected at least {LEAST_EXAMPLES} different photos of {name!r} that can be read, got {len(positives)}: "
            "give more; 5 to 20 are good"
        )


def _path_of(photo: ImageSource) -> str:
    """Return the absolute path of a photo; "" of one that is no file."""
    return os.path.abspath(os.fspath(photo)) if isinstance(photo, (str, os.PathLike)) else ""  # noqa: PTH100


def word_log_odds(tagger: Tagger, word: str | None, encoded: Encoded) -> np.ndarray:
    """Return the log-odds ``(B,)`` of a word by the model alone, whatever it was taught; zeros where there is none."""
    if word is None:
        return np.zeros(len(encoded.tokens), np.float32)
    return tagger.log_odds(encoded, tagger.plain_label_set([word]))[:, 0]


def _photos(looks: Iterable[_Look], shape_of: Sequence[_Look]) -> Photos:
    looks = list(looks)
    if not looks:
        return Photos(np.zeros((0, len(shape_of[0].features)), np.float32), np.zeros(0, np.float32))
    return Photos(
        np.stack([look.features for look in looks]), np.array([look.example.word for look in looks], np.float32)
    )


def _background(tagger: Tagger, word: str | None, examples: np.ndarray) -> Photos:
    """Return the photos of anything that the model folder stores; none where it has none."""
    stored = tagger.background
    if stored is None:
        return Photos(examples[:0], np.zeros(0, np.float32))
    return Photos(pooled(stored), word_log_odds(tagger, word, stored))


def _library(library: LibraryPhotos | None, word: str | None, examples: np.ndarray) -> Photos:
    """Return photos of a library that are none of the examples ``(n, F)``."""
    if library is None:
        return Photos(examples[:0], np.zeros(0, np.float32))
    photos = library(word)
    other = (_unit(photos.features) @ _unit(examples).T).max(axis=1, initial=-1) < SAME  # (N,)
    return Photos(photos.features[other], photos.word[other])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
