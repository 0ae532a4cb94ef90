"""Files that Pillow refuses and browsers show."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array, load_small

SIZE = Preprocessing(64)


@pytest.mark.parametrize("lacking", [1, 2, 100, 1000])
def test_a_jpeg_that_lacks_its_last_bytes_is_read(tmp_path: Path, examples: Path, lacking: int) -> None:
    content = (examples / "cat.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:-lacking])
    whole = load_array(examples / "cat.jpg", SIZE).astype(int)
    for source in (tmp_path / "a.jpg", content[:-lacking]):
        assert np.abs(load_array(source, SIZE) - whole)[:-6].max() == 0  # the last rows may be grey
    assert load_small(tmp_path / "a.jpg", 64).size == load_small(examples / "cat.jpg", 64).size


@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
def test_a_jpeg_that_lacks_much_is_an_error(examples: Path, part: float) -> None:
    content = (examples / "cat.jpg").read_bytes()
    with pytest.raises(ImageError, match=r"broken image data .*truncated"):
        load_array(content[: int(len(content) * part)], SIZE)


@pytest.mark.parametrize(("part", "read"), [(0.1, False), (0.9, True)])
def test_a_progressive_jpeg_needs_its_first_scans(tmp_path: Path, examples: Path, part: float, read: bool) -> None:
    with Image.open(examples / "cat.jpg") as image:
        image.save(tmp_path / "a.jpg", progressive=True)
    content = (tmp_path / "a.jpg").read_bytes()
    cut = content[: int(len(content) * part)]
    if read:
        assert np.abs(load_array(cut, SIZE).astype(int) - load_array(content, SIZE)).mean() < 2
        return
    with pytest.raises(ImageError, match=r"broken image data .*truncated"):
        load_array(cut, SIZE)


def text_chunk(characters: int) -> bytes:
    data = b"zTXtnote\0\0" + zlib.compress(b"x" * characters)
    return struct.pack(">L", len(data) - 4) + data + struct.pack(">L", zlib.crc32(data))


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
def test_a_png_with_a_large_text_is_read(tmp_path: Path, behind: bool) -> None:
    """Editors store their whole history there."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    info = PngInfo()
    info.add_text("Title", "short")
    noise.save(tmp_path / "a.png", pnginfo=info)
    content = (tmp_path / "a.png").read_bytes()
    place = content.index(b"IEND" if behind else b"IDAT") - 4
    (tmp_path / "b.png").write_bytes(content[:place] + text_chunk(3_000_000) + content[place:])
    assert np.array_equal(load_array(tmp_path / "b.png", SIZE), load_array(noise, SIZE))


def test_a_png_that_is_broken_elsewhere_stays_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    place = content.index(b"IDAT") - 4
    short = struct.pack(">L", 1) + b"tRNS\0" + struct.pack(">L", zlib.crc32(b"tRNS\0"))
    with pytest.raises(ImageError, match=r"broken image data \(Truncated tRNS chunk\)"):
        load_array(content[:place] + short + content[place:], SIZE)
