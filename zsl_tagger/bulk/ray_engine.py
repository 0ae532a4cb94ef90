"""Tag on many processes or machines with Ray Data (``tag --engine ray``)."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from zsl_tagger.bulk.engine import Item, Source, TagRequest, record_of, sha256_of_source, source_of
from zsl_tagger.errors import first_line
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.images.urls import is_url
from zsl_tagger.records.record import Record, Tag
from zsl_tagger.tagging.ray_pool import map_on_ray
from zsl_tagger.tagging.tagger import Tagger

if TYPE_CHECKING:
    from zsl_tagger.records.base import RecordFile


class Image(NamedTuple):
    """An image to tag: its path or URL, and the SHA-256 of the content tagged before, if any."""

    path: str
    done: str | None


class RayEngine:
    """Tag images on Ray's workers.

    Args:
        folder: the model folder.
        output: results of earlier runs, or None.
        workers: number of processes; None: one per core of the cluster.
    """

    def __init__(self, folder: Path, request: TagRequest, output: RecordFile | None, workers: int | None):
        self._folder, self._output, self._workers = folder, output, workers
        self._task = TagTask(request, hashed=output is not None, folder=str(Path.cwd()))

    def records(self, items: Iterable[Item]) -> Generator[Record | None, None, None]:
        """Find all images first, then yield the records.

        Raises:
            UserError: Ray or its workers cannot be started.
        """
        images = (item if isinstance(item, Record) else Image(item, self._done(item)) for item in items)
        return map_on_ray(self._task, images, self._folder, self._workers)

    def _done(self, path: str) -> str | None:
        return None if self._output is None else self._output.sha256_of(path)


@dataclass(frozen=True)
class Done:
    """Earlier result of a worker's image: the SHA-256 when it was tagged, or None."""

    sha256: str | None

    def is_done(self, path: str, sha256: str) -> bool:  # noqa: ARG002
        return sha256 == self.sha256

    def tags_of(self, sha256: str) -> list[Tag] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class TagTask:
    """Tag an image on a worker of Ray (:class:`zsl_tagger.tagging.ray_pool.Task`).

    Attributes:
        hashed: include the SHA-256 of the image's content in records.
        folder: base folder of relative paths.
    """

    doing: ClassVar[str] = "tagging"
    done: ClassVar[str] = "tagged"

    request: TagRequest
    hashed: bool
    folder: str

    def read(self, item: Image) -> tuple[Image, Source]:
        """Return the image and the tagger's input: a local path, or the content of a URL."""
        if is_url(item.path):
            return item, source_of(item.path)
        return item, os.path.join(self.folder, item.path)  # noqa: PTH118 (pathlib would change "" and "a//b")

    def __call__(self, tagger: Tagger, photo: tuple[Image, Source]) -> Record | None:
        """Return the record of an image; None if an earlier run already has it."""
        image, source = photo
        earlier = Done(image.done) if self.hashed else None
        return record_of(image.path, lambda _: self._tags(tagger, source), earlier, lambda _: sha256_of_source(source))

    def given_up(self, item: Image, message: str) -> Record:
        """Return the record of an error."""
        return Record(item.path, [], message)

    def _tags(self, tagger: Tagger, source: Source) -> list[Tag]:
        if isinstance(source, ImageError):
            raise source
        request = self.request
        try:
            return tagger.tag(
                source, request.labels, threshold=request.threshold, top_k=request.top_k, exact=request.exact
            )
        except ImageError:
            raise
        except Exception as error:  # one image must not stop the run of a whole cluster
            raise ImageError(f"cannot be tagged: {type(error).__name__}: {first_line(error)}") from None
