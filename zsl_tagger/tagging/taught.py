"""Tags taught by examples, and the folder that stores them.

A tag is one safetensors file: arrays (the reader's weights, the examples' features) and JSON metadata (name, model,
paths of the examples, quality). With one file per tag, written atomically, two commands that teach at the same time
lose nothing. Nothing in a file is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.system.files import parse_json, remove_leftovers, waited_lock, write_errors, write_whole
from zsl_tagger.system.user_data import user_folder
from zsl_tagger.tagging.reader import Reader
from zsl_tagger.words.label_lists import composed, has_control_character
from zsl_tagger.words.spelling import normalize_label

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
#: Environment variable with the folder of taught tags, instead of the one in the user's data folder.
FOLDER_VARIABLE = "ZSL_TAGGER_TAUGHT"
#: Folder of taught tags inside a model folder, which are read in addition to the user's.
IN_MODEL = "taught"
NAME_LENGTH = 100

_KEY = "taught"  # metadata key
_PARTS = ("center", "scale", "weights")  # arrays of the reader


class TaughtFileError(UserError):
    """A file of taught tags is damaged or invalid; the message names it."""


@dataclass(frozen=True)
class Example:
    """A photo that a tag was taught with.

    Attributes:
        path: absolute path when the tag was taught.
        pixels: hash of the model's input array, which identifies copies.
        positive: it shows the tag.
        word: log-odds of the tag's word; 0 without one.
    """

    path: str
    pixels: str
    positive: bool
    word: float = 0.0


@dataclass(frozen=True)
class TaughtTag:
    """A tag learned from examples, with its examples.

    Attributes:
        name: name as written by the user.
        model: identity of the model (:meth:`Tagger.identity`); scores of different models are not comparable.
        reader: computes the log-odds of the tag.
        examples: positive and negative examples.
        features: float16 ``(n, F)``, one row per example (:mod:`.pooled`).
        found: number of positive examples recognised when left out.
    """

    name: str
    model: str
    reader: Reader
    examples: tuple[Example, ...]
    features: np.ndarray
    found: int

    @property
    def key(self) -> str:
        """Return the normalised name, by which the tag is looked up."""
        return normalize_label(self.name)

    @property
    def positives(self) -> int:
        """Return the number of positive examples."""
        return sum(example.positive for example in self.examples)


def checked_name(name: str) -> str:
    """Validate the name of a new tag and strip surrounding spaces.

    Raises:
        UserError: it is empty, too long, or could not be written in a list of labels.
    """
    name = composed(name).strip()
    if not normalize_label(name):
        raise UserError(f"expected a name for the tag, got {name!r}: give one or more words")
    if has_control_character(name) or "," in name or "#" in name:
        raise UserError(
            f"the name {name!r} contains a comma, a # or a control character, which separate labels: leave it out"
        )
    if name.startswith("-") or " -" in name:
        raise UserError(f"the name {name!r} has a word with a leading minus, which searches exclude: leave it out")
    if re.search(r"(^|\s)or(\s|$)", name, re.IGNORECASE):
        raise UserError(f'the name {name!r} contains the word "or", an operator in searches: choose another name')
    if len(name) > NAME_LENGTH:
        raise UserError(f"expected a name of at most {NAME_LENGTH} characters, got {len(name)}")
    return name


def default_folder() -> Path:
    """Return the default folder of taught tags."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else user_folder("taught")


class TaughtFolder:
    """Folder of taught tags, which need not exist yet."""

    def __init__(self, path: Path):
        self.path = path

    def tags(self) -> list[TaughtTag]:
        """Return all tags, sorted by name.

        Raises:
            UserError: the folder or a file cannot be read.
        """
        try:
            names = sorted(entry.name for entry in os.scandir(self.path) if entry.name.endswith(SUFFIX))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"the folder of taught tags {self.path} cannot be read: {error.strerror}") from None
        found = [tag for name in names if not name.startswith(".") for tag in read_tags(self.path / name)]
        return sorted(found, key=lambda tag: (tag.key, tag.model))

    def changed(self) -> int:
        """Return the time of the last change in the folder, in nanoseconds; 0 if there is no folder."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Lock the folder for writing, waiting for other processes.

        Raises:
            UserError: the folder cannot be created.
        """
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with waited_lock(self.path):
            remove_leftovers(self.path)
            yield

    def save(self, tag: TaughtTag) -> Path:
        """Write a tag, replacing one of the same name and model, and return its file; call it inside :meth:`kept`.

        Raises:
            UserError: it cannot be written; the previous file is kept.
        """
        path = self._file_of(tag)
        write_tags(path, [tag])
        return path

    def remove(self, name: str) -> list[TaughtTag]:
        """Delete the tags with a name, for all models, and return them; call it inside :meth:`kept`.

        Raises:
            UserError: there is no such tag, or it cannot be deleted.
        """
        gone = self.named(name)
        for tag in gone:
            with write_errors(self.path):
                self._file_of(tag).unlink(missing_ok=True)
        return gone

    def named(self, name: str) -> list[TaughtTag]:
        """Return the tags with a name, for all models.

        Raises:
            UserError: there is no such tag.
        """
        tags = self.tags()
        found = [tag for tag in tags if tag.key == normalize_label(name)]
        if not found:
            known = ", ".join(sorted({tag.name for tag in tags})) or "none"
            raise UserError(f"no tag {name!r} was taught; taught tags: {known}")
        return found

    def _file_of(self, tag: TaughtTag) -> Path:
        readable = re.sub(r"[^\w]+", "-", tag.key).strip("-").encode()[:60].decode(errors="ignore")
        unique = hashlib.sha256(f"{tag.key}\n{tag.model}".encode()).hexdigest()[:16]
        return self.path / f"{readable}-{unique}{SUFFIX}"


