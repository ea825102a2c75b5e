"""What an adapter holds, without its numbers: enough to tell what a change asks of its version.

It comes from an adapter that lies here, or from a manifest alone: a history is judged without fetching its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.canonical import canonical_fields, peft_type_of
from adaptool.adapters.names import FULL, Key, projection_of
from adaptool.adapters.tuners.embeddings import token_indices
from adaptool.comparing.added_tokens import added_tokens, listed
from adaptool.summary.contents import saved_tensors
from adaptool.versions import config_digest, tensor_digest

TOKEN_PARTS = ("token_adapter.trainable_tokens_delta", "trainable_tokens_delta")
VOCABULARIES = (*EMBEDDINGS, *HEADS)


@dataclass(frozen=True, slots=True)
class TensorContent:
    """One saved tensor: element type, shape, and ``versions.tensor_digest``."""

    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What an adapter holds."""

    peft_type: str
    base: str | None
    """base_model_name_or_path."""
    revision: str | None
    config: Mapping[str, Any] | None
    """Its canonical fields; None where only their digest is known."""
    config_digest: str
    """SHA-256 of ``versions.canonical_config``."""
    tensors: Mapping[str, TensorContent]
    """By saved key."""
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    """``vocabulary_of``."""
    parents: frozenset[tuple[str, str]] = frozenset()
    """(relation, name): ``("composed_of", "sql")``."""
    base_digest: str | None = None
    """Over the base's tensors, where somebody hashed them."""


def contents_of(
    adapter: Adapter, *, digests: Mapping[str, str] | None = None, parents: frozenset[tuple[str, str]] = frozenset()
) -> Contents:
    """What an adapter holds; all its weights are read, unless the caller has the tensors' ``digests``."""
    config, store = adapter.config, adapter.store
    told = {name: tensor_digest(store, name) for name in store} if digests is None else digests
    return Contents(
        peft_type_of(config), config.base_model, config.revision, canonical_fields(config), config_digest(config),
        {name: TensorContent(info.dtype.name, info.shape, told[name]) for name, info in store.infos.items()},
        vocabulary_of(adapter), parents,
    )  # fmt: skip


def vocabulary_of(adapter: Adapter) -> Mapping[str, Any]:
    """Which tokens an adapter is made for, as far as it says: only what it has is in it.

    rows: embeddings and heads it holds, or updates, and how many tokens they have. trained: of modules of which
    single rows were trained, which. added: tokens that the tokenizer beside it adds to its vocabulary, and their ids.
    """
    rows = dict(_rows(adapter))
    trained = dict(_trained(adapter))
    added = added_tokens(adapter)
    told: dict[str, Any] = {"rows": rows} if rows else {}
    told |= {"trained": trained} if trained else {}
    return told if added is None else {**told, "added": listed(added)}


def _rows(adapter: Adapter) -> Iterator[tuple[str, int]]:
    for saved in saved_tensors(adapter):
        key, shape = saved.key, saved.info.shape
        if len(shape) == 2 and (found := rows_in(key, shape)) is not None:
            yield found


def rows_in(key: Key, shape: tuple[int, ...]) -> tuple[str, int] | None:
    """The embedding or head that a tensor is of, and its number of tokens; None of any other tensor."""
    module = key.module.removesuffix(".weight") if key.part == FULL else key.module
    if projection_of(module) not in VOCABULARIES or len(shape) != 2:
        return None
    if key.part == "lora_embedding_A":
        return module, shape[1]
    if key.part == FULL and key.module.endswith(".weight"):
        return module, shape[0]
    return (module, shape[0]) if key.part == "lora_B.weight" and projection_of(module) in HEADS else None


def _trained(adapter: Adapter) -> Iterator[tuple[str, list[int]]]:
    """The rows that were trained one by one, by module."""
    lone = adapter.config.fields.get("token_indices")
    for saved in saved_tensors(adapter):
        if saved.key.part not in TOKEN_PARTS:
            continue
        indices = token_indices(adapter.config, saved.key.module)
        if indices is None and isinstance(lone, list):
            indices = tuple(lone)
        yield saved.key.module, list(indices or ())
