"""XMP sidecars: nothing of what was there is lost, what was added can be taken back, to the byte."""

from __future__ import annotations

import codecs
import re
import tracemalloc
from xml.dom import minidom
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidecar_samples import BARE, COMPACT, DARKTABLE, DIGIKAM, EXIFTOOL, LIGHTROOM, SAMPLES

from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars import xml_spans
from zsl_tagger.sidecars.keywords import SidecarError
from zsl_tagger.sidecars.xml_spans import XMLNS
from zsl_tagger.sidecars.xmp import OURS, RDF, corrected, merged, owned_keywords

DC, LR = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/lightroom/1.0/"
DIGIKAM_NS, MICROSOFT = "http://www.digikam.org/ns/1.0/", "http://ns.microsoft.com/photo/1.0/"

ENCODINGS = {
    "as it is": lambda text: text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-8 with BOM": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16 LE": lambda text: codecs.BOM_UTF16_LE + text.replace("UTF-8", "UTF-16").encode("utf-16-le"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16 without BOM": lambda text: text.replace("UTF-8", "UTF-16").encode("utf-16-le"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
}


def tags(*labels: str) -> list[Tag]:
    return [Tag(label, 0.9) for label in labels]


def words(content: bytes | None, namespace: str, name: str) -> list[str] | None:
    """Items of a list as another XML library reads them; None where there is no such list."""
    assert content is not None
    text = content.decode(next((code for mark, code in MARKS if content.startswith(mark)), "utf-8"))
    document = minidom.parseString(re.sub(r"^<\?xml.*?\?>", "", text.lstrip("\ufeff")).encode())
    lists = document.getElementsByTagNameNS(namespace, name)
    if not lists:
        return None
    items = [item for each in lists for item in each.getElementsByTagNameNS(RDF, "li")]
    return ["".join(getattr(part, "data", "") for part in item.childNodes) for item in items]


MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_added_then_taken_back_is_the_same_to_the_byte(sample: str, encoding: str) -> None:
    content = ENCODINGS[encoding](SAMPLES[sample])
    once = merged(content, tags("dog", "fur & <claws>", "Ω"))
    assert once != content
    assert "dog" in (words(once, DC, "subject") or [])
    other = merged(once, tags("cat"))
    assert merged(once, []) == merged(other, []) == content
    assert other == merged(content, tags("cat"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_second_time_nothing_changes(sample: str, encoding: str) -> None:
    once = merged(ENCODINGS[encoding](SAMPLES[sample]), tags("dog", "sea"))
    assert merged(once, tags("dog", "sea")) is once
    assert merged(once, tags("sea", "dog")) is once  # scores that changed a little


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_line_that_was_there_is_there_still_and_in_order(sample: str) -> None:
    before, after = SAMPLES[sample].splitlines(), (merged(SAMPLES[sample].encode(), tags("dog")) or b"").decode()
    if sample != "compact":  # which is one line
        rest = iter(after.splitlines())
        assert all(line in rest for line in before)


def test_a_new_sidecar() -> None:
    content = merged(None, tags("dog", "fur & <claws>"))
    assert words(content, DC, "subject") == words(content, LR, "hierarchicalSubject") == ["dog", "fur & <claws>"]
    assert words(content, DIGIKAM_NS, "TagsList") is None
    assert owned_keywords(content or b"") == ["dog", "fur & <claws>"]
    assert merged(content, tags("dog", "fur & <claws>")) is content
    assert merged(content, tags("cat")) == merged(None, tags("cat"))
    assert merged(content, []) is None
    assert merged(None, []) is None


def test_what_the_user_has_is_the_users() -> None:
    """Whatever its case and wherever it came from: neither written again nor taken back."""
    content = DARKTABLE.encode()
    assert merged(content, tags("PLACES", "family & friends")) is content
    once = merged(content, tags("places", "dog"))
    assert words(once, DC, "subject") == ["darktable", "Family & friends", "places", "dog"]
    assert owned_keywords(once or b"") == ["dog"]


def test_a_level_of_a_path_is_the_tag() -> None:
    """Lightroom would show a second "Sea" beside places > Sea."""
    once = merged(DARKTABLE.encode(), tags("sea", "dog"))
    assert words(once, LR, "hierarchicalSubject") == ["darktable|format|jpg", "places|Sea", "dog"]
    assert words(once, DC, "subject") == ["darktable", "Family & friends", "places", "sea", "dog"]


def test_darktable_sees_the_users_keywords_still() -> None:
    """It reads dc:subject only where there is no lr:hierarchicalSubject."""
    once = merged(EXIFTOOL.encode(), tags("dog"))
    assert words(once, LR, "hierarchicalSubject") == ["mine", "dog"]
    assert merged(once, []) == EXIFTOOL.encode()


def test_digikam_sees_the_tags() -> None:
    """It reads the first list that there is of the four."""
    once = merged(DIGIKAM.encode(), tags("dog", "ac/dc"))
    assert words(once, DIGIKAM_NS, "TagsList") == ["People/Ivo", "holiday", "dog", "ac dc"]
    assert words(once, MICROSOFT, "LastKeywordXMP") == ["People/Ivo", "holiday", "dog", "ac dc"]
    assert words(once, LR, "hierarchicalSubject") == ["People|Ivo", "holiday", "dog", "ac/dc"]
    assert words(once, DC, "subject") == ["Ivo", "holiday", "dog", "ac/dc"]


def test_what_the_user_wrote_since_stays() -> None:
    once = (merged(EXIFTOOL.encode(), tags("dog", "cat")) or b"").decode()
    cat = "    <rdf:li>cat</rdf:li>\n"
    twice = once.replace(cat, cat + cat.replace("cat", "dog") + cat.replace("cat", "new"), 1)
    assert twice != once
    assert words(merged(twice.encode(), []), DC, "subject") == ["mine", "dog", "new"]
    assert words(merged(twice.encode(), tags("cat")), DC, "subject") == ["mine", "dog", "new", "cat"]


def test_a_tag_that_the_user_deleted_comes_back_and_is_taken_back_quietly() -> None:
    once = (merged(EXIFTOOL.encode(), tags("dog", "cat")) or b"").decode()
    without = once.replace("<rdf:li>dog</rdf:li>", "", 1).encode()
    assert merged(without, tags("dog", "cat")) != without
    assert words(merged(without, tags("dog", "cat")), DC, "subject") == ["mine", "dog", "cat"]
    assert words(merged(without, []), DC, "subject") == ["mine"]


def test_a_file_of_ours_that_the_user_added_to_is_kept() -> None:
    once = (merged(None, tags("dog")) or b"").decode()
    rating = '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/>\n </rdf:RDF>'
    rated = once.replace("</rdf:RDF>", rating).encode()
    left = merged(rated, [])
    assert left is not None
    assert b'xmp:Rating="5"' in left
    assert OURS.encode() not in left
    assert words(left, DC, "subject") is None
    commented = once.replace("<x:xmpmeta", "<!-- mine --><x:xmpmeta").encode()
    assert b"<!-- mine -->" in (merged(commented, []) or b"")


def test_a_file_of_ours_stays_ours_when_tags_change_and_the_user_adds() -> None:
    once = (merged(None, tags("dog")) or b"").decode()
    rating = '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/>'
    rated = once.replace("</rdf:RDF>", f"{rating}</rdf:RDF>").encode()
    changed = (merged(rated, tags("cat")) or b"").decode()
    assert merged(changed.replace(rating, "").encode(), []) is None


def test_an_empty_list_makes_room() -> None:
    empty = EXIFTOOL.replace("    <rdf:li>mine</rdf:li>\n", "").encode()
    once = merged(empty, tags("dog"))
    assert words(once, DC, "subject") == ["dog"]
    assert b"<xmp:Label>Red</xmp:Label>" in (merged(once, []) or b"")


def test_an_rdf_without_content() -> None:
    content = BARE.replace(">\n</rdf:RDF>", "/>").encode()
    once = merged(content, tags("dog"))
    assert words(once, DC, "subject") == ["dog"]
    assert merged(merged(once, tags("cat", "sea")), []) == content


@pytest.mark.parametrize("end", ["/>", " />", "\n/>"])
def test_an_rdf_without_content_that_another_program_fills_stays_open(end: str) -> None:
    content = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"{end}</x:xmpmeta>\n'
    once = (merged(content.encode(), tags("dog")) or b"").decode()
    assert merged(once.encode(), []) == content.encode()
    rating = '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/>'
    rated = once.replace("</rdf:RDF>", f"{rating}</rdf:RDF>").encode()
    assert merged(rated, []) == content.replace("/>", f">{rating}</rdf:RDF>", 1).encode()


def test_an_empty_file_is_empty_again() -> None:
    once = merged(b"", tags("dog"))
    assert words(once, DC, "subject") == ["dog"]
    assert merged(once, tags("dog")) is once
    assert merged(merged(once, tags("cat")), []) == b""
    assert merged(b"", []) == b""


def test_numbered_members_are_numbered_on() -> None:
    """In RDF a list's members may be called rdf:_1, rdf:_2 and so on, and not all be there or in order."""
    content = EXIFTOOL.replace(
        "<rdf:li>mine</rdf:li>", "<rdf:_1>one</rdf:_1><rdf:_12>twelve</rdf:_12><rdf:_3>three</rdf:_3>"
    ).encode()
    once = merged(content, tags("dog", "three", "cat"))
    assert b"<rdf:_3>three</rdf:_3><rdf:_13>dog</rdf:_13><rdf:_14>cat</rdf:_14>" in (once or b"")
    assert merged(once, tags("dog", "three", "cat")) is once
    assert merged(once, []) == content


@pytest.mark.parametrize(
    "qualified",
    [
        '<rdf:li rdf:parseType="Resource"><rdf:value>Sea &amp; sky</rdf:value><x:by>me</x:by></rdf:li>',
        "<rdf:li><rdf:Description><rdf:value>Sea &amp; sky</rdf:value><x:by>me</x:by></rdf:Description></rdf:li>",
        '<rdf:li rdf:value="Sea &amp; sky" x:by="me"/>',
        '<rdf:li><rdf:Description rdf:value="Sea &amp; sky" x:by="me"/></rdf:li>',
        '<rdf:li xml:lang="en">Sea &amp; sky</rdf:li>',
    ],
)
def test_a_qualified_keyword_is_a_keyword(qualified: str) -> None:
    """XMP lets each value carry properties of its own; darktable would not see the keyword without its copy."""
    content = EXIFTOOL.replace("<rdf:li>mine</rdf:li>", qualified).replace("xmlns:dc", "xmlns:x='urn:x' xmlns:dc")
    once = merged(content.encode(), tags("sea & sky", "dog"))
    assert words(once, LR, "hierarchicalSubject") == ["Sea & sky", "dog"]
    assert owned_keywords(once or b"") == ["dog"]
    assert merged(once, []) == content.encode()


def nested(count: int, around: str) -> bytes:
    """Many tiny elements in a property."""
    many = "<a/>" * count
    return EXIFTOOL.replace("<xmp:Label>", f"<xmp:Many>{around % many}</xmp:Many><xmp:Label>").encode()


@pytest.mark.slow
@pytest.mark.parametrize("around", ["%s", "<rdf:Seq><rdf:li>%s</rdf:li></rdf:Seq>"])
def test_tiny_elements_take_little_memory(around: str) -> None:
    """Check that only what lists of keywords hold is kept."""
    content = nested(4_000, around)
    tracemalloc.start()
    try:
        assert merged(merged(content, tags("dog")), []) == content
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # a tree of all of it takes several times as much


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (nested(500_001, "%s"), "more than 500,000 elements and attributes"),
        (BARE.replace("xmlns", f"{' a=%s' * 500_001} xmlns" % tuple("''" for _ in range(500_001))).encode(), "500,000"),
        (BARE.replace(">\n", ">" + "<rdf:Description/>" * 1_001).encode(), "more than 1,000 properties"),
        (EXIFTOOL.replace("<rdf:li>mine</rdf:li>", "<rdf:li/>" * 1_001).encode(), "more than 1,000 properties"),
    ],
)
def test_too_many_elements_are_refused(content: bytes, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_spans, "MAX_KEPT", 1_000)
    with pytest.raises(SidecarError, match=f"{told}.*: left as it is$"):
        merged(content, tags("dog"))


def test_characters_that_the_encoding_lacks_are_written_as_numbers() -> None:
    content = EXIFTOOL.replace("\ufeff", "").replace("mine", "caf\xe9").encode("latin-1")
    content = b'<?xml version="1.0" encoding="ISO-8859-1"?>' + content
    once = merged(content, tags("Ω"))
    assert b"<rdf:li>caf\xe9</rdf:li>" in (once or b"")
    assert b"<rdf:li>&#937;</rdf:li>" in (once or b"")
    assert merged(once, tags("Ω")) is once
    assert merged(once, []) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not xml", "not well-formed XML"),
        (DARKTABLE.encode()[:-20], "not well-formed XML"),
        (DARKTABLE.replace("&amp;", "&").encode(), r"not well-formed XML \(.*line"),
        (DARKTABLE.replace("xmlns:dc=", "xmlns:dd=").encode(), "prefix 'dc' is not declared"),
        (DARKTABLE.replace("http://ns.adobe.com/exif/1.0/", XMLNS).encode(), f"prefix 'exif' is bound to {XMLNS}"),
        (b"<html><body/></html>", r"not XMP \(no rdf:RDF\)"),
        (b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>' + BARE.encode(), "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + BARE.encode(), "document type"),
        (b'<?xml version="1.0" encoding="EUC-JP"?>' + BARE.encode(), "it declares EUC-JP"),
        (b'<?xml version="1.0" encoding="nonsense"?>' + BARE.encode(), "it declares nonsense"),
        (EXIFTOOL.replace("mine", "x").encode().replace(b">x<", b">\xff<"), "not text in utf-8"),
        (codecs.BOM_UTF16_LE + b"<\0r\0d", "not text in utf-16-le"),
        (b"<a>" * 100_000, "nested more than 500 deep"),
        (EXIFTOOL.replace("<rdf:Bag>", "").replace("</rdf:Bag>", "").encode(), "subject is not a list"),
        (LIGHTROOM.replace("dc:format=", "dc:subject=").encode(), "subject is an attribute, not a list"),
        (b"\0" * 100, "not well-formed"),
    ],
)
def test_what_is_not_understood_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(SidecarError, match=told) as refused:
        merged(content, tags("dog"))
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("left as it is")


