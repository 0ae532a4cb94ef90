"""Define what a data set must give to be prepared: its options, and how it is read.

A data set is a frozen dataclass derived from :class:`Source`, in a file of its own, and a command in ``cli.py``.
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
    "ML-Decoder those of fastText's crawl (--word-vectors gensim:FILE), LESA and BiAM GloVe "
    "(--word-vectors gensim:glove-wiki-gigaword-300)"
)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Hold where a data set lies and the options that only this kind of data set has.

    The fields of a derived class are its options. Fields with ``compare=False`` are not part of a run's identity.

    Attributes:
        command: the name after ``zsl-tagger prepare``.
        source: the folder or file of the raw data.
    """

    command: ClassVar[str]

    source: Path

    @abstractmethod
    def read(self, output: Path, /) -> Found:
        """Read the data set and write nothing.

        Args:
            output: the folder that will be written.

        Raises:
            UserError: the data set is not what it should be (file and line).
        """

    def identity(self) -> dict[str, Any]:
        """Return what tells this data set from others, for JSON; a run is resumed in a folder that holds the same.

        It must stay as it is: an option that is added later is left out at its default, so that older folders match.
        """
        return {"prepare": self.command, **deciding(self)}


def deciding(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are part of a run's identity, with absolute paths as text."""
    names = {option.name for option in fields(options) if option.compare}
    values = {name: value for name, value in asdict(options).items() if name in names}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True)
class Protocol:
    """Choose the images that are kept, by what they show once unseen labels are off the train and val images.

    Attributes:
        train_shows_seen: drop images of train and val without a seen label.
        test_shows: drop test images without an "unseen" label, without "any" label, or "nothing" of them.
        min_bytes: drop files that are smaller.
    """

    train_shows_seen: bool = True
    test_shows: str = "any"
    min_bytes: int = 0

    def left_out(
        self, splits: np.ndarray, targets: csr_array, unseen: np.ndarray, sizes: np.ndarray | None
    ) -> np.ndarray:
        """Return why each image is left out, "" where it is kept: ``(N,)`` text.

        Args:
            targets: bool ``(N, K)``; unseen: bool ``(K,)``; sizes: bytes ``(N,)``, None where files were not looked at.
        """
        is_test, no_label = splits == "test", targets.sum(axis=1) == 0  # (N,)
        no_unseen = targets[:, unseen].sum(axis=1) == 0
        why = np.full(len(splits), "", object)  # references: text of a fixed width would take gigabytes
        if self.train_shows_seen:
            why[~is_test & no_label] = "train or val image without a seen label"
        if self.test_shows == "any":
            why[is_test & no_label] = "test image without a label"
        elif self.test_shows == "unseen":
            why[is_test & no_unseen] = "test image without an unseen label"
        if sizes is not None:
            why[sizes < self.min_bytes] = f"file of less than {self.min_bytes:,} bytes"
        return why


@dataclass(frozen=True, kw_only=True)
class Found:
    """Hold N images and K labels, as a source has read them.

    Attributes:
        name: of the data set.
        paths: below ``image_root``, with ``/``.
        labels: K names, sorted.
        targets: bool ``(N, K)``.
        negatives: bool ``(N, K)``, the labels that are verified to be absent; what is neither in ``targets`` nor here
            is unknown. None where labels are complete: what is not in ``targets`` is absent.
        splits: ``(N,)`` of "train", "val", "test", or "" where there is none.
        unseen: names among the labels.
        choose_unseen: in place of ``unseen``, how to choose among the labels that have a word vector, see
            :func:`data_prep.splits.choose_unseen`.
        task: "multi-label" or "single-label".
        benchmark: name of the seen/unseen file.
        protocols: those that are counted; ``protocol`` is the one applied.
        placeholders: look for "photo unavailable" images.
        facts: what ``dataset.json`` shall say of the source.
        dropped: (path, reason) of what the reader itself left out.
        vectors_of_papers: which word vectors the papers use; "" for data without papers.
        unpack: writes the image files into ``image_root``, where the data set has none.
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
    """Return the first of these files or folders below the source that is there; None if none is."""
    return next((source / place for place in places if (source / place).exists()), None)


def targets_of(label_lists: Sequence[Sequence[str]], labels: Sequence[str]) -> csr_array:
    """Return the label names of each image as a bool matrix ``(N, K)``."""
    index = {label: column for column, label in enumerate(labels)}
    rows = np.repeat(np.arange(len(label_lists)), [len(names) for names in label_lists])
    columns = np.array([index[name] for names in label_lists for name in names], np.int64)
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(label_lists), len(labels)), dtype=bool)
