"""load_array: every kind of image ends as the same upright RGB square; every broken one as an ImageError."""

from __future__ import annotations

import io
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import (
    ImageError,
    ImageSource,
    Preprocessing,
    load_array,
    load_photo,
    load_upload,
)

SIDE = 8
GREY = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 4 + 3).astype(np.uint8)  # 3, 7 .. 255
RGB = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
ALPHA = np.where(np.arange(SIDE) < 3, 0, 255).astype(np.uint8) * np.ones((SIDE, 1), np.uint8)  # 3 clear columns
INDEX = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3).astype(np.uint8)
COLOURS = np.array([[250, 10, 20], [30, 240, 40], [50, 60, 230]], np.uint8)
MAGENTA_LEFT = np.where(ALPHA[..., None] == 0, np.array([255, 0, 255], np.uint8), RGB)


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[..., None] / 255.0
    return np.rint(rgb * part + 255 * (1 - part))


def palette_image() -> Image.Image:
    image = Image.fromarray(INDEX)
    image.putpalette(COLOURS.tobytes())
    return image


def inverted() -> list[Image.Image]:
    """The later frames of an animation, which must not be seen."""
    return [Image.fromarray(255 - RGB)]


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of any value."""
    assert got.shape == expected.shape
    return float(np.abs(got.astype(float) - expected).max())


KINDS: dict[str, tuple[Image.Image, dict[str, Any], np.ndarray, int]] = {
    # file name: picture, how it is saved, expected array, largest difference
    "rgb.png": (Image.fromarray(RGB), {}, RGB, 0),
    "rgb.bmp": (Image.fromarray(RGB), {}, RGB, 0),
    "rgb.jpg": (Image.fromarray(RGB), {"quality": 100, "subsampling": 0}, RGB, 3),
    "cmyk.jpg": (Image.fromarray(RGB).convert("CMYK"), {"quality": 100, "subsampling": 0}, RGB, 6),
    "rgba.png": (Image.fromarray(np.dstack([RGB, GREY])), {}, on_white(RGB, GREY), 1),
    "rgb_transparent_colour.png": (
        Image.fromarray(MAGENTA_LEFT),
        {"transparency": (255, 0, 255)},
        on_white(RGB, ALPHA),
        0,
    ),
    "grey.png": (Image.fromarray(GREY), {}, grey_rgb(GREY), 0),
    "grey.jpg": (Image.fromarray(GREY), {"quality": 100}, grey_rgb(GREY), 2),
    "grey_alpha.png": (
        Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]),
        {},
        on_white(grey_rgb(GREY), ALPHA),
        0,
    ),
    "palette.png": (palette_image(), {}, COLOURS[INDEX], 0),
    "palette.gif": (palette_image(), {}, COLOURS[INDEX], 0),
    "palette_transparent_index.png": (
        palette_image(),
        {"transparency": 1},
        on_white(COLOURS[INDEX], np.where(INDEX == 1, 0, 255)),
        0,
    ),
    "palette_alpha_per_colour.png": (
        palette_image(),
        {"transparency": bytes([0, 128, 255])},
        on_white(COLOURS[INDEX], np.array([0, 128, 255])[INDEX]),
        1,
    ),
    "grey16.png": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, grey_rgb(GREY), 0),
    "grey16.tif": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, grey_rgb(GREY), 0),
    "int32.tif": (Image.fromarray(GREY.astype(np.int32) * 257), {}, grey_rgb(GREY), 0),
    "int32_0_to_255.tif": (Image.fromarray(GREY.astype(np.int32)), {}, grey_rgb(GREY), 0),
    "float32_0_to_1.tif": (Image.fromarray(GREY.astype(np.float32) / 255), {}, grey_rgb(GREY), 0),
    "float32_0_to_255.tif": (Image.fromarray(GREY.astype(np.float32)), {}, grey_rgb(GREY), 0),
    "bilevel.png": (Image.fromarray(GREY > 99), {}, grey_rgb(np.where(GREY > 99, 255, 0)), 0),
    "lossless.webp": (Image.fromarray(RGB), {"lossless": True}, RGB, 0),
    "animated.gif": (palette_image(), {"save_all": True, "append_images": inverted()}, COLOURS[INDEX], 0),
    "animated.webp": (
        Image.fromarray(RGB),
        {"save_all": True, "append_images": inverted(), "lossless": True},
        RGB,
        0,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_and_the_same_picture_opened_by_the_caller(tmp_path: Path, name: str) -> None:
    image, options, expected, tolerance = KINDS[name]
    image.save(tmp_path / name, **options)
    array = load_array(tmp_path / name, Preprocessing(SIDE))
    assert array.dtype == np.uint8
    assert difference(array, expected) <= tolerance
    with Image.open(tmp_path / name) as opened:
        assert np.array_equal(load_array(opened, Preprocessing(SIDE)), array)
    assert np.array_equal(load_array((tmp_path / name).read_bytes(), Preprocessing(SIDE)), array)
    assert np.array_equal(load_upload((tmp_path / name).read_bytes(), Preprocessing(SIDE)), array)


def test_an_upload_is_decoded_as_the_file_is(tmp_path: Path) -> None:
    """A JPEG at a reduced scale, and turned: any other way gives other pixels."""
    noise = np.random.default_rng(5).integers(0, 256, (130, 170, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    array = load_upload(content, Preprocessing(SIDE))
    assert np.array_equal(array, load_array(tmp_path / "a.jpg", Preprocessing(SIDE)))
    with Image.open(tmp_path / "a.jpg") as opened:
        assert not np.array_equal(array, load_array(opened, Preprocessing(SIDE)))  # decoded whole
    with pytest.raises(ImageError, match=r"too large: 170 x 130 pixels, the limit is 0 million"):
        load_upload(content, Preprocessing(SIDE), max_pixels=170 * 130 - 1)
    load_upload(content, Preprocessing(SIDE), max_pixels=170 * 130)
    with pytest.raises(ImageError, match="empty file"):
        load_upload(b"", Preprocessing(SIDE))


ARRAYS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    # name: array, the 8-bit picture that a PNG file holds of it
    "(H,W) uint8": (GREY, GREY),
    "(H,W,1) uint8": (GREY[..., None], GREY),
    "(H,W,3) uint8": (RGB, RGB),
    "(H,W,4) uint8": (np.dstack([RGB, GREY]), np.dstack([RGB, GREY])),
    "(H,W) uint16": (GREY.astype(np.uint16) * 257, GREY),
    "(H,W,3) uint16": (RGB.astype(np.uint16) * 257, RGB),
    "(H,W,1) float64": (GREY[..., None] / 255, GREY),
    "(H,W,3) float32": (RGB.astype(np.float32) / 255, RGB),
    "(H,W,4) float32": (np.dstack([RGB, GREY]) / np.float32(255), np.dstack([RGB, GREY])),
    "(H,W,3) a reversed view": (RGB[::-1, ::-1], RGB[::-1, ::-1].copy()),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_gives_what_the_file_gives_and_is_not_changed(tmp_path: Path, name: str) -> None:
    array, picture = ARRAYS[name]
    before = array.copy()
    Image.fromarray(picture).save(tmp_path / "picture.png")
    assert np.array_equal(load_array(array, Preprocessing(5)), load_array(tmp_path / "picture.png", Preprocessing(5)))
    assert np.array_equal(array, before)


def test_a_dark_16_bit_file_is_as_dark_as_its_array(tmp_path: Path) -> None:
    dark = np.full((3, 4), 200, np.uint16)  # 200 of 65535: as good as black
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert difference(load_array(tmp_path / "dark.png", Preprocessing(2)), load_array(dark, Preprocessing(2))) <= 1


# --- orientation and size ---------------------------------------------------------------------------------


def smooth_picture(width: int, height: int) -> Image.Image:
    """Waves and ramps: no two corners alike, and little that JPEG would lose."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.stack([x, y, 0.5 + 0.5 * np.sin(5 * x + 3 * y)], axis=-1)
    return Image.fromarray((waves * 255).round().astype(np.uint8))


