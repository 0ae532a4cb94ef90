"""JSON sidecars: tags and scores under one key of this tool; all other text of the file is preserved exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from zsl_tagger.records.record import Tag
from zsl_tagger.sidecars.encodings import decoded, encoding_of
from zsl_tagger.sidecars.keywords import SidecarError, check_parts, keyword

KEY = "zsl-tagger"
_BEFORE = "file_before"
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # keep numbers as written
_SPACE = " \t\r\n"
_PARTS = re.compile(r"[,\[{]")


class _Member(NamedTuple):
    """A member ``"key": value``, located at ``text[start:end]``."""

    key: str
    value: Any
    start: int
    end: int


def merged(content: bytes | None, tags: Sequence[Tag]) -> bytes | None:
    """Return a sidecar in which these tags replace our previous ones (see the package).

    Raises:
        SidecarError: ``content`` is not a JSON object.
    """
    encoding = encoding_of(content or b"")
    text = decoded(content, encoding) if content else "{\n}\n"
    members = _members(text)
    own = _own(members)
    before = _before(own) if own or content is None else None if members else "{}" if content else ""
    value = _value(tags, before)
    if tags and own and _DECODER.decode(value) == own.value:
        return content
    if own:
        text = _without(text, members, own)
    alone = len(members) == (1 if own else 0)
    if tags:
        brace = text.index("{") + 1
        text = f'{text[:brace]}\n "{KEY}": {value}{"" if alone else ","}{text[brace:]}'
    elif not own:
        return content
    elif alone and before != "{}":
        return None if before is None else b""
    return text.encode(encoding)


def owned_keywords(content: bytes) -> list[str]:
    """Return the labels under our key.

    Raises:
        SidecarError: ``content`` is not a JSON object.
    """
    own = _own(_members(decoded(content, encoding_of(content))))
    tags = own.value.get("tags") if own and isinstance(own.value, dict) else None
    return [str(tag.get("label")) for tag in tags or [] if isinstance(tag, dict)]


def _value(tags: Sequence[Tag], before: str | None) -> str:
    """Return our value as JSON, one line per tag.

    Args:
        before: content of an existing but empty file: "" or "{}"; else None.
    """
    rows = ({"label": keyword(tag.label), "score": round(tag.score, 4)} for tag in tags)
    lines = ",".join("\n  " + json.dumps(row, ensure_ascii=False) for row in rows)
    held = "" if before is None else f', "{_BEFORE}": "{before}"'
    return f'{{"tags": [{lines}\n ]{held}}}'


def _before(own: _Member | None) -> str | None:
    """Return the recorded previous content of the file: "", "{}", or None for anything else."""
    before = own.value.get(_BEFORE) if own and isinstance(own.value, dict) else None
    return before if before in ("", "{}") else None


def _own(members: Sequence[_Member]) -> _Member | None:
    own = [member for member in members if member.key == KEY]
    if len(own) > 1:
        raise SidecarError(f"has the key {KEY!r} more than once: left as it is")
    return own[0] if own else None


def _without(text: str, members: Sequence[_Member], own: _Member) -> str:
    """Cut a member with the comma after it, or for the last one with the comma before it."""
    place = members.index(own)
    before = text[: own.start].rstrip(_SPACE)
    if place + 1 < len(members):
        return before + text[text.index(",", own.end) + 1 :]
    return before.removesuffix(",") + text[own.end :]


def _members(text: str) -> list[_Member]:
    check_parts(_PARTS, text, "values")
    try:
        return _read_members(text)
    except (ValueError, RecursionError, IndexError) as error:
        raise SidecarError(f"expected a JSON object ({_reason(error)}): left as it is") from None


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno}"
    return "nested too deeply" if isinstance(error, RecursionError) else "cut off"


def _read_members(text: str) -> list[_Member]:
    members: list[_Member] = []
    position = _expect(text, 1 if text.startswith("\ufeff") else 0, "{")
    if text[_skip(text, position)] == "}":
        position = _skip(text, position) + 1
    else:
        closed = ","
        while closed == ",":
            start = _skip(text, position)
            if text[start] != '"':
                raise json.JSONDecodeError("expected a name in quotes", text, start)
            key, position = _DECODER.raw_decode(text, start)
            value, end = _DECODER.raw_decode(text, _skip(text, _expect(text, position, ":")))
            members.append(_Member(key, value, start, end))
            closed = text[_skip(text, end)]
            position = _expect(text, end, closed if closed in ",}" else "}")
    if text[position:].strip(_SPACE):
        raise json.JSONDecodeError("text after its end", text, position)
    return members


def _skip(text: str, position: int) -> int:
    while text[position] in _SPACE:
        position += 1
    return position


def _expect(text: str, position: int, mark: str) -> int:
    """Return the position after ``mark``, which must come next."""
    position = _skip(text, position)
    if text[position] != mark:
        raise json.JSONDecodeError(f"expected {mark!r}", text, position)
    return position + 1
