"""What ``inspect`` knows of a GGUF, from its header: what it is, what is in it, and where it came from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adaptool.gguf.recipe import FILE_TYPES
from adaptool.summary.settings import Setting
from adaptool.summary.targets import DTypeShare, dtype_shares
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType
from adaptool.tensors.gguf import GgufFile, SplitGguf, open_gguf

What = Literal["model", "adapter", "vocabulary", "imatrix"]

SIZES = {
    "context_length": "context",
    "block_count": "layers",
    "embedding_length": "hidden",
    "feed_forward_length": "feed-forward",
    "attention.head_count": "heads",
    "attention.head_count_kv": "kv heads",
    "attention.key_length": "head dim",
    "attention.sliding_window": "sliding window",
    "expert_count": "experts",
    "expert_used_count": "experts used",
    "rope.freq_base": "rope base",
    "rope.scaling.type": "rope scaling",
    "rope.scaling.factor": "rope factor",
}
"""An architecture's keys that are told, and the words for them."""

SPECIAL = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")
LONGEST = 200
"""Characters of a value that are told."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor, its shape outermost first."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GgufFileSummary:
    """One GGUF, which may lie in several files."""

    name: str
    path: Path
    what: What
    architecture: str | None
    title: str | None
    """``general.name``."""
    file_type: str | None
    """llama.cpp's name for the mixture: "Q4_K_M"."""
    parts: int
    nbytes: int
    tensors: int
    parameters: int
    bits_per_weight: float | None
    dtypes: tuple[DTypeShare, ...]
    sizes: tuple[Setting, ...]
    lora_ranks: tuple[int, ...]
    """The ranks of a LoRA's tensors, each once."""
    lora_scale: str | None
    """How a LoRA is scaled: by its alpha, or with every scale baked into B."""
    tokenizer: tuple[Setting, ...]
    origin: tuple[Setting, ...]
    """What it was made of, as ``general.base_model.*`` and ``adaptool.*`` say."""
    imatrix: tuple[Setting, ...]
    alignment: int
    keys: tuple[Setting, ...]
    tensor_list: tuple[GgufTensor, ...]
    kind: Literal["gguf"] = "gguf"


def inspect_gguf(path: Path) -> GgufFileSummary:
    """Everything ``inspect`` shows of a GGUF; no tensor is read. Raises FormatError for a broken file."""
    opened = open_gguf(path)
    keys = opened.keys
    parts: Sequence[GgufFile] = (
        [part for part in opened.parts if isinstance(part, GgufFile)] if isinstance(opened, SplitGguf) else [opened]
    )
    arch = _text(keys, "general.architecture")
    infos = list(opened.infos.values())
    shares = dtype_shares(opened)
    parameters = sum(info.size for info in infos)
    ranks = {info.shape[-1] for info in infos if info.name.endswith(".lora_b")}
    what = _what(keys, bool(infos), arch)
    number = keys.get("general.file_type")
    return GgufFileSummary(
        path.name,
        path,
        what,
        arch,
        _text(keys, "general.name"),
        next((label for label, kind in FILE_TYPES.items() if number and kind.number == number.data), None),
        len(parts),
        sum(part.path.stat().st_size for part in parts),
        len(infos),
        parameters,
        sum(share.nbytes for share in shares) * 8 / parameters if parameters else None,
        shares,
        tuple(Setting(words, _told(keys[f"{arch}.{key}"])) for key, words in SIZES.items() if f"{arch}.{key}" in keys),
        tuple(sorted(ranks)) if what == "adapter" else (),
        _scale(keys) if what == "adapter" else None,
        tuple(_tokenizer(keys)),
        tuple(_origin(keys)),
        tuple(_under(keys, "quantize.imatrix.", "imatrix.")),
        parts[0].alignment,
        tuple(Setting(name, _told(value)) for name, value in keys.items()),
        tuple(GgufTensor(info.name, info.dtype.name, info.shape) for info in infos),
    )


