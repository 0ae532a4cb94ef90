"""A Hugging Face Hub on loopback that answers the few requests of a download and an upload."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class SmallHub(ThreadingHTTPServer):
    """Repositories by name, each with the files of its commits.

    Attributes:
        commits: repository -> commit hash -> files.
        branches: repository -> branch or tag -> commit hash.
        refused: repository -> the code that the hub refuses it with, such as "GatedRepo".
        requests: methods and paths, in the order they came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.refused: dict[str, str] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, files: Files, branch: str = "main") -> str:
        """Add a commit with these files, and return its hash."""
        commits = self.commits.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def downloaded(self) -> list[str]:
        """Return the names of the files that were downloaded."""
        found = (re.search(r"^GET /[^/]+/[^/]+/resolve/\w+/(.+)", line) for line in self.requests)
        return sorted(line[1] for line in found if line)


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        asked = asked or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/(\w+)/.+", path)
        if asked is None:
            self._send(404)
            return
        repo, kind, revision = asked.groups()
        commits = self.server.commits.get(repo)
        if commits is None:
            self._send(401, X_Error_Code="RepoNotFound")
            return
        if repo in self.server.refused:
            self._send(403, X_Error_Code=self.server.refused[repo])
            return
        commit = self.server.branches[repo].get(revision, revision)
        if commit not in commits:
            self._send(404, X_Error_Code="RevisionNotFound")
        elif kind == "resolve":
            self._file(commit, commits[commit][path.partition(f"/resolve/{revision}/")[2]])
        else:
            self._listing(kind, repo, commit, commits[commit])

    do_HEAD = do_GET  # noqa: N815

    def _file(self, commit: str, content: bytes) -> None:
        self._send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)

    def _listing(self, kind: str, repo: str, commit: str, files: Files) -> None:
        if kind == "revision":
            self._json({"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]})
            return
        oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
        self._json([{"type": "file", "path": name, "size": len(files[name]), "oid": oids[name]} for name in files])

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(f"POST {path}")
        if path == "/api/repos/create":
            made = json.loads(body)
            self._json({"url": f"{self.server.url}/{made['organization']}/{made['name']}"})
        elif path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        else:
            repo, _, branch = path.removeprefix("/api/models/").partition("/commit/")
            entries = [json.loads(line) for line in body.splitlines()]
            files = {
                entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
                for entry in entries
                if entry["key"] == "file"
            }
            commit = self.server.commit(repo, files, branch)
            self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})


@contextmanager
def small_hub() -> Iterator[SmallHub]:
    with SmallHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
