"""The packaged tagger through its Python API."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsl_tagger import ImageError, Tagger, UnknownLabelError, UserError
from zsl_tagger.tagging.encoded import Encoded

pytestmark = pytest.mark.slow


def test_right_words_win_on_the_example_photos(tagger: Tagger, examples: Path) -> None:
    words = {"cat": "cat", "coffee": "cup", "astronaut": "person", "rocket": "sky"}
    for photo, word in words.items():
        scores = tagger.scores(tagger.encode(examples / f"{photo}.jpg"), list(words.values()))[0]
        assert list(words.values())[int(scores.argmax())] == word


def test_default_vocabulary_gives_a_short_list_with_the_main_thing(tagger: Tagger, examples: Path) -> None:
    tags = tagger.tag(examples / "cat.jpg")
    assert "cat" in [tag.label for tag in tags]
    assert len(tags) <= 25
    assert [tag.score for tag in tags] == sorted((tag.score for tag in tags), reverse=True)


def test_default_vocabulary_is_large_and_its_labels_are_distinct(tagger: Tagger) -> None:
    labels = tagger.vocabulary.labels
    assert len(labels) >= 1500
    assert len(set(labels)) == len(labels)
    assert ((tagger.vocabulary.thresholds > 0) & (tagger.vocabulary.thresholds < 1)).all()


def test_path_pil_image_and_array_give_the_same_scores(tagger: Tagger, examples: Path) -> None:
    path = examples / "coffee.jpg"
    with Image.open(path) as image:
        whole = image.convert("RGB")
    expected = tagger.scores(tagger.encode(whole), ["cup", "spoon"])
    for source in (str(path), path, np.asarray(whole)):
        np.testing.assert_allclose(tagger.scores(tagger.encode(source), ["cup", "spoon"]), expected, atol=1e-5)


def test_a_score_does_not_depend_on_the_other_labels(tagger: Tagger, examples: Path) -> None:
    encoded = tagger.encode(examples / "astronaut.jpg")
    labels = tagger.vocabulary.labels[:211]
    together = tagger.scores(encoded, labels)[0]
    for index in (0, 97, 210):
        assert tagger.scores(encoded, [labels[index]])[0, 0] == pytest.approx(together[index], abs=1e-5)


def test_a_score_does_not_depend_on_the_batch(tagger: Tagger, examples: Path) -> None:
    paths = sorted(examples.glob("*.jpg"))
    encoded = [tagger.encode(path) for path in paths]
    classes = [one.classes for one in encoded if one.classes is not None]
    batch = Encoded(np.concatenate([one.tokens for one in encoded]), np.concatenate(classes) if classes else None)
    together = tagger.scores(batch, ["person", "cat", "cup"])
    alone = np.concatenate([tagger.scores(one, ["person", "cat", "cup"]) for one in encoded])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 3])
def test_many_images_come_in_order_and_equal_single_ones(tagger: Tagger, examples: Path, workers: int) -> None:
    paths = sorted(examples.glob("*.jpg")) * 4
    records = list(Tagger(workers=workers).tag_many(paths, ["person", "cat"], threshold=0))
    assert [record.path for record in records] == [str(path) for path in paths]
    for record in records:
        assert dict(record.tags) == pytest.approx(
            dict(tagger.tag(record.path, ["person", "cat"], threshold=0)), abs=1e-5
        )


def test_many_images_of_any_kind_are_named_by_their_file_or_their_place(tagger: Tagger, examples: Path) -> None:
    path = examples / "cat.jpg"
    content = path.read_bytes()
    with path.open("rb") as file, Image.open(path) as image:
        sources = [path, content, file, image, io.BytesIO(content), b"no image"]
        records = list(tagger.tag_many(sources, ["cat"], top_k=1))
    assert [record.path for record in records] == [
        str(path), "images[1]", str(path), str(path), "images[4]", "images[5]"
    ]  # fmt: skip
    assert [[tag.label for tag in record.tags] for record in records] == [["cat"]] * 5 + [[]]
    assert records[5].error == "not an image that Pillow can read"


@pytest.mark.parametrize("single", ["photo.jpg", Path("photo.jpg"), b"", Image.new("L", (4, 4)), io.BytesIO()])
def test_one_image_where_many_are_expected(tagger: Tagger, single: Any) -> None:
    with pytest.raises(UserError, match=r"^expected several images, got a single \w+: write \[image\]$"):
        tagger.tag_many(single, ["cat"])
    with pytest.raises(UserError, match=r"^expected several images, got an array of shape \(4, 4, 3\): write"):
        tagger.tag_many(np.zeros((4, 4, 3), np.uint8), ["cat"])


def test_an_image_of_no_known_kind_ends_a_run_over_many(tagger: Tagger) -> None:
    with pytest.raises(UserError, match=r"^expected a path .*; got int$"):
        list(tagger.tag_many([3], ["cat"]))  # type: ignore[list-item]


def test_a_heat_map_of_an_image_is_that_of_its_encoding(tagger: Tagger, examples: Path) -> None:
    path = examples / "cat.jpg"
    expected = tagger.heatmap(tagger.encode(path), ["cat"])
    np.testing.assert_array_equal(tagger.heatmap(path.read_bytes(), ["cat"]), expected)


@pytest.mark.parametrize("method", ["scores", "tag_encoded"])
def test_what_is_no_encoded_image(tagger: Tagger, examples: Path, method: str) -> None:
    for thing in (examples / "cat.jpg", np.zeros((1, 144, 512), np.float32), None):
        with pytest.raises(UserError, match=rf"^expected what Tagger\.encode.* returns, got {type(thing).__name__}$"):
            getattr(tagger, method)(thing, ["cat"])
    for shape in ((1, 144, 3), (144, 512)):
        with pytest.raises(UserError, match=r"^tokens of shape \(.*\) are not from this model: encode the image with"):
            getattr(tagger, method)(Encoded(np.zeros(shape, np.float32)), ["cat"])


def test_unreadable_images_become_error_records_and_the_rest_goes_on(tagger: Tagger, examples: Path) -> None:
    records = list(tagger.tag_many(["missing.jpg", examples / "cat.jpg"], ["cat"], threshold=0))
    assert records[0].as_dict() == {"path": "missing.jpg", "error": "no such file"}
    assert records[1].error is None


def test_labels_in_chunks_equal_labels_at_once(tagger: Tagger, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = tagger.encode(examples / "cat.jpg")
    expected = tagger.scores(encoded, tagger.vocabulary)
    monkeypatch.setattr("zsl_tagger.tagging.onnx_model.LABELS_PER_CALL", 97)
    np.testing.assert_allclose(tagger.scores(encoded, tagger.vocabulary), expected, atol=1e-5)


def test_top_k_and_threshold_zero(tagger: Tagger, examples: Path) -> None:
    everything = tagger.tag(examples / "cat.jpg", ["cat", "dog", "car"], threshold=0)
    assert len(everything) == 3
    assert tagger.tag(examples / "cat.jpg", ["cat", "dog", "car"], threshold=0, top_k=2) == everything[:2]
    assert tagger.tag(examples / "cat.jpg", ["cat", "dog", "car"], threshold=1.0) == []


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "label list is empty"),
        ("cat", {}, "got the single string 'cat'"),
        (["cat"], {"threshold": 1.5}, r"threshold in 0\.\.1, got 1\.5"),
        (["cat"], {"threshold": float("nan")}, r"threshold in 0\.\.1, got nan"),
        (["cat"], {"top_k": 0}, "top_k of at least 1, got 0"),
    ],
)
def test_bad_arguments(tagger: Tagger, examples: Path, labels: list[str], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tagger.tag(examples / "cat.jpg", labels, **options)


def test_no_workers() -> None:
    with pytest.raises(UserError, match="at least 1 worker, got 0"):
        Tagger(workers=0)


def test_unknown_labels_are_all_named_with_suggestions(tagger: Tagger) -> None:
    with pytest.raises(UnknownLabelError, match=r"'zebrra', did you mean 'zebra'.*'qqqqqq'"):
        tagger.label_set(["zebrra", "cat", "qqqqqq"])


def test_unreadable_image(tagger: Tagger) -> None:
    with pytest.raises(ImageError, match="no such file"):
        tagger.tag("missing.jpg", ["cat"])


def test_a_plural_has_the_threshold_of_its_singular(tagger: Tagger) -> None:
    assert tagger.label_set(["Dogs"]).thresholds == tagger.label_set(["dog"]).thresholds
    assert tagger.vocabulary.without([tagger.key("skies")]).labels == [
        label for label in tagger.vocabulary.labels if label != "sky"
    ]


def test_a_label_with_an_article_is_its_noun(tagger: Tagger) -> None:
    assert (tagger.label_set(["a dog"]).queries == tagger.label_set(["dog"]).queries).all()
