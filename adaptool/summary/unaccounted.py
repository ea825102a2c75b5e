"""What a summary cannot account for: tensors no rule explains, and what the config promises and the weights lack.

PEFT drops all of these without a word. Each is named, with its reason; every tensor is in exactly one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.config import AdapterConfig, matches
from adaptool.summary.contents import LowRankModule, Saved, misshapen, name_ends_with, orphans, runtime_name
from adaptool.summary.settings import TASK_HEADS, unknown_fields


@dataclass(frozen=True, slots=True)
class Unaccounted:
    """Something left over, or missing."""

    reason: str
    names: tuple[str, ...]
    fatal: bool
    """Whether a merge fails over it."""


def unaccounted(adapter: Adapter, saved: Sequence[Saved], modules: Sequence[LowRankModule]) -> tuple[Unaccounted, ...]:
    """Everything about the adapter that does not add up, from its headers and config."""
    lora = adapter.config.peft_type == "LORA"
    fatal = [
        ("tensors without PEFT's prefix base_model.model., which PEFT ignores", _keys(saved, "stray")),
        ("tensors that nothing in the config accounts for", _keys(saved, "undeclared")),
        ("factors without their other half", orphans(adapter) if lora else ()),
        ("factors that are no matrices, or do not fit each other", misshapen(adapter) if lora else ()),
        ("modules whose rank is not the declared one", tuple(_other_ranks(modules))),
        ("DoRA modules without a magnitude", tuple(_unscaled(adapter.config, saved))),
    ]
    odd = [
        ("fields that PEFT up to 0.21 does not have", tuple(unknown_fields(adapter.config))),
        *(_promised(adapter.config, saved) if saved else ()),
    ]
    return tuple(Unaccounted(reason, names, kind is fatal) for kind in (fatal, odd) for reason, names in kind if names)


def _keys(saved: Sequence[Saved], role: str) -> tuple[str, ...]:
    return tuple(tensor.key.text for tensor in saved if tensor.role == role)


def _other_ranks(modules: Sequence[LowRankModule]) -> Iterator[str]:
    for module in modules:
        if module.rank != module.declared_rank:
            yield f"{module.name}: {module.rank}, declared {module.declared_rank}"


def _unscaled(config: AdapterConfig, saved: Sequence[Saved]) -> list[str]:
    if not config.fields.get("use_dora"):
        return []
    wrapped = {tensor.key.module for tensor in saved if tensor.key.part.startswith(("lora_A", "lora_embedding_A"))}
    return sorted(wrapped - {t.key.module for t in saved if t.key.part.startswith("lora_magnitude_vector")})


def _promised(config: AdapterConfig, saved: Sequence[Saved]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the config names and no tensor answers to."""
    own = {runtime_name(tensor.key.module, config) for tensor in saved if tensor.role in ("trained", "frozen")}
    owners = {tensor.key.module.rpartition(".")[0] for tensor in saved if tensor.role == "copy"}
    yield "modules_to_save without a tensor", tuple(unsaved_wholes(config, owners))
    for field in ("target_modules", "target_parameters"):
        named = config.fields.get(field)
        if isinstance(named, list):
            excluded = config.names("exclude_modules")
            yield (
                f"{field} without a tensor",
                tuple(name for name in config.names(field) if name not in excluded and not _names_any(name, own)),
            )
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = config.fields.get(field)
        if isinstance(patterns, dict) and config.peft_type != "ADALORA":
            yield f"keys of {field} that match no module", tuple(_matchless(patterns, own, config))
    if config.fields.get("trainable_token_indices") and not any("trainable_tokens" in t.key.part for t in saved):
        yield "trained tokens without a tensor", ("trainable_token_indices",)


def unsaved_wholes(config: AdapterConfig, owners: set[str]) -> Iterator[str]:
    """Entries of modules_to_save that none of ``owners``, the modules saved whole, answers to.

    PEFT adds every name a task's head may have; one module that is there is enough.
    """
    heads = TASK_HEADS.get(config.task_type or "", ())
    found = {name for name in config.names("modules_to_save") if any(name_ends_with(owner, name) for owner in owners)}
    for name in config.names("modules_to_save"):
        if name not in found and not (name in heads and found):
            yield name


def _matchless(patterns: dict[str, object], own: set[str], config: AdapterConfig) -> Iterator[str]:
    for pattern in patterns:
        if not any(matches(rf"(.*\.)?({pattern})$", module, config.where) for module in own):
            yield pattern


def _names_any(name: str, modules: set[str]) -> bool:
    plain = name.removesuffix(".weight")
    return any(module == plain or module.endswith(f".{plain}") for module in modules)
