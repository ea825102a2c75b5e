"""A text's token ids by tokenizer.json, for the few components that llama.cpp's BPE and WordPiece models are made of.

Small and slow, and without the ``tokenizers`` library: one short text is encoded, to tell which published tokenizer a
file is. A component that is not here gives None, never other ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import regex

from adaptool.tokenizers import alphabet, normalize, regexes
from adaptool.tokenizers.fast import AddedToken, FastTokenizer, Node, children

PATTERN_SECONDS = 0.5
PATTERN_LENGTH = 4000
PATTERN_REPEATS = 10_000
"""The product of a pattern's counts, x{3}: compiling unrolls them, and compiling cannot be stopped."""

WORD_LENGTH = 100
"""Characters of a word that WordPiece still looks up."""


class _UnknownPartError(Exception):
    """The file has something that is not read here."""


def encode(fast: FastTokenizer, text: str) -> list[int] | None:
    """The ids of ``text``, with the special tokens the post-processor adds; None where the file cannot be followed."""
    try:
        model = _model(fast)
        ids: list[int] = []
        for raw in _cut(text, [token for token in fast.added if not token.normalized]):
            if isinstance(raw, int):
                ids.append(raw)
                continue
            plain = normalize.apply(fast.normalizer, raw)
            if plain is None:
                raise _UnknownPartError
            for piece in _cut(plain, [token for token in fast.added if token.normalized]):
                ids += [piece] if isinstance(piece, int) else [i for word in _words(fast, piece) for i in model(word)]
        return _framed(fast, ids)
    except (_UnknownPartError, TimeoutError, regex.error):
        return None


def _cut(text: str, tokens: Sequence[AddedToken]) -> Iterator[int | str]:
    """``text`` around the added tokens in it, which come as their ids; the longest of several wins."""
    found = {token.content: token for token in tokens if token.content and token.content in text}
    if not found:
        yield text
        return
    if any(token.single_word or token.lstrip or token.rstrip for token in found.values()):
        raise _UnknownPartError
    pattern = "|".join(re.escape(content) for content in sorted(found, key=len, reverse=True))
    for part in re.split(f"({pattern})", text):
        if part:
            yield found[part].id if part in found else part


def _words(fast: FastTokenizer, text: str) -> list[str]:
    """``text`` split by the pre-tokenizers in turn."""
    words = [text]
    for part in children(fast.pre_tokenizer, "pretokenizers"):
        words = [piece for word in words for piece in _split(part, word) if piece]
    return words


def _split(part: Node, word: str) -> Iterator[str]:
    match part:
        case {"type": "Split", "pattern": {"Regex": str(pattern)}}:
            yield from _isolated(pattern, word, removed=_behaviour(part))
        case {"type": "Digits"}:
            yield from _isolated(regexes.DIGIT if part.get("individual_digits") is True else regexes.DIGITS, word)
        case {"type": "Punctuation", "behavior": "Contiguous"}:
            yield from _isolated(regexes.PUNCTUATION, word)
        case {"type": "ByteLevel"}:
            spaced = f" {word}" if part.get("add_prefix_space") is True and not word.startswith(" ") else word
            pieces = [spaced] if part.get("use_regex") is False else _isolated(regexes.GPT2, spaced)
            yield from (alphabet.encode(piece) for piece in pieces)
        case {"type": "BertPreTokenizer"}:
            for bare in word.split():
                yield from _isolated(r"[\p{P}$+<=>^~|`]", bare)
        case _:
            raise _UnknownPartError


def _behaviour(part: Node) -> bool:
    """Whether what lies between the matches is dropped: then the matches are the words."""
    behaviour = part.get("behavior"), part.get("invert") is True
    if behaviour not in (("Isolated", False), ("Removed", True)):
        raise _UnknownPartError
    return behaviour[1]


def _isolated(pattern: str, word: str, *, removed: bool = False) -> Iterator[str]:
    counts = [int(count[-9:]) or 1 for count in re.findall(r"\{(\d+)", pattern)]
    repeats = 1
    for count in counts:
        repeats *= count
    if len(pattern) > PATTERN_LENGTH or repeats > PATTERN_REPEATS:
        raise _UnknownPartError
    at = 0
    for found in regex.compile(pattern).finditer(word, timeout=PATTERN_SECONDS):
        if found.start() > at and not removed:
            yield word[at : found.start()]
        yield found.group()
        at = found.end()
    if not removed:
        yield word[at:]


def _model(fast: FastTokenizer) -> Callable[[str], list[int]]:
    if fast.kind == "WordPiece":
        return _wordpiece(fast)
    if fast.kind == "BPE" and not any(
        fast.model.get(key) for key in ("byte_fallback", "end_of_word_suffix", "dropout")
    ):
        return _bpe(fast)
    raise _UnknownPartError


def _bpe(fast: FastTokenizer) -> Callable[[str], list[int]]:
    """Joins the neighbours whose merge comes first, until no merge is left."""
    ranks = {pair: rank for rank, pair in enumerate(fast.merges)}
    whole = fast.flag("ignore_merges")

    def encode_word(word: str) -> list[int]:
        if whole and word in fast.vocab:
            return [fast.vocab[word]]
        parts = list(word)
        while True:
            best = (
                min((ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks)
                if _any(parts, ranks)
                else None
            )
            if best is None:
                break
            at = best[1]
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        if any(part not in fast.vocab for part in parts):
            raise _UnknownPartError
        return [fast.vocab[part] for part in parts]

    return encode_word


def _any(parts: list[str], ranks: dict[tuple[str, str], int]) -> bool:
    return any(pair in ranks for pair in pairwise(parts))


def _wordpiece(fast: FastTokenizer) -> Callable[[str], list[int]]:
    """Takes the longest piece in the vocabulary, again and again; a word that cannot be covered is unknown."""
    unknown = fast.vocab.get(str(fast.model.get("unk_token")))
    prefix = str(fast.model.get("continuing_subword_prefix", "##"))

    def encode_word(word: str) -> list[int]:
        if unknown is None:
            raise _UnknownPartError
        ids: list[int] = []
        at = 0
        while at < len(word) <= WORD_LENGTH:
            head = prefix if at else ""
            ends = range(len(word), at, -1)
            end = next((end for end in ends if head + word[at:end] in fast.vocab), None)
            if end is None:
                return [unknown]
            ids.append(fast.vocab[head + word[at:end]])
            at = end
        return ids or [unknown]

    return encode_word


def _framed(fast: FastTokenizer, ids: list[int]) -> list[int]:
    for part in children(fast.post_processor, "processors"):
        match part:
            case {"type": "ByteLevel"}:
                continue
            case {"type": "TemplateProcessing", "single": [*single], "special_tokens": {**special}}:
                ids = [number for piece in single for number in _piece(piece, special, ids)]
            case {"type": "BertProcessing" | "RobertaProcessing", "cls": [_, int(cls)], "sep": [_, int(sep)]}:
                ids = [cls, *ids, sep]
            case _:
                raise _UnknownPartError
    return ids


def _piece(piece: Any, special: Mapping[Any, Any], ids: list[int]) -> list[int]:
    match piece:
        case {"Sequence": _}:
            return ids
        case {"SpecialToken": {"id": str(name)}} if isinstance(entry := special.get(name), dict):
            return [number for number in entry.get("ids", []) if isinstance(number, int)]
    raise _UnknownPartError
