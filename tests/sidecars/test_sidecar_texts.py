"""Text and JSON sidecars: what the user wrote stays to the byte, what was added can be taken back."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars import json_key, lines
from zsl_tagger.sidecars.keywords import SidecarError
from zsl_tagger.sidecars.lines import BEGIN, END

#: As Google Takeout writes them: numbers in quotes, and ones that a float would change.
TAKEOUT = """{
  "title": "IMG_1.jpg",
  "creationTime": {"timestamp": "1715940672", "formatted": "17 mai 2024, 10:11:12 UTC"},
  "geoData": {"latitude": 48.10000000000000000001, "altitude": 1e400},
  "url": "https:\\/\\/photos.google.com\\/photo\\/x"
}"""


def tags(*labels: str) -> list[Tag]:
    return [Tag(label, 0.91234567) for label in labels]


# --- text ---


def test_new_lines() -> None:
    content = lines.merged(None, tags("dog", "red\nbicycle"))
    assert content == f"{BEGIN}\ndog\nred bicycle\n{END}\n".encode()
    assert lines.owned_keywords(content) == ["dog", "red bicycle"]
    assert lines.merged(content, tags("dog", "red bicycle")) is content
    assert lines.merged(content, []) is None
    assert lines.merged(None, []) is None


@pytest.mark.parametrize(
    "content",
    [
        b"mine\nSea\n",
        b"mine\r\nSea\r\n",
        b"no line end",
        b"\n\n  ",
        codecs.BOM_UTF8 + "été\n".encode(),
        codecs.BOM_UTF16_LE + "été\r\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "Ω".encode("utf-16-be"),
        b"caf\xe9 in Latin-1\n",
    ],
)
def test_lines_of_the_user_stay(content: bytes) -> None:
    once = lines.merged(content, tags("dog", "Ω & ω"))
    assert once is not None
    assert once != content
    assert lines.owned_keywords(once) == ["dog", "Ω & ω"]
    assert lines.merged(once, tags("dog", "Ω & ω")) is once
    assert lines.merged(lines.merged(once, tags("cat")), []) == content
    assert (b"\r" in once) == (b"\r" in content)


def test_a_line_of_the_user_is_not_written_again() -> None:
    assert lines.merged(b"Dog\n", tags("dog")) == b"Dog\n"
    once = lines.merged(b"Dog\n", tags("dog", "cat"))
    assert lines.owned_keywords(once or b"") == ["cat"]


def test_lines_that_the_user_added_around_the_block_stay() -> None:
    once = (lines.merged(b"mine\n", tags("dog")) or b"").decode()
    assert lines.merged(f"above\n{once}below\ndog\n".encode(), []) == b"above\nmine\nbelow\ndog\n"
    assert lines.merged(f"above\n{once}".encode(), tags("cat")) == f"above\n{BEGIN}\ncat\n{END}\nmine\n".encode()


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_an_empty_file_is_empty_again(content: bytes) -> None:
    once = lines.merged(content, tags("dog"))
    assert lines.owned_keywords(once or b"") == ["dog"]
    assert lines.merged(once, tags("dog")) is once
    assert lines.merged(lines.merged(once, tags("cat")), []) == content
    assert lines.merged(content, []) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\1\2", "not a text file"),
        (f"{BEGIN}\ndog\n".encode(), "restore that line"),
        (codecs.BOM_UTF16_LE + b"odd", "not text in utf-16-le"),
        (b"\n" * 500_001, "more than 500,000 lines"),
        (("\u2028" * 500_001).encode(), "more than 500,000 lines"),
    ],
)
def test_what_is_no_text_or_half_a_block_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(SidecarError, match=told):
        lines.merged(content, tags("dog"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.lists(st.text(max_size=9), max_size=4), st.lists(st.text(max_size=9)))
def test_any_bytes_come_back(content: bytes, first: list[str], second: list[str]) -> None:
    try:
        once = lines.merged(content, tags(*first))
    except SidecarError:
        return
    assert lines.merged(once, tags(*first)) is once
    assert lines.merged(lines.merged(once, tags(*second)), []) == content


# --- JSON ---


def test_new_json() -> None:
    content = json_key.merged(None, tags("dog", 'the "Ω"'))
    expected = [{"label": "dog", "score": 0.9123}, {"label": 'the "Ω"', "score": 0.9123}]
    assert json.loads(content or b"") == {"zsl-tagger": {"tags": expected}}
    assert json_key.owned_keywords(content or b"") == ["dog", 'the "Ω"']
    assert json_key.merged(content, tags("dog", 'the "Ω"')) is content
    assert json_key.merged(content, []) is None
    assert json_key.merged(None, []) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"{\n}\n", b" { }", codecs.BOM_UTF16_LE + "{}".encode("utf-16-le")])
def test_json_without_a_member_is_as_it_was_again(content: bytes) -> None:
    once = json_key.merged(content, tags("dog"))
    assert json_key.owned_keywords(once or b"") == ["dog"]
    assert json_key.merged(once, tags("dog")) is once
    assert json_key.merged(json_key.merged(once, tags("cat")), []) == content
    assert json_key.merged(content, []) == content


def test_json_of_many_tiny_values_is_refused() -> None:
    with pytest.raises(SidecarError, match="more than 500,000 values: left as it is"):
        json_key.merged(b'{"a": [' + b"1," * 500_001 + b"1]}", tags("dog"))


@pytest.mark.parametrize(
    "content",
    [
        TAKEOUT.encode(),
        TAKEOUT.replace("\n", "\r\n").encode(),
        codecs.BOM_UTF8 + TAKEOUT.encode(),
        codecs.BOM_UTF16_LE + TAKEOUT.encode("utf-16-le"),
        b'{"a":1,"a":2}',
        b'\n{ "a" : [ {} , null ] }\n\n',
        b'{"deep": {"zsl-tagger": 1}, "half": "\\ud800", "long": ' + b"9" * 9000 + b"}",
    ],
)
def test_json_of_others_stays_to_the_byte(content: bytes) -> None:
    once = json_key.merged(content, tags("dog"))
    assert once is not None
    assert json_key.owned_keywords(once) == ["dog"]
    assert json_key.merged(once, tags("dog")) is once
    assert json_key.merged(json_key.merged(once, tags("cat", "sea")), []) == content


def test_tags_are_taken_back_wherever_another_program_moved_them() -> None:
    moved = b'{"a": 1, "zsl-tagger": {"tags": []}, "b": 2}'
    assert json.loads(json_key.merged(moved, []) or b"") == {"a": 1, "b": 2}
    last = b'{"a": 1, "zsl-tagger": {"tags": []}}'
    assert json.loads(json_key.merged(last, []) or b"") == {"a": 1}
    assert json.loads(json_key.merged(last, tags("dog")) or b"")["zsl-tagger"]["tags"][0]["label"] == "dog"


def test_another_thing_under_our_key_is_replaced_and_has_no_tags() -> None:
    assert json_key.owned_keywords(b'{"zsl-tagger": [1]}') == []
    assert json_key.owned_keywords(json_key.merged(b'{"zsl-tagger": [1]}', tags("dog")) or b"") == ["dog"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1, 2]", "expected '{'"),
        (b"nonsense", "expected '{'"),
        (TAKEOUT.encode()[:-1], "cut off"),
        (TAKEOUT.encode()[:100], "line 3"),
        (b'{"a": 1} more', "text after its end"),
        (b'{"a" 1}', "expected ':'"),
        (b'{"a": 1 "b": 2}', "expected '}'"),
        (b'{"a": 1,}', "name in quotes"),
        (b"{a: 1}", "name in quotes"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"zsl-tagger": 1, "zsl-tagger": 2}', "more than once"),
        (b'{"a": "\xff"}', "not text in utf-8"),
    ],
)
def test_what_is_no_json_object_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(SidecarError, match=told) as refused:
        json_key.merged(content, tags("dog"))
    assert "\n" not in str(refused.value)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), _VALUES, min_size=1, max_size=4),
    st.sampled_from([None, 0, 2, "\t"]),
    st.lists(st.text(max_size=9), max_size=4),
    st.booleans(),
)
@pytest.mark.slow
def test_any_json_object_comes_back(
    value: dict[str, object], indent: int | str | None, labels: list[str], escaped: bool
) -> None:
    content = json.dumps(value, indent=indent, ensure_ascii=escaped).encode("utf-8", "replace")
    once = json_key.merged(content, tags(*labels))
    assert once is not None
    read = json.loads(once)
    assert len(read.pop("zsl-tagger", {"tags": []})["tags"]) == len(labels)
    assert read == json.loads(content)
    assert json_key.merged(once, tags(*labels)) is once
    assert json_key.merged(once, []) == content
