"""Read a photo library with its keywords from XMP sidecars and from XMP and IPTC in the photos.

People tag what they care about and omit the rest, so a missing keyword is unknown, never absent.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data_prep.source import Found, Protocol, Source, targets_of
from zsl_tagger.datasets.format import label_fault, path_fault
from zsl_tagger.errors import UserError
from zsl_tagger.sidecars.reading import KeywordCounts, read_keywords
from zsl_tagger.system.threads import default_workers
from zsl_tagger.words.label_lists import composed


@dataclass(frozen=True, kw_only=True)
class PhotoLibrary(Source):
    """Options of a photo library.

    Attributes:
        least: minimum number of photos of a keyword that becomes a label.
        unseen: labels that training must not see, see :func:`data_prep.splits.choose_unseen`.
        keep_unlabelled: keep photos without keywords; otherwise they are dropped.
    """

    command = "library"

    least: int = 5
    unseen: str = ""
    keep_unlabelled: bool = False

    def read(self, output: Path, /) -> Found:
        if not self.source.is_dir():
            raise UserError(f"no folder at {self.source}: expected a folder of photos")
        if output.resolve().is_relative_to(self.source.resolve()):
            raise UserError(f"--output {output} is inside the photo library, which is read only: give another folder")
        counts = read_keywords([str(self.source)], default_workers())
        kept, refused = _labels(counts, self.least)
        if not kept:
            raise UserError(
                f"{self.source}: no keyword has {self.least} photos ({counts.photos:,} photos, "
                f"{counts.with_keywords:,} with keywords): give a smaller --least"
            )
        root = self.source.resolve()
        paths, dropped = _paths(counts, root)
        words = defaultdict(list)
        for label, photos in kept.items():
            for photo in photos:
                words[photo].append(label)
        labels = sorted(kept)
        return Found(
            name=root.name,
            image_root=root,
            paths=list(paths),
            labels=labels,
            targets=targets_of([words[photo] for photo in paths.values()], labels),
            negatives=csr_array((len(paths), len(labels)), dtype=bool),
            splits=np.full(len(paths), "", "<U5"),
            choose_unseen=self.unseen,
            protocols={"labelled": Protocol(False, "nothing") if self.keep_unlabelled else Protocol()},
            facts={
                "photos": counts.photos,
                "photos_with_keywords": counts.with_keywords,
                "keywords": len(counts.by_keyword()),
                "labels": len(labels),
                "refused_keywords": refused,
            },
            dropped=dropped,
        )


def _labels(counts: KeywordCounts, least: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the photos of each keyword that can be a label, and the reason for each other keyword."""
    kept, refused = {}, {}
    for word, photos in counts.by_keyword().items():
        label = composed(word)
        if fault := label_fault(label):
            refused[word] = fault
        elif len(photos) >= least:
            kept[label] = photos
    return kept, refused


def _paths(counts: KeywordCounts, root: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the photos by their path below the root, in order, and the photos without one, with the reason."""
    paths, dropped = {}, []
    for photo in sorted(counts.paths):
        path = os.path.relpath(os.path.realpath(os.path.dirname(photo)), root)  # noqa: PTH120
        path = Path(path, os.path.basename(photo)).as_posix()  # noqa: PTH119
        if fault := path_fault(path):
            dropped.append((path.encode(errors="replace").decode(), fault))
        else:
            paths[path] = photo
    return paths, dropped
