"""The routes of the library: forms and numbers in, what :class:`zsl_tagger.teach.review.Review` says out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response

from zsl_tagger.serve import api
from zsl_tagger.serve.guard import LIBRARY
from zsl_tagger.serve.library_api import (
    MOST_SHOWN,
    QUERY_LENGTH,
    Form,
    LibrarySummary,
    MarksForm,
    PhotoNumber,
    TagForm,
    UndoForm,
    WriteForm,
)
from zsl_tagger.serve.limits import Limits
from zsl_tagger.serve.uploads import expect_photos, hung_up, read_form
from zsl_tagger.serve.work import Budget, WorkQueue
from zsl_tagger.teach.review import Lesson, MarkCounts, Review, ShownPhotos
from zsl_tagger.teach.writing import ChangedError, Preview, Written

Result = TypeVar("Result")
AnyForm = TypeVar("AnyForm", bound=Form)
AnyRoute = TypeVar("AnyRoute", bound=Callable[..., Any])

#: Longer sides of pictures, in pixels: on a page of many, and alone.
SIDES = (320, 1600)

_READING = (400, 401, 403, 422, 429, 431, 503)
_WRITING = (*_READING, 408, 413, 415)


class Desk:
    """Take forms and hand out work.

    Args:
        queue: of work that any worker may do. What needs the index or the tagger has a worker of its own, so that a
            lesson of some seconds holds up no photo.
    """

    def __init__(self, queue: WorkQueue, budget: Budget, limits: Limits):
        self._queue, self._budget, self._limits = queue, budget, limits
        self._one_by_one = WorkQueue(1, limits.waiting)

    async def form(self, request: Request, kind: type[AnyForm]) -> AnyForm:
        with self._budget.loan() as take:
            photos, fields = await read_form(request, self._limits, take)
        expect_photos(photos, 0, 0)
        return kind.model_validate(fields)

    async def ask(self, request: Request, job: Callable[[], Result]) -> Result:
        return await self._done(self._one_by_one, request, job, self._limits.review_seconds)

    async def picture(self, request: Request, job: Callable[[], bytes]) -> Response:
        content = await self._done(self._queue, request, job, self._limits.work_seconds)
        return Response(content, media_type="image/jpeg")

    async def _done(self, queue: WorkQueue, request: Request, job: Callable[[], Result], seconds: float) -> Result:
        return (await queue.run([job], partial(hung_up, request.receive), seconds))[0]


def add_library(app: FastAPI, review: Review, desk: Desk) -> None:
    """Add the routes below ``/v1/library``."""
    _add_reading(app, review, desk)
    _add_writing(app, review, desk)


def _add_reading(app: FastAPI, review: Review, desk: Desk) -> None:
    @app.get(LIBRARY, summary="The library", responses=api.errors(*_READING))
    async def library(request: Request) -> LibrarySummary:
        """Return how many photos there are, the tags that were taught or have marks, and what can be undone."""
        return await desk.ask(request, lambda: LibrarySummary(review.count(), review.tags(), review.undoable()))

    @app.get(f"{LIBRARY}/photos", summary="Search the library", responses=api.errors(*_READING))
    async def photos(
        request: Request,
        query: Annotated[str, Query(min_length=1, max_length=QUERY_LENGTH, examples=["snow -dog"])],
        tag: Annotated[str, Query(max_length=200, description="Show the marks of this tag.")] = "",
        top: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 100,
        order: Annotated[Literal["best", "threshold"], Query(description="The best, or those near it.")] = "best",
        unmarked: Annotated[bool, Query(description="Leave out photos that are marked.")] = False,
    ) -> ShownPhotos:
        """Return the photos of a search, best first, as `zsl-tagger search` finds them."""
        job = partial(review.show, query, tag or None, top, around=order == "threshold", unmarked=unmarked)
        return await desk.ask(request, job)

    @app.get(
        f"{LIBRARY}/photos/{{photo}}",
        summary="A photo, as a JPEG",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **api.errors(*_READING, 404, 410)},
    )
    async def picture(
        request: Request,
        photo: Annotated[PhotoNumber, Path()],
        large: Annotated[bool, Query(description=f"At most {SIDES[1]} pixels each way, not {SIDES[0]}.")] = False,
    ) -> Response:
        return await desk.picture(request, partial(review.picture, photo, SIDES[large]))


def _add_writing(app: FastAPI, review: Review, desk: Desk) -> None:
    def post(name: str, summary: str, form: type[Form], *errors: int) -> Callable[[AnyRoute], AnyRoute]:
        responses = api.errors(*_WRITING, *errors)
        return app.post(f"{LIBRARY}/{name}", summary=summary, responses=responses, openapi_extra=api.body_of(form))

    @post("marks", "Mark photos for a tag", MarksForm, 404)
    async def mark(request: Request) -> MarkCounts:
        """Keep that photos show a tag, do not, or neither; return how many photos of the index are marked for it."""
        form = await desk.form(request, MarksForm)
        lists = (form.yes.split(), form.no.split(), form.neither.split())
        return await desk.ask(request, partial(review.mark, form.tag, *lists))

    @post("teach", "Teach a tag from its marks", TagForm)
    async def teach(request: Request) -> Lesson:
        """Learn a tag from the photos that are marked for it, and keep it: it is a word like any other then."""
        form = await desk.form(request, TagForm)
        return await desk.ask(request, partial(review.teach, form.tag))

    @post("preview", "What would be written to sidecars", TagForm)
    async def preview(request: Request) -> Preview:
        """Return what becomes of the XMP sidecars of the photos that are marked for a tag. Nothing is written."""
        form = await desk.form(request, TagForm)
        return await desk.ask(request, partial(review.preview, form.tag))

    @post("write", "Write sidecars", WriteForm, 409)
    async def write(request: Request) -> Written:
        """Write what the preview showed, or nothing where that is not what would be written now."""
        form = await desk.form(request, WriteForm)
        return await desk.ask(request, partial(review.write, form.tag, form.preview))

    @post("undo", "Take the last writing back", UndoForm, 409)
    async def undo(request: Request) -> Written:
        """Take back what the last writing did to the sidecars of this index."""
        form = await desk.form(request, UndoForm)
        return await desk.ask(request, partial(_undo, review, form.sidecars))


def _undo(review: Review, sidecars: int) -> Written:
    """Undo what the page shows, and not what another one has written since."""
    if review.undoable() not in (0, sidecars):
        raise ChangedError
    return review.undo()
