"""tokenizer.json, the ``tokenizers`` library's serialisation: its parts, checked for type and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptool.errors import FormatError

MAX_TOKENS = 1 << 22
"""Ids: the largest published vocabularies have 2**18."""

Node = Mapping[str, Any]
"""A component: a mapping with its ``type``."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token matched whole in the raw text; ``special`` ones are left out when text is shown."""

    id: int
    content: str
    special: bool
    normalized: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, slots=True)
class FastTokenizer:
    """The parts of a tokenizer.json; ``scores`` are a unigram model's, ``merges`` a BPE's, first merged first."""

    where: str
    kind: str
    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    scores: Sequence[float]
    added: Sequence[AddedToken]
    model: Node
    normalizer: Node | None
    pre_tokenizer: Node | None
    post_processor: Node | None
    decoder: Node | None

    def flag(self, key: str) -> bool:
        """A switch of the model, off where it is missing."""
        return self.model.get(key) is True


def parse_fast(value: Any, where: str) -> FastTokenizer:
    """A parsed tokenizer.json; FormatError where a part is not what the format says."""
    root = node(value, where)
    model = node(root.get("model"), f"{where}: model")
    vocab, scores = _vocab(model.get("vocab"), f"{where}: vocab")
    entries = root.get("added_tokens") or []
    if not isinstance(entries, list):
        raise FormatError(f"{where}: added_tokens is not a list")
    return FastTokenizer(
        where=where,
        kind=_kind(model, where),
        vocab=vocab,
        merges=_merges(model.get("merges") or [], f"{where}: merges"),
        scores=scores,
        added=[added_token(entry, f"{where}: added_tokens[{index}]") for index, entry in enumerate(entries)],
        model=model,
        normalizer=_optional(root, "normalizer", where),
        pre_tokenizer=_optional(root, "pre_tokenizer", where),
        post_processor=_optional(root, "post_processor", where),
        decoder=_optional(root, "decoder", where),
    )


def added_token(entry: Any, where: str, number: int | None = None) -> AddedToken:
    """One entry of ``added_tokens``, or of ``added_tokens_decoder``, where the id is the key."""
    fields = node(entry, where)
    content = fields.get("content")
    if not isinstance(content, str):
        raise FormatError(f"{where}: the token has no text")
    return AddedToken(
        id=whole(fields.get("id"), where) if number is None else whole(number, where),
        content=content,
        special=fields.get("special") is True,
        normalized=fields.get("normalized", not fields.get("special")) is True,
        single_word=fields.get("single_word") is True,
        lstrip=fields.get("lstrip") is True,
        rstrip=fields.get("rstrip") is True,
    )


def children(component: Node | None, key: str) -> list[Node]:
    """A component's leaves, sequences opened: ``key`` is what a sequence calls its parts."""
    if component is None:
        return []
    if component.get("type") != "Sequence":
        return [component]
    parts = component.get(key)
    if not isinstance(parts, list):
        raise FormatError(f"tokenizer.json: a Sequence without its {key}")
    return [leaf for part in parts for leaf in children(node(part, f"tokenizer.json: {key}"), key)]


def node(value: Any, where: str) -> Node:
    """A JSON object."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: an object should be here")
    return value


def whole(value: Any, where: str) -> int:
    """A token id."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_TOKENS:
        raise FormatError(f"{where}: {value!r:.40} is not a token id")
    return value


def ids(vocab: Mapping[str, Any], where: str) -> dict[str, int]:
    """Token to id, each id checked."""
    for token, number in vocab.items():
        if type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise FormatError(f"{where}: {token!r:.60} has {number!r:.40}, which is not a token id")
    return dict(vocab)


def _kind(model: Node, where: str) -> str:
    """BPE, WordPiece, Unigram or WordLevel; files older than the field tell it by their other ones."""
    kind = model.get("type")
    if isinstance(kind, str):
        return kind
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    if "continuing_subword_prefix" in model:
        return "WordPiece"
    raise FormatError(f"{where}: the model does not say its type")


def _vocab(value: Any, where: str) -> tuple[dict[str, int], list[float]]:
    if isinstance(value, dict):
        return ids(value, where), []
    if not isinstance(value, list):
        raise FormatError(f"{where}: neither an object nor a list")
    vocab, scores = {}, []
    for number, pair in enumerate(value):
        match pair:
            case [str(token), int() | float() as score] if not isinstance(score, bool):
                vocab[token] = whole(number, where)
                scores.append(float(score))
            case _:
                raise FormatError(f"{where}[{number}]: a token with its score should be here")
    return vocab, scores


def _merges(value: Any, where: str) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: not a list")
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in value]
    for index, merge in enumerate(merges):
        if type(merge) is not list or len(merge) != 2 or type(merge[0]) is not str or type(merge[1]) is not str:
            raise FormatError(f"{where}[{index}]: two parts should be here, not {value[index]!r:.60}")
    return [(left, right) for left, right in merges]


def _optional(root: Node, key: str, where: str) -> Node | None:
    value = root.get(key)
    return None if value is None else node(value, f"{where}: {key}")
