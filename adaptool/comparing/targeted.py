"""Which of the saved modules a config names, and so which it gained or lost: a list says it, its spelling does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import endings_of, kept_by, projection_of
from adaptool.adapters.patterns import PLAIN
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.comparing.scales import SHOWN_NAMES, by_projection, refuse_runaway
from adaptool.errors import AdaptoolError, FormatError
from adaptool.rules.configs.expressions import ALL_LINEAR
from adaptool.rules.configs.targets import BY_OTHER_MEANS, MOST_LAYERS, aliases, lists_of
from adaptool.summary.contents import saved_tensors

FIELDS = ("target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern",
          "feedforward_modules")  # fmt: skip
"""What decides which modules PEFT adapts."""


def effect(before: Adapter, after: Adapter, field: str) -> tuple[str, bool]:
    """What another ``field`` does to the modules that one of the two adapters saved, and whether that matters."""
    try:
        return _effect(before, after, field)
    except (AdaptoolError, RecursionError) as error:
        cause = error.message if isinstance(error, AdaptoolError) else "it is nested too deep"
        return f"which modules it names cannot be told: {cause}", True


def _effect(before: Adapter, after: Adapter, field: str) -> tuple[str, bool]:
    kind = after.config.peft_type
    if field == "feedforward_modules":
        return "which of the modules have their input scaled instead of their output", True
    if kind in PROMPTS or kind in BY_OTHER_MEANS:
        return "which modules are adapted", True
    saved = list(dict.fromkeys((*adapted(before), *adapted(after))))
    changed = AdapterConfig({**before.config.fields, field: after.config.fields.get(field)}, after.config.where)
    old, new = named(before.config, saved), named(changed, saved)
    if old is None or new is None:
        return "it is left to PEFT which modules of a model are adapted", True
    said = [f"{word} {counted([m for m in saved if m in modules])}"
            for word, modules in (("gains", new - old), ("loses", old - new)) if modules]  # fmt: skip
    idle = list(_idle(before.config, after.config, field, saved))
    note = f"; nothing is saved for {', '.join(idle[:SHOWN_NAMES])}{' …' * (len(idle) > SHOWN_NAMES)}" if idle else ""
    return (", ".join(said) or "names the same saved modules") + note, bool(said)


def named(config: AdapterConfig, saved: Sequence[str]) -> set[str] | None:
    """Those of ``saved`` that PEFT would adapt; None where the config leaves it to PEFT's tables."""
    targets, parameters = config.fields.get("target_modules"), config.names("target_parameters")
    if not targets and not parameters:
        return None
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return {module for module in saved if projection_of(module) not in (*EMBEDDINGS, *HEADS)}
    _require_sound(config)
    lists = lists_of(config)
    owned = frozenset(name.removesuffix(".weight") for name in parameters)

    def is_named(module: str) -> bool:
        known_as = aliases(module, config)
        return any(not owned.isdisjoint(endings_of(name)) or not lists.reason(name) for name in known_as)

    return {module for module in saved if is_named(module)}


def _require_sound(config: AdapterConfig) -> None:
    """Raise FormatError where an expression runs away, or where more are listed than can be followed."""
    for field in ("target_modules", "exclude_modules"):
        text = config.fields.get(field)
        if isinstance(text, str) and not PLAIN.fullmatch(text):
            refuse_runaway(text, f"{config.where}: {field}")
    for field in ("layers_to_transform", "layers_pattern", "modules_to_save"):
        value = config.fields.get(field)
        if isinstance(value, list) and len(value) > MOST_LAYERS:
            raise FormatError(f"{field} has {len(value)} entries", defect="absurd-pattern")


def _idle(before: AdapterConfig, after: AdapterConfig, field: str, saved: Sequence[str]) -> Iterator[str]:
    """Names new in a list for which no tensor was saved: PEFT adds modules there that do nothing."""
    if field not in ("target_modules", "target_parameters") or isinstance(after.fields.get(field), str):
        return
    wanted = set(after.names(field)) - set(before.names(field) if isinstance(before.fields.get(field), list) else ())
    have = {ending for module in saved for name in aliases(module, after) for ending in wanted & endings_of(name)}
    yield from sorted(wanted - have)


def adapted(adapter: Adapter) -> tuple[str, ...]:
    """The modules, as their keys name them, that hold parts of the adapter's own."""
    found = dict.fromkeys(
        saved.key.module
        for saved in saved_tensors(adapter)
        if saved.role in ("trained", "fixed", "frozen") and saved.key.module and saved.key.part
        and not saved.key.part.startswith(("token_adapter.", "base_layer."))
    )  # fmt: skip
    return tuple(found)


def counted(modules: Sequence[str]) -> str:
    """Modules by projection, and how many: "k_proj (32 modules)"."""
    found = by_projection(modules)
    said = [f"{name} ({len(group)} modules)" if len(group) > 1 else group[0] for name, group in found.items()]
    return ", ".join(said[:SHOWN_NAMES]) + (f" and {len(said) - SHOWN_NAMES} more" if len(said) > SHOWN_NAMES else "")


def kept(before: Adapter, after: Adapter) -> tuple[str, bool]:
    """What another ``modules_to_save`` does: which saved tensors it names, and which it no longer does."""
    try:
        tensors = dict.fromkeys((*before.full_tensors, *after.full_tensors))
        old, new = ({name for name in tensors if kept_by(name.rpartition(".")[0], side.config.kept_endings)}
                    for side in (before, after))  # fmt: skip
    except (AdaptoolError, RecursionError):
        return "which modules are saved whole", True
    said = [f"{word} {', '.join(_owners(name for name in tensors if name in found))}"
            for word, found in (("also saved whole:", new - old), ("no longer saved whole:", old - new))
            if found]  # fmt: skip
    return "; ".join(said) or "names the same saved tensors", bool(said)


def _owners(tensors: Iterable[str]) -> list[str]:
    """Modules that tensors are of, the first few."""
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    return owners[:SHOWN_NAMES] + ([f"{len(owners) - SHOWN_NAMES} more"] if len(owners) > SHOWN_NAMES else [])
