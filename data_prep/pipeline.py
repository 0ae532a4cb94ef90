"""Prepare any data set; :func:`prepare` runs the steps in order.

1. The source is read.
2. Labels get their word vectors; the options decide about labels without one.
3. The output folder is reserved; nothing is written before.
4. Every image is checked; unusable images are dropped, counted by reason and listed in ``dropped.csv``.
5. Images without a split get a random one; near-duplicates stay together. Without a validation split, one is cut from
   train, so that nothing is selected on test. In train and val, unseen labels are removed from the images; then the
   :class:`~data_prep.source.Protocol` drops images.
6. The files are written, ``dataset.json`` last.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from data_prep.images import (
    JOURNAL_FILE,
    MISSING,
    PLACEHOLDER,
    Look,
    find_placeholders,
    look_at_images,
    near_duplicates,
    reason,
)
from data_prep.output import OutputFolder, csv_rows
from data_prep.released import WORD_DIM, ReleasedFiles
from data_prep.report import REPORT_PAGE, Images, split_report, write_report
from data_prep.results import AppliedProtocol, DatasetInfo, DatasetVectors, SplitReport
from data_prep.source import Found, Source, deciding
from data_prep.splits import choose_unseen, cut, keep_per_class
from data_prep.wordvecs import WordVectors, matrix_bytes, word_vectors
from zsl_tagger.choices import Missing
from zsl_tagger.datasets.format import (
    DATA_FILE,
    DATASET_FORMAT,
    NEGATIVES_COLUMN,
    RELEASED_FOLDER,
    SPLITS,
    VECTORS_FILE,
    Split,
    format_labels,
    label_fault,
    path_fault,
)
from zsl_tagger.errors import UserError
from zsl_tagger.system.files import sha256_of
from zsl_tagger.system.json_record import JsonObject
from zsl_tagger.system.threads import default_workers
from zsl_tagger.system.untrusted_text import spreadsheet_cell
from zsl_tagger.system.version import installed_version
from zsl_tagger.words.phrases import read_phrases
from zsl_tagger.words.prompts import read_templates

DROPPED_FILE = "dropped.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every data set. Fields with ``compare=False`` are not part of a run's identity.

    Attributes:
        word_vectors: see :mod:`zsl_tagger.words.sources`.
        missing: policy for labels without a vector, see :func:`data_prep.wordvecs.word_vectors`.
        skip_images: do not open the image files or check that they exist.
        val_fraction: share (0..1) of the images to use for validation if there is no such split: of the training
            images, or of all images if there are no splits.
        test_fraction: share of all images to use for testing if there are no splits.
        train_per_class: number of training images per class, instead of these shares.
        seed: seed of every random draw.
        workers: number of images checked in parallel; None for one per core.
        overwrite: replace another data set in the output folder.
        templates: a file of prompts for word vectors of a text encoder; None: its usual prompts.
        phrases: a file of other names and sentences for labels, see :mod:`zsl_tagger.words.phrases`.
        released_splits: also write the data set under the released code's names, see :mod:`data_prep.released`.
    """

    word_vectors: str = "packaged"
    missing: Missing = "error"
    normalize: bool = True
    skip_images: bool = False
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    train_per_class: int | None = None
    seed: int = 0
    workers: int | None = field(default=None, compare=False)
    overwrite: bool = field(default=False, compare=False)
    released_splits: bool = field(default=False, compare=False)
    templates: Path | None = field(default=None, compare=False)
    phrases: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                option, value = name.replace("_", "-"), getattr(self, name)
                raise UserError(f"expected --{option} of at least 0 and below 1, got {value}")
        if self.val_fraction + self.test_fraction >= 1:
            raise UserError("expected --val-fraction and --test-fraction to leave images for training")
        for option, count in (("workers", self.workers), ("train-per-class", self.train_per_class)):
            if count is not None and count < 1:
                raise UserError(f"expected --{option} of at least 1, got {count}")

    def identity(self) -> dict[str, Any]:
        """Return the options that determine the files; prompts and phrases only if given."""
        prompts = {} if self.templates is None else {"templates": list(read_templates(self.templates))}
        if self.phrases is not None:
            read_phrases(self.phrases)  # raises if the file cannot be read
            prompts["phrases"] = [sha256_of(self.phrases)]
        return deciding(self) | prompts


