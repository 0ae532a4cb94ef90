"""Test the server: its responses, each of its limits, and requests that are too large, too slow or malicious."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import schemathesis
from made_data import run_command, write_photo
from paths import ROOT
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from serving import HeldTagger, listening, metric, picture, until
from starlette.testclient import TestClient

from zsl_tagger.serve import run as serve_run
from zsl_tagger.serve.app import build_app
from zsl_tagger.serve.guard import HEADERS
from zsl_tagger.serve.limits import Limits
from zsl_tagger.serve.run import ServeRun, _limits, _url
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "serve.md"
CALM = Limits(waiting=16)


@pytest.fixture(scope="module")
def two_workers() -> Tagger:
    return Tagger(workers=2)


@pytest.fixture(scope="module")
def client(two_workers: Tagger) -> Iterator[TestClient]:
    with TestClient(build_app(two_workers, CALM), base_url="http://localhost") as client:
        yield client


def sent(client: TestClient, *files: tuple[str, bytes], **fields: object) -> Any:
    """Send photos in one request and return the response."""
    return client.post("/v1/tag", files=[("files", file) for file in files], data=fields)


def form_of(*photos: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Return a multipart body and its headers."""
    body = b""
    for name, value in fields.items():
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for photo in photos:
        body += b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + photo + b"\r\n"
    return body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def answer_of(address: tuple[str, int], *photos: bytes, **fields: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*address, timeout=20)
    body, headers = form_of(*photos, **fields)
    connection.request("POST", "/v1/tag", body, headers)
    return connection.getresponse()


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"labels": "cat,red saucer,dog", "threshold": 0}, {}, {"top_k": 3}])
def test_records_are_those_of_the_command(client: TestClient, examples: Path, options: dict[str, Any]) -> None:
    """Compare all digits, and the order of the photos."""
    paths = sorted(examples.glob("*.jpg"), reverse=True)
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    status, output, _ = run_command("tag", *paths, "--format", "json", *arguments)
    expected = [{**record, "path": Path(record["path"]).name} for record in json.loads(output)]
    got = sent(client, *((path.name, path.read_bytes()) for path in paths), **options)
    assert status == 0
    assert got.json() == expected


def test_heat_maps_come_with_the_best_tags(client: TestClient, tagger: Tagger, examples: Path) -> None:
    photo = examples / "cat.jpg"
    tags = sent(client, ("cat.jpg", photo.read_bytes()), labels="cat,whisker,dog", threshold=0, heatmaps=2).json()[0][
        "tags"
    ]
    assert [("heatmap" in tag) for tag in tags] == [True, True, False]
    expected = tagger.heatmap(tagger.encode(photo), [tag["label"] for tag in tags[:2]])
    assert np.array([tag["heatmap"] for tag in tags[:2]]) == pytest.approx(expected, abs=0.00051)
    assert expected.shape == (2, 12, 12)


def test_a_photo_that_cannot_be_read_has_an_error_and_the_others_their_tags(client: TestClient, examples: Path) -> None:
    cat = (examples / "cat.jpg").read_bytes()
    whole = Image.new("RGB", (7100, 7100))  # 50.4 million pixels
    large = io.BytesIO()
    whole.save(large, "PNG")
    photos = [("../../etc/passwd", b"text"), ("empty.jpg", b""), ("cut.jpg", cat[:9000])]
    photos += [("large.png", large.getvalue()), ("<b>ä' 1.jpg", cat)]
    records = sent(client, *photos, labels="cat").json()
    assert records[0] == {"path": "../../etc/passwd", "error": "not an image that Pillow can read"}
    assert records[1] == {"path": "empty.jpg", "error": "empty file (0 bytes)"}
    assert "broken image data" in records[2]["error"]
    assert records[3] == {"path": "large.png", "error": "too large: 7100 x 7100 pixels, the limit is 50 million"}
    assert records[4] == {"path": "<b>ä' 1.jpg", "tags": [{"label": "cat", "score": 0.9848}]}


