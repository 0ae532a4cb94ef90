"""Turn the dataclasses of results into plain JSON data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, cast

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, Json]


class JsonRecord:
    """Give a dataclass ``to_json``: a JSON object with a key for each field."""

    def to_json(self) -> JsonObject:
        """Return plain JSON data; numbers that are not finite become None, as JSON has no NaN."""
        return cast(JsonObject, _plain(self))


def _plain(value: Any) -> Json:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"expected a value that JSON has, got {type(value).__name__}")
