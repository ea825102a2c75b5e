"""Unicode and case normalisation as tokenizer.json files ask for it."""

from __future__ import annotations

import unicodedata
from typing import Literal

from adaptool.tokenizers.fast import Node, children

IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Code points that BERT makes a word each."""

_FORMS: dict[str, Literal["NFC", "NFD", "NFKC", "NFKD"]] = {form: form for form in ("NFC", "NFD", "NFKC", "NFKD")}


def apply(normalizer: Node | None, text: str) -> str | None:
    """``text`` normalised; None for a normaliser that is not one of these."""
    for part in children(normalizer, "normalizers"):
        kind = str(part.get("type"))
        if kind in _FORMS:
            text = unicodedata.normalize(_FORMS[kind], text)
        elif kind == "Lowercase":
            text = text.lower()
        elif kind == "StripAccents":
            text = strip_accents(text)
        elif kind == "BertNormalizer":
            text = _bert(part, text)
        else:
            return None
    return text


def strip_accents(text: str) -> str:
    """Without the marks that a decomposed text has on its letters."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _bert(part: Node, text: str) -> str:
    lower = part.get("lowercase") is not False
    accents = part.get("strip_accents")
    if part.get("clean_text") is not False:
        text = "".join(" " if c.isspace() else c for c in text if c in "\t\n\r" or not _control(c))
    if part.get("handle_chinese_chars") is not False:
        text = "".join(f" {c} " if _ideograph(c) else c for c in text)
    if accents is True or (accents is None and lower):
        text = strip_accents(text)
    return text.lower() if lower else text


def _control(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character).startswith("C")


def _ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)
