"""Write the split report: properties of a data set that affect how far results on it can be trusted.

Written as ``split_report.json`` and as one self-contained page, ``split_report.html``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data_prep.images import JOURNAL_FILE, MAX_DISTANCE, look_at_images, near_duplicates
from data_prep.output import json_bytes, write_whole
from data_prep.results import (
    DuplicatePair,
    ImagesPerLabel,
    LabelCounts,
    LabelsPerImage,
    LabelsWithoutImages,
    NearDuplicates,
    NearestSeen,
    PartialLabels,
    SeenUnseenCounts,
    SplitPair,
    SplitReport,
    Twins,
)
from data_prep.splits import twins
from zsl_tagger.datasets.format import SPLITS, Split
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.reports.pages import Plot, figure, render, svg, thumbnail

REPORT_JSON = "split_report.json"
REPORT_PAGE = "split_report.html"

PAIRS_LISTED = 1000
PAIRS_SHOWN = 24  # pairs with pictures


@dataclass(frozen=True)
class Images:
    """N images of a prepared data set: paths, splits ``(N,)``, targets bool ``(N, K)``.

    Attributes:
        negatives: bool ``(N, K)``, labels that are verified to be absent; None if labels are complete.
    """

    paths: list[str]
    splits: np.ndarray
    targets: csr_array
    negatives: csr_array | None = None


def split_report(
    images: Images, labels: Sequence[str], seen: np.ndarray, vectors: np.ndarray, near: np.ndarray | None
) -> SplitReport:
    """Return the figures of the report.

    Args:
        seen: bool ``(K,)``.
        vectors: ``(K, word_dim)``.
        near: near-duplicates among the images, int ``(pairs, 3)``; None if the images were not checked.
    """
    per_split = {split: images.targets[images.splits == split].sum(axis=0) for split in SPLITS}  # each (K,)
    names_seen = [label for label, is_seen in zip(labels, seen, strict=True) if is_seen]
    names_unseen = [label for label, is_seen in zip(labels, seen, strict=True) if not is_seen]
    return SplitReport(
        images={split: int((images.splits == split).sum()) for split in SPLITS},
        labels=SeenUnseenCounts(seen=len(names_seen), unseen=len(names_unseen)),
        labels_per_image={split: _labels_per_image(images, split) for split in SPLITS},
        images_per_label=[
            ImagesPerLabel(label=label, seen=bool(is_seen), **{split: int(per_split[split][k]) for split in SPLITS})
            for k, (label, is_seen) in enumerate(zip(labels, seen, strict=True))
        ],
        labels_without_images=LabelsWithoutImages(
            seen_not_in_train=[n for k, n in enumerate(labels) if seen[k] and not per_split["train"][k]],
            unseen_not_in_test=[n for k, n in enumerate(labels) if not seen[k] and not per_split["test"][k]],
        ),
        twins=[Twins(seen=a, unseen=b) for a, b in twins(names_seen, names_unseen)],
        nearest_seen=_nearest_seen(labels, seen, vectors),
        same_vector=_same_vector(labels, vectors),
        near_duplicates=None if near is None else _across_splits(images, near),
        partial_labels=_partial_labels(images, labels, seen),
    )


def _partial_labels(images: Images, labels: Sequence[str], seen: np.ndarray) -> PartialLabels | None:
    """Count known and unknown labels of each split; None if labels are complete."""
    if images.negatives is None:
        return None
    counts: dict[Split, LabelCounts] = {}
    never: dict[Split, list[str]] = {}
    for split in SPLITS:
        rows = images.splits == split
        on, absent = (np.asarray(part[rows].sum(axis=0), np.int64) for part in (images.targets, images.negatives))
        columns = len(labels) if split == "test" else int(seen.sum())  # train and val have seen labels only
        positives, negatives = int(on.sum()), int(absent.sum())
        unknown = int(rows.sum()) * columns - positives - negatives
        counts[split] = LabelCounts(positives=positives, negatives=negatives, unknown=unknown)
        never[split] = [labels[k] for k in np.flatnonzero((on > 0) & (absent == 0)).tolist()]
    return PartialLabels(counts=counts, never_absent=never)


def _labels_per_image(images: Images, split: Split) -> LabelsPerImage:
    counts = np.asarray(images.targets[images.splits == split].sum(axis=1), np.int64)  # (n,)
    if not len(counts):
        return LabelsPerImage(mean=None, median=None, max=None, histogram=[])
    return LabelsPerImage(
        mean=round(float(counts.mean()), 2),
        median=float(np.median(counts)),
        max=int(counts.max()),
        histogram=np.bincount(counts).tolist(),
    )


def _nearest_seen(labels: Sequence[str], seen: np.ndarray, vectors: np.ndarray) -> list[NearestSeen]:
    """Return for each unseen label the seen one with the largest cosine; closest pairs first."""
    if seen.all() or not seen.any():
        return []
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit[~seen] @ unit[seen].T  # (unseen, seen)
    names_seen = [label for label, is_seen in zip(labels, seen, strict=True) if is_seen]
    names_unseen = [label for label, is_seen in zip(labels, seen, strict=True) if not is_seen]
    rows = [
        NearestSeen(unseen=name, seen=names_seen[row.argmax()], cosine=round(float(row.max()), 4))
        for name, row in zip(names_unseen, cosines, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.cosine)


def _same_vector(labels: Sequence[str], vectors: np.ndarray) -> list[list[str]]:
    """Return groups of labels with equal vectors, which no model can tell apart."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for label, row in zip(labels, vectors, strict=True):
        groups[row.tobytes()].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _across_splits(images: Images, near: np.ndarray) -> NearDuplicates:
    """Return the pairs of near-duplicates ``(pairs, 3)`` from different splits."""
    splits = images.splits
    pairs = near[splits[near[:, 0]] != splits[near[:, 1]]]
    pairs = pairs[np.argsort(pairs[:, 2], kind="stable")]
    between = Counter(tuple(sorted((str(splits[a]), str(splits[b])), key=SPLITS.index)) for a, b, _ in pairs)
    return NearDuplicates(
        max_distance_bits=MAX_DISTANCE,
        pairs_within_a_split=len(near) - len(pairs),
        across_splits=[SplitPair(splits=(one, other), pairs=count) for (one, other), count in between.items()],
        pairs=[
            DuplicatePair(
                images=(images.paths[a], images.paths[b]), splits=(str(splits[a]), str(splits[b])), bits=int(bits)
            )
            for a, b, bits in pairs[:PAIRS_LISTED]
        ],
    )


