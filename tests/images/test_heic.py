"""HEIC and AVIF photos: read upright and like others, refused before they are decoded where they are too large."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from made_data import run_command
from paths import ROOT
from PIL import ExifTags, Image, features

from zsl_tagger.images.finding import find_images
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array, load_photo, load_upload

pytestmark = pytest.mark.slow

pillow_heif.register_heif_opener()  # here to write; the tests of reading without it run in a process of their own


#: Red, green, blue and black quarters, wider than high.
QUARTERS = np.zeros((96, 128, 3), np.uint8)
QUARTERS[:48, :64], QUARTERS[:48, 64:], QUARTERS[48:, :64] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
KINDS = ["heic", "avif"]


def corners(pixels: np.ndarray) -> list[list[int]]:
    """The colours of the four quarters, rounded to full and none, row by row."""
    side = len(pixels)
    inner = (side // 8, side - side // 8)
    return [(pixels[row, column] // 128).tolist() for row in inner for column in inner]


def saved(path: Path, pixels: np.ndarray = QUARTERS, orientation: int = 1) -> Path:
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.info["exif"] = exif.tobytes()
    image.save(path, exif=exif.tobytes(), quality=95)
    return path


def with_claimed_size(path: Path, width: int, height: int) -> Path:
    """The same file, whose header says another size (the box "ispe")."""
    content = path.read_bytes()
    place = content.index(b"ispe") + 8
    claimed = path.with_name(f"claimed{path.suffix}")
    claimed.write_bytes(content[:place] + struct.pack(">II", width, height) + content[place + 8 :])
    return claimed


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_turned_once(tmp_path: Path, kind: str, orientation: int) -> None:
    """As the same picture in PNG, whose orientation only this project's code turns."""
    expected = corners(load_array(saved(tmp_path / "a.png", orientation=orientation), Preprocessing(64)))
    path = saved(tmp_path / f"a.{kind}", orientation=orientation)
    assert corners(load_array(path, Preprocessing(64))) == expected
    assert load_photo(path, 64).size == ((128, 96) if orientation < 5 else (96, 128))
    assert np.array_equal(load_upload(path.read_bytes(), Preprocessing(64)), load_array(path, Preprocessing(64)))
    with pytest.raises(ImageError, match="too large: "):
        load_upload(path.read_bytes(), Preprocessing(64), max_pixels=128 * 96 - 1)


def test_turned_once_where_a_phone_says_it_twice(tmp_path: Path) -> None:
    """A phone writes the turn for HEIC ("irot") and the one for JPEG (EXIF); a viewer follows the first alone."""
    from pillow_heif.constants import HeifCompressionFormat
    from pillow_heif.misc import CtxEncode

    image, exif = Image.fromarray(QUARTERS), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    encoder = CtxEncode(HeifCompressionFormat.HEVC)
    encoder.add_image(image.size, "RGB", image.tobytes(), image_orientation=6, exif=exif.tobytes(), primary=True)
    encoder.save(str(tmp_path / "a.heic"))
    content = (tmp_path / "a.heic").read_bytes()
    assert b"irot" in content
    assert exif.tobytes()[6:] in content
    expected = corners(load_array(saved(tmp_path / "a.png", orientation=6), Preprocessing(64)))
    assert corners(load_array(tmp_path / "a.heic", Preprocessing(64))) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_transparent_is_white(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(QUARTERS).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / f"a.{kind}")
    assert (load_array(tmp_path / f"a.{kind}", Preprocessing(32)) == 255).all()


def test_what_is_transparent_is_white_where_colours_were_multiplied_with_it() -> None:
    assert (load_array(Image.new("RGBa", (9, 9)), Preprocessing(32)) == 255).all()