#: What a camera that was held this way has stored, of an upright picture (the EXIF standard's table).
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),  # shown after a quarter turn clockwise
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0), ("tif", 0), ("jpg", 3)])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str, tolerance: int) -> None:
    upright = smooth_picture(160, 120)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    stored.save(path, exif=exif, quality=97)  # the quality is for JPEG, the others are lossless
    assert difference(load_array(path, Preprocessing(17)), load_array(upright, Preprocessing(17))) <= tolerance
    with Image.open(path) as opened:
        assert difference(load_array(opened, Preprocessing(17)), load_array(upright, Preprocessing(17))) <= tolerance


def test_a_large_jpeg_decoded_small_stays_close_to_the_full_decode(tmp_path: Path) -> None:
    smooth_picture(1601, 1203).save(tmp_path / "large.jpg", quality=92)
    with Image.open(tmp_path / "large.jpg") as image:
        full = np.asarray(image.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC))
    array = load_array(tmp_path / "large.jpg", Preprocessing(96))
    assert difference(array, full) <= 8
    assert np.array_equal(
        load_array((tmp_path / "large.jpg").read_bytes(), Preprocessing(96)), array
    )  # reduced by the same steps


@pytest.mark.parametrize("size", [1, 2, 7, 224])
def test_one_pixel_fills_the_square(tmp_path: Path, size: int) -> None:
    Image.new("RGB", (1, 1), (10, 130, 250)).save(tmp_path / "one.png")
    assert np.array_equal(
        load_array(tmp_path / "one.png", Preprocessing(size)), np.full((size, size, 3), [10, 130, 250])
    )


