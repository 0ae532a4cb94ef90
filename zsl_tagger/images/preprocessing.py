"""Turn an image file into an array: the one path used by training, evaluation, tagging and export.

The array is uint8 ``(S, S, 3)``. The network normalises it with mean and standard deviation (the first node of
``encoder.onnx``), so an image is converted in one way wherever it is used. A large JPEG given as a path or as bytes
is decoded at a reduced scale of at least twice S; a PIL image comes decoded, so its scores may differ a little.
"""

from __future__ import annotations

import io
import math
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from zsl_tagger.errors import UserError, first_line

#: Bump when the pixels decoded from a given file change, and keep the old way for model folders that state it: they are
#: read as they were made. Scores from different versions are not comparable.
PREPROCESSING_VERSION = 1

#: Larger images are refused before they are decoded: a few kilobytes of PNG can claim gigabytes of pixels.
MAX_PIXELS = 150_000_000

_OPEN_LOCK = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_HEIF_SUFFIXES = {".heic", ".heif", ".hif", ".avif"}
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", *_HEIF_SUFFIXES}
)
#: A file of the HEIF family says at its start which kind it is (ISO/IEC 14496-12, "ftyp").
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class ImageError(UserError):
    """An image that cannot be used. The message is one line that a person can act on."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what the network reads; a part of each model folder's ``config.json``.

    Attributes:
        image_size: side S of the square image, in pixels.
        resize: "squash": the whole image is resized to the square, its aspect ratio is not kept (as in ML-Decoder).
        interpolation: "bicubic".
        mean, std: of RGB values in 0..1, which the network subtracts and divides by; None where a folder of an older
            version does not say: those of the backbone.
        version: ``PREPROCESSING_VERSION`` of the code that made the training images.

    Raises:
        UserError: a value that this version of zsl-tagger cannot reproduce.
    """

    image_size: int
    resize: str = "squash"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    version: int = PREPROCESSING_VERSION

    def __post_init__(self) -> None:
        if type(self.image_size) is not int or self.image_size < 1:
            raise UserError(f"expected image_size to be a positive whole number, got {self.image_size!r}")
        for name, known in (("resize", "squash"), ("interpolation", "bicubic"), ("version", PREPROCESSING_VERSION)):
            if getattr(self, name) != known:
                raise UserError(
                    f"expected {name} of the preprocessing to be {known!r}, got {getattr(self, name)!r}: "
                    "the model was written by another version of zsl-tagger"
                )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not (isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values))):
                raise UserError(f"expected {name} to be three numbers, got {values!r}")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.std is not None and min(self.std) <= 0:
            raise UserError(f"expected std to be three positive numbers, got {self.std!r}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def load_array(source: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Return one image as the array the model reads.

    Args:
        source: a path, the bytes of an image file, a PIL image, or an array: ``(H, W)`` or ``(H, W, 1|3|4)``,
            uint8 (0..255), uint16 (0..65535) or float (0..1).
        preprocessing: of the model: ``tagger.preprocessing``, ``ModelFolder(...).config.preprocessing``.

    Returns:
        uint8 ``(S, S, 3)``, RGB.

    Raises:
        ImageError: the file is missing, unreadable, truncated, too large or not an image.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(f"expected a Preprocessing, e.g. Preprocessing(384), got {preprocessing!r}")
    size = preprocessing.image_size
    if isinstance(source, np.ndarray):
        return _resized(_checked_upright(_from_array(source)), size)
    if not isinstance(source, (Image.Image, bytes)):
        source = Path(source)  # a TypeError is the caller's mistake
    with _told_as_image_errors():
        return _resized(_load(source, size), size)


def load_upload(content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image file that a stranger sent as the array that :func:`load_array` makes of the file.

    Args:
        content: the file's bytes. Only the formats of ``IMAGE_SUFFIXES`` are tried: of the others that Pillow knows,
            some start other programs.
        max_pixels: more are refused before anything is decoded.

    Raises:
        ImageError: as :func:`load_array`.
    """
    with _told_as_image_errors():
        size = preprocessing.image_size
        return _resized(_load_bytes(content, size, max_pixels, sent=True), size)


def load_photo(path: str | Path, size: int) -> Image.Image:
    """Read an image file as an upright RGB image, for training to cut parts of about ``size`` pixels from.

    A JPEG whose sides are more than twice ``size`` is decoded at a reduced scale.

    Raises:
        ImageError: as :func:`load_array`.
    """
    with _told_as_image_errors():
        return _on_white(_to_rgb(_load_file(Path(path), size)))


def load_small(path: str | Path, side: int) -> Image.Image:
    """Read an image file as an upright RGB image of at most ``side`` pixels each way, in its own proportions.

    Raises:
        ImageError: as :func:`load_array`.
    """
    photo = load_photo(path, side)
    photo.thumbnail((side, side))
    return photo


def is_image(path: Path) -> bool:
    """Return whether a file begins as an image does; read no more of it."""
    try:
        with _open(path):
            return True
    except Exception:  # Pillow raises nearly anything on other files
        return False


@contextmanager
def told_as_no_file() -> Iterator[None]:
    """What is no file that may be read becomes an :class:`ImageError`; other errors stay."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except PermissionError:
        raise ImageError("no permission to read it") from None
    except IsADirectoryError:
        raise ImageError("is a folder, not an image") from None


@contextmanager
def _told_as_image_errors() -> Iterator[None]:
    try:
        with told_as_no_file():
            yield
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise ImageError(f"too large: more than {MAX_PIXELS // 1_000_000} million pixels") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken data
        raise ImageError(f"broken image data ({first_line(error)})") from None


def _load(source: Path | bytes | Image.Image, size: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return _checked_upright(source)
    return _load_bytes(source, size) if isinstance(source, bytes) else _load_file(source, size)


def _load_bytes(content: bytes, size: int, max_pixels: int = MAX_PIXELS, sent: bool = False) -> Image.Image:
    """As :func:`_load_file` loads a file with this content."""
    if not content:
        raise ImageError("empty file (0 bytes)")
    return _decoded(_open(io.BytesIO(content), sent), size, max_pixels)


def _load_file(path: Path, size: int) -> Image.Image:
    """Upright; a JPEG at no less than twice ``size`` where it has that."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ImageError("not a regular file (a pipe, socket or device): save it to a file first")
    if status.st_size == 0:
        raise ImageError("empty file (0 bytes)")
    return _decoded(_open(path), size)


def _decoded(opened: Image.Image, size: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    with opened as image:
        _check_pixels(image, max_pixels)
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 scale where that is enough
        return _upright(image)


def _open(file: Path | io.BytesIO, sent: bool = False) -> Image.Image:
    """Open lazily: only the header is read. The size check is ours, so Pillow's lower limit is set aside.

    Args:
        sent: by a stranger: only photos are opened.
    """
    with _OPEN_LOCK, warnings.catch_warnings():  # both are settings of the whole process
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=_photo_formats() if sent else None)
        except UnidentifiedImageError:
            kind = _heif_kind(file)
            if kind is None:
                raise
            _need_reader_of(kind)
            try:
                return Image.open(file, formats=_photo_formats() if sent else None)
            except UnidentifiedImageError:
                raise ImageError(f"broken {kind} data") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _photo_formats() -> list[str]:
    """Pillow's names of the formats that ``IMAGE_SUFFIXES`` stand for, of those that it can read now."""
    known = Image.registered_extensions()
    return sorted({known[suffix] for suffix in IMAGE_SUFFIXES if suffix in known})


def _heif_kind(file: Path | io.BytesIO) -> str | None:
    """HEIC or AVIF, whatever a file is called; None for others."""
    if isinstance(file, io.BytesIO):
        start = bytes(file.getbuffer()[:64])
    else:
        with file.open("rb") as opened:
            start = opened.read(64)
    if start[4:8] != b"ftyp":
        return None
    brands = {start[place : place + 4] for place in (8, *range(16, len(start), 4))}
    return "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIC_BRANDS else None


def _need_reader_of(kind: str) -> None:
    """Teach Pillow to read HEIC; AVIF it knows by itself since 11.3.

    Raises:
        ImageError: what is needed is not installed.
    """
    if kind == "AVIF":
        needed, there = "Pillow 11.3 or newer", features.check("avif")
    else:
        needed, there = "pillow-heif", "HEIF" in Image.OPEN or _heic_reader_added()
    if not there:
        raise ImageError(f'{kind} needs {needed}, which comes with: pip install "zsl-tagger[heic]"')


def _heic_reader_added() -> bool:
    try:
        from pillow_heif import register_heif_opener  # only where such a photo turns up: it takes time
    except ImportError:
        return False
    register_heif_opener()
    return True


def _check_pixels(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, the limit is {max_pixels // 1_000_000} million")
    if width == 0 or height == 0:
        raise ImageError(f"has no pixels: {width} x {height}")


def _checked_upright(image: Image.Image) -> Image.Image:
    _check_pixels(image)
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. Only that tag is read: a broken other one does no harm."""
    image.load()  # a TIFF turns itself, and then forgets the tag
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an EXIF block that cannot be parsed says nothing
        turn = None
    return image if turn is None else image.transpose(turn)


def _resized(image: Image.Image, size: int) -> np.ndarray:
    """Upright image -> uint8 ``(size, size, 3)``; what is transparent becomes white, as a viewer shows it."""
    image = _to_rgb(image)
    return np.asarray(_on_white(image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent: that is blended when the image is small."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16)).convert("RGB")
    if image.mode == "I" or image.mode == "F":
        return Image.fromarray(_wide_to_uint8(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or image.mode == "RGBa" or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def _wide_to_uint8(values: np.ndarray) -> np.ndarray:
    """16-bit and float greys ``(H, W)`` to uint8: full-range 16 bit where the values need it."""
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError("holds NaN or infinite values")
    top = float(values.max(initial=0.0))
    scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 255.0 / 65535.0
    return np.clip(values * scale, 0, 255).round().astype(np.uint8)


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
            raise ImageError("the array holds NaN")
        array = (array * 255.0).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"expected uint8, uint16 or float values, got {array.dtype}")
    return Image.fromarray(array)
