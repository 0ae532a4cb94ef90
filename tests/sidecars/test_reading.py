"""Reading the keywords that people gave: sidecars of other programs, and what is inside of a photo."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars import xmp
from zsl_tagger.sidecars.keywords import SidecarError
from zsl_tagger.sidecars.places import Places
from zsl_tagger.sidecars.reading import KeywordCounts, keywords_of_photo

SUBJECT = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'
PATHS = 'xmlns:lr="http://ns.adobe.com/lightroom/1.0/"'


def packet(*words: str, paths: tuple[str, ...] = (), wrapped: bool = False) -> bytes:
    def listed(name: str, items: tuple[str, ...]) -> str:
        return f"<{name}><rdf:Bag>{''.join(f'<rdf:li>{one}</rdf:li>' for one in items)}</rdf:Bag></{name}>"

    text = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {SUBJECT} {PATHS}>{listed("dc:subject", words) if words else ""}'
        f"{listed('lr:hierarchicalSubject', paths) if paths else ''}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    if wrapped:
        text = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{text}{" " * 99}<?xpacket end="w"?>'
    return text.encode()


def iptc(*words: bytes) -> bytes:
    """Return a block of Photoshop's (APP13) with IPTC keywords."""
    data = b"".join(b"\x1c\x02\x19" + struct.pack(">H", len(word)) + word for word in words)
    data += b"\0" * (len(data) % 2)
    body = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(data)) + data
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path)
    return path


def read(photo: Path) -> list[str]:
    return keywords_of_photo(photo, Places(".xmp", stem=True, new_by_stem=False))


def test_a_photo_without_keywords(photo: Path) -> None:
    assert read(photo) == []


@pytest.mark.parametrize("name", ["photo.jpg.xmp", "photo.xmp"])
def test_sidecars_under_either_name(photo: Path, name: str) -> None:
    photo.with_name(name).write_bytes(packet("Oma", "beach", "Beach ", paths=("place|Italy|Rome",)))
    assert read(photo) == ["Oma", "beach", "Rome"]


def test_what_this_tool_wrote_is_left_out(photo: Path) -> None:
    ours = xmp.merged(packet("Oma"), [Tag("dog", 0.9), Tag("beach", 0.8)], {"dog": ["animal"]})
    assert ours is not None
    photo.with_name("photo.xmp").write_bytes(ours)
    assert read(photo) == ["Oma"]
    alone = xmp.merged(None, [Tag("dog", 0.9)])
    assert alone is not None
    photo.with_name("photo.xmp").write_bytes(alone)
    assert read(photo) == []


def test_xmp_inside_of_photos(tmp_path: Path) -> None:
    content = packet("Oma", "Käse", wrapped=True)
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "a.jpg", xmp=content)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", content.decode())
    picture.save(tmp_path / "b.png", pnginfo=text)
    picture.save(tmp_path / "c.tif", tiffinfo={700: content})
    picture.save(tmp_path / "d.webp", xmp=content)
    for name in ("a.jpg", "b.png", "c.tif", "d.webp"):
        assert read(tmp_path / name) == ["Oma", "Käse"], name


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_iptc_inside_of_photos(photo: Path, encoding: str) -> None:
    content = photo.read_bytes()
    photo.write_bytes(content[:2] + iptc("Käse".encode(encoding), b"boat") + content[2:])
    assert read(photo) == ["Käse", "boat"]
    one = content[:2] + iptc(b"boat") + content[2:]
    photo.write_bytes(one)
    photo.with_name("photo.xmp").write_bytes(packet("Boat", "sea"))
    assert read(photo) == ["Boat", "sea"]


def test_what_cannot_be_read_is_named(photo: Path, tmp_path: Path) -> None:
    photo.with_name("photo.xmp").write_bytes(b"<html></html>")
    with pytest.raises(SidecarError, match=r"sidecar photo\.xmp: XML, but not XMP"):
        read(photo)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(ImageError, match=r"^not an image that Pillow can read$"):
        read(tmp_path / "broken.jpg")


def test_keywords_are_joined_by_case_accent_and_plural_under_the_commonest_spelling() -> None:
    counts = KeywordCounts()
    counts.add("1", ["Dogs", "Café"])
    counts.add("2", ["dog", "cafe"])
    counts.add("3", ["dog", "Café"])
    counts.add("4", ["boats"])
    counts.add("5", [])
    assert counts.by_keyword() == {"Café": ["1", "2", "3"], "dog": ["2", "3", "1"], "boats": ["4"]}
    assert (counts.photos, counts.with_keywords) == (5, 4)