def prepare(source: Source, output: Path, options: Options) -> DatasetInfo:
    """Read a data set and write its prepared folder.

    Returns:
        The content of ``dataset.json``.

    Raises:
        UserError: the data set is invalid, a label has no word vector, the folder contains something else, no image is
            left, or a file cannot be written.
    """
    found = source.read(output)
    _check_paths(found)
    _check_negatives(found)
    out = OutputFolder(output, {**source.identity(), **options.identity()}, options.overwrite)
    vectors = vectors_for(found.labels, options)
    if found.choose_unseen:
        found = replace(found, unseen=choose_unseen(found.choose_unseen, vectors.labels, options.seed))
    with out.claimed():
        if found.unpack is not None:
            found.unpack(found.image_root)
        looks = _look(found, out, options)
        selected = _select(found, vectors, looks, options)
        return _write(out, found, selected, vectors, options)


def vectors_for(labels: Sequence[str], options: Options) -> WordVectors:
    """Return the labels' vectors, and log the labels that were not found.

    Raises:
        UserError: a label cannot be written to data.csv, or has no vector and the policy is "error".
    """
    for label in labels:
        if fault := label_fault(label):
            raise UserError(f"the label {label!r} {fault}: rename it")
    by_letters: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_letters[label.casefold()].append(label)
    if repeated := [" and ".join(map(repr, names)) for names in by_letters.values() if len(names) > 1]:
        text = "labels that differ only in capitals stay different labels (%d): %s"
        logger.info(text, len(repeated), _list(repeated))
    vectors = word_vectors(
        labels, options.word_vectors, options.missing, options.normalize, options.templates, options.phrases
    )
    for outcome, names in (
        ("get a random one", [label for label, (how, _) in vectors.how.items() if how == "random"]),
        ("are left out", vectors.dropped),
    ):
        if names:
            logger.info("labels without a vector in %s %s (%d): %s", vectors.source, outcome, len(names), _list(names))
    return vectors


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The N selected images, and the images that were left out.

    Attributes:
        images: their paths, splits, targets ``(N, K)`` and negatives, over the labels that have a word vector.
        near: near-duplicates among them, ``(pairs, 3)``; None if the images were not checked.
        unseen: bool ``(K,)``.
        dropped: (path, reason) of each image that is left out.
        by_protocol: {protocol: {split: images it would keep}}.
    """

    images: Images
    near: np.ndarray | None
    unseen: np.ndarray
    dropped: list[tuple[str, str]]
    by_protocol: dict[str, dict[Split, int]]


def _select(found: Found, vectors: WordVectors, looks: dict[str, Look], options: Options) -> Selected:
    """Split the images, and leave out unusable images and images that the protocol drops."""
    unseen = np.isin(vectors.labels, list(found.unseen))  # (K,)
    column = {label: index for index, label in enumerate(found.labels)}
    columns = [column[label] for label in vectors.labels]
    targets = found.targets[:, columns]  # (N, K)
    faults = _image_faults(found, looks)
    usable = np.array([path not in faults for path in found.paths], bool)
    near = near_duplicates([looks[p].phash if looks and p not in faults else "" for p in found.paths])
    splits = _with_splits(found, targets, unseen, near, usable, options)
    targets = _without_unseen(targets, splits, unseen)
    negatives = None if found.negatives is None else _without_unseen(found.negatives[:, columns], splits, unseen)
    sizes = np.array([looks[path].size for path in found.paths]) if looks else None
    left_out = {name: protocol.left_out(splits, targets, unseen, sizes) for name, protocol in found.protocols.items()}
    kept = {name: usable & (why == "") for name, why in left_out.items()}
    why = left_out[found.protocol]
    dropped = [*found.dropped, *faults.items()]
    dropped += [(found.paths[row], str(why[row])) for row in np.flatnonzero(usable & (why != ""))]
    order = np.flatnonzero(kept[found.protocol])
    _check_some_are_left(found, splits[order], dropped, MISSING in faults.values())
    return Selected(
        images=Images(
            [found.paths[row] for row in order],
            splits[order],
            targets[order],
            None if negatives is None else negatives[order],
        ),
        near=None if options.skip_images else _among(near, order),
        unseen=unseen,
        dropped=dropped,
        by_protocol={name: _split_counts(splits[mask]) for name, mask in kept.items()},
    )


def _check_some_are_left(found: Found, splits: np.ndarray, dropped: list[tuple[str, str]], missing: bool) -> None:
    """Raise a UserError if no image, or no training image, is left.

    Args:
        splits: splits of the kept images; missing: whether a file was missing.
    """
    if not len(splits):
        where = f"; images were expected in {found.image_root}" if missing else ""
        raise UserError(f"none of {len(found.paths)} images is left: {_counts(_tally(dropped))}{where}")
    if not (splits == "train").any():
        raise UserError(
            f"no image is left in the split train: {_counts(_split_counts(splits))}; "
            f"left out: {_counts(_tally(dropped)) or 'none'}"
        )


def _info(
    found: Found, selected: Selected, vectors: WordVectors, report: SplitReport, identity: JsonObject
) -> DatasetInfo:
    """Return the content of ``dataset.json``, except fields that depend on the written files."""
    return DatasetInfo(
        format_version=DATASET_FORMAT,
        name=found.name,
        task=found.task,
        image_root=str(found.image_root),
        benchmark=found.benchmark,
        images=_split_counts(selected.images.splits),
        seen_labels=int((~selected.unseen).sum()),
        unseen_labels=int(selected.unseen.sum()),
        protocol=AppliedProtocol(name=found.protocol, **asdict(found.protocols[found.protocol])),
        images_by_protocol=selected.by_protocol,
        images_looked_at=selected.near is not None,
        partial_labels=None if report.partial_labels is None else report.partial_labels.counts,
        dropped=_tally(selected.dropped),
        source=found.facts,
        word_vectors=DatasetVectors(
            **vars(vectors.report()),
            unseen_same_as_seen=_same_as_seen(report, set(found.unseen)),
            papers_use=found.vectors_of_papers,
        ),
        labels=vectors.labels,
        written_by=f"zsl-tagger {installed_version()}",
        released_splits=None,
        sha256={},
        prepared_by=identity,
    )


def _same_as_seen(report: SplitReport, unseen: set[str]) -> dict[str, str]:
    """Return {unseen label: seen label with the same vector}."""
    same: dict[str, str] = {}
    for group in report.same_vector:
        seen = next((label for label in group if label not in unseen), None)
        if seen is not None:
            same |= dict.fromkeys((label for label in group if label in unseen), seen)
    return same


def _log_released(released: ReleasedFiles) -> None:
    width = released.vectors.matrix.shape[1]
    if width != WORD_DIM:
        logger.warning(
            "the released code expects word vectors of %d dimensions, these have %d: give another "
            "--word-vectors, such as gensim:glove-wiki-gigaword-300",
            WORD_DIM,
            width,
        )
    images, labels = released.left_out
    if images or labels:
        logger.info(
            "left out of %s/: %d images without a label, %d labels on no image", RELEASED_FOLDER, images, len(labels)
        )


def summary(info: DatasetInfo, folder: Path) -> list[str]:
    """Return a summary of the folder, as lines to print."""
    vectors = info.word_vectors
    lines = [
        f"{folder}: {info.name}, {info.task}",
        f"  images: {_counts(info.images)}",
        f"  labels: {info.seen_labels:,} seen, {info.unseen_labels:,} unseen",
        f"  word vectors: {vectors.source}, {vectors.word_dim} wide: {_counts(vectors.found)}",
    ]
    if info.partial_labels is not None:
        counts = [f"{split} {_counts(vars(known))}" for split, known in info.partial_labels.items()]
        lines.append(f"  partial labels: {'; '.join(counts)}")
    lines += _on_unseen(vectors, info.unseen_labels)
    if len(info.images_by_protocol) > 1:
        counts = [f"{name} {_counts(images)}" for name, images in info.images_by_protocol.items()]
        lines.insert(2, f"  protocol {info.protocol.name} of: {'; '.join(counts)}")
    if info.released_splits is not None:
        images = _counts(info.released_splits.images)
        lines.append(f"  for the released code, where val is the test split: {folder / RELEASED_FOLDER}: {images}")
    if info.dropped:
        lines.append(f"  left out: {_counts(info.dropped)} (each in {DROPPED_FILE})")
    return [*lines, f"  look at {folder / REPORT_PAGE}"]


def _on_unseen(vectors: DatasetVectors, unseen: int) -> list[str]:
    """Return lines on unseen labels with the vector of a seen one, and on the vectors that papers use."""
    same, papers = vectors.unseen_same_as_seen, vectors.papers_use
    lines = []
    if same:
        pairs = _list([f"{label} = {other}" for label, other in same.items()])
        lines.append(f"  {len(same)} of {unseen} unseen labels have the same vector as a seen one: {pairs}")
    if papers and vectors.word_dim != WORD_DIM:
        lines.append(f"  the papers use vectors of {WORD_DIM} dimensions: {papers}")
    return lines


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _check_paths(found: Found) -> None:
    """Raise a UserError for paths that cannot be written to data.csv."""
    for path in found.paths:
        if fault := path_fault(path):
            raise UserError(f"{found.name}: {fault}")
    repeated = [path for path, count in Counter(found.paths).items() if count > 1]
    if repeated:
        raise UserError(f"{found.name}: images are listed more than once ({len(repeated)}), such as {repeated[0]!r}")


def _check_negatives(found: Found) -> None:
    """Raise a UserError for a label that is both on an image and verified to be absent from it."""
    if found.negatives is None:
        return
    if found.negatives.shape != found.targets.shape:
        raise ValueError(f"expected negatives of shape {found.targets.shape}, got {found.negatives.shape}")
    rows, columns = found.targets.multiply(found.negatives).nonzero()
    if len(rows):
        raise UserError(
            f"{found.name}: labels are listed both as positive and as negative ({len(rows)}), such as "
            f"{found.labels[columns[0]]!r} of {found.paths[rows[0]]!r}"
        )


def _look(found: Found, out: OutputFolder, options: Options) -> dict[str, Look]:
    if not out.resumed:
        (out.path / JOURNAL_FILE).unlink(missing_ok=True)
    if options.skip_images:
        return {}
    workers = options.workers or default_workers()
    return look_at_images(found.paths, found.image_root, out.path / JOURNAL_FILE, workers)


def _image_faults(found: Found, looks: dict[str, Look]) -> dict[str, str]:
    """Return the reason for each unusable image, by path."""
    faults = {look.path: look.problem for look in looks.values() if look.problem}
    if found.placeholders:
        faults |= dict.fromkeys(sorted(find_placeholders(looks.values())), PLACEHOLDER)
    return faults


def _with_splits(
    found: Found, targets: csr_array, unseen: np.ndarray, near: np.ndarray, usable: np.ndarray, options: Options
) -> np.ndarray:
    """Return splits ``(N,)`` of "train", "val", "test": given ones, the rest drawn ("" for unusable images).

    Near-duplicates are drawn together (with a fixed number of training images per class, as far as possible).
    """
    splits = found.splits.astype("<U5")
    keys = np.array(_group_keys(found.paths, near))
    alone = (targets[:, unseen].sum(axis=1) > 0) & (targets[:, ~unseen].sum(axis=1) == 0)  # (N,): no label to train on
    splits[(splits == "") & alone] = "test"
    open_ = np.flatnonzero((splits == "") & usable)
    if options.train_per_class is not None and (found.splits != "").any():
        raise UserError(f"--train-per-class draws a split, but {found.name} has one")
    shares = {"val": options.val_fraction, "test": options.test_fraction}
    if options.train_per_class is None:
        splits[open_] = cut(keys[open_], shares, options.seed)
    else:
        chosen = keep_per_class(_classes(targets[open_]), keys[open_], options.train_per_class, options.seed)
        splits[open_] = np.where(chosen, "train", "test")
    if not (splits == "val").any():
        drawn_from = "train" if options.train_per_class is None else "test"  # among the images drawn here
        source = np.flatnonzero((splits == drawn_from) & ~alone & usable)
        splits[source[cut(keys[source], {"val": options.val_fraction}, options.seed) == "val"]] = "val"
    return splits


def _classes(targets: csr_array) -> list[str]:
    """Return a name for the labels of each row."""
    if not targets.shape[0]:
        return []
    return [str(row.tolist()) for row in np.split(targets.indices, targets.indptr[1:-1])]


def _group_keys(paths: Sequence[str], near: np.ndarray) -> list[str]:
    """Return for each image the first path among its near-duplicates, direct or through others."""
    if not len(near):
        return list(paths)
    count = len(paths)
    graph = coo_array((np.ones(len(near), bool), (near[:, 0], near[:, 1])), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for path, number in sorted(zip(paths, group.tolist(), strict=True)):
        first.setdefault(number, path)
    return [first[number] for number in group.tolist()]


def _without_unseen(targets: csr_array, splits: np.ndarray, unseen: np.ndarray) -> csr_array:
    """Return targets ``(N, K)`` with seen labels only in the train and val rows."""
    entries = targets.tocoo()
    keep = (splits[entries.row] == "test") | ~unseen[entries.col]
    return csr_array((entries.data[keep], (entries.row[keep], entries.col[keep])), shape=targets.shape)


def _cells(targets: csr_array, labels: Sequence[str]) -> Iterator[str]:
    """Yield the labels of each row of a matrix ``(N, K)`` as a cell of data.csv."""
    for start, stop in pairwise(targets.indptr.tolist()):
        yield format_labels(labels[column] for column in sorted(targets.indices[start:stop]))


def _among(near: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the pairs ``(P, 3)`` among the images in ``order``, with indices into it."""
    place = dict(zip(order.tolist(), range(len(order)), strict=True))
    pairs = [(place[a], place[b], distance) for a, b, distance in near.tolist() if a in place and b in place]
    return np.array(pairs, np.int64).reshape(-1, 3)


