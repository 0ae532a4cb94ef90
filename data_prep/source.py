"""Define the interface of a data set: its options, and how to read it.

A data set is a frozen dataclass derived from :class:`Source`, in a separate file, and a command in ``cli.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array

VECTORS_OF_PAPERS = (
    "ML-Decoder uses fastText's crawl vectors (--word-vectors gensim:FILE), LESA and BiAM GloVe "
    "(--word-vectors gensim:glove-wiki-gigaword-300)"
)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Location and options of one kind of data set.

    The fields of a derived class are its options. Fields with ``compare=False`` are not part of a run's identity.

    Attributes:
        command: name of the command after ``zsl-tagger prepare``.
        source: the folder or file of the raw data.
    """

    command: ClassVar[str]

    source: Path

    @abstractmethod
    def read(self, output: Path, /) -> Found:
        """Read the data set without writing anything.

        Args:
            output: the folder that will be written.

        Raises:
            UserError: the data set is invalid (the message names file and line).
        """

    def identity(self) -> dict[str, Any]:
        """Return a description of the data set for JSON; a run resumes in a folder with the same description.

        It must stay compatible: options added later are left out at their default, so that older folders still match.
        """
        return {"prepare": self.command, **deciding(self)}


def deciding(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are part of a run's identity, with absolute paths as text."""
    names = {option.name for option in fields(options) if option.compare}
    values = {name: value for name, value in asdict(options).items() if name in names}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True)
class Protocol:
    """Rules for keeping images, applied after unseen labels are removed from train and val images.

    Attributes:
        train_shows_seen: drop images of train and val without a seen label.
        test_shows: drop test images without an "unseen" label, without "any" label, or drop "nothing".
        min_bytes: drop files that are smaller.
    """

    train_shows_seen: bool = True
    test_shows: str = "any"
    min_bytes: int = 0

    def left_out(
        self, splits: np.ndarray, targets: csr_array, unseen: np.ndarray, sizes: np.ndarray | None
    ) -> np.ndarray:
        """Return the reason for dropping each image, "" for kept images: ``(N,)`` text.

        Args:
            targets: bool ``(N, K)``; unseen: bool ``(K,)``; sizes: bytes ``(N,)``, None if files were not checked.
        """
        is_test, no_label = splits == "test", targets.sum(axis=1) == 0  # (N,)
        no_unseen = targets[:, unseen].sum(axis=1) == 0
        why = np.full(len(splits), "", object)  # references, since text of fixed width would take gigabytes
        if self.train_shows_seen:
            why[~is_test & no_label] = "train or val image without a seen label"
        if self.test_shows == "any":
            why[is_test & no_label] = "test image without a label"
        elif self.test_shows == "unseen":
            why[is_test & no_unseen] = "test image without an unseen label"
        if sizes is not None:
            why[sizes < self.min_bytes] = f"file smaller than {self.min_bytes:,} bytes"
        return why


@dataclass(frozen=True, kw_only=True)
class Found:
    """N images and K labels, as read by a source.

    Attributes:
        name: name of the data set.
        paths: below ``image_root``, with ``/``.
        labels: K names, sorted.
        targets: bool ``(N, K)``.
        negatives: bool ``(N, K)``, labels that are verified to be absent; entries neither in ``targets`` nor here are
            unknown. None if labels are complete: entries not in ``targets`` are absent.
        splits: ``(N,)`` of "train", "val", "test", or "" for none.
        unseen: names among the labels.
        choose_unseen: instead of ``unseen``, how to choose among the labels that have a word vector, see
            :func:`data_prep.splits.choose_unseen`.
        task: "multi-label" or "single-label".
        benchmark: name of the seen/unseen file.
        protocols: protocols to count images for; ``protocol`` is the one applied.
        placeholders: detect "photo unavailable" images.
        facts: facts about the source for ``dataset.json``.
        dropped: (path, reason) of images that the reader left out.
        vectors_of_papers: which word vectors the papers use; "" for data without papers.
        unpack: writes the image files to ``image_root`` if the data set has none.
    """

    name: str
    image_root: Path
    paths: list[str]
    labels: list[str]
    targets: csr_array
    splits: np.ndarray
    unseen: Sequence[str] = ()
    choose_unseen: str = ""
    task: str = "multi-label"
    benchmark: str = "benchmark.json"
    protocols: dict[str, Protocol] = field(default_factory=lambda: {"labelled": Protocol()})
    protocol: str = "labelled"
    placeholders: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    vectors_of_papers: str = ""
    unpack: Callable[[Path], None] | None = None
    negatives: csr_array | None = None


def first_existing(source: Path, places: Iterable[str]) -> Path | None:
    """Return the first of these files or folders below the source that exists; None if none does."""
    return next((source / place for place in places if (source / place).exists()), None)


def targets_of(label_lists: Sequence[Sequence[str]], labels: Sequence[str]) -> csr_array:
    """Convert the label names of each image to a bool matrix ``(N, K)``."""
    index = {label: column for column, label in enumerate(labels)}
    rows = np.repeat(np.arange(len(label_lists)), [len(names) for names in label_lists])
    columns = np.array([index[name] for names in label_lists for name in names], np.int64)
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(label_lists), len(labels)), dtype=bool)
