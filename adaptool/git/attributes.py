"""``.gitattributes``, changed where it must be and nowhere else: the user's lines, their order and endings stay.

Source: gitattributes(5). Attributes are taken one by one, each from the last line that names it, so a line of ours
after ``*.safetensors filter=lfs diff=lfs merge=lfs -text`` changes the diff and leaves LFS alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

DRIVER = "adaptool"
PATTERNS = ("adapter_model.safetensors", "adapter_model.bin", "*.gguf")
"""The files whose diff is told. The weights of whole models are left to LFS: a diff of them reads gigabytes."""

HEADING = "# git diff tells what changed in an adapter (adaptool git setup)"

DIFF = re.compile(r"[-!]?diff(?:=.*)?|binary")
FILTER = re.compile(r"[-!]?filter(?:=.*)?")
LFS = re.compile(r"[-!]?(?:filter|merge|text)(?:=.*)?")


def with_driver(text: str, *, lfs: bool) -> str:
    """The file's text with the driver on every pattern, and where asked with LFS; the same text where it has both."""
    lines, ending = _lines(text)
    handed = {pattern for pattern in PATTERNS if lfs and _last(lines, pattern, FILTER) != "filter=lfs"}
    lines = [_changed(line, lfs=_pattern(line) in handed) for line in lines]
    if not all(_has(lines, pattern, lfs=lfs) for pattern in PATTERNS):
        lines = [line for line in lines if line != HEADING and line not in map(_new, PATTERNS)]
        lacking = [pattern for pattern in PATTERNS if not _has(lines, pattern, lfs=lfs)]
        lines += [HEADING, *(_new(pattern, lfs=pattern in handed) for pattern in lacking)]
    return _text(lines, ending)


def without_driver(text: str) -> str:
    """The file's text with what ``with_driver`` added taken out; a pattern that LFS keeps stays with LFS's own diff."""
    lines, ending = _lines(text)
    return _text([back for line in lines if line != HEADING and (back := _undone(line)) is not None], ending)


def uses_lfs(text: str) -> bool:
    """Whether any line hands files to LFS."""
    return any(_pattern(line) and "filter=lfs" in line.split() for line in _lines(text)[0])


def _lines(text: str) -> tuple[list[str], str]:
    ending = "\r\n" if "\r\n" in text else "\n"
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else [], ending


def _text(lines: Sequence[str], ending: str) -> str:
    return "".join(f"{line}{ending}" for line in lines)


def _pattern(line: str) -> str:
    """The pattern a line is about; "" for comments, macros and empty lines."""
    words = line.split()
    return "" if not words or words[0].startswith(("#", "[attr]")) else words[0].strip('"')


def _new(pattern: str, *, lfs: bool = False) -> str:
    return f"{pattern} filter=lfs diff={DRIVER} merge=lfs -text" if lfs else f"{pattern} diff={DRIVER}"


def _changed(line: str, *, lfs: bool) -> str:
    """A line about one of our patterns with our driver; its other attributes stay."""
    if _pattern(line) not in PATTERNS:
        return line
    pattern, *attributes = line.split()
    words = [f"diff={DRIVER}" if DIFF.fullmatch(word) and word != "binary" else word for word in attributes]
    words += [] if f"diff={DRIVER}" in words else [f"diff={DRIVER}"]
    if lfs and "filter=lfs" not in words:
        words = ["filter=lfs", *(word for word in words if not LFS.fullmatch(word)), "merge=lfs", "-text"]
    return line if words == attributes else " ".join((pattern, *words))


def _has(lines: Sequence[str], pattern: str, *, lfs: bool) -> bool:
    """Whether the last word on files of ``pattern`` is our driver, and LFS where that is asked."""
    told = _last(lines, pattern, DIFF) == f"diff={DRIVER}"
    return told and (not lfs or _last(lines, pattern, FILTER) == "filter=lfs")


def _last(lines: Sequence[str], pattern: str, attribute: re.Pattern[str]) -> str:
    """The last word on an attribute of files of ``pattern``."""
    words = [word for line in lines if _matches(_pattern(line), pattern) for word in line.split()[1:]]
    return next((word for word in reversed(words) if attribute.fullmatch(word)), "")


def _matches(given: str, pattern: str) -> bool:
    """Whether a line's pattern is about some file that one of ours is about."""
    name = given.rpartition("/")[2]
    return given != "" and (fnmatchcase(pattern, name) or fnmatchcase(name, pattern))


def _undone(line: str) -> str | None:
    """The line without our driver; None where nothing is left of it."""
    words = line.split()
    if _pattern(line) not in PATTERNS or f"diff={DRIVER}" not in words:
        return line
    plain = ["diff=lfs"] if "filter=lfs" in words else []
    back = [after for word in words for after in (plain if word == f"diff={DRIVER}" else [word])]
    return " ".join(back) if len(back) > 1 else None
