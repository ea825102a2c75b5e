"""SentencePiece vocabularies: pieces with scores, from tokenizer.model or from a tokenizer.json made of one."""

from __future__ import annotations

from collections.abc import Iterable

from adaptool.errors import NotFoundError
from adaptool.tokenizers.bpe import SPACE, special_texts
from adaptool.tokenizers.fast import AddedToken, FastTokenizer, children
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.sentencepiece import SentencePieceModel
from adaptool.tokenizers.tokens import ADDED_SCORE, BYTE, PADDING_SCORE, TokenType, Vocabulary, by_id, looks_special

TYPES = {2: TokenType.UNKNOWN, 3: TokenType.CONTROL, 5: TokenType.UNUSED, 6: TokenType.BYTE}
"""SentencePiece's types that are kept; its user-defined pieces count as normal ones, as upstream has them."""


class _Rows:
    """The arrays while several files write into them; ids beyond the model's vocabulary are passed over."""

    def __init__(self, size: int) -> None:
        self.texts = [f"[PAD{number}]" for number in range(size)]
        self.types = [int(TokenType.UNUSED)] * size
        self.scores = [PADDING_SCORE] * size

    def set(self, number: int, text: str, score: float, kind: int) -> None:
        if number < len(self.texts):
            self.texts[number], self.scores[number], self.types[number] = text, score, int(kind)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.texts, self.types, self.scores)


def from_model(files: TokenizerFiles, vocab_size: int) -> Vocabulary:
    """``tokenizer.model`` with added_tokens.json and tokenizer_config.json over it, padded or cut to ``vocab_size``."""
    rows = _base(files, vocab_size)
    for token in files.declared.values():
        if token.special or looks_special(token.content):
            rows.set(token.id, token.content, ADDED_SCORE, TokenType.CONTROL)
        else:
            rows.set(token.id, token.content.replace(SPACE, " "), ADDED_SCORE, TokenType.USER_DEFINED)
    return rows.vocabulary()


def from_phi3(files: TokenizerFiles, vocab_size: int) -> Vocabulary:
    """Phi-3's reading: the added tokens of tokenizer.json too, and only the flag tells control tokens."""
    rows = _base(files, vocab_size)
    added: Iterable[AddedToken] = [*files.declared.values(), *(files.fast.added if files.fast else ())]
    for token in added:
        rows.set(token.id, token.content, ADDED_SCORE, TokenType.CONTROL if token.special else TokenType.USER_DEFINED)
    return rows.vocabulary()


def is_sentencepiece(fast: FastTokenizer | None) -> bool:
    """Whether a tokenizer.json is a SentencePiece model rewritten as BPE: bytes as fallback, no split into words."""
    return fast is not None and fast.kind == "BPE" and fast.flag("byte_fallback")


def has_prefix(fast: FastTokenizer) -> bool:
    """Whether such a tokenizer.json puts a space in front of a text, as the runtime does where nothing is said."""
    normalizers = children(fast.normalizer, "normalizers")
    marks = [part for part in children(fast.pre_tokenizer, "pretokenizers") if part.get("type") == "Metaspace"]
    scheme = any(part.get("prepend_scheme", "always") != "never" for part in marks)
    return scheme or any(part.get("type") == "Prepend" for part in normalizers)


def from_fast(files: TokenizerFiles, vocab_size: int) -> Vocabulary:
    """A SentencePiece vocabulary whose tokenizer.model is missing, its scores regained from the merges' order.

    SentencePiece joins the pair whose result scores highest; BPE the pair whose merge comes first. A result's score is
    therefore minus the rank of its first merge. Upstream gives every token -1000, with which llama.cpp joins pairs
    from left to right and gets other tokens than the model was trained on.
    """
    fast = files.fast
    if fast is None:
        raise NotFoundError(f"{files.folder}: neither tokenizer.model nor tokenizer.json is there")
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(fast.merges):
        ranks.setdefault(left + right, rank)
    unknown = fast.model.get("unk_token")
    special = special_texts(files)
    pieces: dict[int, tuple[str, int]] = {}
    for token, number in fast.vocab.items():
        kind = TokenType.BYTE if BYTE.fullmatch(token) else TokenType.UNKNOWN if token == unknown else TokenType.NORMAL
        pieces[number] = token, kind
    scores = {number: -float(ranks.get(token, len(fast.merges))) for token, number in fast.vocab.items()}
    for added in {**{added.id: added for added in fast.added}, **files.declared}.values():
        if added.id >= vocab_size:  # Gemma 3's image token, in a model that reads text: as tokenizer.model's
            continue
        scores[added.id] = ADDED_SCORE - len(fast.merges)
        if added.special or added.content in special or looks_special(added.content):
            pieces[added.id] = added.content, TokenType.CONTROL
        else:
            pieces[added.id] = added.content.replace(SPACE, " "), TokenType.USER_DEFINED
    texts, types = by_id(pieces, vocab_size, fast.where)
    return Vocabulary(texts, types, [scores.get(number, PADDING_SCORE) for number in range(vocab_size)])


def _base(files: TokenizerFiles, vocab_size: int) -> _Rows:
    """The pieces of tokenizer.model and the texts of added_tokens.json."""
    rows = _Rows(vocab_size)
    for number, piece in enumerate(required(files).pieces):
        rows.set(number, piece.text, piece.score, TYPES.get(piece.kind, TokenType.NORMAL))
    for text, number in files.added_ids.items():
        rows.set(number, text, ADDED_SCORE, TokenType.USER_DEFINED)
    return rows


def required(files: TokenizerFiles) -> SentencePieceModel:
    """The folder's tokenizer.model."""
    if files.sentencepiece is None:
        raise NotFoundError(
            f"{files.folder}: no tokenizer.model, which this architecture's tokenizer is read from",
            hint="copy it from the model this one was trained from",
        )
    return files.sentencepiece
