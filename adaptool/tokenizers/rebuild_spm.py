"""SentencePiece tokenizers back: as BPE with bytes for the rest, and as the model file itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from adaptool.tensors.ggml.values import ValueType
from adaptool.tokenizers.bpe import SPACE
from adaptool.tokenizers.parts import Component, Rebuilt, bpe, framing, replace, sequence
from adaptool.tokenizers.rows import Rows
from adaptool.tokenizers.sentencepiece import BPE
from adaptool.tokenizers.tokens import TokenType


def pieces(rows: Rows) -> Rebuilt:
    """Llama 2's kind: SentencePiece joins the neighbours whose result scores highest, as merges in that order do."""
    prefix = rows.find("tokenizer.ggml.add_space_prefix", ValueType.BOOL) is not False
    bos = rows.flag("bos") is not False
    marked = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    stripped: list[Component] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    fallback = TokenType.BYTE in rows.types
    return Rebuilt(
        model=bpe(rows.vocab(), merges(rows), unk_token=rows.text("unk"), fuse_unk=True, byte_fallback=fallback),
        decoder=sequence("decoders", [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *stripped]),
        normalizer=sequence("normalizers", [*marked, replace(" ", SPACE)]),
        post_processor=framing(rows, bos=bos, eos=rows.flag("eos") is True),
        files={"tokenizer.model": model_file(rows, prefix=prefix)},
    )


def merges(rows: Rows) -> list[tuple[str, str]]:
    """Every way to make a normal piece of two others, best score first.

    Some converters lost the scores and wrote one for all: then the lower id comes first, as vocabularies are sorted.
    """
    normal = {
        text: number
        for number, (text, kind) in enumerate(zip(rows.texts, rows.types, strict=True))
        if kind == TokenType.NORMAL
    }
    lost = len({rows.scores[number] for text, number in normal.items() if len(text) > 1}) == 1
    found: list[tuple[float, int, int, str, str]] = []
    for text, number in normal.items():
        score = -number if lost else rows.scores[number]
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in normal and right in normal:
                found.append((-score, normal[left], normal[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def model_file(rows: Rows, *, prefix: bool) -> bytes:
    """tokenizer.model, which keeps the scores; the ids that only pad at the end are left out."""
    end = len(rows.texts)
    while end and rows.is_padding(end - 1):
        end -= 1
    unknown = rows.ids.get("unk", 0)
    body = bytearray()
    for number in range(end):
        kind = TokenType.UNKNOWN if number == unknown else rows.types[number]
        text = rows.texts[number].replace(" ", SPACE).encode("utf-8")
        body += _part(1, _part(1, text) + b"\x15" + struct.pack("<f", rows.scores[number]) + _number(3, kind))
    ids = {40: unknown, 41: rows.ids.get("bos", -1), 42: rows.ids.get("eos", -1), 43: rows.ids.get("pad", -1)}
    fallback = TokenType.BYTE in rows.types
    trainer = {3: BPE, 4: end, 35: int(fallback), **ids}
    body += _part(2, _numbers(trainer))
    body += _part(3, _part(1, b"identity") + _numbers({3: int(prefix), 4: 0, 5: 1}))
    return bytes(body)


def _numbers(fields: Mapping[int, int]) -> bytes:
    return b"".join(_number(field, value) for field, value in fields.items())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value % (1 << 64))  # a negative number is its two's complement in 64 bits


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
