"""GGUF's metadata as bytes and back: little-endian, each value preceded by its type.

Format: the GGUF specification, versions 2 and 3 (which differ in nothing here).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from adaptool.errors import FormatError
from adaptool.tensors.files import FileHandle
from adaptool.tensors.ggml.values import Value, ValueType

FORMATS = {
    ValueType.UINT8: "<u1",
    ValueType.INT8: "<i1",
    ValueType.UINT16: "<u2",
    ValueType.INT16: "<i2",
    ValueType.UINT32: "<u4",
    ValueType.INT32: "<i4",
    ValueType.FLOAT32: "<f4",
    ValueType.BOOL: "?",
    ValueType.UINT64: "<u8",
    ValueType.INT64: "<i8",
    ValueType.FLOAT64: "<f8",
}
"""NumPy's name for each scalar type."""

CHUNK = 1 << 20
"""Bytes read ahead: a header is read once, front to back."""

HEADER_LIMIT = 1 << 28
"""Bytes a header may have: the largest vocabularies take some tens of millions."""

MOST_ITEMS = 1 << 24
"""Items of an array: no vocabulary comes near."""


class HeaderReader:
    """Reads a GGUF header front to back; whatever would lead past the end of the file is a FormatError."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._buffer = b""
        self._start = 0
        self.offset = 0
        """Of the next byte, in the file."""

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        if self.offset + length > HEADER_LIMIT:
            raise FormatError(f"{self._handle.path}: the header claims more than {HEADER_LIMIT} bytes")
        if self.offset + length > self._handle.size:
            raise FormatError(
                f"{self._handle.path}: the header goes on past byte {self._handle.size}, where the file ends",
                hint="the file is truncated or is not a GGUF: fetch it again",
            )
        at = self.offset - self._start
        if at + length > len(self._buffer):
            ahead = min(max(length, CHUNK), self._handle.size - self.offset)
            self._buffer, self._start, at = self._handle.read(self.offset, ahead), self.offset, 0
        self.offset += length
        return self._buffer[at : at + length]

    def number(self, kind: ValueType) -> Any:
        """One scalar."""
        layout = np.dtype(FORMATS[kind])
        return np.frombuffer(self.take(layout.itemsize), layout)[0].item()

    def count(self, most: int = HEADER_LIMIT) -> int:
        """A length or a count, ``most`` at most; each thing counted takes a byte, so it cannot exceed the file."""
        value: int = struct.unpack("<Q", self.take(8))[0]
        if value > min(most, self._handle.size):
            raise FormatError(f"{self._handle.path}: claims {value} things in {self._handle.size} bytes")
        return value

    def raw(self) -> bytes:
        """A string's bytes."""
        return self.take(self.count())

    def text(self) -> str | bytes:
        """A string; bytes where it is not UTF-8."""
        raw = self.raw()
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def _texts(self, count: int) -> list[str | bytes]:
        """Many strings: what ``text`` does, in one loop over the buffer (vocabularies have 10^5 of them)."""
        result: list[str | bytes] = []
        buffer, at = self._buffer, self.offset - self._start
        while len(result) < count:
            stop = at + 8 + int.from_bytes(buffer[at : at + 8], "little")
            if at + 8 > len(buffer) or stop > len(buffer):
                self.offset = self._start + at
                result.append(self.text())
                buffer, at = self._buffer, self.offset - self._start
                continue
            raw = buffer[at + 8 : stop]
            try:
                result.append(raw.decode())
            except UnicodeDecodeError:
                result.append(raw)
            at = stop
        self.offset = self._start + at
        return result

    def name(self) -> str:
        """A key's or tensor's name, which must be UTF-8."""
        text = self.text()
        if isinstance(text, bytes):
            raise FormatError(f"{self._handle.path}: the name {text[:40]!r} is not UTF-8")
        return text

    def kind(self) -> ValueType:
        """A value's type."""
        number = self.number(ValueType.UINT32)
        try:
            return ValueType(number)
        except ValueError:
            raise FormatError(f"{self._handle.path}: metadata of the unknown type {number}") from None

    def value(self) -> Value:
        """A typed value."""
        kind = self.kind()
        if kind is ValueType.STRING:
            return Value(kind, self.text())
        if kind is not ValueType.ARRAY:
            return Value(kind, self.number(kind))
        element, count = self.kind(), self.count(MOST_ITEMS)
        if element is ValueType.ARRAY:
            raise FormatError(
                f"{self._handle.path}: an array of arrays in the metadata", hint="no known writer makes one"
            )
        if element is ValueType.STRING:
            return Value(kind, self._texts(count), element)
        layout = np.dtype(FORMATS[element])
        return Value(kind, np.frombuffer(self.take(count * layout.itemsize), layout).tolist(), element)


def encoded_text(words: str | bytes) -> bytes:
    """A string: its length and its bytes."""
    data = words if isinstance(words, bytes) else words.encode("utf-8", errors="surrogateescape")
    return struct.pack("<Q", len(data)) + data


def encoded_value(value: Value) -> bytes:
    """A value preceded by its type."""
    kind = struct.pack("<I", value.kind)
    if value.kind is ValueType.STRING:
        return kind + encoded_text(value.data)
    if value.kind is not ValueType.ARRAY:
        return kind + np.array(value.data, FORMATS[value.kind]).tobytes()
    assert value.element is not None
    head = kind + struct.pack("<IQ", value.element, len(value.data))
    if value.element is ValueType.STRING:
        return head + b"".join(map(encoded_text, value.data))
    if isinstance(value.data, bytes):  # of UINT8
        return head + value.data
    return head + np.array(value.data, FORMATS[value.element]).tobytes()
