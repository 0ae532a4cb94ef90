"""A model folder that says "center_crop": every part of the program reads a photo as the folder says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zsl_tagger import Tagger
from zsl_tagger.assets import PACKAGED
from zsl_tagger.bulk.engine import TagRequest
from zsl_tagger.bulk.settings import settings_of
from zsl_tagger.images.preprocessing import Preprocessing, load_array
from zsl_tagger.search.library import _fingerprint

LABELS = ["cat", "cup", "sky"]


@pytest.fixture(scope="module")
def cutting(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    """Return the packaged model, set to cut photos."""
    folder = tmp_path_factory.mktemp("cutting")
    for path in PACKAGED.iterdir():
        if path.is_file() and path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((PACKAGED / "config.json").read_text(encoding="utf-8"))
    config["preprocessing"] |= {"resize": "center_crop", "crop_pct": 0.8, "interpolation": "bilinear"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tagger(folder)


def test_the_tags_are_those_of_the_cut_photo(cutting: Tagger, tagger: Tagger, examples: Path) -> None:
    photo = examples / "coffee.jpg"
    cut = load_array(photo, Preprocessing(cutting.image_size, "center_crop", "bilinear", crop_pct=0.8))
    expected = tagger.scores(tagger.encode(cut), LABELS)
    np.testing.assert_allclose(cutting.scores(cutting.encode(photo), LABELS), expected, atol=1e-6)
    assert np.abs(tagger.scores(tagger.encode(photo), LABELS) - expected).max() > 1e-3


def test_records_and_indexes_of_other_pixels_are_not_gone_on_with(cutting: Tagger, tagger: Tagger) -> None:
    found = [settings_of(one, TagRequest(labels=one.label_set(LABELS)))["preprocessing"] for one in (tagger, cutting)]
    assert found == [1, "1, center_crop 0.8, bilinear"]
    own, other = (_fingerprint(one, one.plain_label_set(LABELS)) for one in (tagger, cutting))
    assert own != other


def test_the_server_says_which_part_was_seen(cutting: Tagger, examples: Path) -> None:
    pytest.importorskip("fastapi")
    from zsl_tagger.serve.limits import Limits
    from zsl_tagger.serve.tagging import PhotoTagger
    from zsl_tagger.serve.uploads import Photo

    path = examples / "coffee.jpg"
    serving = PhotoTagger(cutting, Limits())
    photo = Photo(path.name, path.read_bytes())
    record = serving.tag(photo, ("cup",), threshold=0.0, top_k=None, heatmaps=1)
    assert record["seen"] == cutting.preprocessing.seen_part(600, 400)
    (tag,) = cutting.tag(path, ["cup"], threshold=0.0)
    assert record["tags"][0]["score"] == pytest.approx(tag.score, abs=1e-4)
    assert "seen" not in serving.tag(photo, ("cup",), threshold=0.0, top_k=None, heatmaps=0)
