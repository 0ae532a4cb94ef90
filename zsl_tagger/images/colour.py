"""Convert pixels of any mode and colour space to 8-bit sRGB; large images are reduced first, in bands.

Ordinary photos (RGB without a profile, or with an sRGB profile) are not changed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from zsl_tagger.images.opening import ImageError, is_white_zero

_BAND_PIXELS = 1 << 20  # pixels converted at a time
_GAP = 2.0  # reduce by integer factors to at least twice the target size; bicubic resizing does the rest


def is_plain(image: Image.Image) -> bool:
    """Return whether an image needs no conversion: RGB without transparency."""
    return image.mode == "RGB" and "transparency" not in image.info


def reduction(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the integer factors (x, y) that leave an image at least twice as large as ``target`` each way."""
    across, down = (max(1, int(side / wanted / _GAP)) for side, wanted in zip(size, target, strict=True))
    return across, down


def reduced(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """Convert a loaded image to 8 bits, reduced by integer ``factors`` (x, y).

    The image is converted and reduced in bands, never as a whole. The result is RGB, RGBa (premultiplied alpha), L or
    CMYK; its last row or column may cover less than a full block.

    Raises:
        ImageError: the values cannot be interpreted as brightness.
    """
    convert = _converter(image)
    width, height = image.size
    across, down = factors
    rows = down * max(1, _BAND_PIXELS // (width * down))
    small: Image.Image | None = None
    for top in range(0, height, rows):
        band = convert(image.crop((0, top, width, min(top + rows, height)))).reduce((across, down))
        if small is None:
            small = Image.new(band.mode, (band.width, math.ceil(height / down)))
        small.paste(band, (0, top // down))
    assert small is not None
    return small


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image of :func:`reduced`, or a plain one, to sRGB, with transparency blended over white.

    Args:
        profile: ICC profile of the image, if any.
    """
    if image.mode in ("RGBa", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    known = _transform(profile) if profile else None
    if known is not None and known.mode == image.mode:
        image = ImageCms.applyTransform(image, known.transform) or image  # None would mean that it was changed in place
    return image.convert("RGB")


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts bands of this image."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        white, inverted = _white_of(image), is_white_zero(image)
        return lambda band: _wide_to_grey(band, white, inverted)
    if "A" in image.getbands() or image.mode == "RGBa" or "transparency" in image.info:
        return lambda band: band.convert("RGBA").convert("RGBa")
    if image.mode in ("RGB", "L") or (image.mode == "CMYK" and _has_profile(image)):
        return lambda band: band
    return lambda band: band.convert("RGB")


def _has_profile(image: Image.Image) -> bool:
    known = _transform(image.info["icc_profile"]) if image.info.get("icc_profile") else None
    return known is not None and known.mode == image.mode


# --- 16 bits and float -----------------------------------------------------------------------------------------------

_WHITES = (1, 255, 65535)
_SLACK = 0.1  # fraction of white by which floats may overshoot, e.g. after sharpening
#: Minimum mean of a float image, as a fraction of white. A darker one more likely has highlights above a white of 1.
_LEAST_MEAN = 4 / 255


def _white_of(image: Image.Image) -> int:
    """Return the value of white in a 16-bit, integer or float image; 0 is black.

    Raises:
        ImageError: white cannot be determined, or values are out of range.
    """
    if image.mode not in ("I", "F"):
        return 65535
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("contains NaN or infinite values")
    slack = _SLACK if image.mode == "F" else 0.0
    white = next((white for white in _WHITES if high <= white * (1 + slack)), 0)
    if low < -white * slack or white == 0 or (image.mode == "F" and white > 1 and _mean(image) < white * _LEAST_MEAN):
        raise ImageError(
            f"contains values from {low:g} to {high:g}: expected 0 for black and 1, 255 or 65535 for white; "
            "save it with 8 or 16 bits"
        )
    return white


def _mean(image: Image.Image) -> float:
    return float(image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))  # type: ignore[arg-type]


def _wide_to_grey(band: Image.Image, white: int, inverted: bool) -> Image.Image:
    values = np.asarray(band).astype(np.float32)  # (rows, W)
    if not np.isfinite(values).all():
        raise ImageError("contains NaN or infinite values")
    grey = np.clip(values * (255.0 / white), 0, 255).round().astype(np.uint8)
    return Image.fromarray(255 - grey if inverted else grey)


# --- ICC profiles ----------------------------------------------------------------------------------------------------

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of an ICC profile -> Pillow mode
_PROFILE_BYTES = 8_000_000  # larger than any real profile
_NEAR = 3  # profiles that change no colour by more than this are variants of sRGB


class _Transform(NamedTuple):
    mode: str  # mode of the images to convert
    transform: ImageCms.ImageCmsTransform


@lru_cache(8)
def _transform(profile: bytes) -> _Transform | None:
    """Return the transform from a profile to sRGB; None if it is sRGB already or unusable."""
    if len(profile) > _PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ImportError, KeyError, TypeError, ValueError):
        return None  # an unreadable profile is ignored
    return None if _is_srgb(mode, transform) else _Transform(mode, transform)


def _is_srgb(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)  # (18,)
    colours = levels[:, None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(colours)
    after = ImageCms.applyTransform(before, transform)
    return (
        int(np.abs(np.asarray(after or before, np.int16) - np.asarray(before.convert("RGB"), np.int16)).max()) <= _NEAR
    )
