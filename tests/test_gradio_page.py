"""The demo of docs/gradio.md tags; Gradio is no dependency, so that this runs only where somebody has installed it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from paths import ROOT
from PIL import Image

pytestmark = pytest.mark.slow


def test_the_demo_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("gradio")
    monkeypatch.chdir(ROOT)
    block = re.search(r"```py\n(.*?)```", (ROOT / "docs" / "gradio.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block
    names: dict[str, Any] = {"__name__": "demo"}
    exec(compile(block[1], "docs/gradio.md", "exec"), names)
    photo = Image.open("examples/cat.jpg")
    assert list(names["tag"](photo, "beach, cat")) == ["cat"]
    assert "cat" in names["tag"](photo, " ,")
    with pytest.raises(gradio.Error, match=r"unknown label 'qwxz'"):
        names["tag"](photo, "qwxz")
