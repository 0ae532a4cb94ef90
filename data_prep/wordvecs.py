"""Write the vectors of label names to ``wordvec_array.pth``, and report how each label was found."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np

from data_prep.output import json_bytes, write_whole
from data_prep.results import FoundLabel, VectorsFound, WordVectorsRecord
from zsl_tagger.choices import Missing
from zsl_tagger.datasets.format import label_fault
from zsl_tagger.errors import UserError, require
from zsl_tagger.system.files import sha256_of
from zsl_tagger.words.label_lists import read_class_list
from zsl_tagger.words.phrases import vectors_by_phrases
from zsl_tagger.words.prompts import read_templates, templates_of
from zsl_tagger.words.sources import WordSource, open_word_source
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import SUGGESTED, Resolved, UnknownLabelError

logger = logging.getLogger(__name__)

#: Policies for labels that the source does not know.
MISSING_POLICIES = get_args(Missing)

#: Synonyms that differ between word lists and benchmarks.
SYNONYMS = (
    ("hair drier", "hair dryer", "blow dryer"),
    ("tv", "television", "tv set"),
    ("donut", "doughnut"),
    ("cell phone", "cellphone", "mobile phone", "smartphone"),
    ("couch", "sofa"),
    ("motorcycle", "motorbike"),
)


@dataclass(frozen=True)
class WordVectors:
    """Vectors of a label set.

    Attributes:
        labels: K names in sorted order (fewer than requested if some were dropped).
        matrix: float32 ``(K, word_dim)``.
        how: label -> how it was found ("as is", "singular", ..., "synonym", "phrases", "random") and the words used
            for it.
        dropped: labels left out.
        templates: prompts around the labels; empty: the labels alone.
    """

    labels: list[str]
    matrix: np.ndarray
    how: dict[str, tuple[str, tuple[str, ...]]]
    dropped: list[str]
    source: str
    normalized: bool
    templates: tuple[str, ...] = ()

    def report(self) -> VectorsFound:
        """Return counts, and each label that was not found as written."""
        counts = Counter(how for how, _ in self.how.values())
        counts["not found, dropped"] = len(self.dropped)
        return VectorsFound(
            source=self.source,
            templates=list(self.templates),
            word_dim=self.matrix.shape[1],
            normalized=self.normalized,
            found={how: count for how, count in counts.most_common() if count},
            labels={
                label: FoundLabel(how=how, words=list(words))
                for label, (how, words) in self.how.items()
                if how != "as is"
            },
            dropped=self.dropped,
        )

    def summary(self, output: Path) -> list[str]:
        """Return lines to print: counts, then one line per label that was not found as written."""
        found = ", ".join(f"{how} {count:,}" for how, count in self.report().found.items())
        lines = [f"{output}: {len(self.labels):,} labels, {self.matrix.shape[1]} wide, from {self.source}: {found}"]
        for label, (how, words) in self.how.items():
            if how != "as is":
                lines.append(f"  {label}: {how}" + (f" ({' + '.join(words)})" if words else ""))
        return [*lines, *(f"  {label}: not found, dropped" for label in self.dropped)]


def word_vectors(
    labels: Sequence[str],
    source: str,
    missing: Missing = "error",
    normalize: bool = True,
    templates: Path | None = None,
    phrases: Path | None = None,
) -> WordVectors:
    """Return the vectors of a label set.

    Args:
        labels: distinct names.
        source: see :mod:`zsl_tagger.words.sources`.
        missing: what to do with labels not found: "error"; "drop" leaves them out; "random" gives each a unit vector
            derived from its name, the same in every run.
        normalize: divide each vector by its length.
        templates: a file of prompts for a source that encodes text; None: its usual prompts.
        phrases: a file of other names and sentences for labels, see :mod:`zsl_tagger.words.phrases`.

    Raises:
        UserError: labels are not found and the policy is "error", or the source cannot be opened.
    """
    if missing not in MISSING_POLICIES:
        raise UserError(f"expected --missing to be one of {', '.join(MISSING_POLICIES)}; got {missing!r}")
    if source == "packaged" and not normalize:
        raise UserError("the packaged word vectors are directions without lengths: leave --no-normalize out")
    opened = open_word_source(source, labels, read_templates(templates) if templates else None)
    found = {label: _find(label, opened) for label in sorted(labels)}
    resolved = {label: how for label, how in found.items() if how}
    with np.errstate(invalid="ignore"):  # infinite vectors raise an error below
        rows = dict(zip(resolved, opened.vectors_of(resolved.values(), unit=normalize), strict=True))
        used: dict[str, tuple[str, ...]] = {}
        if phrases is not None:
            means, used = vectors_by_phrases(
                phrases, found, opened, source, find=lambda name: _find(name, opened), unit=normalize
            )
            rows |= means
    bad = [label for label, row in rows.items() if not np.isfinite(row).all()]
    if bad:
        raise UserError(f"{source} has vectors that are not finite: {', '.join(map(repr, bad[:5]))}")
    rows = {label: row for label, row in rows.items() if row.any()}  # a zero vector carries no information
    unknown = [label for label in found if label not in rows]
    if unknown and missing == "error":
        raise _unknown_labels(unknown, opened, source)
    how = {
        label: ("phrases", used[label]) if label in used else (resolved[label].how, resolved[label].words)
        for label in rows
    }
    if missing == "random":
        rows |= {label: _random_unit(label, opened.word_dim) for label in unknown}
        how |= dict.fromkeys(unknown, ("random", ()))
    kept = sorted(rows)
    if not kept:
        raise UserError(f"no label has a vector in {source}")
    matrix = np.stack([rows[label] for label in kept]).astype(np.float32)  # (K, word_dim)
    dropped = unknown if missing == "drop" else []
    return WordVectors(
        kept, matrix, {label: how[label] for label in kept}, dropped, source, normalize,
        templates_of(opened),
    )  # fmt: skip


def _find(label: str, source: WordSource) -> Resolved | None:
    if found := source.resolve(label):
        return found
    for synonym in _synonyms(normalize_label(label)):
        if found := source.resolve(synonym):
            return Resolved(label, found.words, "synonym")
    if "(" in label:  # "bat (animal)": look up "bat" and "animal", or "bat"
        for name in (re.sub(r"[()]", " ", label), re.sub(r"\(.*?\)", " ", label)):
            if found := source.resolve(" ".join(name.split())):
                return Resolved(label, found.words, found.how)
    return None


def _synonyms(name: str) -> list[str]:
    """Return synonyms: ours, then names of ImageNet-22k's WordNet synsets from timm."""
    groups = [*(group for group in SYNONYMS if name in group), _synsets().get(name, ())]
    return [other for group in groups for other in group if other != name]


