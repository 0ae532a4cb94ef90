"""Define the routes of the page, the JSON API and monitoring."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from zsl_tagger.errors import UserError
from zsl_tagger.serve import api, library_api
from zsl_tagger.serve.guard import CLIENT_GONE, Guard
from zsl_tagger.serve.library_routes import LibraryRequests, add_library
from zsl_tagger.serve.limits import HEATMAPS, LABELS, Limits
from zsl_tagger.serve.metrics import Metrics
from zsl_tagger.serve.tagging import PhotoTagger, read_labels
from zsl_tagger.serve.uploads import expect_photos, read_form, wait_for_disconnect
from zsl_tagger.serve.work import Budget, ClientGoneError, LateError, QueueFullError, WorkQueue
from zsl_tagger.system.version import installed_version
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.teach.review import GonePhotoError, Review, UnknownPhotoError
from zsl_tagger.teach.writing import ChangedError

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/common.js": ("common.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
LIBRARY_PAGE = {
    "/library": ("library.html", "text/html; charset=utf-8"),
    "/library.css": ("library.css", "text/css; charset=utf-8"),
    "/library.js": ("library.js", "text/javascript; charset=utf-8"),
}
RETRY_AFTER = {"Retry-After": "1"}  # seconds; the default queue takes about two


def build_app(
    tagger: Tagger,
    limits: Limits,
    hosts: Collection[str] = (),
    review: Review | None = None,
    token: str | None = None,
) -> ASGIApp:
    """Build the application.

    Args:
        tagger: its number of workers is the number of photos processed in parallel.
        hosts: see :class:`Guard`.
        review: review of an index with the same tagger; None for no library.
        token: see :class:`Guard`.
    """
    photo_tagger = PhotoTagger(tagger, limits)
    queue = WorkQueue(tagger.workers, limits.waiting)
    budget = Budget(limits.held_bytes)
    metrics = Metrics(waiting=lambda: queue.waiting, held=lambda: budget.total - budget.free)
    app = FastAPI(
        title="zsl-tagger",
        version=installed_version(),
        summary="Tag photos with any words.",
        description="Photos are processed in memory, and neither stored nor sent on.",
        docs_url=None,  # it would load scripts from another server
        redoc_url=None,
        exception_handlers=_error_answers(),
    )
    _add_page(app, with_library=review is not None)
    if review is not None:
        add_library(app, review, LibraryRequests(queue, budget, limits))

    @app.post(
        "/v1/tag",
        summary="Tag photos",
        response_model=list[api.TaggedPhoto | api.FailedPhoto],
        responses=api.errors(400, 403, 408, 413, 415, 422, 429, 431, 503),
        openapi_extra=api.tag_body(limits),
    )
    async def tag(request: Request) -> Response:
        """Return one record per photo, in the order sent. The record of an unreadable photo has an error."""
        queue.check_room()  # before reading a body that would be refused
        with budget.loan() as take:
            photos, fields = await read_form(request, limits, take)
            request.state.photos = len(photos)  # for the log
            expect_photos(photos, 1, limits.photos)
            form = api.PhotosForm.model_validate(fields)
            options = (
                read_labels(form.labels, photo_tagger.names_with_marks),
                form.threshold,
                form.top_k,
                form.heatmaps,
            )
            jobs = [partial(photo_tagger.tag, photo, *options) for photo in photos]
            records = await queue.run(jobs, partial(wait_for_disconnect, request.receive), limits.work_seconds)
        for record in records:
            metrics.processed(tagged="tags" in record)
        return JSONResponse(records)

    @app.get("/v1/labels", summary="The vocabulary", responses=api.errors(400, 431))
    def vocabulary() -> api.Labels:
        """Return the labels that are scored by default, with their minimum scores."""
        return api.Labels(**photo_tagger.look_up(()))

    @app.post(
        "/v1/labels",
        summary="Look up labels",
        response_model=api.Labels,
        responses=api.errors(400, 403, 408, 413, 415, 422, 429, 431, 503),
        openapi_extra=api.labels_body(),
    )
    async def look_up(request: Request) -> Response:
        """Return which labels are known, with their minimum scores, and similar known labels for the others."""
        queue.check_room()
        with budget.loan() as take:
            photos, fields = await read_form(request, limits, take)
            expect_photos(photos, 0, 0)
            words = read_labels(api.LabelsForm.model_validate(fields).labels, photo_tagger.names_with_marks)
            job = partial(photo_tagger.look_up, words)
            found = await queue.run([job], partial(wait_for_disconnect, request.receive), limits.work_seconds)
        return JSONResponse(found[0])

    @app.get("/v1/limits", summary="Limits of a request", responses=api.errors(400, 431))
    async def read_limits() -> api.ServerLimits:
        return api.ServerLimits(
            photo_bytes=limits.photo_bytes,
            request_bytes=limits.request_bytes,
            photos=limits.photos,
            pixels=limits.pixels,
            labels=LABELS,
            heatmaps=HEATMAPS if photo_tagger.has_heatmaps else 0,
        )

    @app.get("/healthz", summary="Health check", responses=api.errors(400, 431))
    async def health() -> api.Health:
        return api.Health(status="ok")

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **api.errors(400, 431)},
    )
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return Guard(app, hosts, metrics, token)


def _add_page(app: FastAPI, with_library: bool) -> None:
    """Add routes for the files of the page, which are read once: no request path is used to open a file."""
    folder = files("zsl_tagger.serve") / "page"
    for path, (name, kind) in (PAGE | LIBRARY_PAGE if with_library else PAGE).items():
        content = (folder / name).read_bytes()
        if with_library and path == "/":
            content = content.replace(b"<nav hidden ", b"<nav ")
        send = _sender(content, kind)
        app.add_api_route(path, send, methods=["GET"], include_in_schema=False)


def _sender(content: bytes, kind: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _error_answers() -> dict[int | type[Exception], Any]:
    """Return exception handlers that answer each error with ``{"error": "one line"}``."""

    def answer(status: int, message: Callable[[Any], str], headers: dict[str, str] | None = None) -> Any:
        async def handle(_: Request, error: Exception) -> Response:
            return JSONResponse({"error": message(error)}, status, headers)

        return handle

    async def http(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    return {
        HTTPException: http,
        RequestValidationError: answer(422, _first_problem),
        ValidationError: answer(422, _first_problem),
        UnknownPhotoError: answer(404, str),
        GonePhotoError: answer(410, str),
        ChangedError: answer(409, str),
        UserError: answer(422, str),
        QueueFullError: answer(429, lambda _: "too many photos are waiting: try again later", RETRY_AFTER),
        LateError: answer(
            503, lambda _: "the request was not completed in time: try again later, or send fewer photos", RETRY_AFTER
        ),
        ClientGoneError: answer(CLIENT_GONE, lambda _: "gone"),  # no client reads these two
        ClientDisconnect: answer(CLIENT_GONE, lambda _: "gone"),
        Exception: answer(500, lambda _: "internal error: see the output of the server"),
    }


def _first_problem(error: RequestValidationError | ValidationError) -> str:
    problem = error.errors()[0]
    name = problem["loc"][isinstance(error, RequestValidationError)]  # its location starts with "query"
    message = problem["msg"]
    if problem["type"] == "extra_forbidden":
        own = (
            getattr(library_api, error.title, api.PhotosForm) if isinstance(error, ValidationError) else api.PhotosForm
        )
        photos = "files, " if own is api.PhotosForm else ""
        return f"unknown field {name!r}: expected {photos}{', '.join(own.model_fields)}"
    return f"{name}: {message[:1].lower()}{message[1:]}, got {str(problem['input'])[:40]!r}"
