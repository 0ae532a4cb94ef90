"""Tags that a person taught a model by examples, and the folder that keeps them.

A tag is one file of the safetensors format: arrays (the reader's weights, the examples' features), and JSON in its
metadata (name, model, paths of the examples, how good it is). A file for each tag, written whole, so that two commands
that teach at the same time lose nothing. Nothing in a file is run.
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
#: Name of an environment variable with the folder of taught tags, in place of the one in the user's data folder.
FOLDER_VARIABLE = "ZSL_TAGGER_TAUGHT"
#: Name of the folder of taught tags inside a model folder, which are read with those of the user.
IN_MODEL = "taught"
NAME_LENGTH = 100

_KEY = "taught"  # of the metadata
_PARTS = ("center", "scale", "weights")  # of the reader


class TaughtFileError(UserError):
    """Say that a file of taught tags is damaged or something else; the message names it."""


@dataclass(frozen=True)
class Example:
    """Hold one photo that a tag was taught with.

    Attributes:
        path: absolute, as it was when the tag was taught.
        pixels: hash of the array that the model saw, by which copies are known.
        positive: it shows what the tag means.
        word: log-odds of the tag's word there; 0 without one.
    """

    path: str
    pixels: str
    positive: bool
    word: float = 0.0


@dataclass(frozen=True)
class TaughtTag:
    """Hold what a model learned from examples, and the examples.

    Attributes:
        name: as the user wrote it.
        model: identity of the model (:meth:`Tagger.identity`); scores of another model mean something else.
        reader: gives the log-odds of the tag.
        examples: positive and negative ones.
        features: float16 ``(n, F)``, a row an example (:mod:`.pooled`).
        found: positive examples that were found when they were left out.
    """

    name: str
    model: str
    reader: Reader
    examples: tuple[Example, ...]
    features: np.ndarray
    found: int

    @property
    def key(self) -> str:
        """Return the spelling under which it is looked up."""
        return normalize_label(self.name)

    @property
    def positives(self) -> int:
        """Return how many examples show what it means."""
        return sum(example.positive for example in self.examples)


def checked_name(name: str) -> str:
    """Return the name of a new tag, without spaces around it.

    Raises:
        UserError: it is empty, too long, or could not be asked for in a list of labels.
    """
    name = composed(name).strip()
    if not normalize_label(name):
        raise UserError(f"expected a name for the tag, got {name!r}: give one or several words")
    if has_control_character(name) or "," in name or "#" in name:
        raise UserError(
            f"the name {name!r} holds a comma, a # or a control character, which lists of labels cut: leave it out"
        )
    if name.startswith("-") or " -" in name:
        raise UserError(f"the name {name!r} has a word with a minus in front, which a search would leave out: drop it")
    if re.search(r"(^|\s)or(\s|$)", name, re.IGNORECASE):
        raise UserError(f'the name {name!r} holds the word "or", which a search reads as a choice: write it otherwise')
    if len(name) > NAME_LENGTH:
        raise UserError(f"expected a name of at most {NAME_LENGTH} characters, got {len(name)}")
    return name


def default_folder() -> Path:
    """Return where taught tags are kept unless a folder is given."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else user_folder("taught")


class TaughtFolder:
    """Read and write the taught tags of a folder, which need not be there yet."""

    def __init__(self, path: Path):
        self.path = path

    def tags(self) -> list[TaughtTag]:
        """Read every tag, by name.

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
        """Return when a file was last added, replaced or removed, in nanoseconds; 0 where there is no folder."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep other processes from writing to the folder meanwhile: wait for the one that does.

        Raises:
            UserError: the folder cannot be made.
        """
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with waited_lock(self.path):
            remove_leftovers(self.path)
            yield

    def save(self, tag: TaughtTag) -> Path:
        """Write a tag, in place of one of the same name and model, and return its file; inside of :meth:`kept`.

        Raises:
            UserError: it cannot be written; what was there is still there.
        """
        path = self._file_of(tag)
        write_tags(path, [tag])
        return path

    def remove(self, name: str) -> list[TaughtTag]:
        """Delete the tags of a name, for whatever model, and return them; inside of :meth:`kept`.

        Raises:
            UserError: there is none, or it cannot be deleted.
        """
        gone = self.named(name)
        for tag in gone:
            with write_errors(self.path):
                self._file_of(tag).unlink(missing_ok=True)
        return gone

    def named(self, name: str) -> list[TaughtTag]:
        """Return the tags of a name, for whatever model.

        Raises:
            UserError: there is none.
        """
        tags = self.tags()
        found = [tag for tag in tags if tag.key == normalize_label(name)]
        if not found:
            known = ", ".join(sorted({tag.name for tag in tags})) or "none"
            raise UserError(f"no tag {name!r} was taught; taught are: {known}")
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
        TaughtFileError: it cannot be read, is damaged, or is something else.
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
            f"{path} holds no taught tags, or is damaged: delete it, and teach its tags again or import them"
        ) from None


def _read(described: Mapping[str, Any], file: Any, number: int) -> TaughtTag:
    """Return a tag of an open file.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
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
    """Return the folders of tags that a model was taught: the one inside its own folder, then the user's.

    Args:
        taught: a folder in place of the user's; True for the user's, False for none at all.
    """
    if taught is False:
        return []
    own = [TaughtFolder(model_folder / IN_MODEL)] if (model_folder / IN_MODEL).is_dir() else []
    return [*own, TaughtFolder(default_folder() if taught is True else Path(taught))]
