"""Test tags that are taught while the server runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from zsl_tagger.serve.app import build_app
from zsl_tagger.serve.limits import Limits
from zsl_tagger.tagging.tagger import Tagger

pytestmark = pytest.mark.slow


def test_a_tag_is_known_as_soon_as_another_program_has_taught_it(examples: Path, tmp_path: Path) -> None:
    photos = []
    with Image.open(examples / "coffee.jpg") as image:
        for number in range(4):
            photos.append(tmp_path / f"{number}.jpg")
            image.crop((40 * number, 0, 40 * number + 300, 300)).save(photos[-1])
    tagger = Tagger(workers=1, taught=tmp_path / "taught")
    with TestClient(build_app(tagger, Limits()), base_url="http://localhost") as client:

        def labels(**fields: str) -> list[str]:
            answer = client.post("/v1/tag", files=[("files", ("a.jpg", photos[3].read_bytes()))], data=fields)
            return [tag["label"] for tag in answer.json()[0].get("tags", [])] if answer.status_code == 200 else []

        assert labels(labels="xyzzy") == []
        Tagger(taught=tmp_path / "taught").teach("xyzzy", photos[:3])
        assert labels(labels="xyzzy") == ["xyzzy"]
        assert "xyzzy" in labels()
        tagger.taught_folder.remove("xyzzy")
        assert labels(labels="xyzzy") == []
        assert "xyzzy" not in labels()
