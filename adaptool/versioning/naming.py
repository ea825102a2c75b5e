"""The names of adapters and of their tags: made from folders, understood in every form that people tag by."""

from __future__ import annotations

import re
from pathlib import Path

from adaptool.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
"""What may name an adapter: with it a tag, a file and a package can be named too."""

LONGEST = 100


def name_of(folder: Path) -> str:
    """An adapter's name after its folder, characters that a name cannot have replaced; "adapter" where none is left."""
    return made_name(folder.resolve().name)


def made_name(text: str) -> str:
    """The nearest name to ``text``."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:LONGEST]
    plain = re.sub(r"\.{2,}", ".", plain).strip(".-_")
    return plain.removesuffix(".lock") or "adapter"


def is_name(text: str) -> bool:
    """Whether an adapter may be called ``text``: also as a part of a tag, in which Git forbids ".." and ".lock"."""
    plain = ".." not in text and not text.endswith(".lock")
    return plain and len(text) <= LONGEST and NAME.fullmatch(text) is not None


def require_name(text: str) -> str:
    """``text`` as an adapter's name, or a UsageError."""
    if not is_name(text):
        raise UsageError(
            f"{text[:60]!r} cannot name an adapter", hint="letters, digits, '.', '_' and '-': such as --name sql"
        )
    return text
