"""What a summary cannot account for: tensors no rule explains, and what the config promises and the weights lack.

PEFT drops all of these without a word. Each is named, with its reason; every tensor is in exactly one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import endings_of, kept_by
from adaptool.adapters.patterns import Patterns
from adaptool.summary.contents import LowRankModule, Saved, misshapen, orphans, runtime_name
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
    own = own_modules(config, saved)
    yield "modules_to_save without a tensor", tuple(unsaved_wholes(config, saved))
    for field in ("target_modules", "target_parameters"):
        yield f"{field} without a tensor", tuple(untrained(config, field, own))
    for field in ("rank_pattern", "alpha_pattern"):
        if isinstance(config.fields.get(field), dict) and config.peft_type != "ADALORA":
            yield f"keys of {field} that match no module", tuple(matchless(config.patterns(field), own))
    if config.fields.get("trainable_token_indices") and not any("trainable_tokens" in t.key.part for t in saved):
        yield "trained tokens without a tensor", ("trainable_token_indices",)


def own_modules(config: AdapterConfig, saved: Sequence[Saved]) -> set[str]:
    """The modules, and wrapped parameters, that hold parts of the adapter's own."""
    return {runtime_name(tensor.key.module, config) for tensor in saved if tensor.role in ("trained", "frozen")}


def untrained(config: AdapterConfig, field: str, own: set[str]) -> Iterator[str]:
    """The names in a list of targets that end no module of ``own``; excluded ones are not expected to."""
    if not isinstance(config.fields.get(field), list):
        return
    excluded = set(config.names("exclude_modules"))
    wanted = frozenset(name.removesuffix(".weight") for name in config.names(field))
    found = {ending for module in own for ending in wanted.intersection(endings_of(module))}
    for name in config.names(field):
        if name not in excluded and name.removesuffix(".weight") not in found:
            yield name


def unsaved_wholes(config: AdapterConfig, saved: Sequence[Saved]) -> Iterator[str]:
    """Names in modules_to_save without a tensor. PEFT adds every name a task's head may have; one there is enough."""
    owners = {tensor.key.module.rpartition(".")[0] for tensor in saved if tensor.role == "copy"}
    heads = TASK_HEADS.get(config.task_type or "", ())
    found = {name for owner in owners for name in kept_by(owner, config.kept_endings)}
    for name in config.names("modules_to_save"):
        if name not in found and not (name in heads and found & set(heads)):
            yield name


def matchless(patterns: Patterns, own: set[str]) -> Iterator[str]:
    """The keys that match no module of ``own``; FormatError where one runs away."""
    matched = {key for module in own for key in patterns.all(module)}
    yield from (key for key in (*patterns.plain, *patterns.expressions) if key not in matched)
