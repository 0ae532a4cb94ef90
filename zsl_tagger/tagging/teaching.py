"""Teach a tagger a tag: examples -> features -> reader -> taught tag.

If the tag exists, new examples are added to its stored ones.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

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
#: Fewer negatives do not represent arbitrary photos well enough.
LEAST_NEGATIVES = 8
#: Minimum cosine of the features of two photos that count as the same photo.
SAME = 0.995


class PhotoLibrary(Protocol):
    """Photos that the same model has encoded before; log-odds are of a word's key, or 0 for None."""

    def random_photos(self, word: str | None) -> Photos:
        """Return arbitrary photos, for a tag to be compared with."""

    def stored_photos(self, paths: Sequence[str], word: str | None) -> Mapping[str, tuple[np.ndarray, float]]:
        """Return features ``(F,)`` and log-odds by absolute path, of photos for which they are known."""


class _Photo(NamedTuple):
    """An encoded example."""

    example: Example
    features: np.ndarray  # (F,)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Input for teaching a tag.

    Attributes:
        positives: photos that show it.
        negatives: photos that do not show it.
        like: a known word with a similar meaning; None: the name itself, if it is known.
        new: if the name is a known word, teach a separate tag instead of refining it.
        forget: paths of earlier examples, of either kind, that are no longer examples.
    """

    name: str
    positives: Sequence[ImageSource] = ()
    negatives: Sequence[ImageSource] = ()
    like: str | None = None
    new: bool = False
    forget: Sequence[str] = ()


def teach(tagger: Tagger, lesson: Lesson, earlier: Sequence[TaughtTag], library: PhotoLibrary | None) -> TaughtTag:
    """Learn a tag.

    Args:
        earlier: tags taught before, for any model; examples with the same name are used again.
        library: more photos to compare with, in addition to the stored background; its photos are not encoded again.

    Raises:
        UserError: the name is invalid, too few examples can be read, or they contradict each other.
    """
    name = checked_name(lesson.name)
    if lesson.new and is_known_word(tagger, name):
        name = f"{name} (taught)"
    word = _word(tagger, name, lesson.like)
    same = [tag for tag in earlier if tag.key == normalize_label(name)]
    encoded = _encode_examples(tagger, lesson, same, word, library)
    positives, negatives = ([photo for photo in encoded if photo.example.positive is kind] for kind in (True, False))
    _check_enough(name, positives)
    examples = np.stack([photo.features for photo in encoded])
    background, more = _background(tagger, word, examples), _library(library, word, examples)
    count = len(background.word) + len(more.word)
    if count + len(negatives) < LEAST_NEGATIVES:
        raise UserError(
            f"this model has no stored photos to compare with: index some photos (zsl-tagger index), or "
            f"give {LEAST_NEGATIVES} photos that do not show it"
        )
    against = _photos(negatives, encoded)
    if count < LEAST_NEGATIVES:  # there is nothing else to compare with
        background, against = joined(background, against), _photos((), encoded)
    learned = learn(_photos(positives, encoded), against, background, more, word)
    return TaughtTag(
        name=name,
        model=tagger.identity,
        reader=learned.reader,
        examples=tuple(photo.example for photo in (*positives, *negatives)),
        features=np.stack([photo.features for photo in (*positives, *negatives)]).astype(np.float16),
        found=int((learned.positives > 0).sum()),
    )


def is_known_word(tagger: Tagger, name: str) -> bool:
    """Return whether a name is in the word table as one word or phrase, not as the mean of several."""
    found = tagger.words.resolve(name)
    return found is not None and found.how != "averaged"


def _word(tagger: Tagger, name: str, like: str | None) -> str | None:
    """Return the key of the word whose log-odds the reader uses.

    Raises:
        UnknownLabelError: ``like`` is unknown.
    """
    if like is not None:
        return tagger.words.resolve_all([like])[0].key
    return tagger.key(name) if is_known_word(tagger, name) else None  # the mean of "our" and "cat" means little


def _encode_examples(
    tagger: Tagger, lesson: Lesson, earlier: Sequence[TaughtTag], word: str | None, library: PhotoLibrary | None
) -> list[_Photo]:
    """Encode all examples, each photo once, unless ``earlier`` or the library has its features for this model."""
    given: list[tuple[ImageSource, bool]] = [(photo, True) for photo in lesson.positives]
    given += [(photo, False) for photo in lesson.negatives]
    left_out = {_path_of(photo) for photo in (*(photo for photo, _ in given), *lesson.forget)}
    stored, missing = _stored(tagger, earlier, word, left_out)
    items = given + [(example.path, example.positive) for example in missing]
    paths = [path for photo, _ in items if (path := _path_of(photo))]
    known = {} if library is None else library.stored_photos(paths, word)

    def encode(item: tuple[ImageSource, bool]) -> _Photo | str:
        photo, positive = item
        path = _path_of(photo)
        try:
            pixels = load_array(photo, tagger.preprocessing)  # even if its features are known: pixels identify copies
        except ImageError as error:
            return f"{path or 'a photo'}: {error}"
        if path in known:
            features, log_odds = known[path]
        else:
            encoded = tagger.encode_pixels(pixels)
            features, log_odds = pooled(encoded)[0], float(word_log_odds(tagger, word, encoded)[0])
        return _Photo(Example(path, _sha256(pixels), positive, log_odds), features)

    results = list(map_in_order(encode, items, max(tagger.workers, 1)))
    for error in (result for result in results if isinstance(result, str)):
        logger.warning("%s; skipped", error)
    new, again = results[: len(given)], results[len(given) :]
    repeated = [photo for photo in again if isinstance(photo, _Photo)]
    return _distinct([photo for photo in new if isinstance(photo, _Photo)], [*stored, *repeated])


def _stored(
    tagger: Tagger, earlier: Sequence[TaughtTag], word: str | None, left_out: set[str]
) -> tuple[list[_Photo], list[Example]]:
    """Return the earlier examples with features of this model, and the others, without the photos in ``left_out``."""
    stored, missing = [], []
    for tag in earlier:
        own = tag.model == tagger.identity and tag.reader.word == word
        for example, features in zip(tag.examples, tag.features, strict=True):
            if example.path and example.path in left_out:
                continue
            if own:
                stored.append(_Photo(example, features.astype(np.float32)))
            elif example.path:
                missing.append(example)
    return stored, missing


def _sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _distinct(given: Sequence[_Photo], earlier: Sequence[_Photo]) -> list[_Photo]:
    """Return each photo once, preferring the current examples over earlier ones.

    Raises:
        UserError: the same photo was given as an example and as a counterexample.
    """
    unique: dict[str, _Photo] = {}
    copies = []
    for photo in given:
        first, path = unique.setdefault(photo.example.pixels, photo).example, photo.example.path
        if first.positive is not photo.example.positive:
            also = f" (as {first.path})" if first.path != path else ""
            raise UserError(f"{path or 'a photo'} is given as an example and as a counterexample{also}: give it once")
        if first is not photo.example:
            copies.append(path)
    if any(copies):
        logger.info("duplicate photos, each counted once: %s", some(sorted(filter(None, copies))))
    for photo in earlier:
        unique.setdefault(photo.example.pixels, photo)
    return list(unique.values())


def _check_enough(name: str, positives: Sequence[_Photo]) -> None:
    if len(positives) < LEAST_EXAMPLES:
        raise UserError(
            f"expected at least {LEAST_EXAMPLES} different photos of {name!r} that can be read, got {len(positives)}: "
            "give more; 5 to 20 are good"
        )


def _path_of(photo: ImageSource) -> str:
    """Return the absolute path of a photo; "" if it is not a file."""
    return os.path.abspath(os.fspath(photo)) if isinstance(photo, (str, os.PathLike)) else ""  # noqa: PTH100


def word_log_odds(tagger: Tagger, word: str | None, encoded: Encoded) -> np.ndarray:
    """Return the log-odds ``(B,)`` of a plain word, ignoring taught tags; zeros without a word."""
    if word is None:
        return np.zeros(len(encoded.tokens), np.float32)
    return tagger.log_odds(encoded, tagger.plain_label_set([word]))[:, 0]


def _photos(photos: Iterable[_Photo], shape_of: Sequence[_Photo]) -> Photos:
    photos = list(photos)
    if not photos:
        return Photos(np.zeros((0, len(shape_of[0].features)), np.float32), np.zeros(0, np.float32))
    return Photos(
        np.stack([photo.features for photo in photos]), np.array([photo.example.word for photo in photos], np.float32)
    )


def _background(tagger: Tagger, word: str | None, examples: np.ndarray) -> Photos:
    """Return the background photos stored in the model folder; empty if it has none."""
    stored = tagger.background
    if stored is None:
        return Photos(examples[:0], np.zeros(0, np.float32))
    return Photos(pooled(stored), word_log_odds(tagger, word, stored))


def _library(library: PhotoLibrary | None, word: str | None, examples: np.ndarray) -> Photos:
    """Return the photos of a library that are not among the examples ``(n, F)``."""
    if library is None:
        return Photos(examples[:0], np.zeros(0, np.float32))
    photos = library.random_photos(word)
    other = (_unit(photos.features) @ _unit(examples).T).max(axis=1, initial=-1) < SAME  # (N,)
    return Photos(photos.features[other], photos.word[other])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
