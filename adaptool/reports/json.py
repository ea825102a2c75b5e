"""Results as JSON: the dataclasses a command computed, field by field, under a versioned schema."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptool.tensors.dtypes import DType
from adaptool.tensors.locate import as_given

NOT_FINITE = "not_finite"
"""JSON has no word for NaN and infinity: such a number becomes null, and its place is listed under this key."""


def to_json(kind: str, value: Any) -> dict[str, Any]:
    """A result of ``kind`` ("inspect", "merge") as the JSON object that ``schemas/<kind>.json`` describes."""
    places: list[str] = []
    converted = _converted(value, "", places)
    assert isinstance(converted, dict), "a result is a dataclass or a mapping"
    flagged = {NOT_FINITE: places} if places else {}
    return {"schema": f"adaptool/{kind}/1", **converted, **flagged}


def _converted(value: Any, place: str, places: list[str]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, DType):
            return value.name
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _converted(fields, place, places)
    if isinstance(value, Mapping):
        return {str(key): _converted(item, _below(place, str(key)), places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if all(type(item) is str for item in value):
            return list(value)
        return [_converted(item, f"{place}[{i}]", places) for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(_converted(item, place, places) for item in value)
    if isinstance(value, str | Path):
        return as_given(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        places.append(place)
        return None
    return value


def _below(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
