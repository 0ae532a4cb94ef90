"""Average several vectors per label, from a file of other names and sentences for the labels.

A CSV file has the columns ``label`` and ``name`` or ``sentence``, one phrase per row; a JSON Lines file has one
object per label::

    label,name,sentence                             {"label": "cat", "names": ["kitty", "house cat"],
    cat,kitty,                                       "sentences": ["A small animal with soft fur."]}
    cat,,A small animal with soft fur.

A name is looked up like the label; text encoders put it into the same templates. Sentences are for text encoders only,
which encode them as they are. The label itself counts as one phrase. The label's vector is the mean of the unit vectors
of its phrases, normalised again.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zsl_tagger.errors import UserError, some
from zsl_tagger.system.files import parse_json
from zsl_tagger.words.label_lists import composed, has_control_character, read_lines
from zsl_tagger.words.prompts import TextEncoderSource
from zsl_tagger.words.sources import WordSource
from zsl_tagger.words.table import Resolved, unit_length

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phrases:
    """Other names and sentences of a label, averaged with the label itself."""

    names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def read_phrases(path: Path) -> dict[str, Phrases]:
    """Read the phrases of each label from a ``.csv`` or ``.jsonl`` file.

    Raises:
        UserError: it cannot be read, or a line is invalid; the message gives file and line.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"expected phrases in a .csv or .jsonl file, got {path}")
    names: dict[str, list[str]] = {}
    sentences: dict[str, list[str]] = {}
    for where, label, own_names, own_sentences in reader(path):
        for text in (label, *own_names, *own_sentences):
            if not text or has_control_character(text):
                raise UserError(f"{where}: expected a label and phrases on one line each, got {text!r}")
        names.setdefault(label, []).extend(own_names)
        sentences.setdefault(label, []).extend(own_sentences)
    if not any(names.values()) and not any(sentences.values()):
        raise UserError(f"{path} contains no phrases")
    return {
        label: Phrases(tuple(dict.fromkeys(names[label])), tuple(dict.fromkeys(sentences[label]))) for label in names
    }


_Row = tuple[str, str, list[str], list[str]]  # (file and line, label, names, sentences)


def _csv_rows(path: Path) -> Iterator[_Row]:
    text = "\n".join(read_lines(path, "phrases")).removeprefix("\ufeff")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    header = list(rows.fieldnames or [])
    if "label" not in header or not {"name", "sentence"}.intersection(header):
        raise UserError(f"{path}: expected the columns label and name or sentence, got {','.join(header) or 'nothing'}")
    try:
        for row in rows:
            if None in row or None in row.values():
                raise UserError(f"{path}:{rows.line_num}: expected {len(header)} columns (quote phrases with commas)")
            cells = {name: _spelled(row.get(name) or "") for name in ("label", "name", "sentence")}
            names, sentences = ([cells[name]] if cells[name] else [] for name in ("name", "sentence"))
            yield f"{path}:{rows.line_num}", cells["label"], names, sentences
    except csv.Error as error:
        raise UserError(f"{path}:{rows.reader.line_num}: is not valid CSV: {error}") from None


def _json_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_lines(path, "phrases"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            content = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: is not valid JSON: {error}") from None
        keys = {"label", "names", "sentences"}
        if not isinstance(content, dict) or not isinstance(content.get("label"), str) or not keys.issuperset(content):
            raise UserError(
                f'{where}: expected an object with "label", "names" and "sentences", got {line.strip()[:60]}'
            )
        names, sentences = (_texts(content.get(key, []), f"{where}: {key}") for key in ("names", "sentences"))
        yield where, _spelled(content["label"]), names, sentences


def _texts(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: expected a list of strings, got {str(values)[:60]}")
    return [_spelled(value) for value in values]


def _spelled(text: str) -> str:
    return composed(text).strip()


def vectors_by_phrases(
    path: Path,
    labels: Mapping[str, Resolved | None],
    source: WordSource,
    spec: str,
    *,
    find: Callable[[str], Resolved | None],
    unit: bool = True,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Return the vectors of the labels that a file has phrases for, and the phrases behind each vector.

    Args:
        labels: each label and how the source resolves it.
        spec: name of the source, for messages.
        find: looks up a name like a label.

    Raises:
        UserError: the file cannot be read, has no phrases for these labels, or has sentences for a source of words.
    """
    of_file = read_phrases(path)
    own = {label: phrases for label, phrases in of_file.items() if label in labels}
    if not own:
        raise UserError(f"{path} has phrases for none of the labels: its first label is {next(iter(of_file))!r}")
    if len(own) < len(of_file):
        logger.info("%s: phrases for names that are not labels are ignored (%d)", path, len(of_file) - len(own))
    if any(phrases.sentences for phrases in own.values()) and not isinstance(source, TextEncoderSource):
        raise UserError(
            f"{path} has sentences, which need word vectors from a text encoder, 'open_clip:...' or 'st:...'; "
            f"{spec!r} has words only: give names"
        )
    names = {label: {name: find(name) for name in phrases.names} for label, phrases in own.items()}
    unknown = [name for of_label in names.values() for name, how in of_label.items() if how is None]
    if unknown:
        logger.info("%s: names without a vector in %s are ignored (%d): %s", path, spec, len(unknown), some(unknown))
    found = {
        label: [how for how in (labels[label], *of_label.values()) if how is not None]
        for label, of_label in names.items()
    }
    sentences = {label: phrases.sentences for label, phrases in own.items()}
    means = mean_vectors(source, found, sentences, unit)
    return means, {label: (*(how.label for how in found[label]), *sentences[label]) for label in means}


def mean_vectors(
    source: WordSource,
    found: Mapping[str, Sequence[Resolved]],
    sentences: Mapping[str, Sequence[str]],
    unit: bool = True,
) -> dict[str, np.ndarray]:
    """Return the mean vector of each label's phrases, float32 ``(word_dim,)``; labels without phrases are left out.

    Args:
        found: names of each label, including the label itself, as resolved by the source; all-zero vectors are skipped.
        sentences: sentences of each label, for a source that encodes text.
        unit: average unit vectors and normalise the mean.
    """
    rows: dict[str, list[np.ndarray]] = {}
    owners = [label for label, names in found.items() for _ in names]
    vectors = source.vectors_of([name for names in found.values() for name in names], unit=unit)
    for label, row in zip(owners, vectors, strict=True):
        rows.setdefault(label, []).extend([row] if row.any() else [])
    owners = [label for label, texts in sentences.items() for _ in texts]
    if owners:
        assert isinstance(source, TextEncoderSource)
        encoded = source.encode([text for texts in sentences.values() for text in texts], unit)
        for label, row in zip(owners, encoded, strict=True):
            rows.setdefault(label, []).append(row)
    means = {label: np.asarray(np.stack(own).mean(axis=0, dtype=np.float64)) for label, own in rows.items() if own}
    if unit:
        means = {label: unit_length(mean[None])[0] for label, mean in means.items()}
    return {label: mean.astype(np.float32) for label, mean in means.items()}
