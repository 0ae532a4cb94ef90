"""Tag on threads of this process and draw heat maps."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from zsl_tagger.bulk.engine import Earlier, Item, Source, TagRequest, record_of, sha256_of_source, source_of
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.system.threads import map_in_order
from zsl_tagger.tagging.heatmap import MAPS_A_PHOTO, HeatmapFolder
from zsl_tagger.tagging.tagger import Tagger


class LocalEngine:
    """Tag images on as many threads as the tagger has workers.

    Args:
        pictures: folder for heat maps; None: no heat maps.
    """

    def __init__(
        self, tagger: Tagger, request: TagRequest, earlier: Earlier | None, pictures: HeatmapFolder | None = None
    ):
        self._tagger, self._request, self._earlier, self._pictures = tagger, request, earlier, pictures

    def records(self, items: Iterable[Item]) -> Generator[Record | None, None, None]:
        return map_in_order(self._record, items, self._tagger.workers)

    def _record(self, item: Item) -> Record | None:
        if isinstance(item, Record):
            return item
        source = source_of(item)  # a URL is read once
        return record_of(item, lambda path: self._tags(path, source), self._earlier, lambda _: sha256_of_source(source))

    def _tags(self, path: str, source: Source) -> list[Tag]:
        if isinstance(source, ImageError):
            raise source
        request = self._request
        encoded = self._tagger.encode(source)
        tags = self._tagger.tag_encoded(
            encoded, request.labels, threshold=request.threshold, top_k=request.top_k, exact=request.exact
        )
        if self._pictures is not None and tags:
            shown = [tag.label for tag in tags[: request.top_k or MAPS_A_PHOTO]]
            self._pictures.write(path, shown, self._tagger.heatmap(encoded, shown), self._tagger.preprocessing)
        return tags
