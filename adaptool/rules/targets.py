"""Which modules PEFT would rebuild from a config, asked of the modules an adapter has tensors for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import AdapterConfig, matches, matches_whole
from adaptool.adapters.names import projection_of
from adaptool.adapters.patterns import PLAIN
from adaptool.errors import AdaptoolError
from adaptool.rules.expressions import ALL_LINEAR, sound
from adaptool.rules.subject import Subject
from adaptool.summary.contents import runtime_name
from adaptool.summary.expected import in_layers, kept_whole
from adaptool.summary.unaccounted import endings

BY_OTHER_MEANS = {"ADAPTION_PROMPT", "TRAINABLE_TOKENS", "SHADOW", "XLORA"}
"""PEFT types that find their modules in their own way, or adapt a second model."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A module with tensors that PEFT would not adapt, and why."""

    module: str
    reason: str
    keys: tuple[str, ...]


def own(subject: Subject) -> dict[str, list[str]]:
    """Module as its key names it → keys of the parts that its wrapper has. Shared tensors have no module."""

    def work() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for saved in subject.saved:
            part = saved.key.part
            beside = part.startswith(("token_adapter.", "base_layer."))
            if saved.role in ("trained", "fixed", "frozen") and saved.key.module and part and not beside:
                found.setdefault(saved.key.module, []).append(saved.key.text)
        return found

    return subject.once("own_modules", work)


def names(subject: Subject) -> set[str]:
    """The names that modules with tensors go by, wrapped parameters among them."""
    return {name for module in own(subject) for name in _aliases(module, subject.config)}


def _aliases(module: str, config: AdapterConfig) -> set[str]:
    """A module's runtime name, and that of the wrapper around it: an attention block's out_proj goes by the block's."""
    return {runtime_name(module, config), module.split(".base_layer")[0]}


def missed(subject: Subject) -> tuple[Missed, ...]:
    """The modules with tensors that the config does not name; none where it cannot be told."""
    return subject.once("missed", lambda: tuple(_missed(subject)) if _told(subject) else ())


def _told(subject: Subject) -> bool:
    """Whether the config itself says which modules are adapted, in a way that can be followed."""
    targets, parameters = subject.fields.get("target_modules"), subject.fields.get("target_parameters")
    if subject.peft_type in BY_OTHER_MEANS or (targets is None and not parameters):
        return False
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return False
    return all(sound(subject, field) for field in ("target_modules", "exclude_modules", "modules_to_save"))


def _missed(subject: Subject) -> Iterator[Missed]:
    config = subject.config
    listed = {field: frozenset(config.names(field)) for field in ("target_modules", "exclude_modules")}
    parameters = {name.removesuffix(".weight") for name in config.names("target_parameters")}
    for module, keys in own(subject).items():
        aliases = _aliases(module, config)
        if endings(aliases) & parameters or (config.flag("ensure_weight_tying") and _vocabulary(module)):
            continue
        reasons = [reason for alias in aliases for reason in [_reason(alias, config, listed)]]
        if all(reasons):
            yield Missed(module, reasons[0], tuple(keys))


def _vocabulary(module: str) -> bool:
    return projection_of(module) in (*EMBEDDINGS, *HEADS)


def _reason(module: str, config: AdapterConfig, listed: dict[str, frozenset[str]]) -> str:
    """Why PEFT would not adapt ``module``; "" where it would."""
    if _named(module, "exclude_modules", config, listed):
        return "exclude_modules takes it out"
    if any(_inside(module, name, config) for name in kept_whole(config)):
        return "it lies in a module of modules_to_save"
    if not _named(module, "target_modules", config, listed):
        return "target_modules does not name it"
    if isinstance(config.fields.get("target_modules"), str) or module in listed["target_modules"]:
        return ""
    return "" if in_layers(module, config) else "its layer is not in layers_to_transform"


def _named(module: str, field: str, config: AdapterConfig, listed: dict[str, frozenset[str]]) -> bool:
    value = config.fields.get(field)
    if isinstance(value, str):
        return bool(value) and matches_whole(value, module, config.where)
    return bool(endings({module}) & listed[field])


def _inside(module: str, name: str, config: AdapterConfig) -> bool:
    """PEFT's match of modules_to_save, by hand where the entry is one plain segment."""
    if PLAIN.fullmatch(name) and "." not in name:
        return name in module.split(".")
    return bool(name) and matches(rf"(^|.*\.){name}($|\..*)", module, config.where)


def targets_known(subject: Subject) -> bool:
    """Whether there are modules to compare the config with."""
    try:
        return bool(own(subject))
    except AdaptoolError:
        return False
