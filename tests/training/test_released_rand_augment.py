"""Test zsl_tagger/training/released_rand_augment.py: each operation pixel by pixel, and the random choices.

The rules are those of PyPI's randaugment 1.0.2, which the released code uses, implemented a second time.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from zsl_tagger.training import released_rand_augment
from zsl_tagger.training.augment import seed_everything
from zsl_tagger.training.released_rand_augment import OPERATIONS, ReleasedRandAugment

NAMES = (
    "invert", "cutout", "sharpness", "auto contrast", "posterize", "shear x", "translate x", "translate y", "shear y",
    "rotate", "equalize", "contrast", "color", "solarize", "brightness",
)  # fmt: skip
OPERATION = dict(zip(NAMES, OPERATIONS, strict=True))
EVERY_MAGNITUDE = pytest.mark.parametrize("magnitude", range(1, 10))

WIDTH, HEIGHT = 51, 37
PIXELS = np.random.default_rng(4).integers(20, 230, (HEIGHT, WIDTH, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)


def done(name: str, magnitude: int, seed: int = 0) -> np.ndarray:
    seed_everything((3, seed))
    return np.asarray(OPERATION[name](PHOTO, magnitude))


@EVERY_MAGNITUDE
def test_operations_without_a_magnitude(magnitude: int) -> None:
    np.testing.assert_array_equal(done("invert", magnitude), 255 - PIXELS)
    stretched = (PIXELS.astype(float) - PIXELS.min((0, 1))) * 255 / np.ptp(PIXELS, axis=(0, 1))
    assert np.abs(done("auto contrast", magnitude) - stretched).max() <= 1
    np.testing.assert_array_equal(done("equalize", magnitude), np.asarray(ImageOps.equalize(PHOTO)))


@pytest.mark.parametrize(("magnitude", "bits"), [*enumerate((8, 7, 7, 6, 6, 5, 5, 4, 4), 1)])
def test_posterize_keeps_8_to_4_bits(magnitude: int, bits: int) -> None:
    np.testing.assert_array_equal(done("posterize", magnitude), PIXELS >> (8 - bits) << (8 - bits))


@EVERY_MAGNITUDE
def test_solarize_inverts_pixels_from_the_threshold_on(magnitude: int) -> None:
    threshold = 256 - 256 * magnitude / 9
    inverted = threshold <= PIXELS
    np.testing.assert_array_equal(done("solarize", magnitude), np.where(inverted, 255 - PIXELS, PIXELS))


@EVERY_MAGNITUDE
@pytest.mark.parametrize("name", ["sharpness", "contrast", "color", "brightness"])
def test_enhancements_go_in_both_directions(name: str, magnitude: int) -> None:
    enhance: Callable[[float], Image.Image] = getattr(ImageEnhance, name.capitalize())(PHOTO).enhance
    both = {np.asarray(enhance(1 + sign * 0.1 * magnitude)).tobytes() for sign in (-1, 1)}
    drawn = {done(name, magnitude, seed).tobytes() for seed in range(12)}
    assert len(both) == 2
    assert drawn == both


@EVERY_MAGNITUDE
@pytest.mark.parametrize(("name", "axis", "side"), [("translate x", 1, WIDTH), ("translate y", 0, HEIGHT)])
def test_translations_are_proportional_to_the_side(name: str, axis: int, side: int, magnitude: int) -> None:
    """By up to 150/331 of it, rounded to pixels; the rest is filled with grey."""
    both = set()
    for sign in (-1, 1):
        from_ = np.floor(np.arange(side) + 0.5 + sign * side * 150 / 331 * magnitude / 9).astype(int)
        inside = (from_ >= 0) & (from_ < side)
        moved = np.take(PIXELS, from_.clip(0, side - 1), axis)
        moved[(slice(None), ~inside) if axis else ~inside] = 128
        both.add(moved.tobytes())
    assert {done(name, magnitude, seed).tobytes() for seed in range(12)} == both


def cubic(distance: float) -> float:
    """Return the weight of a pixel at a distance; Pillow's transforms take a = -1."""
    d = abs(distance)
    if d < 1:
        return d**3 - 2 * d**2 + 1
    return -(d**3) + 5 * d**2 - 8 * d + 4 if d < 2 else 0.0


