"""Middleware for every request and response: access control, security headers, metrics and the log."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zsl_tagger.serve.metrics import Metrics

logger = logging.getLogger(__name__)

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

#: Prefix of the library's paths, which need the token if other machines can reach the server, and refuse other sites.
LIBRARY = "/v1/library"

#: Status logged for a request whose client disconnected, as in nginx.
CLIENT_GONE = 499

#: Methods that the log names; any other could contain arbitrary text.
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

#: Maximum size of a request's first line and headers, in bytes.
HEAD_BYTES = 32_000

#: A name or an IPv4 address, or an IPv6 address in brackets, and a port; nothing that clients interpret differently.
_HOST = re.compile(r"(?:(?P<name>[a-z0-9_.-]+?)\.?|\[(?P<address>[0-9a-f:.]+)\])(?::[0-9]{0,5})?", re.IGNORECASE)


class Guard:
    """ASGI middleware.

    Args:
        hosts: names of this server, in addition to localhost and IP addresses. A web site could point any other name
            to this machine ("DNS rebinding"), and its pages would then have the same origin as ours.
        token: token that requests to the library must send; None if only this machine can reach the server.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], metrics: Metrics, token: str | None = None):
        self._app, self._metrics, self._token = app, metrics, token
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_GONE

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        if scope["method"] == "HEAD":  # answered like GET; the server omits the body
            scope = {**scope, "method": "GET"}
        try:
            await (refused or self._app)(scope, receive, send_safely)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # any other path could contain a file name
            seconds = time.perf_counter() - start
            self._metrics.answered(path, status, seconds)
            photos = scope.get("state", {}).get("photos", 0)
            logger.info("%s %s: %d, %.0f ms, photos: %d", method, path, status, 1000 * seconds, photos)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        method, headers = scope["method"], Headers(scope=scope)
        if _head_bytes(scope) > HEAD_BYTES:
            return _refused(431, f"expected a request with at most {HEAD_BYTES:,} bytes before its body")
        host = headers.get("host", "")
        if not self._is_known_host(host):
            return _refused(
                400, "the Host of the request is not a name of this server: --allow-host NAME allows a name"
            )
        of_library = scope["path"].startswith(LIBRARY)
        if of_library and not self._has_token(headers):
            return _refused(
                401,
                "expected the token that the server printed when it started, as Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        if method in ("GET", "HEAD", "OPTIONS") and not of_library:
            return None
        origin = headers.get("origin")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") or (
            origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        ):
            return _refused(403, "pages of other web sites may not use this server")
        return None

    def _has_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())

    def _is_known_host(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        if found["address"]:
            return _is_address(found["address"], ipaddress.IPv6Address)
        return found["name"].lower() in self._hosts or _is_address(found["name"], ipaddress.IPv4Address)


def _is_address(name: str, kind: Callable[[str], object]) -> bool:
    try:
        kind(name)
    except ValueError:
        return False
    return True


def _head_bytes(scope: Scope) -> int:
    """Return the approximate size of the request before its body, in bytes."""
    path = scope.get("raw_path") or scope["path"].encode()
    return len(path) + len(scope["query_string"]) + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _refused(status: int, why: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": why}, status, headers)
