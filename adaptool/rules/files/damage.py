"""What is wrong with the weights' file as a file: one word, so that one rule says it and the others are silent.

The reader names what it stumbled over first. That is the last thing to say of a web page saved under the weights' name,
so what the bytes are is asked before what they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.errors import AdaptoolError
from adaptool.rules.files.imports import read_program
from adaptool.rules.files.listing import printable
from adaptool.rules.files.magic import HEAD, Format, identify, is_prose
from adaptool.rules.finding import Problem
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.legacy import Window
from adaptool.tensors.opcodes import PICKLE_LIMIT
from adaptool.tensors.safetensors import GapError
from adaptool.tensors.sniff import sniff

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

TORCH = ("torch-zip", "torch-legacy", "pickle")

NOT_JSON = ("not-an-object", "not-json", "not-utf8", "byte-order-mark", "lone-surrogate", "huge-number", "nan-literal")
"""What parsers of JSON say of a header; a repeated key and deep nesting have rules of their own."""

_ZIP_TAIL = 22 + (1 << 16)
"""Bytes at the end of a file in which a zip archive's last record begins."""

_NOT_THERE = ("missing", "unreadable", "not-a-file")
"""A link to nowhere, a pipe, a folder: the rules about the folder say it."""

_IN_ZIP64 = 0xFFFFFFFF
"""The length of a directory that is noted elsewhere."""

_MESSAGE_LIMIT = 400


@dataclass(frozen=True, slots=True)
class Damage:
    """A word of the reader's or of this module's, and the sentence about it."""

    word: str
    message: str
    hint: str = ""


def weights_kind(subject: Subject) -> str:
    """What the weights' file holds by its bytes, as ``sniff`` names it; "" where there is none to be read."""
    path = subject.weights_path
    if path is None:
        return ""

    def look() -> str:
        try:
            kind = sniff(path)
            return "pickle" if kind == "unknown" and _is_program(path) else kind
        except AdaptoolError:
            return ""

    return subject.once("weights kind", look)


def _is_program(path: Path) -> bool:
    """Whether it is a pickle of protocol 0 or 1, which have no magic number."""
    handle = open_file(path)
    try:
        return read_program(Window(handle, PICKLE_LIMIT)) is not None
    finally:
        handle.close()


def damage(subject: Subject) -> Damage | None:
    """What is wrong with the weights' layout; None where nothing is, or where they are a pickle or no file."""
    return subject.once("damage", lambda: _damage(subject))


def damaged(subject: Subject, *words: str) -> Iterator[Problem]:
    """The problem the weights' layout has, if it is one of ``words``."""
    found = damage(subject)
    if found is not None and found.word in words:
        fix = f"{found.hint[0].upper()}{found.hint[1:]}." if found.hint else ""
        name = printable(subject.weights_name)
        yield Problem(f"in {name}, {found.message}", name, fix=fix)


def _damage(subject: Subject) -> Damage | None:
    kind, path = weights_kind(subject), subject.weights_path
    if path is None or kind == "" or kind in TORCH:
        return None
    error = subject.store_opened.error
    try:
        handle = open_file(path)
        try:
            return _polyglot(handle, subject) if error is None else _of(error, path, handle, kind)
        finally:
            handle.close()
    except AdaptoolError:
        return None  # it went while it was looked at


def _of(error: AdaptoolError, path: Path, handle: FileHandle, kind: str) -> Damage | None:
    if error.defect in _NOT_THERE:
        return None
    said, hint = plain(error, path), error.hint or ""
    head = handle.read(0, min(HEAD, handle.size))
    if kind == "lfs-pointer":
        return Damage("lfs-pointer", said, hint)
    is_framed = error.defect not in ("header-length", "header-limit", "not-an-object", "too-short", "pickle")
    found = None if is_framed else identify(head)
    if found is not None:
        word = "page" if found.group == "page" else "other-format"
        return Damage(word, f"it is {found.what}, {handle.size} bytes of it, and no safetensors")
    if not is_framed and 8 <= handle.size < HEAD and is_prose(head):
        return Damage(
            "page", f"it is a text of {handle.size} bytes: {printable(head[:80].decode('latin-1').strip())!r}"
        )
    if not is_framed and handle.size >= 8 and not any(head):
        return Damage("zeros", f"it begins with {len(head)} zero bytes: space was set aside and never filled")
    if isinstance(error, GapError):
        return _gap(error, handle, said)
    if error.defect == "header-length" and head[8:9] != b"{" and head[7] < 0x80 and len(head) > 8:
        return Damage("unknown-format", f"its {handle.size} bytes begin like no safetensors: {head[:8].hex(' ')}", hint)
    return Damage("not-json" if error.defect in NOT_JSON else error.defect, said, hint)


def _gap(error: GapError, handle: FileHandle, said: str) -> Damage:
    """Bytes of no tensor, and what they are."""
    unused = handle.read(error.unused.start, min(len(error.unused), 1 << 20))
    found = identify(unused[:HEAD])
    if error.defect == "trailing" and found is None and _zip_at_end(handle):
        found = Format("zip", "a zip archive")
    if found is None and (program := read_program(BytesIO(unused))) is not None and program.imports:
        found = Format("document", f"a pickle that imports {printable(program.imports[0])}")
    if found is None:
        return Damage(error.defect, said)
    return Damage("polyglot", f"{said}: {found.what}, hidden where no tensor is")


def _polyglot(handle: FileHandle, subject: Subject) -> Damage | None:
    """A sound safetensors file that is something else as well, to a program that begins elsewhere."""
    if _zip_at_end(handle):
        return Damage("polyglot", "it is safetensors read from its beginning, and a zip archive read from its end")
    if b"%PDF-" in handle.read(0, min(HEAD, handle.size)):
        return Damage("polyglot", "it is safetensors, and a PDF to readers that look for one in the first kilobyte")
    program = read_program(Window(handle, min(handle.size, 1 << 20)))
    if program is not None and program.imports:
        return Damage("polyglot", f"it is safetensors, and a pickle that imports {printable(program.imports[0])}")
    return None


def _zip_at_end(handle: FileHandle) -> bool:
    """Whether a zip archive's last record lies where one is looked for, with a directory before it."""
    start = max(0, handle.size - _ZIP_TAIL)
    tail = handle.read(start, handle.size - start)
    at = tail.rfind(b"PK\5\6", 0, len(tail) - 18)
    while at >= 0:
        length = int.from_bytes(tail[at + 12 : at + 16], "little")
        directory = start + at - length
        if length == _IN_ZIP64 or (directory >= 0 and handle.read(directory, 4) == b"PK\1\2"):
            return True
        at = tail.rfind(b"PK\5\6", 0, at)
    return False


def plain(error: AdaptoolError, path: Path) -> str:
    """The reader's sentence without the path, which a finding has a place for, and of bearable length."""
    said = error.message.removeprefix(f"{path}: ")
    return said if len(said) <= _MESSAGE_LIMIT else f"{said[:_MESSAGE_LIMIT]}…"
