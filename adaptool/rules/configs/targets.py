"""Which modules PEFT would rebuild from a config, asked of the modules an adapter has tensors for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import AdapterConfig, matches, matches_whole
from adaptool.adapters.names import MOST_SEGMENTS, endings_of, projection_of
from adaptool.adapters.patterns import PLAIN
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.errors import AdaptoolError
from adaptool.rules.configs.expressions import ALL_LINEAR, sound
from adaptool.rules.subject import Subject
from adaptool.summary.contents import runtime_name
from adaptool.summary.expected import in_layers, kept_whole

BY_OTHER_MEANS = {"ADAPTION_PROMPT", "TRAINABLE_TOKENS", "SHADOW", "XLORA"}
"""PEFT types that find their modules in their own way, or adapt a second model."""


MOST_LAYERS = 1000
"""Entries of layers_to_transform or layers_pattern that are followed."""


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
    return subject.once(
        "names of modules", lambda: {name for module in own(subject) for name in aliases(module, subject.config)}
    )


def aliases(module: str, config: AdapterConfig) -> set[str]:
    """A module's runtime name, and that of the wrapper around it: an attention block's out_proj goes by the block's."""
    return {runtime_name(module, config), module.partition(".base_layer")[0]}


def missed(subject: Subject) -> tuple[Missed, ...]:
    """The modules with tensors that the config does not name; none where it cannot be told."""
    return subject.once("missed", lambda: tuple(_missed(subject)) if _told(subject) else ())


def _told(subject: Subject) -> bool:
    """Whether the config itself says which modules are adapted, in a way that can be followed."""
    targets, parameters = subject.fields.get("target_modules"), subject.fields.get("target_parameters")
    if subject.peft_type in PROMPTS or subject.peft_type in BY_OTHER_MEANS or (targets is None and not parameters):
        return False
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return False
    lengths = {field: subject.fields.get(field) for field in ("layers_to_transform", "layers_pattern")}
    if any(isinstance(value, list) and len(value) > MOST_LAYERS for value in lengths.values()):
        return False
    return all(sound(subject, f) for f in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"))


@dataclass(frozen=True, slots=True)
class Lists:
    """A config's lists of names, made to be asked for thousands of modules."""

    config: AdapterConfig
    targets: frozenset[str]
    excluded: frozenset[str]
    kept: frozenset[str]
    """Of modules_to_save, plain names."""
    kept_patterns: tuple[str, ...]

    def reason(self, module: str) -> str:
        """Why PEFT would not adapt ``module``; "" where it would."""
        if self._named(module, "exclude_modules", self.excluded):
            return "exclude_modules takes it out"
        if self._inside(module):
            return "it lies in a module of modules_to_save"
        if not self._named(module, "target_modules", self.targets):
            return "target_modules does not name it"
        if isinstance(self.config.fields.get("target_modules"), str) or module in self.targets:
            return ""
        return "" if in_layers(module, self.config) else "its layer is not in layers_to_transform"

    def _named(self, module: str, field: str, names: frozenset[str]) -> bool:
        value = self.config.fields.get(field)
        if isinstance(value, str):
            return bool(value) and matches_whole(value, module, self.config.where)
        return bool(names) and not names.isdisjoint(endings_of(module))

    def _inside(self, module: str) -> bool:
        """PEFT's match of modules_to_save: an entry is one segment of the name or several, anywhere in it."""
        if not self.kept and not self.kept_patterns:
            return False
        segments = module.split(".")[:MOST_SEGMENTS]
        starts = range(len(segments)) if self.kept else ()
        inner = (".".join(segments[a:b]) for a in starts for b in range(a + 1, min(a + 4, len(segments)) + 1))
        return any(name in self.kept for name in inner) or any(
            matches(rf"(^|.*\.){pattern}($|\..*)", module, self.config.where) for pattern in self.kept_patterns
        )


def lists_of(config: AdapterConfig) -> Lists:
    kept = [name for name in kept_whole(config) if name]
    long = [name for name in kept if name.count(".") > 3]
    plain = frozenset(name for name in kept if PLAIN.fullmatch(name) and name.count(".") <= 3)
    targets, excluded = frozenset(config.names("target_modules")), frozenset(config.names("exclude_modules"))
    patterns = [name for name in kept if not PLAIN.fullmatch(name)]
    return Lists(config, targets, excluded, plain, (*long[:MOST_LAYERS], *patterns))


def _missed(subject: Subject) -> Iterator[Missed]:
    config, lists = subject.config, lists_of(subject.config)
    parameters = frozenset(name.removesuffix(".weight") for name in config.names("target_parameters"))
    tied = config.flag("ensure_weight_tying")
    for module, keys in own(subject).items():
        known_as = sorted(aliases(module, config))
        wrapped = parameters and any(not parameters.isdisjoint(endings_of(alias)) for alias in known_as)
        if wrapped or (tied and _vocabulary(module)):
            continue
        reasons = [lists.reason(alias) for alias in known_as]
        if all(reasons):
            yield Missed(module, reasons[0], tuple(keys))


def _vocabulary(module: str) -> bool:
    return projection_of(module) in (*EMBEDDINGS, *HEADS)


def targets_known(subject: Subject) -> bool:
    """Whether there are modules to compare the config with."""
    try:
        return bool(own(subject))
    except AdaptoolError:
        return False
