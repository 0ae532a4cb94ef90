"""Test the routes of the library: access control, photos by SHA-256 only, and invalid requests."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from crops_library import indexed_crops
from made_data import pretend_another_model, run_command
from paths import ROOT
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from starlette.testclient import TestClient

from zsl_tagger import Library, Tagger
from zsl_tagger.serve.app import build_app
from zsl_tagger.serve.guard import HEADERS
from zsl_tagger.serve.limits import Limits
from zsl_tagger.tagging.taught import FOLDER_VARIABLE
from zsl_tagger.teach.marks import Marks
from zsl_tagger.teach.review import Review

pytestmark = pytest.mark.slow

FOREIGN = {"Origin": "http://evil.example"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """Return a folder with ``photos`` and their ``index``."""
    return indexed_crops(tmp_path_factory.mktemp("library"), examples)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "taught"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def app_of(index: Path, marks: Path, **options: Any) -> Any:
    opened = Library.open(index, workers=2)
    return build_app(opened.tagger, Limits(waiting=200), review=Review(opened, Marks(marks)), **options)


@pytest.fixture
def client(library: Path, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(app_of(library / "index", tmp_path / "marks"), base_url="http://localhost") as client:
        yield client
    for left in (library / "photos").glob("*.xmp"):
        left.unlink()


def post(client: TestClient, action: str, **fields: str) -> Any:
    form = {name: (None, value) for name, value in fields.items()}
    return client.post(f"/v1/library/{action}", files=form)


def found(client: TestClient, name: str = "", **options: Any) -> list[str]:
    """Return the photos whose name begins with ``name``, best first."""
    answer = client.get("/v1/library/photos", params={"query": "cup", **options}).json()
    return [one["photo"] for one in answer["photos"] if Path(one["path"]).name.startswith(name)]


def test_a_review_from_search_to_undo(client: TestClient, library: Path) -> None:
    assert client.get("/v1/library").json() == {"photos": 40, "tags": [], "undoable": 0}
    cups, others = found(client, "coffee"), found(client, "astronaut")
    answer = post(client, "marks", tag="our cup", yes=" ".join(cups[:4]), no=others[0])
    assert (answer.status_code, answer.json()) == (200, {"yes": 4, "no": 1})
    lesson = post(client, "teach", tag="our cup").json()
    assert (lesson["name"], lesson["yes"], lesson["no"]) == ("our cup", 4, 1)
    shown = client.get("/v1/library/photos", params={"query": "our cup", "tag": "our cup", "top": 3}).json()
    assert (shown["yes"], shown["no"], shown["taught"], len(shown["photos"])) == (4, 1, True, 3)
    seen = post(client, "preview", tag="our cup").json()
    assert [one["became"] for one in seen["changes"]] == ["new"] * 4
    assert list((library / "photos").glob("*.xmp")) == []
    assert post(client, "write", tag="our cup", preview="0" * 64).status_code == 409
    written = post(client, "write", tag="our cup", preview=seen["fingerprint"]).json()
    assert written == {"changes": seen["changes"], "problems": {}, "undoable": 4}
    assert len(list((library / "photos").glob("*.xmp"))) == 4
    assert client.get("/v1/library").json() == {"photos": 40, "tags": ["our cup"], "undoable": 4}
    assert post(client, "undo", sidecars="3").status_code == 409
    assert post(client, "undo", sidecars="4").json()["undoable"] == 0
    assert list((library / "photos").glob("*.xmp")) == []
    assert "nothing to undo" in post(client, "undo", sidecars="4").json()["error"]


def test_the_tagging_api_knows_a_taught_tag(client: TestClient, library: Path) -> None:
    post(client, "marks", tag="our cup", yes=" ".join(found(client, "coffee")[:4]))
    post(client, "teach", tag="our cup")
    photo = (library / "photos" / "coffee 01.png").read_bytes()
    record = client.post("/v1/tag", files=[("files", ("a.png", photo))], data={"labels": "our cup"}).json()[0]
    assert [tag["label"] for tag in record["tags"]] == ["our cup"]


def test_pictures(client: TestClient) -> None:
    number = found(client)[0]
    answer = client.get(f"/v1/library/photos/{number}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.content[:3] == b"\xff\xd8\xff"
    assert answer.headers["cache-control"] == "no-store"


def test_no_path_leads_to_a_file(client: TestClient, library: Path) -> None:
    """Photos are identified by the SHA-256 of indexed files; that of any other file is unknown."""
    other = hashlib.sha256((ROOT / "examples" / "cat.jpg").read_bytes()).hexdigest()
    path = str(library / "photos" / "coffee 00.png")
    statuses = {
        name: client.get(f"/v1/library/photos/{name}").status_code
        for name in (other, path, "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "coffee 00.png", "0" * 63, "F" * 64)
    }
    assert set(statuses.values()) <= {404, 422}
    assert statuses[other] == 404
    for name in (path, "/etc/passwd", other, "../index.db"):
        assert post(client, "marks", tag="our cup", yes=name).status_code == (404 if name == other else 422)
    assert client.get("/v1/library").json()["tags"] == []


REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "no tag": ("marks", {"yes": ""}, "tag: field required"),
    "no name": ("marks", {"tag": ""}, "tag: string should have at least 1 character"),
    "a name with a comma": ("teach", {"tag": "a, b"}, "contains a comma"),
    "a name with a minus": ("preview", {"tag": "-cup"}, "a leading minus"),
    "another field": ("teach", {"tag": "cup", "path": "/etc"}, "unknown field 'path': expected tag"),
    "no marks at all": ("teach", {"tag": "our cup"}, "expected at least 3 different photos of 'our cup'"),
    "no number of a photo": ("marks", {"tag": "cup", "yes": "x"}, "expected the SHA-256 of photos"),
    "too many photos": ("marks", {"tag": "cup", "yes": f"{'0' * 64} " * 1001}, "expected at most 1,000 photos"),
    "a long preview": ("write", {"tag": "cup", "preview": "0" * 65}, "preview: string should have at most 64"),
    "nothing to undo": ("undo", {"sidecars": "0"}, "sidecars: input should be greater than or equal to 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_requests_are_explained_in_one_line(client: TestClient, case: str) -> None:
    action, fields, message = REFUSED[case]
    answer = post(client, action, **fields)
    assert answer.status_code == 422, answer.text
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_invalid_searches(client: TestClient) -> None:
    cases: tuple[tuple[dict[str, str], str], ...] = (
        ({}, "query: field required"),
        ({"query": "zebar"}, "unknown label 'zebar', did you mean"),
        ({"query": "-"}, "without a word"),
        ({"query": "cup", "top": "1001"}, "top: input should be less than or equal to 1000"),
        ({"query": "cup", "order": "worst"}, "order: input should be 'best' or 'threshold'"),
        ({"query": "cup", "tag": "a,b"}, "contains a comma"),
    )
    for params, message in cases:
        answer = client.get("/v1/library/photos", params=params)
        assert (answer.status_code, message in answer.json()["error"]) == (422, True), answer.text


def test_contradictory_marks_and_too_few(client: TestClient) -> None:
    cups = found(client, "coffee")
    answer = post(client, "marks", tag="our cup", yes=cups[0], no=cups[0])
    assert (answer.status_code, "marked twice" in answer.json()["error"]) == (422, True)
    post(client, "marks", tag="our cup", yes=" ".join(cups[:2]))
    answer = post(client, "teach", tag="our cup")
    assert (answer.status_code, "got 2" in answer.json()["error"]) == (422, True)


def test_deleted_photos_and_a_deleted_index(library: Path, tmp_path: Path) -> None:
    shutil.copytree(library / "photos", tmp_path / "photos", copy_function=shutil.copy2)
    with Library.open(tmp_path / "index") as opened:
        opened.add(tmp_path / "photos")
    with TestClient(app_of(tmp_path / "index", tmp_path / "marks"), base_url="http://localhost") as client:
        number = found(client)[0]
        shutil.rmtree(tmp_path / "photos")
        answer = client.get(f"/v1/library/photos/{number}")
        assert (answer.status_code, "was deleted" in answer.json()["error"]) == (410, True)
        shutil.rmtree(tmp_path / "index")
        answer = client.get("/v1/library/photos", params={"query": "cup"})
        assert (answer.status_code, "no index at" in answer.json()["error"]) == (422, True)


# --- who may ask -----------------------------------------------------------------------------------------------------

EVERY = [
    ("GET", "/v1/library"), ("GET", "/v1/library/photos?query=cup"), ("GET", f"/v1/library/photos/{'0' * 64}"),
    *(("POST", f"/v1/library/{action}") for action in ("marks", "teach", "preview", "write", "undo")),
]  # fmt: skip


def test_every_route_of_the_library_is_in_the_list_above(client: TestClient) -> None:
    told = client.get("/openapi.json").json()["paths"]
    routes = {
        (method.upper(), path) for path, methods in told.items() for method in methods if path.startswith("/v1/lib")
    }
    listed = {(method, re.sub("0{64}", "{photo}", where.partition("?")[0])) for method, where in EVERY}
    assert routes == listed


@pytest.mark.parametrize(("method", "where"), EVERY)
def test_other_sites_and_names_are_refused(client: TestClient, method: str, where: str) -> None:
    for headers, status in (
        (FOREIGN, 403), ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403), ({"Host": "evil.example"}, 400),
    ):  # fmt: skip
        answer = client.request(method, where, headers=headers)
        assert answer.status_code == status
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize(("method", "where"), EVERY)
def test_requests_without_the_token_are_refused(library: Path, tmp_path: Path, method: str, where: str) -> None:
    app = app_of(library / "index", tmp_path / "marks", token="secret")
    client = TestClient(app, base_url="http://localhost")
    for text in (None, "Bearer wrong", "secret", "Basic secret", "Bearer sécret"):
        given = {} if text is None else {b"Authorization": text.encode()}
        answer = client.request(method, where, headers=given)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    right = {"Authorization": "Bearer secret"}
    assert client.request(method, where, headers=right).status_code not in (401, 403)
    assert client.request(method, where, headers={**right, **FOREIGN}).status_code == 403
    assert client.get("/library").status_code == 200  # the page asks for the token


def test_without_a_library_its_routes_do_not_exist(tagger: Tagger) -> None:
    client = TestClient(build_app(tagger, Limits()), base_url="http://localhost")
    assert {client.request(method, where).status_code for method, where in EVERY} == {404}
    assert client.get("/library").status_code == 404
    assert "<nav hidden " in client.get("/").text


def test_the_log_has_neither_words_nor_photos(client: TestClient, logged: pytest.LogCaptureFixture) -> None:
    number = found(client)[0]
    client.get(f"/v1/library/photos/{number}")
    post(client, "marks", tag="secret", yes=number)
    assert logged.messages
    assert not [line for line in logged.messages if number in line or "secret" in line or "cup" in line]


# --- the process -----------------------------------------------------------------------------------------------------


def test_an_invalid_index_is_explained_in_one_line(library: Path, tmp_path: Path) -> None:
    status, output, errors = run_command("serve", "--port", "0", "--library", tmp_path / "no where")
    assert (status, output) == (2, "")
    assert errors == (
        f"error: no index at {tmp_path / 'no where'}: make one with "
        f"zsl-tagger index PHOTOS --index '{tmp_path / 'no where'}'\n"
    )
    (tmp_path / "index.db").write_bytes(b"no database, but long enough to be looked at" * 99)
    status, _, errors = run_command("serve", "--port", "0", "--library", tmp_path)
    assert (status, errors.count("\n"), "is damaged" in errors) == (2, 1, True)
    shutil.copytree(library / "index", tmp_path / "other")
    pretend_another_model(tmp_path / "other")
    status, _, errors = run_command("serve", "--port", "0", "--library", tmp_path / "other")
    assert (status, errors.count("\n"), "was made with another model" in errors) == (2, 1, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_address_has_a_token_if_other_machines_can_reach_it(library: Path, host: str) -> None:
    command = [sys.executable, "cli.py", "serve", "--port", "0", "--host", host, "--library", str(library / "index")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        lines = [server.stdout.readline() for _ in range(2)]
        errors = server.stderr.readline() if host == "0.0.0.0" else ""
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
    token = r"#token=[\w-]{32}" if host == "0.0.0.0" else ""
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/library{token}  \(40 photos\)\n", lines[1])
    assert ("requires the token" in errors) == (host == "0.0.0.0")


# --- what it says of itself ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    app = app_of(library / "index", tmp_path_factory.mktemp("marks"), hosts=["testserver"])
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    "path",
    ["GET /v1/library/photos", "GET /v1/library/photos/{photo}"]
    + [f"POST /v1/library/{action}" for action in ("marks", "teach", "preview", "write", "undo")],
)
def test_responses_match_openapi(described: Any, path: str, mode: GenerationMode) -> None:
    """Valid SHA-256 may be refused as unknown photos, which a schema cannot express."""
    method, _, where = path.partition(" ")

    @hypothesis.settings(
        derandomize=True,
        max_examples=15,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=described[where][method].as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):  # an empty list is no part of a form: it cannot be refused
            hypothesis.assume(not any(value == [] for value in case.body.values()))
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    holds()
