"""A GGUF's tokenizer as the files of a Hugging Face folder, giving the token ids that llama.cpp gives.

``tokenizer.json`` is complete in itself, so that transformers loads it whatever the architecture; nothing is executed.
"""

from __future__ import annotations

import json
from typing import Any

from adaptool.errors import UnsupportedError
from adaptool.tensors.ggml.values import KeyValues
from adaptool.tokenizers import rebuild_bpe, rebuild_encoders, rebuild_spm
from adaptool.tokenizers.parts import Rebuilt
from adaptool.tokenizers.rows import Rows
from adaptool.tokenizers.templates import template_files
from adaptool.tokenizers.tokens import ADDED_SCORE, TokenType

BUILDERS = {
    "gpt2": rebuild_bpe.byte_level,
    "gemma4": rebuild_bpe.whole_text,
    "llama": rebuild_spm.pieces,
    "bert": rebuild_encoders.wordpiece,
    "t5": rebuild_encoders.unigram,
}
"""By ``tokenizer.ggml.model``."""

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def tokenizer_files(keys: KeyValues) -> dict[str, bytes]:
    """Names and contents of the tokenizer files for a GGUF's ``tokenizer.*`` keys; other keys are passed over.

    tokenizer.json, tokenizer_config.json, special_tokens_map.json, the chat templates, and for SentencePiece
    tokenizer.model. Raises UnsupportedError for a tokenizer that these cannot express, FormatError for broken keys.
    """
    rows = Rows(keys)
    if (build := BUILDERS.get(rows.model)) is None:
        raise UnsupportedError(
            f"tokenizer.ggml.model {rows.model!r} cannot be written as a tokenizer.json",
            hint=f"those that can are {', '.join(BUILDERS)}; the base model's own tokenizer files serve as well",
        )
    rebuilt = build(rows)
    special = special_tokens(rows)
    return {
        "tokenizer.json": json.dumps(document(rows, rebuilt), ensure_ascii=False).encode("utf-8"),
        "tokenizer_config.json": _json(settings(rows, rebuilt) | special),
        "special_tokens_map.json": _json(special),
        **rebuilt.files,
        **template_files(keys),
    }


def document(rows: Rows, rebuilt: Rebuilt) -> dict[str, Any]:
    """tokenizer.json."""
    added = [{"id": number, **token} for number, token in added_tokens(rows).items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": rebuilt.normalizer,
        "pre_tokenizer": rebuilt.pre_tokenizer,
        "post_processor": rebuilt.post_processor,
        "decoder": rebuilt.decoder,
        "model": rebuilt.model,
    }


def settings(rows: Rows, rebuilt: Rebuilt) -> dict[str, Any]:
    """tokenizer_config.json less the special tokens; added tokens that a GGUF keeps no score of are not repeated."""
    scored = rows.keys.get("tokenizer.ggml.scores") is not None
    declared = {
        str(number): token
        for number, token in added_tokens(rows).items()
        if not scored or rows.scores[number] <= ADDED_SCORE
    }
    flags = {f"add_{role}_token": flag for role in ("bos", "eos") if (flag := rows.flag(role)) is not None}
    prefix = rows.keys.get("tokenizer.ggml.add_space_prefix")
    return {
        **flags,
        **({"add_prefix_space": prefix.data is True} if prefix is not None else {}),
        "added_tokens_decoder": declared,
        "clean_up_tokenization_spaces": rebuilt.clean_spaces,
        "model_input_names": list(rebuilt.inputs),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def special_tokens(rows: Rows) -> dict[str, str]:
    """The tokens with a role, by transformers' names."""
    return {f"{role}_token": text for role in ROLES if (text := rows.text(role)) is not None}


def added_tokens(rows: Rows) -> dict[int, dict[str, Any]]:
    """Tokens matched whole in the raw text: the control tokens are special, the user-defined ones are not."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    kinds = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    if rows.model in ("llama", "t5"):
        kinds[TokenType.UNKNOWN] = True
    return {
        number: {"content": text, **plain, "special": kinds[TokenType(kind)]}
        for number, (text, kind) in enumerate(zip(rows.texts, rows.types, strict=True))
        if kind in kinds
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