def test_ten_bits(tmp_path: Path) -> None:
    wide = (QUARTERS.astype(np.uint16) * 257).tobytes()
    pillow_heif.encode("RGB;16", (128, 96), wide, str(tmp_path / "a.heic"), quality=95)
    assert pillow_heif.open_heif(tmp_path / "a.heic").info["bit_depth"] > 8
    assert corners(load_array(tmp_path / "a.heic", Preprocessing(64))) == corners(QUARTERS[:96, 16:112])


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_of_several_pictures(tmp_path: Path, kind: str) -> None:
    others = [Image.fromarray(255 - QUARTERS)]
    Image.fromarray(QUARTERS).save(tmp_path / f"a.{kind}", save_all=True, append_images=others, quality=95)
    expected = corners(load_array(Image.fromarray(QUARTERS), Preprocessing(64)))
    assert corners(load_array(tmp_path / f"a.{kind}", Preprocessing(64))) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_is_refused_before_it_is_decoded(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_claimed_size(saved(tmp_path / f"a.{kind}"), 13_000, 12_000)

    def decode(image: Image.Image) -> None:
        raise AssertionError(f"decoded {image}")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(ImageError, match="too large: 13000 x 12000 pixels, the limit is 150 million"):
        load_array(path, Preprocessing(64))


def test_a_picture_larger_than_it_claims_is_refused(tmp_path: Path) -> None:
    """Else a few kilobytes could claim 16 pixels and hold gigabytes."""
    with pytest.raises(ImageError, match="broken image data"):
        load_array(with_claimed_size(saved(tmp_path / "a.heic"), 16, 16), Preprocessing(64))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_and_many_flipped_bytes_give_an_image_error(tmp_path: Path, kind: str) -> None:
    content = saved(tmp_path / f"a.{kind}").read_bytes()
    random = np.random.default_rng(5)
    broken = [content[:length] for length in range(12, len(content), 7)]
    for _ in range(60):
        changed = bytearray(content)
        for place in random.integers(0, len(content), 5):
            changed[place] = random.integers(256)
        broken.append(bytes(changed))
    told: list[str] = []
    for number, data in enumerate(broken):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(data)
        try:
            load_array(path, Preprocessing(16))
        except ImageError as error:
            told.append(str(error))
    assert len(told) > len(broken) // 2
    assert not any("\n" in line for line in told)


def test_found_in_folders(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.heif", "c.hif", "d.avif", "e.txt"):
        (tmp_path / name).touch()
    assert [Path(str(found)).name for found in find_images([str(tmp_path)])] == ["a.HEIC", "b.heif", "c.hif", "d.avif"]


@pytest.mark.parametrize("kind", KINDS)
def test_tagged_like_the_same_photo_as_jpeg(examples: Path, tmp_path: Path, kind: str) -> None:
    with Image.open(examples / "cat.jpg") as image:
        image.save(tmp_path / f"cat.{kind}", quality=90)
    status, out, _ = run_command("tag", tmp_path, "--labels", "cat,dog,beach", "--sidecar", "xmp")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["cat"]
    assert (tmp_path / f"cat.{kind}.xmp").is_file()


def without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Python that acts as if a module were not installed."""
    script = f"import sys; sys.modules[{module!r}] = None\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_without_the_extra_the_error_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "a.heic").rename(tmp_path / name)
    run = f"import cli; cli.app(['tag', {str(tmp_path)!r}, '--labels', 'cat'], standalone_mode=False)"
    out = without("pillow_heif", f"try:\n    {run}\nexcept BaseException as e: print(repr(e), getattr(e, 'code', ''))")
    assert out.stdout.splitlines()[:2] == [
        str(tmp_path / name),
        "  error: HEIC photos need pillow_heif, which is not installed: in a clone of zsl-tagger, run pip install "
        '".[heic]"',
    ]


def test_avif_that_pillow_cannot_read_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_claimed_size(saved(tmp_path / "a.avif"), 0, 0)  # Pillow does not take it
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(ImageError, match=r'AVIF needs Pillow 11\.3 or newer: .* pip install "\.\[heic\]"'):
        load_array(content, Preprocessing(16))


def test_other_photos_load_nothing_of_it(examples: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photo at all, though it begins like one")
    code = f"""
import sys
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
load_array({str(examples / "cat.jpg")!r}, Preprocessing(64))
try: load_array({str(tmp_path / "broken.jpg")!r}, Preprocessing(64))
except ImageError: pass
print("pillow_heif" in sys.modules)"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "False\n"
