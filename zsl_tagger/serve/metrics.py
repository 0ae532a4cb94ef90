"""Count requests and photos for Prometheus; no metric contains the name of a photo or a label."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server.

    Args:
        waiting: returns the current number of photos in the queue.
        held: returns the current size of uploads in memory, in bytes.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, waiting: Callable[[], float], held: Callable[[], float]):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, processor time, open files (Linux)
        registry = self._registry
        self._requests = Counter("zsl_tagger_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "zsl_tagger_request_seconds", "Time to answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self._photos = Counter("zsl_tagger_photos", "Photos processed.", ["result"], registry=registry)
        Gauge("zsl_tagger_waiting_photos", "Photos in the queue.", registry=registry).set_function(waiting)
        Gauge("zsl_tagger_upload_bytes", "Uploads in memory.", registry=registry).set_function(held)

    def answered(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def processed(self, tagged: bool) -> None:
        self._photos.labels("tagged" if tagged else "error").inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
