"""Pixels of any mode and colour space -> 8-bit sRGB; a large image is reduced first, a band at a time.

Ordinary photos (RGB without a profile, or with one that says sRGB) pass through without a change.
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

_BAND_PIXELS = 1 << 20  # converted at a time
_GAP = 2.0  # reduced by whole factors to no less than twice the size; bicubic does the rest


def is_plain(image: Image.Image) -> bool:
    """Return whether nothing is to be converted: RGB, and nothing transparent."""
    return image.mode == "RGB" and "transparency" not in image.info


def reduction(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the whole factors across and down that leave an image at least twice as large as ``target`` each way."""
    across, down = (max(1, int(side / wanted / _GAP)) for side, wanted in zip(size, target, strict=True))
    return across, down


def reduced(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """Convert a loaded image to 8 bits, reduced by whole ``factors`` across and down.

    The whole image is never held in another mode: bands of it are converted and reduced. The result is RGB, RGBa (alpha
    premultiplied), L or CMYK; its last row or column may stand for less than a whole pixel.

    Raises:
        ImageError: values that are no brightness of a picture.
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
    """Convert an image of :func:`reduced`, or a plain one, to sRGB; white shines through what is transparent.

    Args:
        profile: the ICC profile of its colours, if it has one.
    """
    if image.mode in ("RGBa", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    known = _transform(profile) if profile else None
    if known is not None and known.mode == image.mode:
        image = ImageCms.applyTransform(image, known.transform) or image  # None would mean: changed in place
    return image.convert("RGB")


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts a band of this image."""
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
_SLACK = 0.1  # part of white by which floats may overshoot, as those of a sharpened picture do
#: Least mean of a float picture, as a part of white. A darker one is more likely to have highlights above a white of 1.
_LEAST_MEAN = 4 / 255


def _white_of(image: Image.Image) -> int:
    """Return the value of white in a 16-bit, integer or float image; 0 is black.

    Raises:
        ImageError: its values do not say, or do not fit.
    """
    if image.mode not in ("I", "F"):
        return 65535
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("holds NaN or infinite values")
    slack = _SLACK if image.mode == "F" else 0.0
    white = next((white for white in _WHITES if high <= white * (1 + slack)), 0)
    if low < -white * slack or white == 0 or (image.mode == "F" and white > 1 and _mean(image) < white * _LEAST_MEAN):
        raise ImageError(
            f"holds values from {low:g} to {high:g}: expected 0 for black and 1, 255 or 65535 for white; "
            "save it with 8 or 16 bits"
        )
    return white


def _mean(image: Image.Image) -> float:
    return float(image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))  # type: ignore[arg-type]


def _wide_to_grey(band: Image.Image, white: int, inverted: bool) -> Image.Image:
    values = np.asarray(band).astype(np.float32)  # (rows, W)
    if not np.isfinite(values).all():
        raise ImageError("holds NaN or infinite values")
    grey = np.clip(values * (255.0 / white), 0, 255).round().astype(np.uint8)
    return Image.fromarray(255 - grey if inverted else grey)


# --- ICC profiles ----------------------------------------------------------------------------------------------------

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space in an ICC profile -> Pillow's mode
_PROFILE_BYTES = 8_000_000  # larger than any real one
_NEAR = 3  # profiles that change no colour by more than this are sRGB, of which there are many versions


class _Transform(NamedTuple):
    mode: str  # of the images that it converts
    transform: ImageCms.ImageCmsTransform


@lru_cache(8)
def _transform(profile: bytes) -> _Transform | None:
    """Return what converts the colours of a profile to sRGB; None where they are sRGB, or nobody can know."""
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
        return None  # a profile that cannot be read says nothing
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
