"""Photos of a web server, by ``Tagger.tag`` and ``zsl-tagger tag``, from a server on loopback that also misbehaves."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from made_data import run_command
from paths import ROOT

pytest.importorskip("fsspec.implementations.http")

from zsl_tagger.errors import MissingExtraError
from zsl_tagger.images import urls
from zsl_tagger.images.preprocessing import ImageError, load_array
from zsl_tagger.images.urls import read_url
from zsl_tagger.tagging.tagger import Tagger

CAT = (ROOT / "examples" / "cat.jpg").read_bytes()
LABELS = ["cat", "dog", "beach"]


class Handler(BaseHTTPRequestHandler):
    """Answers by path; the server counts requests."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        answer = getattr(self, "answer_" + self.path.partition("?")[0].strip("/").partition(".")[0], None)
        if answer is None:
            self.send_error(404)
        else:
            answer()

    def do_HEAD(self) -> None:
        self.server.requests.append(f"HEAD {self.path}")  # type: ignore[attr-defined]
        self.send_error(405)

    def log_message(self, *_: object) -> None:
        pass

    def start(self, status: int = 200, **headers: str | int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def answer_cat(self) -> None:
        self.start(Content_Length=len(CAT))
        self.wfile.write(CAT)

    def answer_unsized(self) -> None:
        self.start()
        self.wfile.write(CAT)

    def answer_moved(self) -> None:
        self.start(302, Location="/cat.jpg", Content_Length=0)

    def answer_loop(self) -> None:
        self.start(302, Location="/loop", Content_Length=0)

    def answer_local(self) -> None:
        self.start(302, Location=f"file://{ROOT}/examples/cat.jpg", Content_Length=0)

    def answer_forbidden(self) -> None:
        self.send_error(403)

    def answer_page(self) -> None:
        self.start(Content_Type="image/jpeg")
        self.wfile.write(b"<html>Log in first</html>")

    def answer_empty(self) -> None:
        self.start(Content_Length=0)

    def answer_endless(self) -> None:
        self.start()
        while True:
            self.wfile.write(bytes(1 << 16))

    def answer_bomb(self) -> None:
        content = gzip.compress(bytes(50_000_000))
        self.start(Content_Encoding="gzip", Content_Length=len(content))
        self.wfile.write(content)

    def answer_cut(self) -> None:
        self.start(Content_Length=len(CAT))
        self.wfile.write(CAT[: len(CAT) // 2])

    def answer_slow(self) -> None:
        self.start(Content_Length=len(CAT))
        for byte in CAT[:100]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.1)

    def answer_silent(self) -> None:
        self.server.ended.wait(30)  # type: ignore[attr-defined]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.ended = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: object) -> None:  # a client that has enough hangs up
        pass

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


@pytest.mark.parametrize("path", ["cat.jpg", "cat.jpg?width=*&x=1", "unsized", "moved"])
def test_a_photo_has_the_tags_of_its_file(server: Server, tagger: Tagger, path: str) -> None:
    assert tagger.tag(server.url(path), LABELS) == tagger.tag(CAT, LABELS)
    assert server.requests == [f"/{path}"] + ["/cat.jpg"] * (path == "moved")  # one request, and no HEAD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.jpg", "no such file"),
        ("forbidden", "cannot be read: HTTP status 403"),
        ("loop", "cannot be read: too many redirects"),
        ("local", "cannot be read: .*file:.*"),
        ("page", "not an image that Pillow can read"),
        ("empty", r"empty file \(0 bytes\)"),
        ("endless", "too large: more than 1 MB"),
        ("bomb", "too large: more than 1 MB"),
        ("cut", "cannot be read: .*not completed.*"),
        ("slow", "not received within 1 s"),
        ("silent", "not received within 1 s"),
    ],
)
def test_a_server_that_misbehaves(
    server: Server, tagger: Tagger, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setattr(urls, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(urls, "MAX_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(ImageError, match=f"^{message}$"):
        tagger.tag(server.url(path), LABELS)
    assert time.monotonic() - start < 8
    [record, good] = tagger.tag_many([server.url(path), server.url("cat.jpg")], LABELS)
    assert (record.path, record.tags) == (server.url(path), [])
    assert record.error
    assert [tag.label for tag in good.tags] == ["cat"]


def test_a_server_that_is_not_there(tagger: Tagger) -> None:
    with Server() as closed:
        url = closed.url("cat.jpg")
    with pytest.raises(ImageError, match=r"^cannot be read: Cannot connect to host 127\.0\.0\.1:\d+ .*$"):
        tagger.tag(url, LABELS)


def test_the_limit_is_inclusive(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "MAX_BYTES", len(CAT))
    assert read_url(server.url("cat.jpg")) == CAT
    monkeypatch.setattr(urls, "MAX_BYTES", len(CAT) - 1)
    with pytest.raises(ImageError, match=r"^too large"):
        read_url(server.url("cat.jpg"))


def test_the_command_tags_urls_among_files(server: Server, tmp_path: Path) -> None:
    photos = [server.url("cat.jpg"), ROOT / "examples" / "cat.jpg", server.url("gone.jpg")]
    output = tmp_path / "tags.jsonl"
    status, _, messages = run_command("tag", *photos, "--labels", "cat,dog", "--output", output)
    assert status == 1, messages
    web, local, gone = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert web == {**local, "path": str(photos[0])}
    assert web["sha256"] == hashlib.sha256(CAT).hexdigest()
    assert gone == {"path": str(photos[2]), "error": "no such file"}
    again = run_command("tag", *photos, "--labels", "cat,dog", "--output", output, "--resume")
    assert again[0] == 1
    assert "done already and skipped: 2" in again[2]


@pytest.mark.parametrize("options", [["--sidecar", "xmp"], ["--sidecar", "txt", "--remove"], ["--heatmap", "maps"]])
def test_sidecars_and_heat_maps_need_a_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(CAT)
    status, output, _ = run_command("tag", server.url("cat.jpg"), "cat.jpg", *options)
    assert status == 1
    assert f"{options[0]} needs a photo on this machine: download it first" in output
    assert server.requests == []


def test_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    status, _, messages = run_command("tag", "https://example.org/a.jpg")
    assert status == 2
    assert messages.endswith(
        'URLs need fsspec, which is not installed: in a clone of zsl-tagger, run pip install ".[urls]"\n'
    )


def test_a_tagger_without_fsspec_names_the_extra(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert tagger.tag(CAT, ["cat"])
    with pytest.raises(MissingExtraError, match=r'run pip install "\.\[urls\]"$'):
        tagger.tag("https://example.org/a.jpg", ["cat"])


def test_what_others_wrote_is_never_fetched(server: Server, tagger: Tagger, tmp_path: Path) -> None:
    """Paths in data sets, indexes and taught tags may come from strangers: they are files."""
    url = server.url("cat.jpg")
    with pytest.raises(ImageError, match=r"^no such file$"):
        load_array(url, tagger.preprocessing)
    status, _, _ = run_command("index", url, "--index", tmp_path / "index")
    assert status != 0
    assert server.requests == []
