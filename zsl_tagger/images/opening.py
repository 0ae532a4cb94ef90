"""Open untrusted image files: photo formats only, the right page, and a bounded amount of work."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image, TiffTags, UnidentifiedImageError, features

from zsl_tagger.errors import MissingExtraError, PhotoError, first_line, install_command, require

#: Larger images are rejected before decoding: a few kilobytes of PNG can expand to gigabytes of pixels.
MAX_PIXELS = 150_000_000

#: Each scan of a JPEG is a pass over all its pixels. An image of maximum size may have this many (libjpeg's progressive
#: files have 10), a smaller one proportionally more.
MAX_PASSES = 16

_HEIF_SUFFIXES = {".heic", ".heif", ".hif", ".avif"}
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", *_HEIF_SUFFIXES}
)

#: Some of Pillow's formats start other programs: EPS starts Ghostscript. Only these are tried, the common ones first,
#: because loading the others takes time.
_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP")
_OTHER_FORMATS = ("WEBP", "TIFF", "AVIF", "HEIF")

#: The file type box at the start of HEIC and AVIF files names the format (ISO/IEC 14496-12, "ftyp").
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

_OPEN_LOCK = threading.Lock()


class ImageError(PhotoError):
    """An image cannot be used. The message is one line that a person can act on."""


@contextmanager
def open_errors() -> Iterator[None]:
    """Convert errors of opening a file to an :class:`ImageError`; other errors propagate."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except PermissionError:
        raise ImageError("no permission to read it") from None
    except IsADirectoryError:
        raise ImageError("is a folder, not an image") from None


@contextmanager
def image_errors() -> Iterator[None]:
    """Convert any exception of reading an image to an :class:`ImageError`, so that one photo never ends a run."""
    try:
        with open_errors():
            yield
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise ImageError(f"too large: more than {MAX_PIXELS // 1_000_000} million pixels") from None
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except ImageError:
        raise
    except MissingExtraError as error:
        raise ImageError(str(error)) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on broken data
        raise ImageError(f"broken image data ({first_line(error)})") from None


def open_photo(file: Path | io.BytesIO) -> Image.Image:
    """Open an image file lazily, reading only its headers; the caller must check its size with :func:`check_pixels`."""
    with _OPEN_LOCK, warnings.catch_warnings():  # both settings are process-wide
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = _open_known(file)
            return _tiff_photo(image, file) if image.format == "TIFF" else image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open_known(file: Path | io.BytesIO) -> Image.Image:
    Image.preinit()
    with suppress(UnidentifiedImageError):
        return Image.open(file, formats=_COMMON_FORMATS)
    Image.init()
    try:
        return Image.open(file, formats=_other_formats())
    except UnidentifiedImageError:
        kind = _heif_kind(file)
        if kind is None:
            raise
    _need_reader_of(kind)
    try:
        return Image.open(file, formats=_other_formats())
    except UnidentifiedImageError:
        raise ImageError(f"broken {kind} data") from None


def _other_formats() -> list[str]:
    return [name for name in _OTHER_FORMATS if name in Image.OPEN]


def is_image(path: Path) -> bool:
    """Return whether the start of a file is that of an image; nothing more is read."""
    try:
        with open_photo(path):
            return True
    except Exception:  # Pillow raises nearly anything on other files
        return False


# --- HEIC and AVIF ---------------------------------------------------------------------------------------------------


def _heif_kind(file: Path | io.BytesIO) -> str | None:
    """Return HEIC or AVIF by the content of a file; None for other formats."""
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
    """Register the HEIC reader with Pillow; AVIF is built in since 11.3.

    Raises:
        ImageError: the required package is not installed.
    """
    if kind == "AVIF":
        if not features.check("avif"):
            raise ImageError(f"AVIF needs Pillow 11.3 or newer: {install_command('heic')}")
    elif "HEIF" not in Image.OPEN:
        require("pillow_heif", "heic", "HEIC photos")
        from pillow_heif import register_heif_opener  # only where such a photo turns up: it takes time

        register_heif_opener()


# --- TIFF ------------------------------------------------------------------------------------------------------------

_TAGS = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}
_BITS, _PLANES, _PHOTOMETRIC = _TAGS["BitsPerSample"], _TAGS["PlanarConfiguration"], _TAGS["PhotometricInterpretation"]
_KIND = _TAGS["NewSubfileType"]
_REDUCED, _MASK = 1, 4  # bits of _KIND
_PAGES = 16  # searched for the photo


def _tiff_photo(image: Any, file: Path | io.BytesIO) -> Image.Image:
    """Return a TIFF at the page of the photo, set up so that its pixels are decoded correctly."""
    from PIL import TiffImagePlugin

    page = 0
    if image.is_animated:
        page = _photo_page(image)
        image = _reopened(image, file, page)  # trying an unreadable page changed its state
    if _needs_libtiff(image):
        before, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
        try:
            image = _reopened(image, file, page)
        finally:
            TiffImagePlugin.READ_LIBTIFF = before
    # libtiff returns samples in the machine's byte order; Pillow expects the order of the file.
    image.tile = [_in_native_order(tile) if tile[0] == "libtiff" else tile for tile in image.tile]
    return image


def _reopened(image: Image.Image, file: Path | io.BytesIO, page: int) -> Any:
    with image:  # closes the file, unless it is in memory
        pass
    again = Image.open(file, formats=["TIFF"])
    again.seek(page)
    return again


