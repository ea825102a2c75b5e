"""The typed values of GGUF metadata: every key carries its type, and readers check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ValueType(IntEnum):
    """The types of metadata values, by their numbers in the file. Source: the GGUF specification."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True)
class Value:
    """One metadata value: a number, a boolean, a text, or a sequence of ``element`` values.

    Texts are ``str``, or ``bytes`` where they are not UTF-8 (some tokens).
    """

    kind: ValueType
    data: Any
    element: ValueType | None = None


KeyValues = Mapping[str, Value]
"""Metadata in the order it is written."""


def u32(number: int) -> Value:
    """An unsigned 32-bit integer: what counts and token ids are."""
    return Value(ValueType.UINT32, int(number))


def f32(number: float) -> Value:
    """A float32."""
    return Value(ValueType.FLOAT32, float(number))


def boolean(flag: bool) -> Value:
    """True or false."""
    return Value(ValueType.BOOL, bool(flag))


def text(words: str | bytes) -> Value:
    """A string."""
    return Value(ValueType.STRING, words)


def array(element: ValueType, items: Sequence[Any]) -> Value:
    """A sequence of values of one type."""
    return Value(ValueType.ARRAY, items, element)
