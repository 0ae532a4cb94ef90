"""Define the routes of the library, which call :class:`zsl_tagger.teach.review.Review`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response

from zsl_tagger.serve import api
from zsl_tagger.serve.guard import LIBRARY
from zsl_tagger.serve.library_api import (
    MAX_SHOWN,
    QUERY_LENGTH,
    Form,
    LibrarySummary,
    MarksForm,
    PhotoHash,
    TagForm,
    UndoForm,
    WriteForm,
)
from zsl_tagger.serve.limits import Limits
from zsl_tagger.serve.uploads import expect_photos, read_form, wait_for_disconnect
from zsl_tagger.serve.work import Budget, WorkQueue
from zsl_tagger.teach.review import Lesson, MarkCounts, Review, ShownPhotos
from zsl_tagger.teach.writing import ChangedError, Preview, Written

Result = TypeVar("Result")
AnyForm = TypeVar("AnyForm", bound=Form)
AnyRoute = TypeVar("AnyRoute", bound=Callable[..., Any])

#: Longer sides of pictures, in pixels: in the grid, and alone.
SIDES = (320, 1600)

_READING = (400, 401, 403, 422, 429, 431, 503)
_WRITING = (*_READING, 408, 413, 415)


class LibraryRequests:
    """Parse the forms of requests, and run their work on threads.

    Args:
        queue: queue for loading pictures. Work with the index or the tagger has a worker of its own, so that teaching a
            tag does not delay pictures.
    """

    def __init__(self, queue: WorkQueue, budget: Budget, limits: Limits):
        self._queue, self._budget, self._limits = queue, budget, limits
        self._one_at_a_time = WorkQueue(1, limits.waiting)

    async def form(self, request: Request, kind: type[AnyForm]) -> AnyForm:
        with self._budget.loan() as take:
            photos, fields = await read_form(request, self._limits, take)
        expect_photos(photos, 0, 0)
        return kind.model_validate(fields)

    async def run(self, request: Request, job: Callable[[], Result]) -> Result:
        return await self._run_on(self._one_at_a_time, request, job, self._limits.review_seconds)

    async def picture(self, request: Request, job: Callable[[], bytes]) -> Response:
        content = await self._run_on(self._queue, request, job, self._limits.work_seconds)
        return Response(content, media_type="image/jpeg")

    async def _run_on(self, queue: WorkQueue, request: Request, job: Callable[[], Result], seconds: float) -> Result:
        return (await queue.run([job], partial(wait_for_disconnect, request.receive), seconds))[0]


def add_library(app: FastAPI, review: Review, requests: LibraryRequests) -> None:
    """Add the routes below ``/v1/library``."""
    _add_reading(app, review, requests)
    _add_writing(app, review, requests)


def _add_reading(app: FastAPI, review: Review, requests: LibraryRequests) -> None:
    @app.get(LIBRARY, summary="The library", responses=api.errors(*_READING))
    async def library(request: Request) -> LibrarySummary:
        """Return the number of photos, the tags that were taught or have marks, and what can be undone."""
        return await requests.run(request, lambda: LibrarySummary(review.count(), review.tags(), review.undoable()))

    @app.get(f"{LIBRARY}/photos", summary="Search the library", responses=api.errors(*_READING))
    async def photos(
        request: Request,
        query: Annotated[str, Query(min_length=1, max_length=QUERY_LENGTH, examples=["snow -dog"])],
        tag: Annotated[str, Query(max_length=200, description="Show the marks of this tag.")] = "",
        top: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = 100,
        order: Annotated[
            Literal["best", "threshold"], Query(description="The best photos, or those nearest to the threshold.")
        ] = "best",
        unmarked: Annotated[bool, Query(description="Leave out marked photos.")] = False,
    ) -> ShownPhotos:
        """Return the photos of a search, best first, as in `zsl-tagger search`."""
        job = partial(review.show, query, tag or None, top, around=order == "threshold", unmarked=unmarked)
        return await requests.run(request, job)

    @app.get(
        f"{LIBRARY}/photos/{{photo}}",
        summary="A photo, as a JPEG",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **api.errors(*_READING, 404, 410)},
    )
    async def picture(
        request: Request,
        photo: Annotated[PhotoHash, Path()],
        large: Annotated[bool, Query(description=f"At most {SIDES[1]} pixels each way, not {SIDES[0]}.")] = False,
    ) -> Response:
        return await requests.picture(request, partial(review.picture, photo, SIDES[large]))


def _add_writing(app: FastAPI, review: Review, requests: LibraryRequests) -> None:
    def post(name: str, summary: str, form: type[Form], *errors: int) -> Callable[[AnyRoute], AnyRoute]:
        responses = api.errors(*_WRITING, *errors)
        return app.post(f"{LIBRARY}/{name}", summary=summary, responses=responses, openapi_extra=api.body_of(form))

    @post("marks", "Mark photos for a tag", MarksForm, 404)
    async def mark(request: Request) -> MarkCounts:
        """Mark photos as showing a tag or not, or withdraw marks; return the number of marked photos of the index."""
        form = await requests.form(request, MarksForm)
        lists = (form.yes.split(), form.no.split(), form.neither.split())
        return await requests.run(request, partial(review.mark, form.tag, *lists))

    @post("teach", "Teach a tag from its marks", TagForm)
    async def teach(request: Request) -> Lesson:
        """Learn a tag from the photos marked for it, and store it; it can then be used like any other word."""
        form = await requests.form(request, TagForm)
        return await requests.run(request, partial(review.teach, form.tag))

    @post("preview", "Preview changes to sidecars", TagForm)
    async def preview(request: Request) -> Preview:
        """Return how the XMP sidecars of the photos marked for a tag would change. Nothing is written."""
        form = await requests.form(request, TagForm)
        return await requests.run(request, partial(review.preview, form.tag))

    @post("write", "Write sidecars", WriteForm, 409)
    async def write(request: Request) -> Written:
        """Write the previewed changes, or nothing if the changes would differ from the preview."""
        form = await requests.form(request, WriteForm)
        return await requests.run(request, partial(review.write, form.tag, form.preview))

    @post("undo", "Undo the last write", UndoForm, 409)
    async def undo(request: Request) -> Written:
        """Undo the last write to the sidecars of this index that has not been undone."""
        form = await requests.form(request, UndoForm)
        return await requests.run(request, partial(_undo_shown, review, form.sidecars))


def _undo_shown(review: Review, sidecars: int) -> Written:
    """Undo the last write, unless its size differs from what the page shows: another page may have written since."""
    if review.undoable() not in (0, sidecars):
        raise ChangedError
    return review.undo()