@pytest.mark.parametrize("along", [0, 1])
def test_extreme_aspect_ratio(tmp_path: Path, along: int) -> None:
    ramp = grey_rgb(np.linspace(0, 255, 3000).astype(np.uint8)[:, None])  # 1 pixel wide, 3000 high
    Image.fromarray(np.moveaxis(ramp, 0, along)).save(tmp_path / "strip.png")
    lines = np.moveaxis(load_array(tmp_path / "strip.png", Preprocessing(10)), along, 0)
    assert difference(lines, np.broadcast_to(lines[:, :1], lines.shape)) == 0
    assert np.allclose(lines[:, 0, 0], np.arange(10) * 25.5 + 12.75, atol=2)


# --- the caller's picture is left alone -------------------------------------------------------------------


@pytest.mark.parametrize("name", [*KINDS, "turned.jpg", "large.jpg"])
@pytest.mark.parametrize("loaded", [False, True], ids=["only opened", "loaded"])
def test_the_callers_image_is_not_changed(tmp_path: Path, name: str, loaded: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    large = smooth_picture(320, 240)
    extra = {"turned.jpg": (large, {"exif": exif}), "large.jpg": (large, {})}
    image, options = extra.get(name) or KINDS[name][:2]
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as given, Image.open(tmp_path / name) as untouched:
        if loaded:
            given.load()
        load_array(given, Preprocessing(4))
        assert (given.size, given.mode) == (untouched.size, untouched.mode)
        assert given.tobytes() == untouched.tobytes()
        assert given.info == untouched.info
        assert given.getexif().get(0x0112) == untouched.getexif().get(0x0112)


# --- errors -----------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """The few bytes of a PNG file that claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^empty file \(0 bytes\)$"),
        (b"a letter, not a picture\n" * 9, "^not an image that Pillow can read$"),
        (png_header(60_000, 60_000), "^too large: 60000 x 60000 pixels, the limit is 150 million$"),
    ],
    ids=["zero bytes", "text", "decompression bomb"],
)
def test_a_file_that_is_no_picture(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        load_array(tmp_path / "photo.jpg", Preprocessing(SIDE))
    with pytest.raises(ImageError, match=message):
        load_array(content, Preprocessing(SIDE))


def encoded(path: Path) -> bytes:
    """The bytes of a noisy picture, which no decoder can do without."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["half.jpg", "half.png"])
@pytest.mark.parametrize("opened", [False, True], ids=["path", "opened by the caller"])
def test_half_a_file(tmp_path: Path, name: str, opened: bool) -> None:
    data = encoded(tmp_path / name)
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / name) as image, pytest.raises(ImageError, match=r"broken image data .*truncated"):
        load_array(image if opened else tmp_path / name, Preprocessing(SIDE))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_a_file_cut_anywhere_gives_a_picture_or_an_image_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    data = encoded(path)
    failed = 0
    for length in range(1, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        try:
            assert load_array(path, Preprocessing(SIDE)).shape == (SIDE, SIDE, 3)
        except ImageError:
            failed += 1
    assert failed > 5


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^no such file$"):
        load_array(tmp_path / "missing.jpg", Preprocessing(SIDE))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^is a folder, not an image$"):
        load_array(str(tmp_path), Preprocessing(SIDE))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    encoded(tmp_path / "secret.png")
    (tmp_path / "secret.png").chmod(0)
    with pytest.raises(ImageError, match=r"^no permission to read it$"):
        load_array(tmp_path / "secret.png", Preprocessing(SIDE))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 3), 1.01), r"expected float values in 0\.\.1"),
        (np.full((2, 3), -0.01), r"expected float values in 0\.\.1"),
        (np.full((2, 3), np.inf), r"expected float values in 0\.\.1"),
        (np.array([[0.5, np.nan]]), "the array contains NaN"),
        (np.zeros((2, 3), np.int64), "expected uint8, uint16 or float values, got int64"),
        (np.zeros((2, 3), bool), "expected uint8, uint16 or float values, got bool"),
        (np.zeros(6, np.uint8), r"of shape \(H, W\) or \(H, W, 1\|3\|4\), got \(6,\)"),
        (np.zeros((2, 3, 2), np.uint8), r"got \(2, 3, 2\)"),
        (np.zeros((1, 2, 3, 3), np.uint8), r"got \(1, 2, 3, 3\)"),
        (np.zeros((0, 3), np.uint8), "has no pixels: 3 x 0"),
    ],
)
def test_an_array_that_is_no_picture(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_array(array, Preprocessing(SIDE))


# --- many at once -----------------------------------------------------------------------------------------


def test_many_threads_load_what_one_loads(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in KINDS]
    for path in paths:
        KINDS[path.name][0].save(path, **KINDS[path.name][1])
    alone = [load_array(path, Preprocessing(6)) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: load_array(path, Preprocessing(6)), paths * 8))
    assert all(np.array_equal(got, alone[index % len(paths)]) for index, got in enumerate(together))


def test_many_threads_leave_the_settings_of_the_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_345_678)
    filters = list(warnings.filters)
    open_at_once, pauses = Image.open, iter([0.03, 0.06, 0.09])  # each begins before another ends

    def open_slowly(path: Path, **options: Any) -> Image.Image:
        time.sleep(next(pauses))
        return open_at_once(path, **options)

    monkeypatch.setattr(Image, "open", open_slowly)
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: load_array(tmp_path / "small.png", Preprocessing(SIDE)), range(3)))
    assert Image.MAX_IMAGE_PIXELS == 12_345_678
    assert list(warnings.filters) == filters


def test_a_broken_exif_tag_does_not_cost_the_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn
    exif[0x010E] = "description"
    image = Image.new("RGB", (40, 20), "red")
    image.save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    tag = content.index(b"\x01\x0e\x00\x02") if b"\x01\x0e\x00\x02" in content else content.index(b"\x0e\x01\x02\x00")
    broken = bytearray(content)
    broken[tag + 2 : tag + 4] = b"\x0c\x00" if content[tag] == 0x0E else b"\x00\x0c"  # said to be a float
    (tmp_path / "b.jpg").write_bytes(bytes(broken))
    assert (
        load_array(tmp_path / "b.jpg", Preprocessing(16)) == load_array(tmp_path / "a.jpg", Preprocessing(16))
    ).all()


def test_a_pipe_is_not_called_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        load_array(tmp_path / "pipe.jpg", Preprocessing(16))


def test_whatever_a_decoder_raises_is_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's TIFF reader raises TypeError on some broken files."""
    Image.new("RGB", (5, 7)).save(tmp_path / "a.tiff")
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: (_ for _ in ()).throw(TypeError("'float' object")))
    with pytest.raises(ImageError, match=r"broken image data \('float' object\)"):
        load_array(tmp_path / "a.tiff", Preprocessing(8))


