"""The JSON Schemas of what adaptool prints and writes as JSON: in the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import adaptool
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json

LARGEST = 1 << 20


def schema_names() -> list[str]:
    """What there is a schema of."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def read_schema(name: str) -> dict[str, Any]:
    """The schema called ``name``, one of ``schema_names()``."""
    path = _folder() / f"{name}.json"
    schema: dict[str, Any] = parse_json(open_file(path).read_all(LARGEST), str(path), what="schema")
    return schema


def _folder() -> Path:
    package = Path(adaptool.__file__).parent
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent / "schemas"
