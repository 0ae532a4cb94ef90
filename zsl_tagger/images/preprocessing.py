"""Convert an image file to the model's input array, for training, evaluation, tagging and export alike.

The array is uint8 ``(S, S, 3)``. The network normalises it with mean and standard deviation (the first node of
``encoder.onnx``), so every image is converted the same way everywhere. A large JPEG given as a path or bytes is
decoded at a reduced scale of at least twice S; a PIL image is already decoded, so its scores may differ slightly.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from PIL import ExifTags, Image

from zsl_tagger.errors import UserError, first_line
from zsl_tagger.images.colour import is_plain, reduced, reduction, to_srgb
from zsl_tagger.images.mending import mended
from zsl_tagger.images.opening import DECODING, MAX_PIXELS, check_pixels, check_work, image_errors, open_photo
from zsl_tagger.images.opening import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from zsl_tagger.images.opening import ImageError as ImageError
from zsl_tagger.images.opening import is_image as is_image
from zsl_tagger.images.opening import open_errors as open_errors
from zsl_tagger.images.raw import RAW_SUFFIXES, embedded_preview

#: Bump when the pixels of ordinary photos (8-bit sRGB) change, and keep the old code for model folders of the old
#: version. Scores from different versions are not comparable. Fixes of wrong pixels (a negative, an ignored colour
#: profile) apply to all versions.
PREPROCESSING_VERSION = 1

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Rotations that swap width and height.
_SIDEWAYS = frozenset(
    {Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90}
)

#: Larger images are rotated after the reduction, which may change the last bit of a value.
_GIANT = 50_000_000

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Box = tuple[float, float, float, float]  # left, upper, right, lower, as shares of width and height

Size = tuple[int, int]  # width, height

Result = TypeVar("Result")

Finish = Callable[[Image.Image, Size], Result]  # (decoded image, size in the file header)


class BinaryFile(Protocol):
    """A binary file, or any object that reads bytes."""

    def read(self, size: int = ..., /) -> bytes: ...


#: Everything that an image can be given as.
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | np.ndarray
_ACCEPTED = (
    "a path (str or Path), the bytes of an image file, a file opened in binary mode, a PIL image, or a NumPy array "
    "(H, W), (H, W, 3) or (H, W, 4)"
)


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the conversion from image to network input, stored in each model folder's ``config.json``.

    Attributes:
        image_size: side S of the square image, in pixels.
        resize: "squash": resize the whole image to the square without keeping its aspect ratio, as in ML-Decoder;
            "center_crop": resize the shorter side to S / ``crop_pct`` and crop the central square, as in timm's and
            torchvision's evaluation on ImageNet.
        interpolation: "bicubic" or "bilinear".
        mean, std: mean and standard deviation of RGB values in 0..1, for normalisation in the network; None in folders
            of older versions: those of the backbone.
        version: ``PREPROCESSING_VERSION`` of the code that trained the model.
        crop_pct: for "center_crop", 0..1: side of the square relative to the resized image's shorter side; else None.

    Raises:
        UserError: a value that this version of zsl-tagger does not support.
    """

    image_size: int
    resize: str = "squash"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    version: int = PREPROCESSING_VERSION
    crop_pct: float | None = None

    def __post_init__(self) -> None:
        if type(self.image_size) is not int or self.image_size < 1:
            raise UserError(f"expected image_size to be a positive whole number, got {self.image_size!r}")
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"expected {name} of the preprocessing to be {' or '.join(map(repr, known))}, "
                    f"got {getattr(self, name)!r}: the model was written by another version of zsl-tagger"
                )
        self._check_crop()
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not (isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values))):
                raise UserError(f"expected {name} to be three numbers, got {values!r}")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.std is not None and min(self.std) <= 0:
            raise UserError(f"expected std to be three positive numbers, got {self.std!r}")

    def _check_crop(self) -> None:
        share = self.crop_pct
        if self.resize == "squash":
            if share is not None:
                raise UserError(f'crop_pct needs resize "center_crop"; "squash" keeps the whole image, got {share!r}')
        elif not (_is_number(share) and 0 < share <= 1):  # type: ignore[operator]
            raise UserError(f"expected crop_pct above 0 and up to 1, got {share!r}")

    @property
    def decoded_side(self) -> int:
        """Return the length in pixels to which the shorter side is resized before cropping."""
        return self.image_size if self.crop_pct is None else math.floor(self.image_size / self.crop_pct)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to which an image is resized before cropping."""
        side = self.decoded_side
        if self.resize == "squash":
            return side, side
        shorter, longer = sorted((width, height))
        other = int(side * longer / shorter)  # rounds like torchvision
        return (side, other) if width <= height else (other, side)

    def seen_part(self, width: int, height: int) -> Box:
        """Return the part of an upright image that the model sees, as shares of its width and height."""
        if self.resize == "squash":
            return 0, 0, 1, 1
        across, down = self.resized(width, height)
        left, upper = round((across - self.image_size) / 2), round((down - self.image_size) / 2)
        return left / across, upper / down, (left + self.image_size) / across, (upper + self.image_size) / down

    def other_than_usual(self) -> str:
        """Return how the settings differ from a squashed bicubic image, in words; "" if they do not."""
        words = [] if self.crop_pct is None else [f"{self.resize} {self.crop_pct:g}"]
        return ", ".join(words + ([] if self.interpolation == "bicubic" else [self.interpolation]))


_KNOWN: dict[str, tuple[Any, ...]] = {
    "resize": ("squash", "center_crop"),
    "interpolation": tuple(_FILTERS),
    "version": (PREPROCESSING_VERSION,),
}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def load_array(source: ImageSource, preprocessing: Preprocessing) -> np.ndarray:
    """Load an image as the model's input array.

    Args:
        source: a path, the bytes of an image file, a binary file object (read from its start), a PIL image, or a NumPy
            array: grey ``(H, W)`` or ``(H, W, 1)``, RGB ``(H, W, 3)`` or RGBA ``(H, W, 4)``, in uint8 (0..255), uint16
            (0..65535) or float (0..1). Grey is expanded to three equal channels; transparent pixels become white.
        preprocessing: settings of the model: ``tagger.preprocessing``, ``ModelFolder(...).config.preprocessing``.

    Returns:
        uint8 ``(S, S, 3)``, RGB.

    Raises:
        ImageError: the file is missing, unreadable, truncated, too large or not an image.
        UserError: ``source`` is of an unsupported type.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(f"expected a Preprocessing, e.g. Preprocessing(384), got {preprocessing!r}")
    return _load(source, preprocessing.decoded_side, lambda image, full: _square(image, full, preprocessing))


