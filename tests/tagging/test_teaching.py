"""Teach a tagger a tag by a few photos, and ask it like any other word."""

from __future__ import annotations

import json
import re
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_data import write_photo
from PIL import Image

from zsl_tagger import Tagger, UserError
from zsl_tagger.bulk.engine import TagRequest
from zsl_tagger.bulk.settings import settings_of
from zsl_tagger.tagging import tagger as tagger_module
from zsl_tagger.tagging.reader import Reader
from zsl_tagger.tagging.taught import Example, TaughtFolder, TaughtTag, checked_name, read_tags, write_tags


def crop(path: Path, number: int, target: Path) -> str:
    """Write one of ten parts of a photo."""
    with Image.open(path) as image:
        side = min(image.size) // 2
        left, top = number % 5 * (image.width - side) // 4, number // 5 * (image.height - side)
        image.crop((left, top, left + side, top + side)).convert("RGB").save(target)
    return str(target)


@pytest.fixture(scope="module")
def cups(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> list[str]:
    """Parts of one photo of a cup, which are the thing to learn."""
    folder = tmp_path_factory.mktemp("cups")
    return [crop(examples / "coffee.jpg", number, folder / f"{number}.png") for number in range(6)]


@pytest.fixture
def own(tmp_path: Path) -> Tagger:
    """A tagger that keeps its tags in a folder of the test."""
    return Tagger(taught=tmp_path / "taught")


def test_a_taught_tag_is_a_word_like_any_other(own: Tagger, cups: list[str], examples: Path, tmp_path: Path) -> None:
    tag = own.teach("our Cup", cups[:4])
    assert (tag.name, tag.positives) == ("our Cup", 4)
    assert 3 <= tag.found <= 4
    for tagger in (own, Tagger(taught=tmp_path / "taught")):  # also another program
        assert "our Cup" in [tag.label for tag in tagger.tag(cups[5])]
        assert "our Cup" not in [tag.label for tag in tagger.tag(examples / "rocket.jpg")]
        asked = tagger.tag(cups[5], ["our cups", "dog"], threshold=0)
        assert [tag.label for tag in asked] == ["our cups", "dog"]
    assert "our Cup" not in own.default_labels
    with pytest.raises(UserError, match="unknown label 'our Cupx'"):
        own.tag(cups[5], ["our Cupx"])


def test_its_score_does_not_depend_on_other_labels(
    own: Tagger, cups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own.teach("our cup", cups[:3])
    encoded = own.encode(cups[4])
    alone = own.scores(encoded, ["our cup"])[0, 0]
    assert own.scores(encoded, ["dog", "our cup"])[0, 1] == pytest.approx(alone, abs=1e-6)
    monkeypatch.setattr(tagger_module, "EXACT_UP_TO", 10)  # a shortlist of words, and every taught tag
    found = {tag.label: tag.score for tag in own.tag_encoded(encoded, threshold=0.01)}
    assert found["our cup"] == pytest.approx(alone, abs=1e-6)


def test_it_has_a_heat_map(own: Tagger, cups: list[str]) -> None:
    own.teach("our cup", cups[:3])
    maps = own.heatmap(cups[4], ["our cup", "cup"])
    assert maps.shape == (2, 12, 12)
    assert maps[0].max() == 1
    assert not np.allclose(maps[0], maps[1])


def test_labels_that_are_left_out_or_shifted_take_their_readers_along(own: Tagger, cups: list[str]) -> None:
    own.teach("our cup", cups[:3])
    encoded = own.encode(cups[4])
    labels = own.label_set(["dog", "our cup", "cat"])
    score = own.scores(encoded, labels)[0, 1]
    for changed, place in ((labels.without(["dog"]), 0), (labels.unfolded(), 1), (labels.shifted(1.0), 1)):
        assert own.scores(encoded, changed)[0, place] == score
    assert labels.shifted(1.0).thresholds[1] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_a_known_word_is_refined_or_kept(own: Tagger, cups: list[str], tagger: Tagger) -> None:
    plain = tagger.tag(cups[4], ["cup"], threshold=0)[0].score
    own.teach("cup", cups[:3], new=True)
    both = {tag.label: tag.score for tag in own.tag(cups[4], ["cup", "cup (taught)"], threshold=0)}
    assert both["cup"] == pytest.approx(plain, abs=1e-6)
    own.teach("cup", cups[:3])
    assert own.tag(cups[4], ["cup"], threshold=0)[0].score != pytest.approx(plain, abs=1e-6)
    assert own.taught["cup"].reader.word == "cup"
    assert own.taught["cup (taught)"].reader.word is None
    assert [*own.vocabulary.keys].count("cup") == 1


def test_a_word_that_it_is_like_is_used(own: Tagger, cups: list[str]) -> None:
    assert own.teach("xyzzy", cups[:3], like="Cups").reader.word == "cup"
    with pytest.raises(UserError, match="unknown label 'cupp'"):
        own.teach("xyzzy", cups[:3], like="cupp")


# --- examples


def test_examples_are_kept_and_added_to(own: Tagger, cups: list[str]) -> None:
    own.teach("our cup", cups[:3])
    tag = own.teach("Our cup", cups[3:4], [cups[0]])  # now it is no example any more
    kept = {Path(example.path).stem: example.positive for example in tag.examples}
    assert kept == {"0": False, "1": True, "2": True, "3": True}
    assert {example.path for example in own.teach("our cup").examples} == set(cups[:4])
    assert {example.path for example in own.teach("our cup", like="cup").examples} == set(cups[:4])  # looked at again
    assert len(own.taught_folder.tags()) == 1


def test_examples_can_be_forgotten(own: Tagger, cups: list[str], examples: Path) -> None:
    own.teach("our cup", cups[:4], [examples / "cat.jpg"])
    tag = own.teach("our cup", forget=[cups[0], str(examples / "cat.jpg")])
    assert {example.path for example in tag.examples} == set(cups[1:4])
    with pytest.raises(UserError, match="got 2"):
        own.teach("our cup", forget=[cups[1]])
    assert {example.path for example in own.taught["our cup"].examples} == set(cups[1:4])


def test_earlier_examples_need_not_be_there_any_more(own: Tagger, cups: list[str], tmp_path: Path) -> None:
    """Their features are kept; another model has to see the photos again."""
    copies = [shutil.copy(path, tmp_path) for path in cups[:3]]
    before = own.teach("cup", copies)
    for path in copies:
        Path(path).unlink()
    after = own.teach("cup", cups[3:4])
    assert [example.path for example in after.examples] == [cups[3], *map(str, copies)]
    assert after.examples[1:] == before.examples
    own.taught_folder.remove("cup")
    own.taught_folder.save(replace(after, model="another"))
    with pytest.raises(UserError, match="that can be read, got 1"):
        own.teach("cup")


def test_one_example_is_too_few(own: Tagger, cups: list[str]) -> None:
    with pytest.raises(UserError, match="expected at least 3 different photos of 'our cup' that can be read, got 1"):
        own.teach("our cup", cups[:1])
    assert own.taught == {}


def test_copies_count_once(own: Tagger, cups: list[str], tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    copies = [shutil.copy(cups[0], tmp_path / f"copy{number}.png") for number in range(3)]
    with pytest.raises(UserError, match="3 different photos of 'our cup' that can be read, got 1"):
        own.teach("our cup", copies)
    assert "duplicate photos, each counted once: " in logged.text


def test_yes_and_no_to_the_same_photo(own: Tagger, cups: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.png is given as an example and as a counterexample: give it once"):
        own.teach("our cup", cups[:3], [cups[0]])
    copy = shutil.copy(cups[0], tmp_path / "copy.png")
    with pytest.raises(UserError, match=r"copy\.png is given .* as a counterexample \(as .*0\.png\)"):
        own.teach("our cup", cups[:3], [copy])


def test_unreadable_examples_are_named_and_the_rest_is_enough(
    own: Tagger, cups: list[str], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    assert own.teach("our cup", [*cups[:3], str(broken)]).positives == 3
    assert re.search(r"broken\.jpg: .*; skipped", logged.text)
    with pytest.raises(UserError, match="that can be read, got 2"):
        own.teach("our other cup", [*cups[:2], str(broken)])


def test_photos_that_are_no_files_can_be_examples(own: Tagger, cups: list[str]) -> None:
    pictures = [Image.open(path).convert("RGB") for path in cups[:3]]
    assert [example.path for example in own.teach("our cup", pictures).examples] == [""] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "expected a name for the tag, got ''"),
        (" - ", "expected a name for the tag"),
        ("cat, dog", "contains a comma"),
        ("c#", "contains a comma, a #"),
        ("a\tb", "or a control character"),
        ("our -cat", "a word with a leading minus"),
        ("cat or dog", 'contains the word "or"'),
        ("x" * 101, "at most 100 characters, got 101"),
    ],
)
def test_names_that_could_not_be_asked(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        checked_name(name)


def test_odd_names_that_can_be_asked(own: Tagger, cups: list[str]) -> None:
    for name in ("Oma's Haus", "日本の猫", "cup/blue", "t-shirt no. 5"):
        own.teach(name, cups[:3])
        assert own.tag(cups[4], [name], threshold=0)[0].label == name
    assert len(own.taught_folder.tags()) == 4


def test_two_that_teach_the_same_tag_at_once_lose_nothing(cups: list[str], tmp_path: Path) -> None:
    taggers = [Tagger(taught=tmp_path / "taught") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda tagger, some: tagger.teach("our cup", some), taggers, (cups[:3], cups[3:])))
    examples = Tagger(taught=tmp_path / "taught").taught["our cup"].examples
    assert {example.path for example in examples} == set(cups)


# --- other models


def test_a_tag_of_another_model_is_refused(own: Tagger, cups: list[str], logged: pytest.LogCaptureFixture) -> None:
    for name in ("our cup", "cup"):
        tag = own.teach(name, cups[:3])
        own.taught_folder.remove(name)
        own.taught_folder.save(replace(tag, model="another"))
    own.forget_taught()
    how = "teach it again from its 3 stored examples: zsl-tagger teach 'our cup'"
    with pytest.raises(UserError, match=f"'our cup' was taught to another model.*: {how}"):
        own.tag(cups[4], ["our cup"])
    own.tag(cups[4], ["cup"])
    assert "'cup' was taught to another model; here it is the plain word" in logged.text
    assert own.taught == {}
    own.teach("our cup")
    assert own.tag(cups[4], ["our cup"], threshold=0)


def test_a_model_without_stored_photos_needs_others(
    own: Tagger, cups: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tagger, "_background", None)
    with pytest.raises(UserError, match="no stored photos to compare with: index some photos"):
        own.teach("our cup", cups[:3])
    for seed in range(8):
        write_photo(tmp_path / f"{seed}.jpg", seed)
    own.teach("our cup", cups[:3], [str(tmp_path / f"{seed}.jpg") for seed in range(8)])
    of_cup, of_noise = (own.tag(path, ["our cup"], threshold=0)[0].score for path in (cups[4], tmp_path / "0.jpg"))
    assert of_cup > of_noise


def test_a_tagger_without_taught_tags(own: Tagger, cups: list[str], tmp_path: Path) -> None:
    own.teach("our cup", cups[:3])
    plain = Tagger(taught=False)
    assert plain.taught == {}
    with pytest.raises(UserError, match="created with taught=False"):
        plain.teach("our cup", cups[:3])
    assert Tagger(taught=tmp_path / "elsewhere").taught == {}


def test_tags_of_a_resumed_run_are_those_of_the_same_lesson(own: Tagger, cups: list[str]) -> None:
    def settings() -> object:
        return settings_of(own, TagRequest(labels=own.label_set(["our cup", "dog"])))

    own.teach("our cup", cups[:3])
    before = settings()
    assert settings() == before
    own.teach("our cup", cups[3:4])
    assert settings() != before


# --- files


def made_tag(name: str = "our cup") -> TaughtTag:
    part = np.linspace(1, 2, 5).astype(np.float32)
    examples = (Example("/a.jpg", "11", True), Example("/b.jpg", "22", False))
    return TaughtTag(name, "m", Reader(part, part, part, -0.5, "cup", 0.25), examples, np.zeros((2, 5), np.float16), 1)


def test_a_tag_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_tags(tmp_path / "tags.safetensors", [made_tag(), made_tag("other")])
    back = read_tags(tmp_path / "tags.safetensors")
    assert [tag.name for tag in back] == ["our cup", "other"]
    for part in ("center", "scale", "weights"):
        np.testing.assert_array_equal(getattr(back[0].reader, part), getattr(made_tag().reader, part))
    assert replace(back[0], reader=None, features=None) == replace(made_tag(), reader=None, features=None)  # type: ignore[arg-type]
    assert (back[0].reader.offset, back[0].reader.word, back[0].reader.word_weight) == (-0.5, "cup", 0.25)


def damage(content: bytes, how: str) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    described = json.loads(header["__metadata__"]["taught"])
    if how == "cut":
        return content[:-7]
    if how == "empty":
        return b""
    if how == "not a file of tensors":
        return b"\x80\x04K\x01."  # a pickle
    if how == "no metadata":
        del header["__metadata__"]
    elif how == "another shape":
        header["0.weights"] = header["0.weights"] | {"shape": [5, 1]}
    elif how == "an example less":
        described["tags"][0]["examples"].pop()
    elif how == "not a number":
        described["tags"][0]["offset"] = float("nan")
    elif how == "a name that is a list":
        described["tags"][0]["name"] = "a, b"
    if "__metadata__" in header:
        header["__metadata__"]["taught"] = json.dumps(described)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data


@pytest.mark.parametrize(
    "how",
    [
        "cut", "empty", "not a file of tensors", "no metadata", "another shape", "an example less", "not a number",
        "a name that is a list",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(how: str, tmp_path: Path) -> None:
    path = tmp_path / "tag.safetensors"
    write_tags(path, [made_tag()])
    path.write_bytes(damage(path.read_bytes(), how))
    with pytest.raises(UserError, match=r"tag\.safetensors contains no taught tags, or is damaged: delete it"):
        read_tags(path)
    with pytest.raises(UserError, match=r"tag\.safetensors contains no taught tags"):
        TaughtFolder(tmp_path).tags()


def test_a_file_of_a_later_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tag.safetensors"
    write_tags(path, [made_tag()])
    path.write_bytes(path.read_bytes().replace(b'format_version\\": 1', b'format_version\\": 9'))
    with pytest.raises(UserError, match="has format 9, expected 1: it was written by another version"):
        read_tags(path)


def test_removing_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    folder = TaughtFolder(tmp_path / "taught")
    with folder.kept():
        folder.save(made_tag())
    with pytest.raises(UserError, match="no tag 'our dog' was taught; taught tags: our cup"):
        folder.remove("our dog")
    assert [tag.name for tag in folder.remove("Our Cup")] == ["our cup"]
    assert folder.tags() == []


def test_tags_inside_a_model_folder_come_with_it(own: Tagger, cups: list[str], tmp_path: Path) -> None:
    tag = own.teach("our cup", cups[:3])
    model = tmp_path / "model"
    shutil.copytree(own.folder.path, model)
    (model / "taught").mkdir()
    write_tags(model / "taught" / "ours.safetensors", [tag])
    assert list(Tagger(model, taught=tmp_path / "none").taught) == ["our cup"]
    assert Tagger(model, taught=False).taught == {}
