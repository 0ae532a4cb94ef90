"""Read JSON files in COCO's annotation format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zsl_tagger.errors import UserError, some


def read_json(file: Path, what: str, shortened: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the content of a JSON file.

    Args:
        what: expected kind of file for error messages, e.g. "a COCO instances file".
        shortened: called on each object as it is read; returns the part to keep.

    Raises:
        UserError: it is not valid JSON (file and line).
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), object_hook=shortened)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: is not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers with thousands of digits, nested too deeply
        raise UserError(f"{file} is not {what}: {type(error).__name__}: {error}") from None


def read_lists(
    file: Path, names: Sequence[str], what: str, shortened: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return the content of a JSON object that has lists of objects under at least these keys."""
    content = read_json(file, what, shortened)
    if not isinstance(content, dict):
        raise UserError(f"{file} is not {what}: expected an object, got {type(content).__name__}")
    for name in names:
        if not is_list_of_objects(content.get(name)):
            raise UserError(
                f"{file} is not {what}: expected a list of objects called {name!r}; "
                f"its keys are {some(list(content)) or 'none'}"
            )
    return content


def is_list_of_objects(value: Any) -> bool:
    """Return whether a value is a list of JSON objects."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def by_id(file: Path, entries: list[dict[str, Any]], kind: str, key: str) -> dict[int, str]:
    """Return {id: text under a key} for a list of objects, such as images or categories."""
    found: dict[int, str] = {}
    for place, entry in enumerate(entries):
        number = whole_number(file, entry, "id", f"{kind} number {place}")
        if number in found:
            raise UserError(f"{file}: duplicate {kind} id {number}")
        if not isinstance(entry.get(key), str):
            raise UserError(f"{file}: {kind} {number}: expected a text {key!r}, got {entry.get(key)!r}")
        found[number] = entry[key]
    return found


def whole_number(file: Path, entry: dict[str, Any], key: str, which: str) -> int:
    """Return the whole number under a key of an object; ``which`` names the object in an error."""
    value = entry.get(key)
    if not is_whole(value):
        raise UserError(f"{file}: {which}: expected {key!r} to be a whole number as in COCO's own files, got {value!r}")
    return int(value)  # type: ignore[arg-type]


def is_whole(value: Any) -> bool:
    """Return whether a JSON value is a whole number, including 3.0."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool)