def load_upload(content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Load an uploaded image file, like :func:`load_array`, with a limit on its size.

    Args:
        content: the file's bytes.
        max_pixels: larger images are rejected before decoding.

    Raises:
        ImageError: see :func:`load_array`.
    """
    with image_errors():
        side = preprocessing.decoded_side
        return _read(content, side, lambda image, full: _square(image, full, preprocessing), max_pixels)


def seen_part_of(content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> Box:
    """Return the part of an upright image file that the model sees, as shares of its width and height.

    Raises:
        ImageError: see :func:`load_array`.
    """

    def part(image: Image.Image, full: Size) -> Box:
        return preprocessing.seen_part(*(full[::-1] if _rotation_of(image) in _SIDEWAYS else full))

    with image_errors():
        return _read(content, preprocessing.decoded_side, part, max_pixels)


def in_pixels(part: Box, width: float, height: float) -> Box:
    """Convert a box from shares of the image to pixels."""
    left, upper, right, lower = part
    return left * width, upper * height, right * width, lower * height


def load_photo(path: ImageSource, size: int) -> Image.Image:
    """Load an upright RGB image, from which training cuts crops of about ``size`` pixels.

    A JPEG whose sides are more than twice ``size`` is decoded at a reduced scale; so is an image in another mode.

    Args:
        path: a path, or any other source of :func:`load_array`.

    Raises:
        ImageError, UserError: see :func:`load_array`.
    """
    return _load(path, size, lambda image, _: _upright_rgb(image, size))


def load_small(path: str | Path, side: int) -> Image.Image:
    """Load an image file as an upright RGB image of at most ``side`` pixels each way, keeping its aspect ratio.

    Raises:
        ImageError: see :func:`load_array`.
    """
    photo = load_photo(path, side)
    photo.thumbnail((side, side))
    return photo


def _load(source: ImageSource, size: int, finish: Finish[Result]) -> Result:
    """Decode an image of any source and return the result of ``finish``."""
    opened = _opened(source)
    with image_errors():
        if isinstance(opened, Image.Image):
            check_pixels(opened)
            opened.load()
            return finish(opened, opened.size)
        return _read(opened, size, finish)


def _opened(source: ImageSource) -> Path | bytes | Image.Image:
    """Return a source as one of the three types that can be decoded.

    Raises:
        UserError: its type is not accepted.
    """
    if isinstance(source, (Image.Image, bytes)):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike)):
        return Path(source)
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if hasattr(source, "read"):
        return _content(source)
    raise UserError(f"expected {_ACCEPTED}; got {type(source).__name__}")


def _content(file: Any) -> bytes:
    """Return the content of a file object, from its start if it is seekable."""
    if isinstance(file, io.TextIOBase):
        raise UserError(f"expected {_ACCEPTED}; got a file opened as text: open it with 'rb'")
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # a closed file is a ValueError
        raise ImageError(f"cannot be read: {first_line(error)}") from None
    if not isinstance(content, bytes):
        raise UserError(f"expected {_ACCEPTED}; got an object that reads {type(content).__name__}")
    return content


def _read(source: Path | bytes, size: int, finish: Finish[Result], max_pixels: int = MAX_PIXELS) -> Result:
    """Decode an image file, a JPEG to at least twice ``size`` if it is that large; return the result of ``finish``."""
    _check_file(source)
    if isinstance(source, Path) and source.suffix.lower() in RAW_SUFFIXES:
        source = embedded_preview(source)
    try:
        return _decoded(io.BytesIO(source) if isinstance(source, bytes) else source, size, finish, max_pixels)
    except (OSError, ValueError) as error:
        file = mended(source, error, lambda file: _decoded(file, size, lambda image, _: image.copy(), max_pixels))
        if file is None:
            raise
        return _decoded(file, size, finish, max_pixels)


def _check_file(source: Path | bytes) -> None:
    if isinstance(source, bytes):
        length = len(source)
    else:
        status = source.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise ImageError("not a regular file (a pipe, socket or device): save it to a file first")
        length = status.st_size
    if length == 0:
        raise ImageError("empty file (0 bytes)")


def _decoded(file: Path | io.BytesIO, size: int, finish: Finish[Result], max_pixels: int) -> Result:
    with open_photo(file) as image:
        check_pixels(image, max_pixels)
        check_work(image, max_pixels)
        width, height = full = image.size
        image.draft("RGB", (2 * size, 2 * size))  # decode a JPEG at 1/2, 1/4 or 1/8 scale if that is enough
        if "progressive" not in image.info:  # a progressive one holds all coefficients in memory
            width, height = image.size
        is_whole = image.size == full
        with DECODING.lend(width * height):
            image.load()
            return finish(image, image.size if is_whole else full)  # Pillow may have rotated a TIFF


def _rotation_of(image: Image.Image) -> Image.Transpose | None:
    """Return the rotation for the EXIF orientation. No other tag is read, so a broken one does no harm."""
    try:  # Pillow rotates a TIFF when loading it and drops the tag
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an EXIF block that cannot be parsed is ignored
        return None


def _square(image: Image.Image, full: Size, preprocessing: Preprocessing) -> np.ndarray:
    """Return a loaded image upright, uint8 ``(S, S, 3)``; transparent pixels become white.

    Args:
        full: width and height in the file, which may have been decoded at a reduced scale.
    """
    profile, stored = image.info.get("icc_profile"), image.size
    image, turn = _rotated_unless_giant(image)
    if image.size != stored:
        full = full[::-1]
    factors = (1, 1) if is_plain(image) else reduction(image.size, preprocessing.resized(*image.size))
    pixels = image if is_plain(image) else reduced(image, factors)
    box = in_pixels(preprocessing.seen_part(*full), image.width / factors[0], image.height / factors[1])
    size = (preprocessing.image_size, preprocessing.image_size)
    # Resize only the visible part: a whole panorama might not fit into memory at this scale.
    small = pixels.resize(size, _FILTERS[preprocessing.interpolation], box=box, reducing_gap=2.0)
    small = to_srgb(small, profile)
    return np.asarray(small if turn is None else small.transpose(turn))


def _upright_rgb(image: Image.Image, size: int) -> Image.Image:
    profile = image.info.get("icc_profile")
    image, turn = _rotated_unless_giant(image)
    factor = min(reduction(image.size, (size, size)))  # the same for both sides, to keep the aspect ratio
    rgb = to_srgb(image if is_plain(image) else reduced(image, (factor, factor)), profile)
    return rgb if turn is None else rgb.transpose(turn)


def _rotated_unless_giant(image: Image.Image) -> tuple[Image.Image, Image.Transpose | None]:
    """Return (image, rotation left to do). Rotating needs the memory of a second image, so giants are reduced first."""
    turn = _rotation_of(image)
    if turn is None or image.width * image.height > _GIANT:
        return image, turn
    return image.transpose(turn), None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"expected an array of shape (H, W) or (H, W, 1|3|4), got {array.shape}")
    if array.dtype == np.uint16:
        array = (array / 257.0).round().astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if array.size and not (np.nanmin(array) >= 0.0 and np.nanmax(array) <= 1.0):
            raise ImageError("expected float values in 0..1; give uint8 for 0..255")
        if np.isnan(array).any():
            raise ImageError("the array contains NaN")
        array = (array * 255.0).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"expected uint8, uint16 or float values, got {array.dtype}")
    return Image.fromarray(array)