@cache
def _synsets() -> dict[str, tuple[str, ...]]:
    """Return {normalised name: names of the first synset that has it, preferably as its first name}."""
    require("timm", "train")
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    descriptions = [info.index_to_description(index).split(", ") for index in range(info.num_classes())]
    synsets = [tuple(normalize_label(name) for name in names) for names in descriptions]
    found: dict[str, tuple[str, ...]] = {}
    for names in synsets:
        found.setdefault(names[0], names)
    for names in synsets:
        for name in names:
            found.setdefault(name, names)
    return found


def _random_unit(label: str, word_dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
    row = np.random.default_rng(seed).standard_normal(word_dim)
    return row / np.linalg.norm(row)


def _unknown_labels(unknown: list[str], source: WordSource, spec: str) -> UserError:
    listed = UnknownLabelError(
        {label: source.suggest(label) if i < SUGGESTED else [] for i, label in enumerate(unknown)}
    )
    return UserError(
        f"labels without a vector in {spec} ({len(unknown)}): {listed}. Correct them, use another source, or give "
        "--missing drop (leaves them out) or --missing random (a random vector for each)"
    )


def matrix_bytes(vectors: WordVectors) -> bytes:
    """Return the content of ``wordvec_array.pth``: a tensor ``(word_dim, K)``."""
    require("torch", "train")
    import torch

    file = io.BytesIO()  # torch would raise its own error for a full disk
    torch.save(torch.from_numpy(np.ascontiguousarray(vectors.matrix.T)), file)
    return file.getvalue()


def prepare_wordvecs(
    labels_file: Path,
    source: str,
    output: Path,
    *,
    missing: Missing = "error",
    normalize: bool = True,
    overwrite: bool = False,
    templates: Path | None = None,
    phrases: Path | None = None,
) -> WordVectors:
    """Write ``output`` (a .pth file) and its report next to it (.json, with the column names)."""
    if output.suffix != ".pth":
        raise UserError(f"expected --output to name a .pth file, got {output}")
    report_file = output.with_suffix(".json")
    for file in (output, report_file):
        if file.exists() and not overwrite:
            raise UserError(f"{file} already exists: give another name, or --overwrite")
    if report_file.exists() and report_file.samefile(labels_file):
        raise UserError(f"the report {report_file} would overwrite the labels file: give another --output")
    labels = list(dict.fromkeys(read_class_list(labels_file)))
    if not labels:
        raise UserError(f"the labels file {labels_file} has no labels")
    for label in labels:
        if fault := label_fault(label):
            raise UserError(f"{labels_file}: the label {label!r} {fault}")
    vectors = word_vectors(labels, source, missing, normalize, templates, phrases)
    write_whole(output, matrix_bytes(vectors))
    sha256 = {output.name: sha256_of(output)}
    record = WordVectorsRecord(labels=vectors.labels, word_vectors=vectors.report(), sha256=sha256)
    write_whole(report_file, json_bytes(record.to_json()))
    return vectors
