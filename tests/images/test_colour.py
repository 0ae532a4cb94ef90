"""Colours: ranges of 16 bits and float, ICC profiles, and no giant is held in two modes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from odd_images import ADOBE_RGB, SRGB, icc_profile
from PIL import Image, ImageCms

from zsl_tagger.images import colour
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array, load_photo, load_small

SIDE = 8
GREY = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 4 + 3).astype(np.uint8)  # 3, 7 .. 255
WHOLE = Preprocessing(SIDE)


def loaded(values: np.ndarray) -> np.ndarray:
    """Return the greys ``(S, S)`` of a TIFF with these values."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    return load_array(file.getvalue(), WHOLE)[..., 0]


@pytest.mark.parametrize("white", [1, 255, 65535])
@pytest.mark.parametrize("overshoot", [0, 0.05])
def test_floats_may_overshoot_a_little(white: int, overshoot: float) -> None:
    values = GREY.astype(np.float32) / 255
    values[0, 0], values[-1, -1] = -overshoot, 1 + overshoot
    expected = GREY.copy()
    expected[0, 0] = 0
    assert np.array_equal(loaded(values * np.float32(white)), expected)


@pytest.mark.parametrize(
    "values",
    [
        GREY / 255 * 1.9,  # highlights above white
        GREY / 255 * 5,
        GREY / 255 * 70_000 * 1.1,
        GREY / 255 - 0.5,
        np.where(GREY == 255, 9000.0, GREY / 255),  # the sun
    ],
)
def test_floats_of_another_range_are_an_error_that_says_it(values: np.ndarray) -> None:
    low, high = (f"{value:g}" for value in (np.float32(values.min()), np.float32(values.max())))
    with pytest.raises(
        ImageError, match=f"^contains values from {low} to {high}: expected 0 for black and 1, 255 or 65535"
    ):
        loaded(values.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "said"),
    [(GREY.astype(np.int32) - 9, "from -6 to 246:"), (GREY.astype(np.int32) * 300, "from 900 to 76500:")],
)
def test_whole_numbers_of_another_range_are_an_error_that_says_it(values: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        loaded(values)


@pytest.mark.parametrize("place", [(0, 0), (3, 3)])
def test_nan_is_an_error(place: tuple[int, int]) -> None:
    values = GREY.astype(np.float32) / 255
    values[place] = np.nan
    with pytest.raises(ImageError, match="contains NaN or infinite values"):
        loaded(values)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "CMYK"])
def test_a_large_image_is_converted_a_band_at_a_time(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 150 million pixels, the whole image in a second mode takes 600 MB more, and as float64 1.2 GB."""
    monkeypatch.setattr(colour, "_BAND_PIXELS", 20_000)
    random = np.random.default_rng(1)
    rgba = Image.fromarray(random.integers(0, 256, (60, 80, 4), dtype=np.uint8)).resize((801, 603))
    grey = np.asarray(rgba.convert("L"))
    made = {
        "I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "F": lambda: Image.fromarray(grey / np.float32(255)),
    }
    image = made.get(mode, lambda: rgba.convert(mode))()
    whole = Image.fromarray(grey) if mode in made else image
    expected = whole.convert("RGBA" if "A" in mode else "RGB").resize(
        (50, 50), Image.Resampling.BICUBIC, reducing_gap=2.0
    )
    if "A" in mode:
        expected = Image.alpha_composite(Image.new("RGBA", (50, 50), (255,) * 4), expected).convert("RGB")
    sizes = []
    convert, to_grey = Image.Image.convert, colour._wide_to_grey

    def watched(self: Image.Image, *options: object, **more: object) -> Image.Image:
        sizes.append(self.width * self.height)
        return convert(self, *options, **more)  # type: ignore[arg-type]

    def watched_grey(band: Image.Image, *options: object) -> Image.Image:
        sizes.append(band.width * band.height)
        return to_grey(band, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "convert", watched)
    monkeypatch.setattr(colour, "_wide_to_grey", watched_grey)
    array = load_array(image, Preprocessing(50))
    assert max(sizes) <= 20_000 + 801 * 12
    monkeypatch.undo()
    assert np.array_equal(array, np.asarray(expected))


# --- ICC profiles ----------------------------------------------------------------------------------------------------

COLOURS = np.array([[[200, 60, 50], [60, 180, 70]], [[80, 90, 190], [128, 128, 128]]], np.uint8)


def linear(values: np.ndarray) -> np.ndarray:
    values = values / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def in_adobe_rgb(colours: np.ndarray) -> np.ndarray:
    """Return sRGB colours as a camera that is set to Adobe RGB stores them."""
    light = linear(colours) @ SRGB.T @ np.linalg.inv(ADOBE_RGB).T
    return np.rint(255 * light.clip(0, 1) ** (1 / 2.19921875)).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Save each pixel as a block of 16 x 16, which JPEG keeps."""
    blocks = pixels.repeat(16, axis=0).repeat(16, axis=1)
    Image.fromarray(blocks).save(path, quality=100, subsampling=0, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_colours_of_another_space_are_converted(tmp_path: Path, suffix: str) -> None:
    stored = in_adobe_rgb(COLOURS)
    assert np.abs(stored.astype(int) - COLOURS).max() > 15
    options = {"icc_profile": icc_profile(b"RGB ", 2.19921875, ADOBE_RGB), "lossless": True}
    path = saved(tmp_path / f"a.{suffix}", stored, **options)
    for image in (
        load_array(path, Preprocessing(32)),
        np.asarray(load_photo(path, 32)),
        np.asarray(load_small(path, 32)),
    ):
        assert np.abs(image[8::16, 8::16].astype(int) - COLOURS).max() <= 3
    with Image.open(path) as opened:
        assert np.abs(load_array(opened, Preprocessing(32))[8::16, 8::16].astype(int) - COLOURS).max() <= 3


def test_a_transparent_picture_and_a_grey_one_are_converted(tmp_path: Path) -> None:
    clear = np.dstack([in_adobe_rgb(COLOURS), np.array([[255, 255], [255, 0]], np.uint8)])
    path = saved(tmp_path / "a.png", clear, icc_profile=icc_profile(b"RGB ", 2.19921875, ADOBE_RGB))
    expected = COLOURS.copy()
    expected[1, 1] = 255
    assert np.abs(load_array(path, Preprocessing(32))[8::16, 8::16].astype(int) - expected).max() <= 3
    grey = np.array([[60, 90], [130, 255]], np.uint8)
    stored = np.rint(255 * linear(grey)).astype(np.uint8)  # a gamma of 1
    path = saved(tmp_path / "b.png", stored, icc_profile=icc_profile(b"GRAY", 1.0))
    assert np.abs(load_array(path, Preprocessing(32))[8::16, 8::16, 0].astype(int) - grey).max() <= 6


@pytest.mark.parametrize("profile", ["srgb", "broken", "of another kind", "huge"])
def test_srgb_and_what_says_nothing_change_no_bit(tmp_path: Path, profile: str) -> None:
    profiles = {
        "srgb": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "broken": b"no profile" * 20,
        "of another kind": icc_profile(b"GRAY", 1.0),
        "huge": icc_profile(b"RGB ", 1.0) + bytes(9_000_000),
    }
    random = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "a.tif", icc_profile=profiles[profile])
    assert np.array_equal(load_array(tmp_path / "a.tif", WHOLE), load_array(Image.fromarray(random), WHOLE))