def write_report(
    report: SplitReport, folder: Path, title: str, image_root: Path | None, dropped: dict[str, int]
) -> None:
    """Write both files to a folder."""
    write_whole(folder / REPORT_JSON, json_bytes(report.to_json()))
    page = render_page(report, title, image_root, dropped)
    write_whole(folder / REPORT_PAGE, page.encode("utf-8", "backslashreplace"))


def report_on(folder: Path, image_root: Path | None = None, workers: int = 1) -> SplitReport:
    """Write and return the report of a prepared folder, including folders made by other programs.

    Args:
        image_root: folder of the images; None for the folder recorded in ``dataset.json``. Without either, images are
            not compared.
    """
    dataset = load_dataset(folder)
    root = image_root or dataset.image_root
    if image_root is not None and not image_root.is_dir():
        raise UserError(f"no folder at {image_root}")
    near = None
    if root is not None and root.is_dir():
        looks = look_at_images(dataset.paths, root, folder / JOURNAL_FILE, workers)
        if any(look.phash for look in looks.values()):
            near = near_duplicates([looks[path].phash for path in dataset.paths])
    targets = _matrix(dataset.label_indices, len(dataset.labels))
    absent = dataset.negative_indices
    negatives = None if absent is None else _matrix(absent, len(dataset.labels))
    images = Images(dataset.paths, dataset.splits, targets, negatives)
    report = split_report(images, dataset.labels, dataset.seen, dataset.word_vectors, near)
    recorded = dataset.info.get("dropped")
    counts = recorded.items() if isinstance(recorded, dict) else ()
    dropped = {str(why): count for why, count in counts if isinstance(count, int)}
    write_report(report, folder, str(dataset.info.get("name", folder.name)), root, dropped)
    return report


def _matrix(indices: Sequence[np.ndarray], labels: int) -> csr_array:
    """Return lists of label indices as a bool matrix ``(N, labels)``."""
    entries = np.concatenate(indices) if indices else np.zeros(0, np.int64)
    starts = np.cumsum([0, *(len(row) for row in indices)])
    return csr_array((np.ones(len(entries), bool), entries, starts), shape=(len(indices), labels))


# --- the page -------------------------------------------------------------------------------------------------


def render_page(report: SplitReport, title: str, image_root: Path | None, dropped: dict[str, int]) -> str:
    """Return a self-contained HTML page: plots are inline SVG, thumbnails inline JPEG."""
    pairs = report.near_duplicates.pairs[:PAIRS_SHOWN] if report.near_duplicates else []
    root = image_root or Path()
    return render(
        "data_prep",
        "report.html.j2",
        title=title,
        report=report,
        dropped=dropped,
        plots=_plots(report),
        pairs=[(pair, [thumbnail(root / path) for path in pair.images]) for pair in pairs],
    )


def _plots(report: SplitReport) -> list[Plot]:
    plots = [Plot("Images per label", _plot_images_per_label(report))]
    if any((counts.max or 0) > 1 for counts in report.labels_per_image.values()):
        plots.insert(0, Plot("Labels per image", _plot_labels_per_image(report)))
    if report.nearest_seen:
        plots.append(Plot("Similarity of unseen to seen labels", _plot_nearest(report)))
    return plots


_COLOURS = {"train": "#3b6fb6", "val": "#e0a030", "test": "#c2453d", "seen": "#3b6fb6", "unseen": "#c2453d"}


def _plot_labels_per_image(report: SplitReport) -> str:
    drawn, axes = figure()
    for split in SPLITS:
        histogram = np.array(report.labels_per_image[split].histogram, float)
        if len(histogram):
            axes.plot(range(len(histogram)), histogram / histogram.sum(), ".-", color=_COLOURS[split], label=split)
    axes.set(xlabel="labels on an image", ylabel="share of the split's images")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_images_per_label(report: SplitReport) -> str:
    drawn, axes = figure()
    seen = [row.train for row in report.images_per_label if row.seen]
    unseen = [row.test for row in report.images_per_label if not row.seen]
    for name, found, split in (("seen", seen, "train"), ("unseen", unseen, "test")):
        counts = sorted(found, reverse=True)
        if counts:
            axes.plot(
                range(1, len(counts) + 1), counts, ".-", color=_COLOURS[name], label=f"{name} labels, {split} images"
            )
    axes.set(xlabel="label, most frequent first", ylabel="images", xscale="log", yscale="symlog")
    axes.set_ylim(bottom=0, top=2 * axes.get_ylim()[1])
    axes.legend(frameon=False)
    return svg(drawn)


def _plot_nearest(report: SplitReport) -> str:
    drawn, axes = figure()
    axes.hist([row.cosine for row in report.nearest_seen], bins=25, color=_COLOURS["unseen"])
    axes.set(xlabel="cosine of the word vectors: unseen label and its nearest seen one", ylabel="unseen labels")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return svg(drawn)
