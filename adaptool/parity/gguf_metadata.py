"""The metadata of a GGUF against its model's config and tokenizer: what llama.cpp would run instead, where they differ.

Converters of different ages write different keys. So a key that is missing counts only where what llama.cpp then
assumes is not what the config says, and one that is there counts only where it says something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.archs.gguf.tables import architecture_keys
from adaptool.parity.defects import Defect
from adaptool.parity.gguf_model import GgufModel
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType
from adaptool.tensors.store import Store

METADATA, TOKENIZER, ARCHITECTURE = "metadata", "tokenizer", "architecture"

FLOAT_ROUNDOFF = 1e-6
"""Relative: settings pass through float32 and decimal texts."""

HARMLESS = ("context_length", "vocab_size")
"""A file may say less, or more, of what it was trained for; the answers are the same."""

REQUIRED = (
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
)
"""Without one of these llama.cpp does not load a model whose table has it."""

CHANGES_ALL = ("rope.scaling.", "attention.scale", "logit_scale", "residual_scale", "embedding_scale")
"""Settings that change every answer, so that one which the config has not got is a defect."""

TOKEN_LISTS = ("tokens", "merges", "token_type", "scores")

TOKEN_NAMES = {"model": "its kind", "pre": "the pre-tokenizer", "add_bos_token": "whether a text begins with BOS"}

MOST_TOLD = 6
MOST_ADAPTERS = 64


@dataclass(frozen=True, slots=True)
class Metadata:
    """What was found."""

    defects: tuple[Defect, ...]
    notes: tuple[str, ...]


def check_metadata(model: GgufModel, keys: KeyValues, tensors: Store) -> Metadata:
    """Everything in a file's keys that contradicts the model."""
    found = _data(keys.get("general.architecture"))
    if found != model.spec.name:
        sentence = f"the file is a {found!s:.40} model for llama.cpp, and {model.label} is a {model.spec.name}"
        return Metadata((Defect(ARCHITECTURE, sentence, 0, ()),), ())
    settings = list(_settings(model, keys))
    told = [words for _, words in settings[:MOST_TOLD]]
    more = f"; and {len(settings) - MOST_TOLD} more" if len(settings) > MOST_TOLD else ""
    defects = []
    if settings:
        names = tuple(name for name, _ in settings)
        defects.append(Defect(METADATA, f"the metadata contradicts the config: {'; '.join(told)}{more}", 0, names))
    defects += _tokens(model, keys, tensors)
    return Metadata(tuple(defects), (*_remarks(model, keys), *_origin(model, keys)))


def _settings(model: GgufModel, keys: KeyValues) -> Iterator[tuple[str, str]]:
    """(key, in words what is wrong with it)."""
    arch = model.spec.name
    expected = architecture_keys(model.spec, model.hparams)
    for name, value in expected.items():
        short = name.removeprefix(f"{arch}.")
        if short in HARMLESS or not name.startswith(f"{arch}."):
            continue
        found = keys.get(name)
        if found is not None and not same(found, value):
            yield name, f"{short} is {shown(found)}, and the config says {shown(value)}"
        elif found is None and short in REQUIRED:
            yield name, f"{short} is missing, without which llama.cpp does not load it"
        elif found is None and (assumed := _assumed(short, expected, arch)) is not None and not same(assumed, value):
            yield name, f"{short} is missing, so llama.cpp takes {shown(assumed)}, and the config says {shown(value)}"
    for name, value in keys.items():
        short = name.removeprefix(f"{arch}.")
        if name in expected or name == short or not short.startswith(CHANGES_ALL):
            continue
        if not _neutral(short, value, keys, arch):
            yield name, f"{short} is {shown(value)}, and the config has no such setting"


def _assumed(short: str, expected: Mapping[str, Value], arch: str) -> Value | None:
    """What llama.cpp takes for a key that is missing, where that is known."""

    def number(name: str) -> Any:
        return _data(expected.get(f"{arch}.{name}"))

    heads, width = number("attention.head_count"), number("embedding_length")
    head = width // heads if isinstance(heads, int) and isinstance(width, int) and heads else None
    known: dict[str, Any] = {
        "attention.head_count_kv": heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": number("attention.key_length") or head,
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "none",
        "attention.sliding_window": 0,
        "expert_count": 0,
    }
    value = known.get(short)
    return None if value is None else Value(expected[f"{arch}.{short}"].kind, value)


def _neutral(short: str, value: Value, keys: KeyValues, arch: str) -> bool:
    """Whether a setting changes nothing: no scaling, or one, or a part of a scaling that is none."""
    if _data(value) in ("none", 0, 1, 0.0, 1.0, False):
        return True
    kind = _data(keys.get(f"{arch}.rope.scaling.type"))
    return short.startswith("rope.scaling.") and short != "rope.scaling.type" and kind in (None, "none")


