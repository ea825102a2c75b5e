"""JSON from a stranger: one strict parser for configs, headers and indexes.

The standard parser keeps the last of two equal keys, accepts NaN and recurses without bound;
each of those has been used to make two tools read one file differently.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from adaptool.errors import FormatError

DEEPEST = 100
"""Levels of lists and objects in one another; a config has five."""

SHOWN = 60
"""Characters of a stranger's text that a message repeats."""


def parse_json(data: bytes, where: str, *, what: str = "file") -> Any:
    """Parse UTF-8 JSON; duplicate keys, NaN/Infinity, a BOM and deep nesting raise FormatError naming ``where``.

    Its ``defect`` is one of "byte-order-mark", "not-utf8", "not-json", "duplicate-key", "nan-literal", "too-deep",
    "lone-surrogate" and "huge-number".
    """
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise FormatError(
            f"{where}: the {what} starts with a byte order mark",
            hint="save it as UTF-8 without a BOM",
            defect="byte-order-mark",
        )

    def refuse(word: str) -> NoReturn:
        raise FormatError(f"{where}: the {what} holds {word}, which JSON does not have", defect="nan-literal")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise FormatError(f"{where}: the {what} has the key {twice!r} twice", defect="duplicate-key")
        return result

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        if b"\\ud" in data.lower():  # an escaped half of a character, which no file or tensor can be called
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        message = f"{where}: the {what} holds half a character (a lone surrogate)"
        raise FormatError(message, defect="lone-surrogate") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: the {what} is not UTF-8 (byte {error.start})", defect="not-utf8") from None
    except json.JSONDecodeError as error:
        message = f"{where}: the {what} is not JSON: {error.msg} (line {error.lineno})"
        raise FormatError(message, defect="not-json") from None
    except RecursionError:
        raise _too_deep(where, what) from None
    except ValueError as error:  # an integer of thousands of digits
        raise FormatError(f"{where}: the {what} cannot be read: {error}", defect="huge-number") from None
    if data.count(b"[") + data.count(b"{") > DEEPEST and is_deep(value):
        raise _too_deep(where, what)
    return value


def is_deep(value: Any) -> bool:
    """Whether there are more than DEEPEST levels: what one depth of the stack can parse, another cannot."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def _too_deep(where: str, what: str) -> FormatError:
    return FormatError(f"{where}: the {what} is nested absurdly deep", defect="too-deep")


def shown(value: Any) -> str:
    """A stranger's value as a message repeats it: escaped, on one line, and short."""
    try:
        text = json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