@pytest.mark.parametrize("sample", [DARKTABLE, DIGIKAM, COMPACT])
def test_every_cut_is_refused(sample: str) -> None:
    for length in range(1, len(sample.rstrip()) - len('<?xpacket end="w"?>') - 1, 13):
        with pytest.raises(SidecarError, match=r"left as it is$"):
            merged(sample[:length].encode(), tags("dog"))


_TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
_SPACE = st.sampled_from(["", "\n", "\n  ", "\r\n\t", " "])


@st.composite
def sidecars(draw: st.DrawFn) -> str:
    """Any layout of lists and other properties over several blocks."""
    parts = []
    lists = draw(st.lists(st.sampled_from(["dc:subject", "lr:hierarchicalSubject", "digiKam:TagsList"]), unique=True))
    for _ in range(draw(st.integers(0, 3))):
        space: str = draw(_SPACE)
        content = ""
        filled: bool = draw(st.booleans())
        if lists and filled:
            name = lists.pop()
            items = "".join(
                f"{space}<rdf:li>{escape(item)}</rdf:li>{draw(st.sampled_from(['', '<!-- c -->']))}"
                for item in draw(st.lists(_TEXT, min_size=1, max_size=4))
            )
            content += f"{space}<{name}>{space}<rdf:Bag>{items}{space}</rdf:Bag>{space}</{name}>"
        content += draw(st.sampled_from(["", f"{space}<x:y>{escape(draw(_TEXT))}</x:y>", f"{space}<!-- <rdf:li> -->"]))
        attribute = draw(st.sampled_from(["", " x:z='a > b'", '\n\tx:z = "/>"']))
        parts.append(f'{space}<rdf:Description rdf:about=""{attribute}>{content}{space}</rdf:Description >')
    namespaces = f'xmlns:dc="{DC}" xmlns:lr="{LR}" xmlns:digiKam="{DIGIKAM_NS}" xmlns:x="urn:x"'
    return f'<rdf:RDF xmlns:rdf="{RDF}" {namespaces}>{"".join(parts)}{draw(_SPACE)}</rdf:RDF>{draw(_SPACE)}'


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(sidecars(), st.lists(_TEXT, max_size=4), st.lists(_TEXT, max_size=4))
def test_any_sidecar_comes_back_to_the_byte(sidecar: str, first: list[str], second: list[str]) -> None:
    content = sidecar.encode()
    once = merged(content, tags(*first))
    assert once is not None
    assert merged(once, tags(*first)) is once
    twice = merged(once, tags(*second))
    assert twice is not None
    if set(owned_keywords(twice)) != set(owned_keywords(once)):  # else its order may be the first one's
        assert twice == merged(content, tags(*second))
    assert merged(twice, []) == content


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_label_makes_a_sidecar_that_others_can_read(labels: list[str]) -> None:
    content = merged(None, tags(*labels))
    if content is not None:
        assert words(content, DC, "subject") == owned_keywords(content)
        assert merged(content, tags(*labels)) is content
        assert merged(content, []) is None


