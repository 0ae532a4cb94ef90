"""Run the process of ``zsl-tagger serve``: options, the socket, uvicorn, signals."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import secrets
import shlex
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from zsl_tagger.errors import UserError
from zsl_tagger.search.library import Library
from zsl_tagger.search.store import INDEX_FILE
from zsl_tagger.serve.app import build_app
from zsl_tagger.serve.guard import HEAD_BYTES
from zsl_tagger.serve.limits import MB, Limits
from zsl_tagger.system.threads import default_workers, give_large_memory_back
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.teach.marks import Marks, default_folder
from zsl_tagger.teach.review import Review

logger = logging.getLogger(__name__)

IDLE_SECONDS = 15.0  # limit for the head of a request, between two requests, and for reading a response
_OPEN_TO_OTHERS = "other machines can reach this server without a password; see docs/serve.md"
_LIBRARY_OPEN_TO_OTHERS = (
    "other machines can reach this server: the library requires the token in the address above, the rest needs no "
    "password, and nothing is encrypted; see docs/serve.md"
)
_FINISH_SECONDS = 10  # to finish running requests when the server is stopped


@dataclass(frozen=True, kw_only=True)
class ServeRun:
    """Hold the options of ``zsl-tagger serve``, as given."""

    host: str = "127.0.0.1"
    port: int = 8000
    library: Path | None = None
    model: Path | None = None
    workers: int | None = None
    allow_host: Sequence[str] | None = None
    max_photo_mb: int = Limits.photo_bytes // MB
    queue: int = Limits.waiting
    open_browser: bool = False


def serve(run: ServeRun, show: Callable[[str], None]) -> None:
    """Serve until SIGTERM, which exits with status 0, or Ctrl-C (KeyboardInterrupt); running requests are finished.

    Args:
        show: called with each line to print, when the server is ready.

    Raises:
        UserError: the address cannot be used, or the model cannot be loaded.
    """
    limits = _limits(run)
    listener = _listen(run.host, run.port)
    with listener:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it logs a warning for every invalid form
        give_large_memory_back()
        library = None if run.library is None else _library(run, run.library)
        tagger = Tagger(run.model, workers=run.workers or default_workers()) if library is None else library.tagger
        review = None if library is None else Review(library, Marks(default_folder()))
        token = None if library is None or _only_this_machine(listener) else secrets.token_urlsafe(24)
        app = build_app(tagger, limits, [run.host, *(run.allow_host or ())], review, token)
        url = _url(run.host, listener.getsockname()[1])
        show(f"{url}  (Ctrl-C stops it)")
        if library is not None:
            url += "/library" + (f"#token={token}" if token else "")
            show(f"{url}  ({len(library):,} photos)")
        if not _only_this_machine(listener):
            logger.warning(_OPEN_TO_OTHERS if library is None else _LIBRARY_OPEN_TO_OTHERS)
        if run.open_browser:
            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        uvicorn.Server(_config(app, limits)).run(sockets=[listener])


def _library(run: ServeRun, folder: Path) -> Library:
    """Open the index to review.

    Raises:
        UserError: there is no index, or it is damaged or from another model.
    """
    if not (folder / INDEX_FILE).is_file():
        raise UserError(
            f"no index at {folder}: make one with zsl-tagger index PHOTOS --index {shlex.quote(str(folder))}"
        )
    return Library.open(folder, run.model, run.workers)


def _limits(run: ServeRun) -> Limits:
    limits = Limits(photo_bytes=run.max_photo_mb * MB, waiting=run.queue)
    if not 0 <= run.port <= 65535:
        raise UserError(f"expected --port in 0..65535, got {run.port}")
    if run.max_photo_mb < 1:
        raise UserError(f"expected --max-photo-mb of at least 1, got {run.max_photo_mb}")
    if run.queue < limits.photos:
        raise UserError(f"expected --queue of at least {limits.photos}, the photos of one request, got {run.queue}")
    if run.workers is not None and run.workers < 1:
        raise UserError(f"expected --workers of at least 1, got {run.workers}")
    return limits


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise UserError(f"--host {host} is not an address of this machine: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use: give another, or --port 0 for any free one") from None
        raise UserError(f"cannot listen on port {port} of {host}: {os.strerror(error.errno or 0)}") from None


def _url(host: str, port: int) -> str:
    """Return the URL for a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _only_this_machine(listener: socket.socket) -> bool:
    address = listener.getsockname()[0]
    return address == "::1" or address.startswith("127.")


def _config(app: object, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=TimeoutProtocol,
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,  # it would contain names of photos
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=math.ceil(IDLE_SECONDS),
        timeout_graceful_shutdown=_FINISH_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


class TimeoutProtocol(H11Protocol):
    """Close connections of clients that send no request or read no response, for which uvicorn has no timeout."""

    _idle: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._idle, self._stuck):
            if timer is not None:
                timer.cancel()

    def _watch(self) -> None:
        """Start the timeout while no request is being answered, else stop it."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._idle is None:
            self._idle = self.loop.call_later(IDLE_SECONDS, self.transport.abort)
        elif not idle and self._idle is not None:
            self._idle.cancel()
            self._idle = None
