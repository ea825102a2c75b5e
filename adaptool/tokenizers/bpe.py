"""Byte-level BPE vocabularies (GPT-2's kind): texts and types as transformers would list them, and the merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from adaptool.errors import FormatError, NotFoundError
from adaptool.tokenizers import alphabet
from adaptool.tokenizers.fast import AddedToken, FastTokenizer, Node, children, ids
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.specials import ROLES, token_text
from adaptool.tokenizers.tokens import TokenType, Vocabulary, by_id, looks_special

SPACE = "\u2581"
"""SentencePiece's visible space."""


def vocabulary(files: TokenizerFiles, vocab_size: int) -> Vocabulary:
    """The vocabulary of a byte-level BPE or WordPiece folder, padded to ``vocab_size`` ids.

    Added tokens are control tokens when flagged special or looking it, else user-defined; the runtime matches both in
    raw text, so they are kept as the text they stand for.
    """
    base, decoder = base_vocabulary(files)
    pieces = {number: (token, int(TokenType.NORMAL)) for token, number in base.items()}
    for token in added_tokens(files).values():
        content = token.content if token.normalized else shown(token.content, decoder)
        if token.special or looks_special(content):
            pieces[token.id] = content, TokenType.CONTROL
        else:
            pieces[token.id] = content.replace(SPACE, " "), TokenType.USER_DEFINED
    texts, types = by_id(pieces, vocab_size, str(files.folder))
    return Vocabulary(texts, types)


def added_tokens(files: TokenizerFiles) -> dict[int, AddedToken]:
    """Added tokens by id: tokenizer.json's, those of tokenizer_config.json, and in older folders the named ones."""
    fast = files.fast
    tokens = {token.id: token for token in fast.added} if fast else {}
    tokens |= files.declared
    if fast is None:
        base, _ = base_vocabulary(files)
        known = {**base, **files.added_ids}
        special = special_texts(files)
        for content in [*files.added_ids, *sorted(special & base.keys())]:
            flag = content in special
            tokens.setdefault(known[content], AddedToken(known[content], content, flag, normalized=not flag))
    return tokens


def special_texts(files: TokenizerFiles) -> set[str]:
    """The texts that tokenizer_config.json and special_tokens_map.json call special."""
    texts: set[str] = set()
    for settings in (files.settings or {}, files.mapping("special_tokens_map.json") or {}):
        named = [settings.get(f"{role}_token") for role in ROLES]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = settings.get(key)
            named += more if isinstance(more, list) else list(more.values()) if isinstance(more, dict) else []
        texts |= {text for entry in named if (text := token_text(entry)) is not None}
    return texts


def base_vocabulary(files: TokenizerFiles) -> tuple[Mapping[str, int], Node | None]:
    """Token to id without the added ones, and the decoder: of tokenizer.json, or of the files that came before it."""
    if files.fast is not None:
        return files.fast.vocab, files.fast.decoder
    if (vocab := files.mapping("vocab.json")) is not None:
        return ids(vocab, files.name("vocab.json")), {"type": "ByteLevel"}
    if (lines := files.text("vocab.txt")) is not None:
        return {token: number for number, token in enumerate(lines.removesuffix("\n").split("\n"))}, None
    raise NotFoundError(
        f"{files.folder}: no tokenizer: neither tokenizer.json, tokenizer.model, vocab.json nor vocab.txt is there",
        hint="copy the tokenizer's files from the model this one was trained from",
    )


def merges(files: TokenizerFiles) -> list[str]:
    """The merges as ``left right`` lines, first merged first; a space inside a part is written Ġ."""
    pairs: Iterable[Sequence[str]] = files.fast.merges if files.fast else ()
    if not pairs and (lines := files.text("merges.txt")) is not None:
        where = files.name("merges.txt")
        rows = [line.split() for line in lines.split("\n")[1 if lines.startswith("#") else 0 :]]
        pairs = [row for row in rows if row]
        if bad := next((row for row in pairs if len(row) != 2), None):
            raise FormatError(f"{where}: {' '.join(bad)!r:.60} is not a merge of two parts")
    return [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in pairs]


def shown(content: str, decoder: Node | None) -> str:
    """The text an added token stands for, after the decoder: ``▁▁`` of a SentencePiece vocabulary is two spaces."""
    for part in children(decoder, "decoders"):
        match part:
            case {"type": "ByteLevel"}:
                decoded = alphabet.decode(content)
                content = content if "\ufffd" in decoded else decoded  # õ is itself, not half a character's bytes
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
                content = content.replace(old, new)
            case {"type": "Metaspace"}:
                content = content.replace(SPACE, " ")
    return content


def is_byte_level(fast: FastTokenizer) -> bool:
    """Whether a tokenizer.json is a BPE over bytes, which llama.cpp runs as ``gpt2``."""
    parts = children(fast.pre_tokenizer, "pretokenizers") + children(fast.decoder, "decoders")
    return fast.kind == "BPE" and any(part.get("type") == "ByteLevel" for part in parts)
