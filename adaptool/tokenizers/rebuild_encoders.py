"""Encoders' tokenizers back: WordPiece (BERT) and unigram (XLM-RoBERTa, T5)."""

from __future__ import annotations

import base64

from adaptool.errors import FormatError
from adaptool.tensors.ggml.values import ValueType
from adaptool.tokenizers.bert import CONTINUES
from adaptool.tokenizers.bpe import SPACE
from adaptool.tokenizers.parts import Component, Rebuilt, framing, sequence, template
from adaptool.tokenizers.rows import Rows
from adaptool.tokenizers.tokens import TokenType

INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def wordpiece(rows: Rows) -> Rebuilt:
    """BERT: the mark of a word's start (▁) turned back into the mark of a continuation (##)."""
    lower = rows.find("tokenizer.ggml.normalizer.lowercase", ValueType.BOOL) is not False
    accents = rows.find("tokenizer.ggml.normalizer.strip_accents", ValueType.BOOL)
    first, last = rows.ids.get("cls", rows.ids.get("bos", 101)), rows.ids.get("sep", 102)
    if max(first, last) >= len(rows.texts):
        raise FormatError("the GGUF's vocabulary has no tokens to begin and end a text with")
    vocab = {_unmarked(rows, number): number for number in range(len(rows.texts)) if not rows.is_padding(number)}
    return Rebuilt(
        model={
            "type": "WordPiece",
            "unk_token": rows.text("unk") or "[UNK]",
            "continuing_subword_prefix": CONTINUES,
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        decoder={"type": "WordPiece", "prefix": CONTINUES, "cleanup": True},
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": accents,
            "lowercase": lower,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_sentences(rows, rows.texts[first], rows.texts[last]),
        clean_spaces=True,
        inputs=INPUTS,
    )


def unigram(rows: Rows) -> Rebuilt:
    """SentencePiece's unigram model, with its table of characters."""
    end = len(rows.texts)
    while end and rows.is_padding(end - 1):
        end -= 1
    table = bytes(rows.array("tokenizer.ggml.precompiled_charsmap", ValueType.UINT8) or b"")
    prefix = rows.find("tokenizer.ggml.add_space_prefix", ValueType.BOOL) is not False
    squeezed = rows.find("tokenizer.ggml.remove_extra_whitespaces", ValueType.BOOL) is True
    marks = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if prefix else "never",
        "split": True,
    }
    charsmap = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode("ascii")}
    fallback = TokenType.BYTE in rows.types
    return Rebuilt(
        model={
            "type": "Unigram",
            "unk_id": rows.ids.get("unk"),
            "vocab": [[text, score] for text, score in zip(rows.texts[:end], rows.scores, strict=False)],
            "byte_fallback": fallback,
        },
        decoder=marks,
        normalizer=charsmap if table else None,
        pre_tokenizer=sequence("pretokenizers", [*([{"type": "WhitespaceSplit"}] if squeezed else []), marks]),
        post_processor=framing(rows, bos=rows.flag("bos") is True, eos=rows.flag("eos") is not False),
        clean_spaces=squeezed,
    )


def _unmarked(rows: Rows, number: int) -> str:
    text = rows.texts[number]
    if rows.types[number] == TokenType.CONTROL:
        return text
    return text.removeprefix(SPACE) if text.startswith(SPACE) else CONTINUES + text


def _sentences(rows: Rows, first: str, last: str) -> Component:
    """``[CLS] A [SEP]``, or ``[CLS] A [SEP] B [SEP]`` with the second part's segment 1."""
    one: list[Component] = [
        {"SpecialToken": {"id": first, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": last, "type_id": 0}},
    ]
    two = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": last, "type_id": 1}}]
    return template(rows, single=one, pair=[*one, *two])