def _tokens(model: GgufModel, keys: KeyValues, tensors: Store) -> Iterator[Defect]:
    """The tokenizer: another one, or one of another size than the embedding."""
    listed = keys.get("tokenizer.ggml.tokens")
    shape = tensors["token_embd.weight"].shape if "token_embd.weight" in tensors else ()
    if listed is not None and listed.kind is ValueType.ARRAY and len(shape) == 2 and len(listed.data) != shape[0]:
        sentence = f"{len(listed.data)} tokens, and an embedding of {shape[0]} rows: llama.cpp does not load that"
        yield Defect(TOKENIZER, sentence, 0, ("tokenizer.ggml.tokens",))
    wrong = list(_token_differences(model, keys))
    if wrong:
        words = "; ".join(words for _, words in wrong[:MOST_TOLD])
        yield Defect(TOKENIZER, f"the tokenizer is not the model's: {words}", 0, tuple(name for name, _ in wrong))


def _token_differences(model: GgufModel, keys: KeyValues) -> Iterator[tuple[str, str]]:
    for name, value in (model.tokenizer or {}).items():
        short, found = name.removeprefix("tokenizer.ggml."), keys.get(name)
        if short in ("tokens", "merges") and (found is None or found.kind is not ValueType.ARRAY):
            yield name, f"there are no {short}"
        elif found is None:
            continue
        elif short in ("tokens", "merges") and (words := _first_difference(short, value.data, found.data)):
            yield name, words
        elif (short in TOKEN_NAMES or short.endswith("_token_id")) and not same(found, value):
            what = TOKEN_NAMES.get(short, short)
            yield name, f"{what} is {shown(found)}, and the model's is {shown(value)}"


def _first_difference(short: str, expected: Any, found: Any) -> str:
    if list(expected) == list(found):
        return ""
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(found)))
    if at < min(len(expected), len(found)):
        return f"{short[:-1]} {at} is {found[at]!r:.40}, and the model's is {expected[at]!r:.40}"
    return f"there are {len(found)} {short}, and the model has {len(expected)}"


def _remarks(model: GgufModel, keys: KeyValues) -> Iterator[str]:
    """What differs and does no harm."""
    expected = architecture_keys(model.spec, model.hparams)
    for short in HARMLESS:
        name = f"{model.spec.name}.{short}"
        if name in expected and name in keys and not same(keys[name], expected[name]):
            yield f"{short} is {shown(keys[name])}, and the config says {shown(expected[name])}"
    for name, value in (model.tokenizer or {}).items():
        if name == "tokenizer.chat_template" and name in keys and _data(keys[name]) != value.data:
            yield "the chat template is another than the model's"


def _origin(model: GgufModel, keys: KeyValues) -> Iterator[str]:
    """What the file itself says it was made of, where that is something else."""
    count = _data(keys.get("adaptool.adapter.count"))
    if not isinstance(count, int):
        return
    from adaptool.versions import adapter_digest

    given = {adapter_digest(adapter) for adapter, _ in model.merging.adapters} if model.merging else set()
    for number in range(min(count, MOST_ADAPTERS)):
        digest = _data(keys.get(f"adaptool.adapter.{number}.digest"))
        if isinstance(digest, str) and digest not in given:
            name = _data(keys.get(f"adaptool.adapter.{number}.name"))
            others = "none of the adapters given" if given else "not given: say so with --adapter"
            yield f"the file says that {name!s:.80} was merged into it, which is {others}"


def same(one: Value, other: Value) -> bool:
    """Whether two values mean the same, whatever their integer and float types; one for all layers is one for each."""
    left, right = one.data, other.data
    if (one.kind is ValueType.ARRAY) != (other.kind is ValueType.ARRAY):
        many, single = (left, right) if one.kind is ValueType.ARRAY else (right, left)
        return bool(many) and all(_equal(item, single) for item in many)
    if one.kind is ValueType.ARRAY:
        return len(left) == len(right) and all(map(_equal, left, right))
    return _equal(left, right)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=FLOAT_ROUNDOFF)
    return bool(one == other)


def shown(value: Value) -> str:
    """A value for a message: six digits, a few items, a short text."""
    if value.kind is ValueType.ARRAY:
        items = ", ".join(_short(item) for item in list(value.data)[:4])
        return f"[{items}{', …' if len(value.data) > 4 else ''}]"
    return _short(value.data)


def _short(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.6g}"
    return f"{item!r:.60}" if isinstance(item, str | bytes) else str(item)


def _data(value: Value | None) -> Any:
    return None if value is None else value.data
