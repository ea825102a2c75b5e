"""What a vocabulary is in a GGUF: texts, types and (for SentencePiece) scores, one of each per id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from adaptool.errors import MismatchError, UnsupportedError
from adaptool.tensors.ggml.values import Value, ValueType, array

ADDED_SCORE = -1000.0
"""What an added token scores: it is matched whole, before any merging, so no merge may ever prefer it."""

PADDING_SCORE = -10000.0

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A byte of SentencePiece's fallback."""


class TokenType(IntEnum):
    """What a token is for. SentencePiece's numbers, which GGUF took over."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Texts and types by id, equally long; ``scores`` where the model has them."""

    texts: Sequence[str | bytes]
    types: Sequence[int]
    scores: Sequence[float] | None = None

    def keys(self) -> dict[str, Value]:
        """The three arrays as GGUF keys, in the order the reference converter writes them."""
        self._check()
        keys = {"tokenizer.ggml.tokens": array(ValueType.STRING, self.texts)}
        if self.scores is not None:
            keys["tokenizer.ggml.scores"] = array(ValueType.FLOAT32, self.scores)
        keys["tokenizer.ggml.token_type"] = array(ValueType.INT32, [int(kind) for kind in self.types])
        return keys

    def _check(self) -> None:
        """Refuse two ids with one text: the runtime aborts on them, long after the file was written."""
        if not self.texts:
            raise UnsupportedError("the vocabulary is empty")
        if len(set(self.texts)) == len(self.texts):
            return
        first: dict[str | bytes, int] = {}
        for number, token in enumerate(self.texts):
            if (other := first.setdefault(token, number)) != number:
                raise UnsupportedError(
                    f"tokens {other} and {number} have the same text {token!r}, which llama.cpp refuses to load",
                    hint="rename one of them in the tokenizer's files",
                )


def by_id(pieces: dict[int, tuple[str, int]], vocab_size: int, where: str) -> tuple[list[str], list[int]]:
    """Texts and types of ``vocab_size`` ids; an id without a token becomes an unused ``[PADn]``.

    Embeddings are often padded to a round number of rows, and every row needs a token. A token without a row is a
    MismatchError: the model could never be given it.
    """
    if (top := max(pieces, default=-1)) >= vocab_size:
        raise MismatchError(
            f"{where}: token {top} ({pieces[top][0]!r}) has no row in the model's vocabulary of {vocab_size}",
            hint="resize the model's embeddings to the tokenizer, or take the tokenizer the model was saved with",
        )
    rows = [pieces.get(number) or (f"[PAD{number}]", TokenType.UNUSED) for number in range(vocab_size)]
    return [text for text, _ in rows], [int(kind) for _, kind in rows]


def looks_special(token: str) -> bool:
    """Whether an added token is a control token by its looks, whatever its flag says.

    Several published tokenizers forgot the flag (command-r, deepseek-coder, gemma), and a model that may be talked into
    writing ``<|im_end|>`` is worse than one that cannot.
    """
    if token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]"):
        return True
    ends = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return any(token.startswith(start) and token.endswith(end) for start, end in ends)
