"""A whole adapter laid on the form of its type: every module read once, all faults found in it."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import FULL, parse
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.rules.forms.grammar import Form
from adaptool.rules.forms.matching import Fault, Owner, Reading, foreign, mistyped, read, sized
from adaptool.summary.contents import ANY_PART
from adaptool.summary.settings import title
from adaptool.tensors.store import TensorInfo

ANYONES = ("base_layer.", "token_adapter.")
"""Parts any type may save beside its own: the base's own weight, and trained tokens."""


@dataclass(frozen=True)
class Examination:
    """One adapter's modules and shared tensors as its form reads them."""

    config: AdapterConfig
    form: Form
    shared: Reading
    modules: tuple[Reading, ...]
    """Those with a part of the type's own."""
    strangers: tuple[Owner, ...]
    """Parts of no form's, or of another type's, by module."""

    @property
    def empty(self) -> bool:
        """Whether nothing here is of the type at all."""
        return not self.modules and not self.shared.owner.parts

    def faults(self) -> Iterator[Fault]:
        """Everything wrong, the shared tensors first."""
        for owner in self.strangers:
            text = f"{next(iter(owner.parts))} is no part of {title(self.config.peft_type)}"
            yield Fault("foreign", text, text, owner.name, owner.keys())
        if not self.modules and self.shared.owner.parts and self.form.has_modules:
            text = "what all modules share is there, and no module"
            yield self.shared.fault("missing", text, *self.shared.owner.parts)
        for reading in (self.shared, *self.modules):
            yield from reading.faults
            yield from mistyped(reading, self.form, reading.owner.parts)
            if not any(fault.kind == "shape" for fault in reading.faults):
                yield from sized(reading, self.form, self.config)
        if self.form.check is not None:
            yield from self.form.check(self)


def examine(adapter: Adapter, form: Form, without: Container[str] = ()) -> Examination:
    """Read every module of ``adapter`` by ``form``, some keys left out; only shapes and types are looked at."""
    config = adapter.config
    shared, modules = owners(adapter, without)
    known = read(_own(shared, form, shared=True), form.shared, form, config, None)
    common = known.only(form.shared_axes)
    own = [_own(owner, form, shared=False) for owner in modules]
    readings = tuple(read(owner, form.slots, form, config, common) for owner in own if owner.parts)
    strangers = [_without(shared, foreign(shared, form, shared=True))] if config.peft_type not in PROMPTS else []
    strangers += [_without(owner, foreign(owner, form, shared=False)) for owner in modules]
    return Examination(config, form, known, readings, tuple(owner for owner in strangers if owner.parts))


def owners(adapter: Adapter, without: Container[str] = ()) -> tuple[Owner, tuple[Owner, ...]]:
    """What is saved once for all modules, and what each module has; whole tensors of the base's are neither."""
    shared: dict[str, TensorInfo] = {}
    modules: dict[str, dict[str, TensorInfo]] = {}
    for text, info in adapter.store.infos.items():
        key = parse(text, ANY_PART)
        if key.part == FULL or key.part.startswith(ANYONES) or text in without:
            continue
        if key.part == "":
            if adapter.config.peft_type in PROMPTS:
                shared[text] = info
        elif key.module == "":
            shared[key.part] = info
        else:
            modules.setdefault(key.module, {})[key.part] = info
    return Owner("", shared), tuple(Owner(name, parts) for name, parts in modules.items())


def _own(owner: Owner, form: Form, *, shared: bool) -> Owner:
    return Owner(owner.name, {part: info for part, info in owner.parts.items() if form.owns(part, shared=shared)})


def _without(owner: Owner, parts: tuple[str, ...]) -> Owner:
    return Owner(owner.name, {part: owner.parts[part] for part in parts})
