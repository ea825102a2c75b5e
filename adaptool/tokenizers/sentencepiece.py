"""tokenizer.model: SentencePiece's protobuf, of which a few fields are read here without the library.

A message is a run of (tag, value): tag = field number << 3 | wire type; the types are varint, 8 bytes, length-prefixed
bytes and 4 bytes. Source: the protobuf encoding, and sentencepiece_model.proto for the field numbers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from adaptool.errors import FormatError

MAX_PIECES = 1 << 22
UNIGRAM, BPE = 1, 2


class Piece(NamedTuple):
    """A token: its text, its score (a log-probability, or minus the merge's rank) and its type."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """The pieces by id, and what the trainer and the normaliser were told."""

    pieces: list[Piece]
    model_type: int = UNIGRAM
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    precompiled_charsmap: bytes = b""


def parse_sentencepiece(data: bytes, where: str) -> SentencePieceModel:
    """A ModelProto; FormatError for bytes that are not one."""
    pieces: list[Piece] = []
    settings: dict[str, int] = {}
    charsmap = b""
    view = memoryview(data)
    for number, value in _fields(view, where):
        if number == 1:
            if len(pieces) == MAX_PIECES:
                raise FormatError(f"{where}: more than {MAX_PIECES} pieces")
            pieces.append(_piece(_message(value, where), f"{where}: piece {len(pieces)}"))
        elif number == 2:
            settings |= _varints(_message(value, where), {3: "model_type"}, where)
        elif number == 3:
            message = _message(value, where)
            settings |= _varints(message, {3: "add_dummy_prefix", 4: "remove_extra_whitespaces"}, where)
            charsmap = next((bytes(_message(part, where)) for n, part in _fields(message, where) if n == 2), b"")
    if not pieces:
        raise FormatError(
            f"{where}: not a SentencePiece model",
            hint="a file of a few hundred bytes is a Git LFS pointer: fetch the real one",
        )
    return SentencePieceModel(
        pieces,
        model_type=settings.get("model_type", UNIGRAM),
        add_dummy_prefix=bool(settings.get("add_dummy_prefix", True)),
        remove_extra_whitespaces=bool(settings.get("remove_extra_whitespaces", True)),
        precompiled_charsmap=charsmap,
    )


def _piece(message: memoryview, where: str) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(message, where):
        if number == 1:
            try:
                text = bytes(_message(value, where)).decode("utf-8")
            except UnicodeDecodeError:
                raise FormatError(f"{where}: the text is not UTF-8") from None
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not math.isfinite(score) or kind not in range(1, 7):
        raise FormatError(f"{where}: score {score}, type {kind}")
    return Piece(text, score, kind)


def _varints(message: memoryview, names: dict[int, str], where: str) -> dict[str, int]:
    """The numbers and switches of a message that have a name here."""
    return {names[n]: value for n, value in _fields(message, where) if n in names and isinstance(value, int)}


def _message(value: int | float | memoryview, where: str) -> memoryview:
    if not isinstance(value, memoryview):
        raise FormatError(f"{where}: a message is a number: not a SentencePiece model")
    return value


def _fields(view: memoryview, where: str) -> Iterator[tuple[int, int | float | memoryview]]:
    """The (number, value) pairs of a message: integers, float32s and length-prefixed parts; doubles are skipped."""
    at = 0
    while at < len(view):
        tag, at = _varint(view, at, where)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(view, at, where)
            yield number, value
        elif wire == 2:
            length, at = _varint(view, at, where)
            if length > len(view) - at:
                raise FormatError(f"{where}: truncated: not a whole SentencePiece model")
            yield number, view[at : at + length]
            at += length
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            if width > len(view) - at:
                raise FormatError(f"{where}: truncated: not a whole SentencePiece model")
            if wire == 5:
                yield number, struct.unpack_from("<f", view, at)[0]
            at += width
        else:
            raise FormatError(f"{where}: not a SentencePiece model (wire type {wire})")


def _varint(view: memoryview, at: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise FormatError(f"{where}: truncated: not a whole SentencePiece model")
