"""What a model card says of itself: the metadata block that opens README.md, as the Hub reads it.

Of YAML only what cards are written in: ``key: value``, and lists either way. What is written otherwise says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adaptool.errors import AdaptoolError
from adaptool.tensors.files import open_file

CARD_NAME = "README.md"
LIMIT = 4 << 20
MOST_ITEMS = 200
LONGEST = 500

BLOCK = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
FIELD = re.compile(r"([A-Za-z_][\w-]*):(?:[ \t]+(.*?))?[ \t]*")
PART = re.compile(r"\s*(?:\"[^\"]*\"|'[^']*')|[^,]+")
ITEM = re.compile(r"[ \t]*-[ \t]+(.*?)[ \t]*")


@dataclass(frozen=True, slots=True)
class Card:
    """What is of use in a bill of materials."""

    license: str | None = None
    license_link: str | None = None
    task: str | None = None
    """``pipeline_tag``."""
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def card_of(folder: Path) -> Card:
    """The card of a folder; an empty one where there is none, or none that can be read."""
    try:
        text = open_file(folder / CARD_NAME).read_all(LIMIT).decode("utf-8")
    except (AdaptoolError, UnicodeDecodeError):
        return Card()
    found = BLOCK.match(text)
    fields = _fields(found[1]) if found else {}

    def one(name: str) -> str | None:
        return next(iter(fields.get(name, ())), None)

    named = one("license_name") if one("license") == "other" else None
    return Card(
        named or one("license"), one("license_link"), one("pipeline_tag"), fields.get("datasets", ()),
        fields.get("language", ()), fields.get("tags", ()),
    )  # fmt: skip


def _fields(block: str) -> Mapping[str, tuple[str, ...]]:
    """Each top-level field and its values; of a field given twice the last, as YAML's readers have it."""
    fields: dict[str, tuple[str, ...]] = {}
    current = ""
    for line in block.splitlines():
        if field := FIELD.fullmatch(line):
            current, value = field[1], field[2]
            fields[current] = _values(value or "")
        elif (item := ITEM.fullmatch(line)) and current and len(fields[current]) < MOST_ITEMS:
            fields[current] += _values(item[1])[:1]
        elif line[:1] not in ("", " ", "\t", "#"):
            current = ""
    return fields


def _values(text: str) -> tuple[str, ...]:
    """The values of a field or an item: one, or those of a list in brackets."""
    if text.startswith("[") and text.endswith("]"):
        parts = (found.group().strip() for found in PART.finditer(text[1:-1]))
        return tuple(value for part in islice(parts, MOST_ITEMS) for value in _values(part))
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        return (text[1:end][:LONGEST],) if end > 1 else ()
    plain = re.sub(r"(?:^|[ \t])#.*$", "", text).strip()
    return () if plain in ("", "null", "~") or plain[0] in "[{&*!|>" else (plain[:LONGEST],)
