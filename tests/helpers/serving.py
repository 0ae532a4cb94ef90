"""A server on a thread, and photos to send to it."""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from zsl_tagger.serve.app import build_app
from zsl_tagger.serve.limits import Limits
from zsl_tagger.serve.run import _config
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.tagger import Tagger


def picture(side: int = 40, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


class HeldTagger:
    """A tagger whose photos stay in work until they are let go."""

    workers = 1

    def __init__(self, tagger: Tagger):
        self._tagger, self.go, self.encoded = tagger, threading.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tagger, name)

    def encode_pixels(self, pixels: Any) -> Encoded:
        self.encoded += 1
        assert self.go.wait(20)
        return self._tagger.encode_pixels(pixels)


@contextmanager
def listening(tagger: Any, limits: Limits, **options: Any) -> Iterator[tuple[str, int]]:
    """A real server on a thread: its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(_config(build_app(tagger, limits, **options), limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[:2]
    finally:
        if isinstance(tagger, HeldTagger):
            tagger.go.set()  # a failed test must end too
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def metric(address: tuple[str, int], name: str) -> float:
    """The value of a line of /metrics, 0 where it is not there yet."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


def until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come true in 8 s")