def test_a_tag_with_parents_is_a_path() -> None:
    """``animal|mammal|dog`` where levels are kept, ``dog`` alone in dc:subject; all of it can be taken back."""
    tags = [Tag("dog", 0.9), Tag("a|b", 0.8), Tag("beach", 0.7)]
    parents = {"dog": ("animal", "mammal"), "a|b": ("x|y",), "beach": ()}
    content = merged(None, tags, parents)
    assert content is not None
    text = content.decode()
    hierarchical = text[text.index("<lr:hierarchicalSubject>") : text.index("</lr:hierarchicalSubject>")]
    assert re.findall(r"<rdf:li>(.*?)</rdf:li>", hierarchical) == ["animal|mammal|dog", "x y|a b", "beach"]
    subject = text[text.index("<dc:subject>") : text.index("</dc:subject>")]
    assert re.findall(r"<rdf:li>(.*?)</rdf:li>", subject) == ["dog", "a|b", "beach"]
    assert merged(content, tags, parents) == content
    assert merged(content, []) is None


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_correction_keeps_the_rest_and_is_taken_back_to_the_byte(sample: str, encoding: str) -> None:
    content = ENCODINGS[encoding](SAMPLES[sample])
    assert corrected(content, [], ["fur & <claws>"]) is content
    assert corrected(corrected(content, ["Ω"], []), [], ["ω"]) == content
    before = merged(content, tags("fur & <claws>", "beach"))
    after = corrected(before, ["Ω"], [])
    assert after == merged(content, tags("fur & <claws>", "beach", "Ω"))
    assert corrected(after, ["Ω"], ["dog"]) is after
    assert corrected(after, [], ["Ω"]) == before
    assert merged(corrected(after, [], ["Beach"]), []) == content


