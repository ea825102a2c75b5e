"""LoRA on embeddings and trained token rows, and what weight tying makes of them.

A tied model stores one tensor for its embedding and its head. PEFT adds a delta for either into that one tensor,
so both change (docs/fidelity.md); here the head gets a tensor of its own, unless the adapter is tied as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adaptool.adapters.base import HEADS
from adaptool.adapters.factors import Factors
from adaptool.adapters.names import projection_of
from adaptool.adapters.patches import LowRank, TokenRows
from adaptool.adapters.plan import Plan
from adaptool.adapters.tuners.full import tied_head
from adaptool.adapters.tuners.sites import Site
from adaptool.adapters.tuners.variants import check_ranks, magnitude_keys, variant_patches
from adaptool.errors import MismatchError

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter
    from adaptool.adapters.config import AdapterConfig


def shares_embedding(adapter: Adapter, module: str) -> bool:
    """Whether ``module`` is an output head whose LoRA is the embedding's own, saved a second time.

    ``ensure_weight_tying`` promises it; 16-bit casts in PEFT can break the promise, so the factors are compared.
    """
    parts = adapter.modules[module]
    if not adapter.config.flag("ensure_weight_tying") or projection_of(module) not in HEADS:
        return False
    embedding = next((found for found in adapter.modules.values() if "lora_embedding_A" in found), None)
    if embedding is None or "lora_A.weight" not in parts or "lora_B.weight" not in parts:
        return False
    store = adapter.store
    return np.array_equal(store.array(parts["lora_A.weight"]), store.array(embedding["lora_embedding_B"]).T) and (
        np.array_equal(store.array(parts["lora_B.weight"]), store.array(embedding["lora_embedding_A"]).T)
    )


def _stays_tied(adapter: Adapter) -> bool:
    """Whether one delta serves embedding and head."""
    heads = [module for module in adapter.modules if projection_of(module) in HEADS]
    return adapter.config.flag("ensure_weight_tying") and all(shares_embedding(adapter, head) for head in heads)


def _same_tokens(adapter: Adapter, key: str, indices: tuple[int, ...] | None) -> bool:
    """Whether a head's trained rows are the embedding's, saved a second time."""
    for module, parts in adapter.modules.items():
        other = parts.get("token_adapter.trainable_tokens_delta")
        if other is not None and other != key and token_indices(adapter.config, module) == indices:
            return np.array_equal(adapter.store.array(key), adapter.store.array(other))
    return False


def plan_embedding(adapter: Adapter, module: str, parts: Mapping[str, str], weight: float, plan: Plan) -> set[str]:
    """lora_embedding_A (r, vocab) and lora_embedding_B (dim, r): ΔW is their product's transpose."""
    config, store = adapter.config, adapter.store
    a, b = store[parts["lora_embedding_A"]], store[parts["lora_embedding_B"]]
    tensor = plan.base.find(f"{module}.weight")
    if tensor is None:
        raise MismatchError(
            f"{adapter.path}: the adapter changes {module}, which the base does not have", defect="no-module"
        )
    shape = plan.info(tensor).shape
    if shape != (a.shape[1], b.shape[0]):
        raise MismatchError(
            f"{module}: the adapter's update is {[a.shape[1], b.shape[0]]} and the base's {tensor} is {list(shape)}",
            hint="was the vocabulary resized for training? then the adapter should have saved the resized embedding",
            defect="vocabulary" if shape[1:] == b.shape[:1] else "shape",
        )
    check_ranks(adapter, module, config.rank_of(module), a.shape[0], b.shape[1])
    factors = Factors(store, a.name, b.name, config.rank_of(module), swapped=True)
    delta = LowRank((factors,), weight * config.scale_of(module), "twice")
    head = tied_head(adapter, plan.base) if tensor == plan.base.embedding else None
    if head is not None and not _stays_tied(adapter):
        plan.untie(head, plan.replaced.get(tensor))
    site = Site(tensor, swapped=True)
    plan.patch(tensor, *variant_patches(adapter, site, delta, parts))
    return {a.name, b.name} | magnitude_keys(adapter, module, parts)


def plan_tokens(adapter: Adapter, module: str, parts: Mapping[str, str], plan: Plan) -> set[str]:
    """Trained rows of an embedding; a tied head follows, being the same tensor."""
    key = parts["token_adapter.trainable_tokens_delta"]
    tensor = plan.base.find(f"{module}.weight")
    indices = token_indices(adapter.config, module)
    if plan.base.tied and projection_of(module) in HEADS:
        if _same_tokens(adapter, key, indices):
            return {key}
        tensor = plan.untie(f"{module}.weight")
    if tensor is None or indices is None:
        raise MismatchError(
            f"{adapter.path}: {key} has no embedding or no trainable_token_indices to go by",
            defect="no-module" if tensor is None else "",
        )
    (rows, columns), (vocabulary, *width) = adapter.store[key].shape, plan.info(tensor).shape
    if [columns] != width:
        raise MismatchError(
            f"{adapter.path}: {key} has rows of {columns}, and the base's {tensor} of {width}", defect="shape"
        )
    if rows != len(indices) or any(not 0 <= index < vocabulary for index in indices):
        raise MismatchError(
            f"{adapter.path}: {key} has {rows} rows for {len(indices)} trainable_token_indices "
            f"of a vocabulary of {vocabulary}",
            defect="tokens",
        )
    plan.patch(tensor, TokenRows(adapter.store, key, indices))
    return {key}


def token_indices(config: AdapterConfig, module: str) -> tuple[int, ...] | None:
    """The rows of ``module`` that were trained, in saved order; None where the config does not say."""
    value = config.fields.get("trainable_token_indices")
    if isinstance(value, dict):
        value = next((rows for name, rows in value.items() if module == name or module.endswith(f".{name}")), None)
    if not isinstance(value, list) or not all(type(index) is int for index in value):
        return None
    return tuple(value)
