"""GPT-2's alphabet: every byte as a printable character, so that a vocabulary of bytes is a vocabulary of text."""

from __future__ import annotations

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]

CHARACTER: dict[int, str] = {byte: chr(byte) for byte in _PRINTABLE} | {b: chr(256 + n) for n, b in enumerate(_OTHERS)}
"""Byte to character: itself where it prints, else the next one from U+0100 on (a space is Ġ, a newline Ċ)."""

BYTE: dict[str, int] = {character: byte for byte, character in CHARACTER.items()}


def encode(text: str) -> str:
    """A text's UTF-8 bytes in the alphabet."""
    return text.encode("utf-8").decode("latin-1").translate(CHARACTER)


def decode(token: str) -> str:
    """The text of a token in the alphabet; one with a character outside it is taken as it stands, as decoders do."""
    if any(character not in BYTE for character in token):
        return token
    return bytes(BYTE[character] for character in token).decode("utf-8", errors="replace")
