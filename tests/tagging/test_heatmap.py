"""Heat maps: against a slow loop and by what they show; the pictures that ``tag --heatmap`` writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import run_command, write_photo
from PIL import Image

from zsl_tagger import Tagger, UserError
from zsl_tagger.images.preprocessing import Preprocessing, load_photo
from zsl_tagger.tagging.heatmap import OVERLAY_SIDE, HeatmapFolder, _file_names, _inside, overlay, relative_maps


def test_maps_equal_a_slow_loop() -> None:
    random = np.random.default_rng(3)
    attention, usual = random.random((5, 49)).astype(np.float32), random.random(49).astype(np.float32)
    weights = (0.25, 0.5, 0.25)
    expected = np.zeros((5, 7, 7))
    for label in range(5):
        more = (attention[label] - usual).reshape(7, 7)
        for row in range(7):
            for column in range(7):
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        near = more[min(max(row + down, 0), 6), min(max(column + right, 0), 6)]
                        expected[label, row, column] += weights[down + 1] * weights[right + 1] * near
        expected[label] = np.maximum(expected[label], 0) / expected[label].max()
    assert relative_maps(attention, usual) == pytest.approx(expected, abs=1e-6)


def test_a_label_looked_for_as_any_other_has_an_empty_map() -> None:
    usual = np.full(9, 1 / 9, np.float32)
    assert (relative_maps(usual[None], usual) == 0).all()


def test_tokens_of_several_feature_maps_have_no_place() -> None:
    with pytest.raises(UserError, match="no heat maps: its 245 tokens are not one square grid"):
        relative_maps(np.zeros((1, 245), np.float32), np.zeros(245, np.float32))


def test_a_map_does_not_depend_on_the_other_labels(tagger: Tagger, examples: Path) -> None:
    encoded = tagger.encode(examples / "cat.jpg")
    together = tagger.heatmap(encoded, ["cat", "wheel", "sky"])
    assert together.shape == (3, 12, 12)
    assert together.max(axis=(1, 2)) == pytest.approx(1)
    assert together.min() >= 0
    assert tagger.heatmap(encoded, ["cat"])[0] == pytest.approx(together[0], abs=1e-5)


@pytest.mark.parametrize(
    ("label", "shows", "other"),
    [
        ("cat", "cat", "rocket"),
        ("cup", "coffee", "rocket"),
        ("person", "astronaut", "coffee"),
        ("mug", "coffee", "cat"),
    ],
)
def test_the_map_moves_with_the_object(tagger: Tagger, examples: Path, label: str, shows: str, other: str) -> None:
    """Two photos side by side and the other way round: the map follows the photo that shows the label."""
    halves = [load_photo(examples / f"{name}.jpg", 384).resize((384, 768)) for name in (shows, other)]
    left_shares = []
    for pair in (halves, halves[::-1]):
        mosaic = np.concatenate([np.asarray(half) for half in pair], axis=1)
        heat = tagger.heatmap(tagger.encode(mosaic), [label])[0]
        left_shares.append(float(heat[:, :6].sum() / heat.sum()))
    assert left_shares[0] > 0.5 > left_shares[1], left_shares


def test_the_overlay_is_the_photo_where_it_was_looked_at() -> None:
    photo = Image.new("RGB", (120, 80), (40, 90, 200))
    heat = np.zeros((4, 4), np.float32)
    heat[:, 2:] = 1
    shown = np.asarray(overlay(photo, heat)).astype(int)
    assert shown.shape == (80, 120, 3)
    assert np.ptp(shown[40, 5]) == 0  # grey where not
    assert shown[40, 5, 0] < 45
    seen = 0.75 * np.array([40, 90, 200]) + 0.25 * np.array([255, 120, 0])
    assert shown[40, 115] == pytest.approx(seen, abs=1)


def test_the_overlay_is_grey_where_the_model_saw_nothing() -> None:
    """Cover only the middle of a photo with the map where the model sees only that."""
    photo = Image.new("RGB", (200, 80), (40, 90, 200))
    part = Preprocessing(64, "center_crop", crop_pct=1.0).seen_part(*photo.size)
    assert part == (0.3, 0, 0.7, 1)
    shown = np.asarray(overlay(photo, np.ones((4, 4), np.float32), part)).astype(int)
    assert np.ptp(shown[:, :60], axis=2).max() == np.ptp(shown[:, 140:], axis=2).max() == 0
    assert shown[:, :60].max() < 45
    np.testing.assert_allclose(shown[:, 60:140], np.broadcast_to([94, 98, 150], (80, 80, 3)), atol=1)
    heat = np.random.default_rng(2).random((4, 4), np.float32)
    assert overlay(photo, heat, (0, 0, 1, 1)) == overlay(photo, heat)


@pytest.mark.parametrize("size", [(800, 1), (1, 800), (3, 2)])
def test_an_overlay_of_a_strip(size: tuple[int, int]) -> None:
    part = Preprocessing(64, "center_crop", crop_pct=0.9).seen_part(*size)
    assert overlay(Image.new("RGB", size), np.ones((4, 4), np.float32), part).size == size


def test_pictures_of_a_cut_photo_show_where_it_was_cut(tmp_path: Path) -> None:
    Image.new("RGB", (300, 100), (40, 90, 200)).save(tmp_path / "a.png")
    cut = Preprocessing(64, "center_crop", crop_pct=1.0)
    folder = HeatmapFolder(tmp_path / "maps", [])
    folder.write(str(tmp_path / "a.png"), ["sky"], np.ones((1, 4, 4), np.float32), cut)
    (picture,) = (tmp_path / "maps").rglob("sky.jpg")
    shown = np.asarray(Image.open(picture)).astype(int)
    assert np.ptp(shown[50, 40]) < 8 < np.ptp(shown[50, 150])


def pictures(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_picture_for_each_tag(examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes((examples / "cat.jpg").read_bytes())
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "photos" / "cat.jpg").read_bytes()
    status, stdout, _ = run_command("tag", "photos", "--labels", "cat,dog,Pet", "--heatmap", "maps")
    assert status == 1
    assert re.search(r"bad.jpg\n  error: not an image", stdout)
    assert pictures(tmp_path / "maps") == ["photos/cat.jpg/Pet.jpg", "photos/cat.jpg/cat.jpg"]
    with Image.open(tmp_path / "maps/photos/cat.jpg/cat.jpg") as picture, Image.open(examples / "cat.jpg") as photo:
        assert picture.size[0] / picture.size[1] == pytest.approx(photo.size[0] / photo.size[1], abs=0.01)
        assert max(picture.size) <= OVERLAY_SIDE
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == before


def test_the_ten_best_tags_or_as_many_as_asked(examples: Path, tmp_path: Path) -> None:
    options = ["tag", str(examples / "cat.jpg"), "--threshold", "0", "--heatmap"]
    run_command(*options, str(tmp_path / "ten"))
    run_command(*options, str(tmp_path / "thirteen"), "--top-k", "13")
    assert len(pictures(tmp_path / "ten")) == 10
    assert len(pictures(tmp_path / "thirteen")) == 13


def test_a_folder_among_the_photos_is_refused(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg", 1)
    status, stdout, stderr = run_command("tag", str(tmp_path), "--heatmap", str(tmp_path / "maps"))
    assert (status, stdout) == (2, "")
    assert re.search(
        r"error: the folder of heat maps .*maps is inside .*, which is tagged: give a folder outside it\n", stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_folder_that_cannot_be_written(examples: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    status, _, stderr = run_command("tag", str(examples / "cat.jpg"), "--heatmap", str(tmp_path / "file"))
    assert status == 2
    assert re.search(r"^error: cannot write .*file: ", stderr)
    assert "Traceback" not in stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("path", "expected"), [("a/b.jpg", "a/b.jpg"), ("/x/b.jpg", "x/b.jpg"), ("./b.jpg", "b.jpg")])
def test_where_a_photo_s_pictures_are(path: str, expected: str) -> None:
    assert _inside(path) == Path(expected)


def test_no_step_up_leaves_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _inside("../b.jpg") == (tmp_path.parent / "b.jpg").relative_to("/")


@given(st.lists(st.text(max_size=120) | st.text("\U00020000\U00020001", min_size=70), max_size=12))
def test_file_names_are_safe_and_different(labels: list[str]) -> None:
    names = _file_names(labels)
    assert len({name.lower() for name in names}) == len(labels)
    assert all(Path(name).name == name and len(name.encode()) < 255 and not name.startswith(".") for name in names)


@pytest.mark.slow
def test_a_closed_set_has_maps_of_its_classes(animal_model: Path) -> None:
    closed = Tagger(animal_model)
    names = closed.vocabulary.labels
    heats = closed.heatmap(closed.encode(Image.new("RGB", (64, 64), "red")), names)
    assert heats.shape[0] == len(names)
    assert heats.shape[1] == heats.shape[2] > 1
    assert np.isfinite(heats).all()