def _what(keys: KeyValues, tensors: bool, arch: str | None) -> What:
    kind = _text(keys, "general.type")
    if kind == "imatrix" or arch == "imatrix":
        return "imatrix"
    if kind == "adapter" or "adapter.type" in keys:
        return "adapter"
    return "model" if tensors else "vocabulary"


def _scale(keys: KeyValues) -> str:
    alpha = keys.get("adapter.lora.alpha")
    return "in B: no alpha is written" if alpha is None else f"alpha {_told(alpha)} over each tensor's rank"


def _tokenizer(keys: KeyValues) -> Iterator[Setting]:
    for name in ("model", "pre"):
        if f"tokenizer.ggml.{name}" in keys:
            yield Setting(name, _told(keys[f"tokenizer.ggml.{name}"]))
    tokens = _items(keys, "tokenizer.ggml.tokens")
    for name in ("tokens", "merges"):
        if count := len(_items(keys, f"tokenizer.ggml.{name}")):
            yield Setting(name, f"{count:,}")
    for key, value in keys.items():
        if found := SPECIAL.fullmatch(key):
            known = isinstance(value.data, int) and 0 <= value.data < len(tokens)
            yield Setting(
                found[1], f"{value.data} {_shown(tokens[value.data])}" if known else f"{value.data}, no token"
            )
    template = keys.get("tokenizer.chat_template")
    if template is not None:
        yield Setting("chat template", f"{len(template.data):,} characters")


def _origin(keys: KeyValues) -> Iterator[Setting]:
    for number in range(_count(keys, "general.base_model.count")):
        prefix = f"general.base_model.{number}."
        words = [text for name in ("organization", "name") if (text := _text(keys, prefix + name))]
        url = _text(keys, prefix + "repo_url")
        yield Setting("base model", " / ".join(words) + (f" ({url})" if url else ""))
    if (base := _text(keys, "adaptool.base.name")) is not None:
        digest = _text(keys, "adaptool.base.header_digest")
        yield Setting("made from", base + (f", header hash {digest}" if digest else ""))
    for number in range(_count(keys, "adaptool.adapter.count")):
        prefix = f"adaptool.adapter.{number}."
        weight = keys.get(f"{prefix}weight")
        share = f" at {_told(weight)}" if weight is not None and weight.data != 1 else ""
        digest = _text(keys, f"{prefix}digest")
        yield Setting(
            "adapter", f"{_text(keys, f'{prefix}name')}{share}" + (f", content hash {digest}" if digest else "")
        )
    if (version := _text(keys, "adaptool.version")) is not None:
        yield Setting("written by", f"adaptool {version}")


def _under(keys: Mapping[str, Value], *prefixes: str) -> Iterator[Setting]:
    for name, value in keys.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                yield Setting(name.removeprefix(prefix), _told(value))


def _count(keys: KeyValues, name: str) -> int:
    value = keys.get(name)
    return min(value.data, 1000) if value is not None and isinstance(value.data, int) else 0


def _items(keys: KeyValues, name: str) -> Sequence[Any]:
    value = keys.get(name)
    return value.data if value is not None and value.kind is ValueType.ARRAY else ()


def _text(keys: KeyValues, name: str) -> str | None:
    value = keys.get(name)
    return _shown(value.data) if value is not None and value.kind is ValueType.STRING else None


def _told(value: Value) -> str:
    """A value in a few words: long arrays by their length."""
    if value.kind is ValueType.ARRAY:
        some = ", ".join(_shown(item) for item in value.data[:8])
        return f"[{some}]" if len(value.data) <= 8 else f"[{some}, … {len(value.data):,} in all]"
    return _shown(value.data)


def _shown(data: Any) -> str:
    if isinstance(data, bytes):
        return repr(data)[:LONGEST]
    if isinstance(data, float):
        return f"{data:.7g}" if math.isfinite(data) else str(data)
    words = str(data)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}… ({len(words):,} characters)"
