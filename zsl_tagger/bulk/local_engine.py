"""Tag one image file on this machine: skip what is done, reuse what is known, draw heat maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_tagger.bulk.options import TagRun
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.records.record import Record
from zsl_tagger.system.files import content_of
from zsl_tagger.tagging.heatmap import MAPS_A_PHOTO, HeatmapFolder
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile


def tag_file(
    tagger: Tagger,
    path: str,
    labels: LabelSet,
    run: TagRun,
    lasting: RecordFile | None,
    pictures: HeatmapFolder | None,
) -> Record | None:
    """All that is done for one image, on one of several threads; None where it was done by a run before."""
    sha256 = None if lasting is None else content_of(path)
    if lasting is not None and sha256 is not None:
        if run.sidecar is None and lasting.is_done(path, sha256):
            return None
        stored = lasting.tags_of(sha256) if pictures is None else None  # a heat map needs the network
        if stored is not None:  # renamed or copied, or done before and now wanted in a sidecar
            return Record(path, stored, sha256=sha256)
    try:
        encoded = tagger.encode(path)
        tags = tagger.tag_encoded(encoded, labels, threshold=run.threshold, top_k=run.top_k, exact=run.exact)
        if pictures is not None and tags:
            shown = [tag.label for tag in tags[: run.top_k or MAPS_A_PHOTO]]
            pictures.write(path, shown, tagger.heatmap(encoded, shown), tagger.preprocessing)
    except ImageError as error:
        return Record(path, [], str(error))
    return Record(path, tags, sha256=sha256)