def _split_counts(splits: np.ndarray) -> dict[Split, int]:
    return {split: int((splits == split).sum()) for split in SPLITS}


def _tally(dropped: list[tuple[str, str]]) -> dict[str, int]:
    return dict(Counter(reason(why) for _, why in dropped).most_common())


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _write(out: OutputFolder, found: Found, selected: Selected, vectors: WordVectors, options: Options) -> DatasetInfo:
    """Write the files, ``dataset.json`` last, and return its content."""
    images = selected.images
    for split, count in _split_counts(images.splits).items():
        if not count:
            logger.info("the split %s has no images", split)
    report = split_report(images, vectors.labels, ~selected.unseen, vectors.matrix, selected.near)
    info = _info(found, selected, vectors, report, out.identity)
    released = ReleasedFiles.of(images, vectors) if options.released_splits else None
    if released is not None:
        info = replace(info, released_splits=released.report())
        _log_released(released)
    sides = {
        "train class": [label for label, hidden in zip(vectors.labels, selected.unseen, strict=True) if not hidden],
        "test class": [label for label, hidden in zip(vectors.labels, selected.unseen, strict=True) if hidden],
    }
    header = ["path", "labels", "split"]
    columns: list[Iterable[str]] = [images.paths, _cells(images.targets, vectors.labels), images.splits]
    if images.negatives is not None:
        header.append(NEGATIVES_COLUMN)
        columns.append(_cells(images.negatives, vectors.labels))
    out.start_replacing()
    out.write(DATA_FILE, csv_rows(header, zip(*columns, strict=True)))
    out.write(DROPPED_FILE, csv_rows(["path", "reason"], (map(spreadsheet_cell, row) for row in selected.dropped)))
    out.write_json(found.benchmark, sides)
    out.write(VECTORS_FILE, matrix_bytes(vectors))
    if released is not None:
        released.write(out, found.benchmark, sides["test class"])
    write_report(report, out.path, found.name, found.image_root, info.dropped)
    checked = (DATA_FILE, found.benchmark, VECTORS_FILE)
    info = replace(info, sha256={name: sha256_of(out.path / name) for name in checked})
    out.finish(info.to_json())
    return info
