"""Encoders' vocabularies: WordPiece (BERT) and unigram (XLM-RoBERTa)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.tokenizers import bpe
from adaptool.tokenizers.fast import FastTokenizer, children
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.sentencepiece import UNIGRAM
from adaptool.tokenizers.specials import token_text
from adaptool.tokenizers.spm import TYPES
from adaptool.tokenizers.tokens import PADDING_SCORE, TokenType, Vocabulary

CONTINUES = "##"


def wordpiece(files: TokenizerFiles, vocab_size: int) -> Vocabulary:
    """WordPiece with its marks turned round: llama.cpp marks a word's start (▁), BERT a continuation (##)."""
    plain = bpe.vocabulary(files, vocab_size)

    def marked(text: str, kind: int) -> str:
        if kind == TokenType.CONTROL:
            return text
        return text.removeprefix(CONTINUES) if text.startswith(CONTINUES) else bpe.SPACE + text

    return Vocabulary(
        [marked(str(text), kind) for text, kind in zip(plain.texts, plain.types, strict=True)], plain.types
    )


@dataclass(frozen=True, slots=True)
class Unigram:
    """A unigram vocabulary and how its text is prepared."""

    vocabulary: Vocabulary
    add_prefix: bool
    remove_whitespaces: bool
    precompiled_charsmap: bytes


def unigram(files: TokenizerFiles, vocab_size: int, *, mask: bool = False) -> Unigram:
    """XLM-RoBERTa's vocabulary from sentencepiece.bpe.model, else from tokenizer.json.

    The former lacks XLM-RoBERTa's own four first tokens, and its mask token, which ``mask`` puts at id 250001.
    """
    model = files.sentencepiece_file("sentencepiece.bpe.model")
    if model is None:
        return _from_fast(files, vocab_size)
    if model.model_type != UNIGRAM:
        raise UnsupportedError(
            f"{files.name('sentencepiece.bpe.model')}: not a unigram model (type {model.model_type})"
        )
    rows = [(piece.text, piece.score, int(TYPES.get(piece.kind, TokenType.NORMAL))) for piece in model.pieces]
    rows += [(f"[PAD{n}]", PADDING_SCORE, int(TokenType.UNUSED)) for n in range(len(rows), vocab_size)]
    own = [("<s>", 3), ("<pad>", 3), ("</s>", 3), ("<unk>", 2)]
    rows = [*((text, 0.0, kind) for text, kind in own), *rows[3:-1]]
    if mask and len(rows) > 250001:
        rows[250001] = "<mask>", 0.0, int(TokenType.CONTROL)
    texts, scores, types = ([text for text, _, _ in rows], [score for _, score, _ in rows], [kind for *_, kind in rows])
    return Unigram(
        Vocabulary(texts, types, scores),
        model.add_dummy_prefix,
        model.remove_extra_whitespaces,
        model.precompiled_charsmap,
    )


def _from_fast(files: TokenizerFiles, vocab_size: int) -> Unigram:
    fast = files.fast
    if fast is None:
        raise NotFoundError(f"{files.folder}: neither sentencepiece.bpe.model nor tokenizer.json is there")
    if fast.kind != "Unigram":
        raise UnsupportedError(f"{fast.where}: a {fast.kind} model where a Unigram one is needed")
    added = {token.id: token for token in fast.added} | dict(files.declared)
    special = bpe.special_texts(files) | {token.content for token in added.values() if token.special}
    named = token_text(files.setting("unk_token", (str, dict)))
    unknown = next((number for number, token in added.items() if token.content == named), fast.model.get("unk_id", 3))
    size = max(vocab_size, len(fast.scores))
    texts = [f"[PAD{number}]" for number in range(size)]
    scores = [PADDING_SCORE] * size
    types = [int(TokenType.UNUSED)] * size
    for text, number in fast.vocab.items():
        texts[number], scores[number] = text, fast.scores[number]
        types[number] = _type(number, text, unknown, special, number in added)
    return Unigram(Vocabulary(texts, types, scores), _prefix(files, fast), _whitespaces(files, fast), charsmap(fast))


def _type(number: int, text: str, unknown: object, special: set[str], added: bool) -> int:
    if number == unknown:
        return int(TokenType.UNKNOWN)
    if text in special:
        return int(TokenType.CONTROL)
    return int(TokenType.USER_DEFINED if added else TokenType.NORMAL)


def _prefix(files: TokenizerFiles, fast: FastTokenizer) -> bool:
    """Whether a text gets a space in front."""
    said = files.setting("add_prefix_space", bool)
    if isinstance(said, bool):
        return said
    parts = [part for part in children(fast.pre_tokenizer, "pretokenizers") if part.get("type") == "Metaspace"]
    return any(
        part.get("prepend_scheme", "always") != "never" and part.get("add_prefix_space") is not False for part in parts
    )


def _whitespaces(files: TokenizerFiles, fast: FastTokenizer) -> bool:
    """Whether runs of spaces become one: the structure says so, or the setting that upstream goes by.

    ``clean_up_tokenization_spaces`` is about decoding, and transformers 5 saves it as false.
    """
    splits = any(part.get("type") == "WhitespaceSplit" for part in children(fast.pre_tokenizer, "pretokenizers"))
    patterns = [part.get("pattern") for part in children(fast.normalizer, "normalizers")]
    return splits or {"Regex": " {2,}"} in patterns or files.setting("clean_up_tokenization_spaces", bool) is True


def charsmap(fast: FastTokenizer) -> bytes:
    """The compiled table of a Precompiled normaliser; empty where there is none."""
    for part in children(fast.normalizer, "normalizers"):
        if part.get("type") == "Precompiled" and isinstance(table := part.get("precompiled_charsmap"), str):
            try:
                return base64.b64decode(table, validate=True)
            except (binascii.Error, ValueError):
                raise FormatError(f"{fast.where}: precompiled_charsmap is not base64") from None
    return b""
