"""The tokens that were added to a tokenizer's vocabulary, from whatever files lie beside an adapter.

A tokenizer is saved beside every checkpoint, is often larger than the adapter, and is mostly the same one: it is
parsed once, and by the quick parser, since what comes of it is only compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.errors import AdaptoolError
from adaptool.tensors.memo import Memo
from adaptool.tokenizers.files import MAX_TEXT, MAX_TOKENIZER, TokenizerFiles
from adaptool.versions import canonical_json

MOST = 64
"""Tokens that a record lists; of more (some models reserve hundreds) it keeps how many there are, and a digest."""

_parsed: Memo[Mapping[str, int] | None] = Memo(32)


def added_tokens(adapter: Adapter) -> Mapping[str, int] | None:
    """Tokens beyond the tokenizer's own vocabulary, and their ids; None where no file beside the adapter tells.

    tokenizer.json tells it whole. Of slow tokenizers added_tokens.json does, and where there is none, nothing does:
    tokenizer_config.json lists some of the vocabulary's own tokens among the added ones.
    """
    files = TokenizerFiles(adapter.folder)
    try:
        data = files.data("tokenizer.json", MAX_TOKENIZER)
        fast = data is not None
        if data is None:
            data = files.data("added_tokens.json", MAX_TEXT)
    except AdaptoolError:
        return None
    if data is None:
        return None
    return _parsed.get(hashlib.sha256(data).hexdigest() + str(fast), lambda: _read(data, fast=fast))


def _read(data: bytes, *, fast: bool) -> Mapping[str, int] | None:
    try:
        root = json.loads(data)
        if not fast:
            return _ids(root)
        vocabulary = root["model"]["vocab"]
        words = vocabulary if isinstance(vocabulary, dict) else {piece[0] for piece in vocabulary}
        added = {token["content"]: token["id"] for token in root.get("added_tokens") or []}
        return _ids({token: number for token, number in added.items() if token not in words})
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _ids(tokens: Any) -> Mapping[str, int] | None:
    """The tokens where they are texts with ids; ValueError for half a character, which no manifest can hold."""
    if not isinstance(tokens, dict) or not all(type(number) is int for number in tokens.values()):
        return None
    "".join(tokens).encode()
    return tokens


def listed(tokens: Mapping[str, int]) -> Mapping[str, Any]:
    """Added tokens as a manifest holds them: every one, or of many a number and a digest."""
    if len(tokens) <= MOST:
        return dict(tokens)
    return {"count": len(tokens), "sha256": hashlib.sha256(canonical_json(dict(tokens))).hexdigest()}


def difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two such lists differ; "" where they do not."""
    if was == now:
        return ""
    if any(isinstance(side.get("sha256"), str) for side in (was, now)):
        return f"{_count(was)} → {_count(now)}"
    common = was.keys() & now.keys()
    counts = {
        "added": len(now.keys() - was.keys()),
        "removed": len(was.keys() - now.keys()),
        "with another id": sum(was[token] != now[token] for token in common),
    }
    return ", ".join(f"{many} {word}" for word, many in counts.items() if many)


def _count(tokens: Mapping[str, Any]) -> str:
    many = tokens.get("count") if isinstance(tokens.get("sha256"), str) else len(tokens)
    return f"{many} of them"