def test_a_correction_of_a_file_that_is_not_there_or_empty() -> None:
    assert corrected(None, [], ["dog"]) is None
    assert corrected(b"", [], ["dog"]) == b""
    assert corrected(None, ["dog"], []) == merged(None, tags("dog"))
    assert corrected(merged(None, tags("dog")), [], ["dog"]) is None
    assert corrected(merged(b"", tags("dog")), [], ["dog"]) == b""


def test_a_correction_leaves_the_users_keywords_and_what_the_user_deleted() -> None:
    """Neither add the user's own "Ivo" a second time nor remove it, and do not bring back a deleted keyword."""
    own = words(DIGIKAM.encode(), DC, "subject")
    assert own
    assert corrected(DIGIKAM.encode(), [own[0].upper()], [own[1]]) == DIGIKAM.encode()
    before = merged(None, tags("dog", "sea"))
    assert before is not None
    deleted = before.replace(b"     <rdf:li>dog</rdf:li>\n", b"", 1)
    assert words(deleted, DC, "subject") == ["sea"]
    assert corrected(deleted, ["sea"], ["dog"]) is deleted
    after = corrected(deleted, ["cat"], [])
    assert words(after, DC, "subject") == ["sea", "cat"]


def test_a_correction_keeps_the_paths_of_the_rest() -> None:
    parents = {"dog": ("animal", "mammal"), "a|b": ("x|y",)}
    before = merged(None, tags("dog", "a|b"), parents)
    after = corrected(before, ["oak"], [], {"oak": ("plant",)})
    assert words(after, LR, "hierarchicalSubject") == ["animal|mammal|dog", "x y|a b", "plant|oak"]
    assert corrected(after, [], ["oak"]) == before
