"""Centre crops and filters of load_array: the pixels that timm's and torchvision's evaluation transforms give."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing, load_array, load_small, load_upload, seen_part_of

SIZES = [(97, 131), (160, 97), (64, 64), (61, 200), (75, 63), (333, 250)]  # width, height


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise over a slope: each place looks different, and neighbours differ."""
    random = np.random.default_rng(width)
    slope = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    return Image.fromarray((slope + random.integers(0, 35, (height, width, 3))).astype(np.uint8)).convert(mode)


def cropped(size: int, share: float, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(size, "center_crop", interpolation, crop_pct=share)


def expected_of(image: Image.Image, size: int, share: float, interpolation: str) -> np.ndarray:
    transforms_factory = pytest.importorskip("timm.data.transforms_factory")
    transform = transforms_factory.create_transform(
        size, is_training=False, crop_pct=share, interpolation=interpolation, normalize=False
    )
    pixels: np.ndarray = transform(image).numpy().transpose(1, 2, 0)
    return pixels


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "share"), [(64, 0.95), (61, 0.875), (32, 0.95), (48, 1.0)])
@pytest.mark.parametrize("sides", SIZES)
def test_a_centre_crop_is_timm_s(sides: tuple[int, int], size: int, share: float, interpolation: str) -> None:
    """Values differ by 1 at most (Pillow rounds between its passes), where the image is reduced by less than four."""
    image = picture(*sides)
    found = load_array(image, cropped(size, share, interpolation))
    difference = np.abs(found.astype(int) - expected_of(image, size, share, interpolation))
    if min(sides) < 4 * size / share:
        assert difference.max() <= 1
    else:  # first reduced by a whole factor
        assert difference.max() <= 6


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sides", SIZES)
def test_a_squashed_image_is_torchvision_s(sides: tuple[int, int], interpolation: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = picture(*sides)
    mode = transforms.InterpolationMode(interpolation)
    expected = np.asarray(transforms.Resize((64, 64), interpolation=mode)(image)).astype(int)
    found = load_array(image, Preprocessing(64, interpolation=interpolation))
    assert np.abs(found - expected).max() <= (0 if max(sides) < 256 else 8)


def test_a_large_photo_stays_close_to_timm_s(tmp_path: Path) -> None:
    """A JPEG is decoded at a reduced scale, of at least twice the size."""
    picture(20, 15).resize((1613, 1207), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        expected = expected_of(image.convert("RGB"), 96, 0.95, "bicubic")
    difference = np.abs(load_array(tmp_path / "large.jpg", cropped(96, 0.95)).astype(int) - expected)
    assert difference.mean() < 1
    assert difference.max() <= 4


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_at_a_reduced_scale_is_cut_at_the_same_place(tmp_path: Path, orientation: int) -> None:
    """Its sides at that scale are rounded; the part is that of the whole sides."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(20, 15).resize((1613, 1207), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", exif=exif)
    sides = (1613, 1207) if orientation == 1 else (1207, 1613)
    assert seen_part_of((tmp_path / "a.jpg").read_bytes(), cropped(96, 0.95)) == cropped(96, 0.95).seen_part(*sides)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
@pytest.mark.parametrize("sides", [(640, 410), (400, 900)])
def test_other_modes_are_cut_at_the_same_place(mode: str, sides: tuple[int, int]) -> None:
    image = picture(*sides, mode)
    found = load_array(image, cropped(40, 0.9))
    assert np.abs(found.astype(int) - expected_of(image.convert("RGB"), 40, 0.9, "bicubic")).max() <= 8


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photo_is_cut_as_it_is_seen(tmp_path: Path, orientation: int) -> None:
    upright = picture(200, 120)
    turn = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright if turn[orientation] is None else upright.transpose(turn[orientation])  # type: ignore[arg-type]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    expected = load_array(upright, cropped(64, 0.8))
    np.testing.assert_array_equal(load_array(tmp_path / "a.png", cropped(64, 0.8)), expected)
    np.testing.assert_array_equal(load_upload(content, cropped(64, 0.8)), expected)
    assert seen_part_of(content, cropped(64, 0.8)) == cropped(64, 0.8).seen_part(200, 120)


def test_the_seen_part_by_hand() -> None:
    # the shorter side becomes 235 = floor(224 / 0.95), the longer one 313 = floor(235 * 400 / 300)
    # (313 - 224) / 2 = 44.5 and (235 - 224) / 2 = 5.5 are rounded to even
    assert cropped(224, 0.95).seen_part(400, 300) == (44 / 313, 6 / 235, 268 / 313, 230 / 235)
    assert Preprocessing(224).seen_part(400, 300) == (0, 0, 1, 1)


def test_a_crop_of_the_whole_shorter_side_stays_inside() -> None:
    for width in range(1, 200, 7):
        for height in (1, 3, 49, 127):
            left, upper, right, lower = cropped(48, 1.0).seen_part(width, height)
            assert 0 <= left < right <= 1
            assert 0 <= upper < lower <= 1
            found = load_array(Image.new("RGB", (width, height), (9, 200, 30)), cropped(48, 1.0))
            assert found[0, 0].tolist() == found[-1, -1].tolist() == [9, 200, 30]


def test_a_panorama_is_not_enlarged_whole() -> None:
    """Its shorter side at 235 px would make it 235,000 px long."""
    strip = Image.new("RGB", (10_000, 10), (9, 200, 30))
    tracemalloc.start()
    assert load_array(strip, cropped(224, 0.95)).shape == (224, 224, 3)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert cropped(224, 0.95).resized(10_000, 10) == (235_000, 235)


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P"])
def test_a_large_image_of_any_mode_keeps_its_proportions(tmp_path: Path, mode: str) -> None:
    """Training cuts random parts of it, and heat maps are laid over it."""
    image = picture(401, 100).convert("L") if mode == "I;16" else picture(401, 100, mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(tmp_path / "wide.png")
    width, height = load_small(tmp_path / "wide.png", 20).size
    assert (width, height) == (20, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": "center_crop"}, "expected crop_pct above 0 and up to 1, got None"),
        ({"resize": "center_crop", "crop_pct": 0}, "expected crop_pct above 0 and up to 1, got 0"),
        ({"resize": "center_crop", "crop_pct": 1.01}, "expected crop_pct above 0 and up to 1, got 1.01"),
        ({"resize": "center_crop", "crop_pct": "0.9"}, "expected crop_pct above 0 and up to 1, got '0.9'"),
        ({"crop_pct": 0.9}, 'crop_pct needs resize "center_crop"; "squash" keeps the whole image, got 0.9'),
        ({"interpolation": "nearest"}, "expected interpolation of the preprocessing to be 'bicubic' or 'bilinear'"),
        ({"resize": ["squash"]}, "expected resize of the preprocessing to be 'squash' or 'center_crop'"),
    ],
)
def test_values_that_nobody_can_reproduce(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocessing(64, **values)  # type: ignore[arg-type]


def test_what_differs_from_the_usual_way_is_said() -> None:
    """Records and indexes made in another way are not gone on with."""
    assert Preprocessing(64).other_than_usual() == ""
    assert cropped(64, 0.95).other_than_usual() == "center_crop 0.95"
    assert cropped(64, 0.875, "bilinear").other_than_usual() == "center_crop 0.875, bilinear"
