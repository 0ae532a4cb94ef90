"""Read NUS-WIDE 925/81 from the raw archives.

Seen labels are the 1,000 most frequent Flickr tags (``AllTags1k``) without the 81 concepts; unseen labels are the 81
concepts as annotated by people (``AllLabels``), not as tags. 75 of the concepts are among the 1,000 tags, so 925 labels
are seen and the vocabulary has 1,006.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.nus_wide_archive import Archive
from data_prep.source import VECTORS_OF_PAPERS, Found, Protocol, Source
from zsl_tagger.choices import NusWideProtocol
from zsl_tagger.errors import UserError

BENCHMARK_FILE = "benchmark_81_v0.json"

#: mld: the released ML-Decoder code drops test images without an unseen label and train images without a seen one.
#: lesa: LESA (like BiAM) keeps all of them, but treats a file of 4,000 bytes or less as a placeholder.
PROTOCOLS = {
    "mld": Protocol(train_shows_seen=True, test_shows="unseen"),
    "lesa": Protocol(train_shows_seen=False, test_shows="nothing", min_bytes=4001),
}


@dataclass(frozen=True, kw_only=True)
class NusWide(Source):
    """Options of NUS-WIDE.

    Attributes:
        source: folder of the unpacked archives.
        protocol: "mld" or "lesa", see :data:`PROTOCOLS`; the images that each would keep are counted.
        allow_subset: accept an archive with other counts than :data:`~data_prep.nus_wide_archive.EXPECTED`.
    """

    command = "nus-wide"

    protocol: NusWideProtocol = "mld"
    allow_subset: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UserError(f"expected --protocol to be one of {', '.join(PROTOCOLS)}; got {self.protocol!r}")

    def read(self, _output: Path, /) -> Found:
        archive = Archive.open(self.source)
        if not self.allow_subset:
            archive.check_counts()
        targets = archive.targets()
        per_label = dict(zip(archive.labels, targets.sum(axis=0).tolist(), strict=True))
        return Found(
            name="NUS-WIDE 925/81",
            image_root=Path(os.path.realpath(archive.image_root)),
            paths=archive.images,
            labels=archive.labels,
            targets=targets,
            splits=archive.splits,
            unseen=archive.concepts,
            benchmark=BENCHMARK_FILE,
            protocols=PROTOCOLS,
            protocol=self.protocol,
            placeholders=True,
            vectors_of_papers=VECTORS_OF_PAPERS,
            facts={
                **{name.replace(" ", "_"): count for name, count in archive.counts().items()},
                "seen_labels_are": "Flickr user tags",
                "unseen_labels_are": "human annotation",
                "images_of_each_concept": {concept: per_label[concept] for concept in archive.concepts},
            },
        )
