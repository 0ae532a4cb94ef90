"""The nginx block of docs/serve.md before a real server: TLS, password, uploads, and what it keeps to itself."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_data import needs_tool
from paths import ROOT
from serving import listening, picture

from zsl_tagger.serve.limits import Limits
from zsl_tagger.tagging.tagger import Tagger

pytestmark = [pytest.mark.slow, needs_tool("nginx"), needs_tool("openssl"), needs_tool("curl")]

NAME = "tags.example.org"
MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log warn;
events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/1; uwsgi_temp_path {folder}/2; scgi_temp_path {folder}/3;
{block} }}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Proxy:
    """nginx on a port of its own, asked through curl."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.port = folder, port

    def ask(self, path: str, *options: str, password: bool = True) -> tuple[int, str]:
        """Status and body."""
        command = ["curl", "-s", "--path-as-is", "--cacert", f"{self.folder}/cert.pem", "-w", "\n%{http_code}"]
        command += ["--resolve", f"{NAME}:{self.port}:127.0.0.1", *(["-u", "anna:secret"] if password else [])]
        output = subprocess.run(
            [*command, *options, f"https://{NAME}:{self.port}{path}"], capture_output=True, text=True, timeout=60
        ).stdout
        body, _, status = output.rpartition("\n")
        return int(status), body


@pytest.fixture(scope="module")
def proxy(tagger: Tagger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    name = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    subprocess.run(["openssl", "req", "-x509", *key, *name], cwd=folder, check=True, capture_output=True)
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "secret"], capture_output=True, text=True, check=True)
    (folder / "htpasswd").write_text(f"anna:{hashed.stdout}")
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    found = re.search(r"```nginx\n(.+?)```", page, re.DOTALL)
    assert found is not None
    with listening(tagger, Limits(), hosts=[NAME]) as (_, upstream):
        block = found[1]
        for before, after in {
            "listen 443": f"listen 127.0.0.1:{port}",
            f"/etc/letsencrypt/live/{NAME}/fullchain.pem": f"{folder}/cert.pem",
            f"/etc/letsencrypt/live/{NAME}/privkey.pem": f"{folder}/key.pem",
            "/etc/nginx/tags.htpasswd": f"{folder}/htpasswd",
            "127.0.0.1:8000": f"127.0.0.1:{upstream}",
        }.items():
            assert block.count(before) == 1, before
            block = block.replace(before, after)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder, block=block))
        process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
        try:
            proxy = Proxy(folder, port)
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield proxy
        finally:
            process.terminate()
            process.wait(20)


def test_it_asks_for_the_password(proxy: Proxy) -> None:
    assert proxy.ask("/tags/", password=False)[0] == 401
    assert proxy.ask("/tags/v1/limits", password=False)[0] == 401
    status, page = proxy.ask("/tags/")
    assert (status, "<title>" in page) == (200, True)
    for name in re.findall(r'(?:href|src)="([\w.]+\.(?:css|js|svg))"', page):
        assert proxy.ask(f"/tags/{name}")[0] == 200, name


@pytest.mark.parametrize("chunked", [[], ["--http1.1", "-H", "Transfer-Encoding: chunked"]])
def test_a_photo_is_tagged_as_its_page_sends_it(proxy: Proxy, chunked: list[str]) -> None:
    """On another port than 443, where Host and Origin have it."""
    origin = ["-H", f"Origin: https://{NAME}:{proxy.port}", "-H", "Sec-Fetch-Site: same-origin"]
    form = ["-F", f"files=@{ROOT}/examples/cat.jpg", "-F", "labels=cat,dog"]
    status, body = proxy.ask("/tags/v1/tag", *origin, *chunked, *form)
    assert status == 200, body
    assert [tag["label"] for tag in json.loads(body)[0]["tags"]] == ["cat"]
    assert proxy.ask("/tags/v1/tag", "-H", "Origin: https://evil.example", *form)[0] == 403


def test_large_photos_are_not_written_to_the_disk(proxy: Proxy) -> None:
    photo = proxy.folder / "large.png"
    photo.write_bytes(picture(700))
    assert photo.stat().st_size > 1_000_000
    assert proxy.ask("/tags/v1/tag", "-F", f"files=@{photo}", "-F", "labels=cat")[0] == 200
    assert "temporary file" not in (proxy.folder / "error.log").read_text()


def test_an_answer_before_the_end_of_a_photo_arrives(proxy: Proxy) -> None:
    """A busy server answers 429 before it has read the photo, and a refusal comes as early."""
    photo = proxy.folder / "larger.bin"
    photo.write_bytes(bytes(5_000_000))
    for _ in range(8):
        status, body = proxy.ask("/tags/v1/tag", "-H", "Origin: https://evil.example", "-F", f"files=@{photo}")
        assert status == 403, body


def test_the_limits_of_both_agree(proxy: Proxy) -> None:
    photo = proxy.folder / "large.bin"
    for size, refused_by in ((40_000_000, "the server"), (70_000_000, "nginx")):
        with photo.open("wb") as file:
            file.truncate(size)
        status, body = proxy.ask("/tags/v1/tag", "-F", f"files=@{photo}")
        assert status == 413, body
        assert ("nginx" in body) == (refused_by == "nginx")
    photo.unlink()


@pytest.mark.parametrize("path", ["metrics", "/metrics", "%6detrics", "x/../metrics"])
def test_metrics_stay_here(proxy: Proxy, path: str) -> None:
    assert proxy.ask(f"/tags/{path}")[0] == 403
