"""Opening: photo formats only, the page that is the photo, and no work or memory beyond a budget."""

from __future__ import annotations

import io
import re
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from odd_images import jpeg_of_many_scans, tiff, tiff_page
from paths import ROOT
from PIL import EpsImagePlugin, Image

from zsl_tagger.images.opening import PixelBudget, scans_of
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array, load_small, load_upload
from zsl_tagger.tagging.tagger import Tagger

SIDE = 16
GREY = np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)
RGB = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
WHOLE = Preprocessing(SIDE)


def test_formats_that_start_programs_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads EPS with Ghostscript, whatever the file is called."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n%%EOF\n")
    assert Image.open(path).format == "EPS"
    for load in (
        lambda: load_array(path, WHOLE),
        lambda: load_small(path, 8),
        lambda: load_array(path.read_bytes(), WHOLE),
    ):
        with pytest.raises(ImageError, match=r"^not an image that Pillow can read$"):
            load()


def test_images_are_opened_in_one_place() -> None:
    """Anywhere else, any format would be tried. LibRaw knows raw photos only."""
    code = [path for folder in ("zsl_tagger", "data_prep") for path in (ROOT / folder).rglob("*.py")]
    callers = {path.name for path in code if re.search(r"Image\.open\(|(?<!rawpy\.)\bimread\(", path.read_text())}
    assert callers == {"opening.py"}


# --- work that cannot be stopped -------------------------------------------------------------------------------------


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg_of_many_scans(2000, 700)  # 34 kB
    with pytest.raises(ImageError, match=r"too long to decode: 700 passes over 2000 x 2000 pixels, the limit is 600"):
        load_array(content, WHOLE)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="700 passes"):
        load_array(content, WHOLE)


@pytest.mark.parametrize(("scans", "fits"), [(16, True), (17, False)])
def test_the_budget_follows_the_limit_of_pixels(scans: int, fits: bool) -> None:
    content = jpeg_of_many_scans(64, scans)
    assert scans_of(io.BytesIO(content)) == scans
    if fits:
        assert load_upload(content, WHOLE, max_pixels=64 * 64).shape == (SIDE, SIDE, 3)
        return
    with pytest.raises(ImageError, match="17 passes over 64 x 64 pixels, the limit is 16"):
        load_upload(content, WHOLE, max_pixels=64 * 64)


def test_scans_are_counted_as_a_decoder_meets_them() -> None:
    """Not in a comment, not in a thumbnail, not behind the end; an ordinary JPEG has one."""
    content = jpeg_of_many_scans(64, 12)
    comment = b"\xff\xfe\x00\x0a" + b"\xff\xda" * 4
    place = content.rindex(b"\xff\xda")
    disguised = content[:2] + comment + content[2:place] + comment + content[place:] + b"\xff\xda" * 9
    assert scans_of(io.BytesIO(disguised)) == 12
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    assert scans_of(file) == 1
    assert scans_of(io.BytesIO(file.getvalue()[:30])) == 0