def test_formats_that_start_programs_are_not_tried(client: TestClient) -> None:
    """Pillow reads EPS with Ghostscript."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n%%EOF\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    assert sent(client, ("a.jpg", eps)).json() == [{"path": "a.jpg", "error": "not an image that Pillow can read"}]


def looked_up(client: TestClient, words: str) -> Any:
    return client.post("/v1/labels", files={"labels": (None, words)})


def test_labels_are_looked_up(client: TestClient, tagger: Tagger) -> None:
    answer = looked_up(client, "Dogs, zebar, dog,red bicycle").json()
    own = tagger.label_set(["Dogs", "red bicycle"]).thresholds
    assert answer["labels"] == [
        {"label": label, "threshold": pytest.approx(least, abs=0.0001)}
        for label, least in zip(("Dogs", "dog", "red bicycle"), [own[0], own[0], own[1]], strict=True)
    ]
    assert answer["unknown"].keys() == {"zebar"}
    assert "zebra" in answer["unknown"]["zebar"]
    assert looked_up(client, "qqqqzzz").json() == {"labels": [], "unknown": {"qqqqzzz": []}}
    vocabulary = client.get("/v1/labels").json()
    assert [label["label"] for label in vocabulary["labels"]] == tagger.vocabulary.labels
    assert vocabulary["unknown"] == {}
    photo = client.post("/v1/labels", files=[("labels", (None, "cat")), ("files", ("a.png", picture()))])
    assert (photo.status_code, photo.json()) == (422, {"error": "expected no files, got 1"})
    long = looked_up(client, "a," * 16_001)
    assert (long.status_code, long.json()["error"][:20]) == (422, "labels: string shoul")


def test_limits_and_health(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    told = client.get("/v1/limits").json()
    assert told == {
        "photo_bytes": 32_000_000, "request_bytes": 64_000_000, "photos": 16, "pixels": 50_000_000, "labels": 1000,
        "heatmaps": 50,
    }  # fmt: skip


def test_parallel_requests_get_the_same_as_single_ones(client: TestClient, tmp_path: Path, two_workers: Tagger) -> None:
    photos = []
    for seed in range(6):
        write_photo(tmp_path / f"{seed}.jpg", seed)
        photos.append((tmp_path / f"{seed}.jpg").read_bytes())
    labels = ["sky", "dog", "quilt"]
    limits = Limits(waiting=100)
    with TestClient(build_app(two_workers, limits), base_url="http://localhost") as client:

        def ask(number: int) -> Any:
            seed = number % 6
            return sent(client, (str(seed), photos[seed]), labels=",".join(labels), threshold=0)

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(24)))
    for number, answer in enumerate(answers):
        seed = number % 6
        alone = two_workers.tag(tmp_path / f"{seed}.jpg", labels, threshold=0.0)
        expected = [{"label": tag.label, "score": round(tag.score, 4)} for tag in alone]
        assert answer.json() == [{"path": str(seed), "tags": expected}]


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no photo": ({"files": [("labels", (None, b"cat"))]}, 422, "expected 1 to 16 photos as files, got 0"),
    "another name": ({"files": [("x", ("a", b"a"))]}, 422, "expected photos in the field files, not x"),
    "files as text": ({"files": [("files", (None, b"text"))]}, 422, "expected files in the field files"),
    "17 photos": ({"files": [("files", ("a", b"a"))] * 17}, 422, "expected 1 to 16 photos as files, got 17"),
    "18 photos": ({"files": [("files", ("a", b"a"))] * 18}, 400, "Too many files"),
    "another field": ({"label": "cat"}, 422, "unknown field 'label': expected files, labels, threshold, top_k, heat"),
    "a field twice": ({"files": [("labels", (None, b"a"))] * 2}, 422, "labels is given more than once"),
    "threshold 1.5": ({"threshold": "1.5"}, 422, "threshold: input should be less than or equal to 1, got '1.5'"),
    "threshold nan": ({"threshold": "nan"}, 422, "threshold: input should be "),
    "threshold x": ({"threshold": "x"}, 422, "threshold: input should be a valid number"),
    "top_k 0": ({"top_k": "0"}, 422, "top_k: input should be greater than or equal to 1"),
    "heatmaps 51": ({"heatmaps": "51"}, 422, "heatmaps: input should be less than or equal to 50"),
    "unknown label": ({"labels": "cat,zebar"}, 422, "unknown label 'zebar', did you mean "),
    "long label": ({"labels": "a" * 101}, 422, "expected labels of at most 100 characters, got one of 101"),
    "1001 labels": ({"labels": ",".join(f"w{n}" for n in range(1001))}, 422, "at most 1,000 labels, got 1,001"),
    "long labels": ({"labels": "a," * 16_001}, 422, "labels: string should have at most 32000 characters"),
    "JSON": ({"json": {}}, 415, "expected multipart/form-data, got application/json"),
    "nothing": ({}, 415, "got no content type"),
    "no boundary": ({"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 400, "Missing boundary"),
    "broken form": ({"content": b"--y\r\nrubbish", "headers": form_of()[1]}, 400, "the form cannot be parsed"),
    "form cut in a photo": (
        {"content": form_of(b"abc", b"def")[0][:-20], "headers": form_of()[1]}, 400, "but the form is truncated"
    ),
    "form cut after a photo": (
        {"content": form_of(b"abc")[0].removesuffix(b"--\r\n"), "headers": form_of()[1]}, 400, "the form is truncated"
    ),
    "empty form": ({"content": b"", "headers": form_of()[1]}, 400, "but the form is truncated"),
    "large header": (
        {"content": b"--x\r\nA: " + b"a" * 9000, "headers": form_of()[1]}, 400, "the form cannot be parsed"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_requests_are_explained_in_one_line(client: TestClient, case: str) -> None:
    options, status, message = REFUSED[case]
    if not options.keys() & {"files", "json", "content", "data"} and options:
        options = {"data": options, "files": [("files", ("a.png", picture()))]}
    answer = client.post("/v1/tag", **options)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_other_paths_and_methods(client: TestClient) -> None:
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/page/../run.py").json() == {"error": "Not Found"}
    answer = client.get("/v1/tag")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/page.css", "/v1/labels", "/v1/limits", "/healthz", "/openapi.json"])
def test_head_is_answered_as_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, dict(head.headers), head.content) == (200, dict(get.headers), b"")
    assert client.head("/v1/tag").status_code == client.get("/v1/tag").status_code == 405


def test_a_server_sends_no_body_after_head(two_workers: Tagger) -> None:
    with listening(two_workers, CALM) as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"content-length: 15\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "options",
    [{"headers": {"A": "a" * 32_000}}, {"headers": {f"A{n}": "a" * 300 for n in range(110)}}, {"params": "a" * 32_000}],
)
def test_a_head_that_arrives_at_once_is_limited(client: TestClient, options: dict[str, Any]) -> None:
    answer = client.get("/healthz", **options)
    assert answer.status_code == 431
    assert answer.json() == {"error": "expected a request with at most 32,000 bytes before its body"}


def test_sizes(two_workers: Tagger) -> None:
    """Limit the size of a photo, of a request, and of a request without a declared length."""
    limits = Limits(photo_bytes=1_000_000)
    with TestClient(build_app(two_workers, limits), base_url="http://localhost") as client:
        just = sent(client, ("a", b"a" * 1_000_000))
        assert just.json() == [{"path": "a", "error": "not an image that Pillow can read"}]
        for parts in ([1_000_001], [900_000] * 3):
            answer = sent(client, *(("a", b"a" * part) for part in parts))
            assert (answer.status_code, answer.json()) == (
                413,
                {"error": "too large: at most 1 MB per photo, 2 MB per request"},
            )
        body, headers = form_of(*[b"a" * 900_000] * 3)
        pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
        answer = client.post("/v1/tag", content=pieces, headers=headers)
        assert "content-length" not in answer.request.headers
        assert answer.status_code == 413
        assert "zsl_tagger_upload_bytes 0.0" in client.get("/metrics").text


def test_photos_never_touch_the_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_disk(*_: object, **__: object) -> None:
        raise AssertionError("written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", no_disk)
    photo = picture(1200)
    assert len(photo) > 4_000_000
    assert "tags" in sent(client, ("large.png", photo), labels="cat").json()[0]


def test_running_out_of_memory_is_no_crash(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    photo = picture()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    assert sent(client, ("a.png", photo)).json() == [{"path": "a.png", "error": "not enough memory to decode it"}]


# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("LOCALHOST.", 200), ("127.0.0.1:1", 200), ("192.168.7.7", 200), ("[::1]:8000", 200),
        ("tags.home:80", 200), ("evil.example", 400), ("localhost.evil.example", 400), ("127.0.0.1.evil.example", 400),
        ("user@evil.example", 400), ("[::1", 400), ("", 400), ("localhost:", 200), ("evil.example@localhost", 400),
        ("evil.example:80@127.0.0.1", 400), ("localhost/evil.example", 400), ("localhost?evil.example", 400),
        ("localhost#evil.example", 400), ("localhost\\evil.example", 400), ("localhost:80:90", 400),
        ("localhost:evil", 400), ("localhost,evil.example", 400), ("[localhost]", 400), ("[127.0.0.1]", 400),
        ("localhost..", 400), ("::1", 400),
    ],
)  # fmt: skip
def test_only_names_of_this_server(two_workers: Tagger, host: str, status: int) -> None:
    client = TestClient(build_app(two_workers, CALM, hosts=["tags.home"]))
    answer = client.get("/v1/limits", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "--allow-host NAME" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200), ({"Origin": "http://localhost"}, 200), ({"Origin": "https://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200), ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
    ],
)  # fmt: skip
def test_pages_of_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    answer = client.post("/v1/tag", files=[("files", ("a.png", picture()))], data={"labels": "cat"}, headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_has_safe_headers(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    calls: list[Callable[[], Any]] = [
        lambda: client.get("/"), lambda: client.get("/page.js"), lambda: client.get("/nothing"),
        lambda: client.delete("/v1/tag"), lambda: client.get("/", headers={"Host": "evil.example"}),
        lambda: client.post("/v1/tag", headers={"Origin": "null"}), lambda: client.get("/metrics"),
    ]  # fmt: skip
    statuses = []
    for call in calls:
        answer = call()
        statuses.append(answer.status_code)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    assert statuses == [200, 200, 404, 405, 400, 403, 200]
    monkeypatch.setattr("zsl_tagger.serve.app.read_labels", broken)
    careless = TestClient(client.app, base_url="http://localhost", raise_server_exceptions=False)
    answer = looked_up(careless, "cat")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error: see the output of the server"})
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_each_request_is_logged_without_contents(client: TestClient, logged: pytest.LogCaptureFixture) -> None:
    sent(client, ("my cat.jpg", picture()), ("b.png", b"no photo"), labels="secret")
    client.get("/my%20cat.jpg?labels=secret")
    client.request("CAT", "/healthz")
    client.head("/v1/labels")
    lines = [re.sub(r"\d+ ms", "N ms", line) for line in logged.messages]
    assert lines == [
        "POST /v1/tag: 200, N ms, photos: 2", "GET other: 404, N ms, photos: 0",
        "other /healthz: 405, N ms, photos: 0", "HEAD /v1/labels: 200, N ms, photos: 0",
    ]  # fmt: skip


def test_metrics_contain_no_names(client: TestClient) -> None:
    for number in range(30):
        client.get(f"/made/{number}")
    sent(client, ("secret-name.png", picture()), labels="cat,dog")
    text = client.get("/metrics").text
    assert 'zsl_tagger_requests_total{path="other",status="404"}' in text
    assert 'zsl_tagger_request_seconds_bucket{le="0.1",path="/v1/tag"}' in text
    assert 'zsl_tagger_photos_total{result="tagged"}' in text
    assert "made" not in text
    assert "secret" not in text


# --- too much, too slow, gone ----------------------------------------------------------------------------------------


def test_a_full_queue_refuses_before_the_body_is_read(two_workers: Tagger) -> None:
    """One photo is processed while two wait; no accepted photo is lost."""
    held = HeldTagger(two_workers)
    with listening(held, Limits(photos=2, waiting=2)) as address, ThreadPoolExecutor(3) as pool:
        accepted = [pool.submit(answer_of, address, picture(), labels="cat") for _ in range(3)]
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 2)
        connection = http.client.HTTPConnection(*address, timeout=5)
        connection.putrequest("POST", "/v1/tag")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", "10000000")  # which never come
        connection.endheaders()
        refused = connection.getresponse()
        assert (refused.status, refused.getheader("Retry-After")) == (429, "1")
        assert json.loads(refused.read()) == {"error": "too many photos are waiting: try again later"}
        held.go.set()
        assert [len(json.loads(answer.result().read())) for answer in accepted] == [1, 1, 1]
        assert answer_of(address, picture(), picture(), labels="cat").status == 200
        assert metric(address, "zsl_tagger_waiting_photos") == 0


def test_photos_of_one_request_are_refused_together(two_workers: Tagger) -> None:
    held = HeldTagger(two_workers)
    with listening(held, Limits(photos=3, waiting=3)) as address, ThreadPoolExecutor(2) as pool:
        accepted = pool.submit(answer_of, address, picture(), picture(), labels="cat")
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 1)
        assert answer_of(address, picture(), picture(), picture(), labels="cat").status == 429
        held.go.set()
        assert accepted.result().status == 200
        assert held.encoded == 2


def test_uploads_share_a_budget_of_memory(two_workers: Tagger) -> None:
    """The budget is the size of 8 photos; photos in the queue count until they are done."""
    held = HeldTagger(two_workers)
    limits = Limits(photo_bytes=100_000)
    photo = picture() + bytes(98_000 - len(picture()))
    with listening(held, limits) as address, ThreadPoolExecutor(8) as pool:
        accepted = [pool.submit(answer_of, address, photo, labels="cat") for _ in range(8)]
        until(lambda: metric(address, "zsl_tagger_upload_bytes") > 780_000)
        refused = answer_of(address, photo, labels="cat")
        assert refused.status == 429
        held.go.set()
        assert {answer.result().status for answer in accepted} == {200}
        assert metric(address, "zsl_tagger_upload_bytes") == 0


def test_photos_of_a_disconnected_client_are_not_processed(two_workers: Tagger) -> None:
    """Photos that wait for a disconnected client are never processed."""
    held = HeldTagger(two_workers)
    with listening(held, Limits(waiting=16)) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(answer_of, address, picture(), labels="cat")
        until(lambda: held.encoded == 1)
        body, headers = form_of(*[picture()] * 5, labels="cat")
        connection = http.client.HTTPConnection(*address, timeout=5)
        connection.request("POST", "/v1/tag", body, headers)
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 5)
        connection.close()
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 0)
        assert metric(address, "zsl_tagger_upload_bytes") < len(body)
        held.go.set()
        assert first.result().status == 200
        assert metric(address, 'zsl_tagger_requests_total{path="/v1/tag",status="499"}') == 1
    assert held.encoded == 1


@pytest.mark.alone
def test_a_request_over_the_time_limit_is_answered(two_workers: Tagger) -> None:
    held = HeldTagger(two_workers)
    with listening(held, Limits(work_seconds=0.3)) as address:
        late = answer_of(address, picture(), picture(), labels="cat")
        assert (late.status, late.getheader("Retry-After")) == (503, "1")
        assert "not completed in time" in json.loads(late.read())["error"]
        held.go.set()
        until(lambda: metric(address, "zsl_tagger_waiting_photos") == 0)
        assert answer_of(address, picture(), labels="cat").status == 200


@pytest.mark.alone
def test_slow_clients_are_disconnected(two_workers: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    """They send a head that never ends, on a new or a used connection, or a body that arrives too slowly."""
    monkeypatch.setattr(serve_run, "IDLE_SECONDS", 0.4)
    with listening(two_workers, Limits(upload_seconds=0.6)) as address:
        for before in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            with socket.create_connection(address, timeout=10) as slow:
                slow.sendall(before)
                while before and b"ok" not in before:
                    before = slow.recv(4096)
                start = time.monotonic()
                with pytest.raises(ConnectionError, match=r"Broken pipe|reset by peer"):  # noqa: PT012 - which of the sends fails is up to the system
                    for _ in range(100):
                        slow.sendall(b"G")
                        time.sleep(0.05)
                assert 0.3 < time.monotonic() - start < 3
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(
                b"POST /v1/tag HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            for _ in range(8):
                slow.sendall(b"A")
                time.sleep(0.05)
            answer = http.client.HTTPResponse(slow)
            answer.begin()
            assert answer.status == 408
            assert b"did not arrive in" in answer.read()  # the body may come in a later packet than the head


def test_clients_that_read_no_response_are_disconnected(two_workers: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_run, "IDLE_SECONDS", 0.4)
    with listening(two_workers, Limits()) as address, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(address)
        one = b"GET /v1/labels HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf.settimeout(10)
        with pytest.raises(ConnectionError, match=r"Broken pipe|reset by peer"):  # noqa: PT012
            for _ in range(400):
                deaf.sendall(one)
                time.sleep(0.02)


# --- the process -----------------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """Start ``zsl-tagger serve --port 0``; return the process and its address."""
    command = [sys.executable, "cli.py", "serve", "--port", "0", "--workers", "1", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            yield server, ("127.0.0.1", int(url.rpartition(":")[2]))
        finally:
            server.kill()


@pytest.mark.parametrize(("number", "status", "said"), [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "stopped\n")])
def test_signals_end_it_after_running_requests(number: signal.Signals, status: int, said: str) -> None:
    photo = picture(1500)
    with process() as (server, address), ThreadPoolExecutor(1) as pool:
        idle = http.client.HTTPConnection(*address)
        idle.request("GET", "/healthz")
        assert idle.getresponse().read() == b'{"status":"ok"}'
        answer = pool.submit(answer_of, address, *[photo] * 5, labels="cat")
        until(lambda: metric(address, "zsl_tagger_waiting_photos") > 0)
        server.send_signal(number)
        records = json.loads(answer.result().read())
        _, errors = server.communicate(timeout=20)
    assert ["tags" in record for record in records] == [True] * 5
    other = "".join(line for line in errors.splitlines(keepends=True) if not line.startswith("note: "))
    assert (server.returncode, other) == (status, said)


def test_a_used_port_and_invalid_options_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        status, output, errors = run_command("serve", "--port", port)
    assert (status, output) == (2, "")
    assert errors == f"error: port {port} of 127.0.0.1 is in use: give another, or --port 0 for any free one\n"
    for arguments, message in {
        ("--host", "no.such.host.invalid"): "--host no.such.host.invalid is not an address of this machine",
        ("--host", "192.0.2.1"): "cannot listen on port 8000 of 192.0.2.1",
        ("--queue", "3"): "expected --queue of at least 16, the photos of one request, got 3",
        ("--port", "0", "--model", "nowhere"): "nowhere",
    }.items():
        status, _, errors = run_command("serve", *arguments)
        assert status == 2
        assert errors.startswith("error: ")
        assert message in errors
        assert errors.count("\n") == 1


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("zsl_tagger.serve")]:
        monkeypatch.delitem(sys.modules, name)
    assert run_command("serve") == (
        2, "", 'error: uvicorn is not installed: in a clone of zsl-tagger, run pip install ".[serve]"\n'
    )  # fmt: skip


def test_a_server_open_to_others_warns_and_is_reachable() -> None:
    with process("--host", "0.0.0.0") as (server, address):
        assert server.stderr is not None
        assert "other machines can reach this server without a password" in server.stderr.readline()
        assert answer_of(address, picture(), labels="cat").status == 200


def test_urls_and_limits() -> None:
    assert _url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert _url("::1", 8000) == "http://[::1]:8000"
    assert _url("tags.home", 8000) == "http://tags.home:8000"
    limits = _limits(ServeRun(max_photo_mb=10, queue=20))
    assert (limits.photo_bytes, limits.request_bytes, limits.held_bytes) == (10_000_000, 20_000_000, 80_000_000)
    assert limits.waiting == 20


# --- what it says of itself ------------------------------------------------------------------------------------------

PATHS = ("POST /v1/tag", "POST /v1/labels", "GET /v1/labels", "GET /v1/limits", "GET /healthz", "GET /metrics")


@pytest.fixture(scope="module")
def described(two_workers: Tagger) -> Any:
    app = build_app(two_workers, Limits(waiting=200), hosts=["testserver"])
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize(
    ("path", "mode"),
    [*((path, GenerationMode.POSITIVE) for path in PATHS), *((path, GenerationMode.NEGATIVE) for path in PATHS[:2])],
)
def test_responses_match_openapi(described: Any, path: str, mode: GenerationMode) -> None:
    """Valid labels may be refused as unknown words, which a schema cannot express."""
    method, _, where = path.partition(" ")

    @hypothesis.settings(
        derandomize=True,
        max_examples=20,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],  # looking for a smaller failure takes minutes
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=described[where][method].as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):  # an empty list is no part of a form: it cannot be refused
            hypothesis.assume(not any(value == [] for value in case.body.values()))
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    holds()


def test_openapi_describes_every_field_and_error(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert told["paths"].keys() == {"/v1/tag", "/v1/labels", "/v1/limits", "/healthz", "/metrics"}
    tag = told["paths"]["/v1/tag"]["post"]
    assert tag["responses"].keys() == {"200", "400", "403", "408", "413", "415", "422", "429", "431", "503"}
    fields = tag["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert fields.keys() == {"files", "labels", "threshold", "top_k", "heatmaps"}
    assert all(field["description"] for field in fields.values())


def test_the_curl_example_of_the_page_works(client: TestClient, examples: Path) -> None:
    found = re.search(
        r"curl -F files=@examples/(.+) -F labels=(.+) http.*/v1/tag\n(.+)\n", PAGE.read_text(encoding="utf-8")
    )
    assert found
    name, labels, shown = found.groups()
    got, expected = sent(client, (name, (examples / name).read_bytes()), labels=labels).json(), json.loads(shown)
    assert got[0]["tags"][0].pop("score") == pytest.approx(expected[0]["tags"][0].pop("score"), abs=0.02)
    assert got == expected
