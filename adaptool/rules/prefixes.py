"""Codes chosen by how they begin: "TEN", "VAL2", "VER301", or "ALL"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

EVERYTHING = "ALL"


def parse_codes(texts: Iterable[str]) -> tuple[str, ...]:
    """``("TEN,VAL2", "cfg103")`` as prefixes."""
    return tuple(part.strip().upper() for text in texts for part in text.split(",") if part.strip())


def matched(code: str, prefixes: Sequence[str]) -> int:
    """How much of a code the longest matching prefix is; −1 where none matches."""
    return max(
        (0 if p == EVERYTHING else len(p) for p in prefixes if p == EVERYTHING or code.startswith(p)), default=-1
    )