def test_a_tiff_that_shows_a_strip_again_and_again_is_refused() -> None:
    tags, data = tiff_page((64, 64, 1), 8, [bytes(64 * 32)])
    many = {**tags, 278: [32], 273: [0] * 40, 279: [0] * 39 + [64 * 32]}
    with pytest.raises(ImageError, match="20 passes over 64 x 64 pixels, the limit is 16"):
        load_upload(tiff((many, data)), WHOLE, max_pixels=64 * 64)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_no_memory_is_the_error_of_that_photo(examples: Path, tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(ImageError, match=r"^not enough memory to decode it$"):
        load_array(examples / "cat.jpg", WHOLE)
    paths = [examples / "cat.jpg", examples / "coffee.jpg"]
    assert [record.error for record in tagger.tag_many(paths, ["cat"])] == ["not enough memory to decode it"] * 2


def test_threads_share_a_budget_of_pixels() -> None:
    budget, order = PixelBudget(10), []
    go = {name: threading.Event() for name in ("first", "large", "last")}

    def decode(name: str, pixels: int) -> None:
        with budget.lend(pixels):
            order.append(name)
            assert go[name].wait(10)

    threads = []
    for name, pixels in (("first", 6), ("large", 50), ("last", 1)):
        threads.append(threading.Thread(target=decode, args=(name, pixels)))
        threads[-1].start()
        time.sleep(0.05)
    assert order == ["first"]  # the large one waits, and is not overtaken
    for name, begun in (("first", ["first", "large"]), ("large", ["first", "large", "last"])):
        go[name].set()
        time.sleep(0.05)
        assert order == begun
    go["last"].set()
    for thread in threads:
        thread.join(10)
    assert budget._used == 0


def test_files_in_decode_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    class Counting(PixelBudget):
        def lend(self, pixels: int):  # type: ignore[no-untyped-def]
            held.append(pixels)
            return super().lend(pixels)

    monkeypatch.setattr("zsl_tagger.images.preprocessing.DECODING", Counting(10))
    file = io.BytesIO()
    Image.new("RGB", (640, 480)).save(file, "JPEG", progressive=True)
    load_array(file.getvalue(), WHOLE)
    Image.new("RGB", (640, 480)).save(file := io.BytesIO(), "JPEG")
    load_array(file.getvalue(), WHOLE)
    assert held == [640 * 480, 80 * 60]  # a progressive one is held whole, another at its reduced scale


# --- TIFF ------------------------------------------------------------------------------------------------------------


def planes(samples: np.ndarray, order: str) -> list[bytes]:
    return [np.ascontiguousarray(plane).astype(f"{order}u2").tobytes() for plane in np.moveaxis(samples, -1, 0)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_in_planes(order: str) -> None:
    page = tiff_page(RGB.shape, 16, planes(RGB.astype(np.uint16) * 257, order), planes=2)
    assert np.array_equal(load_array(tiff(page, order=order), WHOLE), RGB)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
def test_one_plane_of_16_bits(order: str, planar: int) -> None:
    page = tiff_page((SIDE, SIDE, 1), 16, planes(GREY[..., None].astype(np.uint16) * 257, order), planes=planar)
    assert np.array_equal(load_array(tiff(page, order=order), WHOLE)[..., 0], GREY)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("kind", "bits"), [("u2", 16), ("f4", 32)])
def test_zero_is_white_where_the_file_says_so(kind: str, bits: int, compressed: bool) -> None:
    top = 65535 if kind == "u2" else 1
    data = ((255 - GREY) / 255 * top).astype(f"<{kind}").tobytes()
    data = zlib.compress(data) if compressed else data
    tags = {"photometric": 0, "compression": 8 if compressed else 1, "format": 3 if kind == "f4" else 1}
    content = tiff(tiff_page((SIDE, SIDE, 1), bits, [data], **tags))
    assert np.abs(load_array(content, WHOLE)[..., 0].astype(int) - GREY).max() <= 1
    with Image.open(io.BytesIO(content)) as opened:
        assert np.abs(load_array(opened, WHOLE)[..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(("kind", "form"), [("i2", 2), ("i4", 2), ("f4", 3)])
def test_compressed_samples_in_the_other_byte_order(kind: str, form: int) -> None:
    data = zlib.compress((GREY.astype(f">{kind}")).tobytes())
    page = tiff_page((SIDE, SIDE, 1), 8 * int(kind[1]), [data], compression=8, format=form)
    assert np.array_equal(load_array(tiff(page, order=">"), WHOLE)[..., 0], GREY)


def pages(*sizes: tuple[int, int, int]) -> bytes:
    """Return a TIFF of pages (height, width, grey)."""
    return tiff(*(tiff_page((high, wide, 1), 8, [bytes([grey]) * (high * wide)]) for high, wide, grey in sizes))


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ([(10, 16, 50), (266, 400, 200)], 200),
        ([(10, 16, 50), (20, 32, 100), (40, 64, 200)], 200),
        ([(40, 64, 50), (10, 16, 200)], 50),  # the thumbnail comes second
        ([(40, 64, 50), (40, 64, 200)], 50),  # pages of a document
        ([(40, 64, 50), (200, 64, 200)], 50),  # another picture
    ],
)
def test_the_page_that_is_the_photo(tmp_path: Path, sizes: list[tuple[int, int, int]], shown: int) -> None:
    (tmp_path / "a.tif").write_bytes(pages(*sizes))
    for source in (tmp_path / "a.tif", pages(*sizes)):
        assert load_array(source, WHOLE)[0, 0].tolist() == [shown] * 3


def test_a_page_that_says_it_is_a_thumbnail_is_one() -> None:
    """Also with black bars, which change its proportions; a mask is no photo."""
    small = tiff_page((12, 16, 1), 8, [b"\x32" * 192], kind=1)
    photo = tiff_page((40, 64, 1), 8, [b"\xc8" * 2560])
    mask = tiff_page((80, 128, 1), 8, [b"\xff" * 10240], kind=4)
    assert load_array(tiff(small, photo, mask), WHOLE)[0, 0].tolist() == [200] * 3


def test_16_bits_in_planes_behind_a_thumbnail_and_before_a_page_that_cannot_be_read() -> None:
    small = tiff_page((8, 8, 3), 8, [bytes(192)])
    photo = tiff_page(RGB.shape, 16, planes(RGB.astype(np.uint16) * 257, "<"), planes=2)
    unknown = tiff_page((4, 4, 1), 7, [bytes(16)])
    assert np.array_equal(load_array(tiff(small, photo, unknown), WHOLE), RGB)
    assert np.array_equal(load_array(tiff(photo, unknown), WHOLE), RGB)