def picture_bytes(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind)
    return file.getvalue()


class Stream(io.RawIOBase):
    """A stream that cannot go back, as of a network."""

    def __init__(self, content: bytes):
        self.content = content

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002
        return self.content


def test_each_kind_of_source_is_the_same_image(tmp_path: Path) -> None:
    content = picture_bytes()
    path = tmp_path / "a.png"
    path.write_bytes(content)
    at_its_end = io.BytesIO(content)
    at_its_end.seek(0, io.SEEK_END)
    with path.open("rb") as file, Image.open(path) as image:
        sources: list[ImageSource] = [path, str(path), content, bytearray(content), memoryview(content), file]
        sources += [at_its_end, Stream(content), image, np.asarray(image)]
        for source in sources:
            np.testing.assert_array_equal(load_array(source, Preprocessing(SIDE)), RGB, err_msg=str(type(source)))
            np.testing.assert_array_equal(np.asarray(load_photo(source, SIDE)), RGB, err_msg=str(type(source)))


def test_arrays_grey_and_transparent() -> None:
    expected = load_array(np.dstack([GREY] * 3), Preprocessing(SIDE))
    np.testing.assert_array_equal(load_array(GREY, Preprocessing(SIDE)), expected)
    np.testing.assert_array_equal(load_array(GREY[..., None], Preprocessing(SIDE)), expected)
    clear = np.dstack([RGB, np.zeros_like(GREY)])
    np.testing.assert_array_equal(load_array(clear, Preprocessing(SIDE)), np.full((SIDE, SIDE, 3), 255, np.uint8))


@pytest.mark.parametrize(
    ("source", "got"),
    [
        (3, "got int"),
        (None, "got NoneType"),
        ([RGB], "got list"),
        (io.StringIO("a"), "got a file opened as text: open it with 'rb'"),
        (SimpleNamespace(read=lambda: "a"), "got an object that reads str"),
    ],
)
@pytest.mark.parametrize("load", [lambda source: load_array(source, Preprocessing(SIDE)), lambda s: load_photo(s, 8)])
def test_what_is_no_source_of_an_image(load: Callable[[Any], Any], source: Any, got: str) -> None:
    accepted = (
        r"expected a path \(str or Path\), the bytes of .*, a file opened in binary mode, a PIL image, or a NumPy"
    )
    with pytest.raises(UserError, match=rf"^{accepted} .*; {got}$") as caught:
        load(source)
    assert not isinstance(caught.value, ImageError)  # tag_many makes records of these


def test_a_closed_file() -> None:
    file = io.BytesIO(picture_bytes())
    file.close()
    with pytest.raises(ImageError, match=r"^cannot be read: I/O operation on closed file"):
        load_array(file, Preprocessing(SIDE))