def write_tags(path: Path, tags: Sequence[TaughtTag]) -> None:
    """Write tags to one file.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    for number, tag in enumerate(tags):
        for part in _PARTS:
            arrays[f"{number}.{part}"] = getattr(tag.reader, part)
        arrays[f"{number}.features"] = tag.features
    content = {"format_version": FORMAT_VERSION, "tags": [_described(tag) for tag in tags]}
    write_whole(path, save(arrays, {_KEY: json.dumps(content)}))


def _described(tag: TaughtTag) -> dict[str, Any]:
    return {
        "name": tag.name,
        "model": tag.model,
        "word": tag.reader.word,
        "offset": tag.reader.offset,
        "word_weight": tag.reader.word_weight,
        "found": tag.found,
        "examples": [asdict(example) for example in tag.examples],
    }


def read_tags(path: Path) -> list[TaughtTag]:
    """Read the tags of a file.

    Raises:
        TaughtFileError: it cannot be read, is damaged or is not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            content = parse_json((file.metadata() or {})[_KEY])
            if content["format_version"] != FORMAT_VERSION:
                raise TaughtFileError(
                    f"{path} has format {content['format_version']!r}, expected {FORMAT_VERSION}: it was written by "
                    "another version of zsl-tagger"
                )
            return [_read(described, file, number) for number, described in enumerate(content["tags"])]
    except TaughtFileError:
        raise
    except OSError as error:
        raise TaughtFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        raise TaughtFileError(
            f"{path} contains no taught tags, or is damaged: delete it, then teach or import its tags again"
        ) from None


def _read(described: Mapping[str, Any], file: Any, number: int) -> TaughtTag:
    """Read one tag from an open file.

    Raises:
        KeyError, TypeError, ValueError: the file is damaged.
    """
    features = file.get_tensor(f"{number}.features")  # (n, F)
    parts = [file.get_tensor(f"{number}.{part}") for part in _PARTS]  # (F,) each
    examples = tuple(Example(**example) for example in described["examples"])
    center, scale, weights = parts
    word, word_weight = described["word"], float(described["word_weight"])
    reader = Reader(center, scale, weights, float(described["offset"]), word, word_weight)
    is_whole = (
        all(part.shape == features.shape[1:] and np.isfinite(part).all() for part in parts)
        and features.shape[:1] == (len(examples),)
        and np.isfinite([reader.offset, reader.word_weight]).all()
        and (reader.scale > 0).all()
        and all(_is_sound(example) for example in examples)
        and isinstance(word, str | None)
    )
    if not is_whole:
        raise ValueError(described["name"])
    name, model = checked_name(described["name"]), str(described["model"])
    return TaughtTag(name, model, reader, examples, features, int(described["found"]))


def _is_sound(example: Example) -> bool:
    is_number = isinstance(example.word, (int, float)) and math.isfinite(example.word)
    return isinstance(example.path, str) and isinstance(example.positive, bool) and is_number


def taught_folders(model_folder: Path, taught: str | Path | bool) -> list[TaughtFolder]:
    """Return the folders of a model's taught tags: the one inside the model folder, then the user's.

    Args:
        taught: a folder instead of the user's; True for the user's, False for none at all.
    """
    if taught is False:
        return []
    own = [TaughtFolder(model_folder / IN_MODEL)] if (model_folder / IN_MODEL).is_dir() else []
    return [*own, TaughtFolder(default_folder() if taught is True else Path(taught))]
