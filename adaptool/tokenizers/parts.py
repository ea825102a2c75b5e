"""The components of a tokenizer.json that rebuilt tokenizers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptool.tokenizers import regexes
from adaptool.tokenizers.rows import Rows

Component = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The parts of a tokenizer.json beside its added tokens, and what the settings say of them."""

    model: Component
    decoder: Component
    normalizer: Component | None = None
    pre_tokenizer: Component | None = None
    post_processor: Component | None = None
    clean_spaces: bool = False
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    files: Mapping[str, bytes] = field(default_factory=dict)


def bpe(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], **flags: Any) -> Component:
    """A BPE model; ``merges`` first merged first."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **flags,
        "vocab": dict(vocab),
        "merges": [f"{left} {right}" if " " not in left + right else [left, right] for left, right in merges],
    }


def byte_level(*, use_regex: bool) -> Component:
    """Text to bytes in GPT-2's alphabet, split by GPT-2's pattern first if ``use_regex``."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(kind: str, parts: Sequence[Component]) -> Component:
    """One part as it is, several as a Sequence whose parts are called ``kind``."""
    return parts[0] if len(parts) == 1 else {"type": "Sequence", kind: list(parts)}


def split(pattern: str) -> Component:
    """Every match of ``pattern`` a word of its own."""
    if pattern == regexes.DIGIT:
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(old: str, new: str) -> Component:
    """Every ``old`` made ``new``."""
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def framing(rows: Rows, *, bos: bool, eos: bool) -> Component | None:
    """The beginning and end put around a text, and around each of two; None where nothing is."""
    first = _special(rows, "bos") if bos else []
    last = _special(rows, "eos") if eos else []
    if not first and not last:
        return None
    text = {name: [{"Sequence": {"id": name, "type_id": number}}] for number, name in enumerate("AB")}
    second = [{"SpecialToken": {**piece["SpecialToken"], "type_id": 1}} for piece in first]
    ended = [{"SpecialToken": {**piece["SpecialToken"], "type_id": 1}} for piece in last]
    return template(
        rows,
        single=[*first, *text["A"], *last],
        pair=[*first, *text["A"], *last, *second, *text["B"], *ended],
    )


def template(rows: Rows, *, single: list[Component], pair: list[Component]) -> Component:
    """A TemplateProcessing with the ids of the special tokens it names."""
    names = dict.fromkeys(piece["SpecialToken"]["id"] for piece in [*single, *pair] if "SpecialToken" in piece)
    ids = {name: rows.texts.index(name) for name in names}
    special = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _special(rows: Rows, role: str) -> list[Component]:
    text = rows.text(role)
    return [] if text is None else [{"SpecialToken": {"id": text, "type_id": 0}}]