def sheared(shear: float) -> np.ndarray:
    """Return the photo sheared along x, computed pixel by pixel; float64 ``(H, W, 3)``."""
    result = np.full(PIXELS.shape, 128.0)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x = column + 0.5 + shear * (row + 0.5)
            if not 0 <= x < WIDTH:
                continue
            left = math.floor(x - 0.5)
            near = range(left - 1, left + 3)
            weights = np.array([cubic(x - 0.5 - place) for place in near])
            result[row, column] = weights @ PIXELS[row, np.clip(near, 0, WIDTH - 1)].astype(float)
    return result.clip(0, 255)


@pytest.mark.parametrize("magnitude", [1, 4, 9])
def test_shears_are_bicubic_and_go_in_both_directions(magnitude: int) -> None:
    both = [sheared(sign * 0.3 * magnitude / 9) for sign in (-1, 1)]
    found = set()
    for seed in range(8):
        pixels = done("shear x", magnitude, seed)
        differences = [np.abs(pixels - expected).max() for expected in both]
        assert min(differences) <= 1.01
        found.add(int(np.argmin(differences)))
    assert found == {0, 1}


@EVERY_MAGNITUDE
def test_shear_along_y_equals_shear_along_x_of_the_transposed_photo(magnitude: int) -> None:
    seed_everything((3, 5))
    along_x = np.asarray(OPERATION["shear x"](PHOTO.transpose(Image.Transpose.TRANSPOSE), magnitude))
    np.testing.assert_array_equal(done("shear y", magnitude, 5), along_x.transpose(1, 0, 2))


@EVERY_MAGNITUDE
def test_rotation_is_counter_clockwise_only(magnitude: int) -> None:
    """By up to 30 degrees, with nearest-neighbour resampling; the rest is filled with grey."""
    angle = math.radians(30 * magnitude / 9)
    expected = np.full(PIXELS.shape, 128, np.uint8)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            right, down = column + 0.5 - WIDTH / 2, row + 0.5 - HEIGHT / 2
            x = math.cos(angle) * right - math.sin(angle) * down + WIDTH / 2
            y = math.sin(angle) * right + math.cos(angle) * down + HEIGHT / 2
            if 0 <= x < WIDTH and 0 <= y < HEIGHT:
                expected[row, column] = PIXELS[int(y), int(x)]
    for seed in range(5):
        assert (done("rotate", magnitude, seed) != expected).any(axis=2).sum() <= 2  # Pillow rounds the matrix


@pytest.mark.parametrize(("magnitude", "side"), [*enumerate((2, 4, 6, 8, 10, 12, 16, 18, 20), 1)])
def test_cutout_is_a_grey_box_of_up_to_20_pixels(magnitude: int, side: int) -> None:
    for seed in range(12):
        seed_everything((3, seed))
        x, y = np.random.randint(0, WIDTH), np.random.randint(0, HEIGHT)
        expected = PIXELS.copy()
        half = side // 2
        expected[max(0, y - half) : y + half, max(0, x - half) : x + half] = (125, 122, 113)
        np.testing.assert_array_equal(done("cutout", magnitude, seed), expected)


def test_two_operations_with_probability_one_half_and_uniform_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def recorder(number: int) -> Callable[[Image.Image, int], Image.Image]:
        def record(image: Image.Image, magnitude: int) -> Image.Image:
            calls.append((number, magnitude))
            return image

        return record

    monkeypatch.setattr(released_rand_augment, "OPERATIONS", tuple(map(recorder, range(15))))
    random.seed(5)
    counts: Counter[int] = Counter()
    for _ in range(4000):
        before = len(calls)
        ReleasedRandAugment()(PHOTO)
        counts[len(calls) - before] += 1
    assert [counts[number] / 4000 for number in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    drawn = Counter(calls)
    assert set(drawn) == {(number, magnitude) for number in range(15) for magnitude in range(1, 10)}
    assert max(drawn.values()) < 3 * min(drawn.values())  # 30 of each on average
