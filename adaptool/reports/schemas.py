"""The JSON Schemas of what adaptool prints, writes and reads as JSON."""

from __future__ import annotations

from typing import Any

from adaptool.schema_files import schema_folder
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json

LARGEST = 1 << 20


def schema_names() -> list[str]:
    """What there is a schema of."""
    return sorted(path.stem for path in schema_folder().glob("*.json"))


def read_schema(name: str) -> dict[str, Any]:
    """The schema called ``name``, one of ``schema_names()``."""
    path = schema_folder() / f"{name}.json"
    schema: dict[str, Any] = parse_json(open_file(path).read_all(LARGEST), str(path), what="schema")
    return schema