def _photo_page(image: Any) -> int:
    """Return the number of the page with the photo, skipping thumbnails.

    A thumbnail is marked as such, or has the proportions of a page at least twice as large.
    """
    kinds, sizes = [], []
    with suppress(Exception):  # no more pages, or none that Pillow can read
        for page in range(_PAGES):
            image.seek(page)
            kinds.append(image.tag_v2.get(_KIND, 0))
            sizes.append(image.size)
    width, height = sizes[0]
    larger = [
        page
        for page, (wide, high) in enumerate(sizes)
        if not kinds[page] & (_REDUCED | _MASK)
        and min(wide / width, high / height) >= 2
        and (kinds[0] & _REDUCED or abs(wide * height / width - high) <= max(high / height, high / 50))
    ]
    return max(larger, key=lambda page: sizes[page][0] * sizes[page][1], default=0)


def _needs_libtiff(image: Any) -> bool:
    """Return whether Pillow's own reader would misread the samples of separate planes as 8-bit."""
    bits = image.tag_v2.get(_BITS, (1,))
    planar = image.tag_v2.get(_PLANES, 1) == 2
    return planar and (len(bits) == 1 or max(bits) > 8) and any(tile[0] == "raw" for tile in image.tile)


def _in_native_order(tile: Any) -> Any:
    name, extents, offset, (raw_mode, *more) = tile
    order = re.sub(r"(?<=;)(16|32)B(?=[SF]$)", r"\1N", raw_mode)
    return getattr(type(tile), "_make", tuple)((name, extents, offset, (order, *more)))


def is_white_zero(image: Any) -> bool:
    """Return whether 0 is white in a 16-bit or float TIFF; Pillow handles that for 8 bits only."""
    wide = image.mode in ("F", "I") or image.mode.startswith("I;16")
    return wide and image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0


# --- limits ----------------------------------------------------------------------------------------------------------


def check_pixels(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    """Raise an ImageError if an image has no pixels or more than ``max_pixels``."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, the limit is {max_pixels // 1_000_000} million")
    if width == 0 or height == 0:
        raise ImageError(f"has no pixels: {width} x {height}")


def check_work(image: Any, max_pixels: int = MAX_PIXELS) -> None:
    """Raise an ImageError if decoding needs too many passes over the pixels, which would take minutes.

    A decoder cannot be interrupted, so this is checked first: a 500 kB JPEG may have 5,000 full scans, a TIFF the same
    strip a million times.
    """
    width, height = image.size
    passes = scans_of(image.fp) if image.format in ("JPEG", "MPO") else _tile_passes(image)
    if passes * width * height > MAX_PASSES * max_pixels:
        most = MAX_PASSES * max_pixels // (width * height)
        raise ImageError(
            f"takes too long to decode: {passes:,} passes over {width} x {height} pixels, the limit is {most:,}; "
            "save it again as an ordinary JPEG"
        )


def _tile_passes(image: Any) -> int:
    width, height = image.size
    boxes = [tile[1] for tile in getattr(image, "tile", ()) if tile[1] is not None]
    return sum((right - left) * (lower - upper) for left, upper, right, lower in boxes) // (width * height)


_PROGRESSIVE_FRAMES = {0xC2, 0xC6, 0xCA, 0xCE}
_FRAMES = {0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCD, 0xCF, *_PROGRESSIVE_FRAMES}
_SCAN, _END = 0xDA, 0xD9
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data, ff 00 is a byte and ff d0 to ff d7 are restarts


def scans_of(file: IO[bytes]) -> int:
    """Return the number of scans of a JPEG; only the headers are read if the first scan is the only one."""
    file.seek(0)
    components, progressive = 0, False
    while True:
        marker, segment = _next_segment(file)
        if marker in _FRAMES:
            components, progressive = (segment[5:6] or b"\0")[0], marker in _PROGRESSIVE_FRAMES
        elif marker == _SCAN:
            whole = not progressive and segment[:1] >= bytes([components])
            return 1 if whole else 1 + _scans_in(file.read())
        elif marker is None or marker == _END:
            return 0


def _next_segment(file: IO[bytes]) -> tuple[int | None, bytes]:
    """Return (marker, its segment without the length); the marker is None at the end of the file."""
    byte = file.read(1)
    while byte and byte != b"\xff":
        byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
    if not byte:
        return None, b""
    if byte[0] in _BARE or byte[0] in (0x00, _END):
        return byte[0], b""
    return byte[0], file.read(max(int.from_bytes(file.read(2), "big") - 2, 0))


def _scans_in(content: bytes) -> int:
    """Return the number of scans that start in the data after the first scan's header."""
    scans, place = 0, 0
    while (found := _MARKER.search(content, place)) is not None:
        marker, place = content[found.start() + 1], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        if marker not in _BARE:
            place += int.from_bytes(content[place : place + 2], "big")
    return scans


class PixelBudget:
    """Limit on the number of pixels that all threads together may be decoding; further images wait.

    An image above the limit gets all of it. First come, first served, so that a large image does not wait forever.
    """

    def __init__(self, total: int):
        self._total = total
        self._reset()

    def _reset(self) -> None:
        self._used, self._turn, self._changed = 0, threading.Lock(), threading.Condition()

    @contextmanager
    def lend(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image, and reserve it inside the block."""
        changed = self._changed
        with self._turn, changed:
            changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self._total)
            self._used += pixels
        try:
            yield
        finally:
            with changed:
                self._used -= pixels
                changed.notify_all()


#: A decoded pixel takes up to 4 bytes: all workers together use the memory of one image of maximum size.
DECODING = PixelBudget(MAX_PIXELS)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODING._reset)  # the threads that hold parts of it do not exist in the child
