"""The examples of docs/onnx.md compute what ``Tagger`` computes."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from made_data import needs_tool
from paths import ROOT

from zsl_tagger.assets import PACKAGED
from zsl_tagger.images.preprocessing import load_array
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
#: Words that name a class and that lie above some, others, a phrase, and one that was never trained.
LABELS = ["cat", "lion", "big cat", "animal", "beach", "T-shirt", "purple bicycle", "theorem"]


def block(language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    """The packaged model without the file that the page says to delete."""
    folder = Path(shutil.copytree(PACKAGED, tmp_path_factory.mktemp("packaged") / "model"))
    (folder / "class_vectors.npy").unlink()
    return Tagger(folder)


@pytest.fixture(scope="module")
def python() -> dict[str, Any]:
    """The names that the Python example defines."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        exec(compile(block("python"), "docs/onnx.md", "exec"), names)
    return names


@pytest.mark.parametrize("photo", ["cat.jpg", "rocket.jpg", "coffee.jpg"])
def test_the_python_example_gives_the_scores_of_tagger(
    python: dict[str, Any], tagger: Tagger, examples: Path, photo: str
) -> None:
    labels = [*LABELS, *tagger.vocabulary.labels]
    expected = tagger.scores(tagger.encode(examples / photo), labels)[0]
    assert np.array_equal(python["pixels"](examples / photo), load_array(examples / photo, tagger.preprocessing))
    assert python["scores"](examples / photo, labels) == pytest.approx(expected, abs=1e-5)


def test_the_python_example_has_the_thresholds_of_tagger(
    python: dict[str, Any], tagger: Tagger, examples: Path
) -> None:
    labels = tagger.vocabulary.unfolded()
    of_tagger = {tag.label for tag in tagger.tag(examples / "cat.jpg", labels)}
    scores = python["scores"](examples / "cat.jpg", labels.labels)
    thresholds = [python["listed"][label]["threshold"] for label in labels.labels]
    assert {labels.labels[k] for k in np.flatnonzero(scores >= thresholds)} == of_tagger


class Runtime(SimpleHTTPRequestHandler):
    """Serve the packaged model and the example, and run the networks for a page that has no ONNX Runtime."""

    def __init__(self, *args: Any):
        super().__init__(*args, directory=str(PACKAGED))

    def log_message(self, *_: Any) -> None: ...

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        made = {"/page": (PAGE_OF_TEST, "text/html"), "/ort.js": (STAND_IN, "text/javascript")}
        made["/example.js"] = (block("js"), "text/javascript")
        if self.path in made:
            text, kind = made[self.path]
            self._send(text.encode(), kind)
        elif self.path == "/cat.jpg":
            self._send((ROOT / "examples" / "cat.jpg").read_bytes(), "image/jpeg")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        feeds = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session = opened(self.path)
        arrays = {name: np.array(one["data"], one["type"]).reshape(one["dims"]) for name, one in feeds.items()}
        names = [node.name for node in session.get_outputs()]
        outputs = zip(names, session.run(names, arrays), strict=True)
        answer = {name: {"type": "float32", "data": out.ravel().tolist(), "dims": out.shape} for name, out in outputs}
        self._send(json.dumps(answer).encode(), "application/json")


@cache
def opened(path: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(PACKAGED / path.lstrip("/"))


@pytest.fixture
def served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Runtime) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


#: Stands for onnxruntime-web, which is not a Python package: its networks run in Python.
STAND_IN = """
export class Tensor {
  constructor(type, data, dims) { Object.assign(this, { type, data: Array.from(data), dims }); }
}
export class InferenceSession {
  static async create(url) { return Object.assign(new InferenceSession(), { url }); }
  async run(feeds) {
    return (await fetch(this.url, { method: "POST", body: JSON.stringify(feeds) })).json();
  }
}
"""
PAGE_OF_TEST = """<script type="importmap">{"imports": {"onnxruntime-web": "/ort.js"}}</script>"""
PROGRAM = """async ([labels, given]) => {
  const { loadModel, pixels, scores } = await import("/example.js");
  const model = await loadModel("");
  const photo = await createImageBitmap(await (await fetch("/cat.jpg")).blob());
  const seen = pixels(photo, model.config.preprocessing.image_size);
  return [await scores(model, Uint8Array.from(atob(given), (c) => c.charCodeAt(0)), labels),
          await scores(model, seen, labels)];
}"""


@needs_tool("chromium")
@pytest.mark.browser
def test_the_javascript_example_gives_the_scores_of_tagger(tagger: Tagger, examples: Path, served: str) -> None:
    """In a browser, with the pixels of Tagger and with its own; without onnxruntime-web."""
    from playwright.sync_api import sync_playwright

    given = load_array(examples / "cat.jpg", tagger.preprocessing)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto(f"{served}/page")
        exact, close = page.evaluate(PROGRAM, [LABELS, base64.b64encode(given.tobytes()).decode()])
        chromium.close()
    expected = tagger.scores(tagger.encode_pixels(given), LABELS)[0]
    assert exact == pytest.approx(expected, abs=1e-5)
    assert close == pytest.approx(expected, abs=0.02)
