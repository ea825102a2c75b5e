"""Laying the parts of one module on its type's form: which are missing or foreign, and what their axes say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from adaptool.adapters.config import AdapterConfig
from adaptool.rules.forms.grammar import Form, Slot, expand, in_slot, matched
from adaptool.tensors.store import TensorInfo

Kind = Literal["missing", "foreign", "shape", "size", "rows", "type"]
"""missing, foreign: parts. shape: against each other. size: against the config. rows: AdaLoRA's masks. type: dtype."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in one module, or in the tensors all share (``module`` is "")."""

    kind: Kind
    text: str
    """What is wrong, to be read after the module's name."""
    group: str
    """The same for faults that are one problem in many modules."""
    module: str
    keys: tuple[str, ...]
    field: str = ""
    """The config's field it is about."""


@dataclass(frozen=True)
class Owner:
    """A module, or the adapter as the owner of shared tensors: its parts by name."""

    name: str
    parts: Mapping[str, TensorInfo]

    def keys(self, parts: Iterable[str] = ()) -> tuple[str, ...]:
        """The saved keys of some parts, or of all."""
        return tuple(self.parts[part].name for part in (tuple(parts) or self.parts) if part in self.parts)


@dataclass(frozen=True)
class Reading:
    """What a module's parts say."""

    owner: Owner
    sizes: dict[str, int] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """The part each size was first seen in."""
    faults: tuple[Fault, ...] = ()

    def only(self, axes: frozenset[str]) -> Reading:
        """The sizes of some axes."""
        kept = {name: size for name, size in self.sizes.items() if name in axes}
        return Reading(self.owner, kept, {name: part for name, part in self.origin.items() if name in axes})

    def fault(self, kind: Kind, text: str, *parts: str, group: str = "", field: str = "") -> Fault:
        """A fault of this module."""
        return Fault(kind, text, group or text, self.owner.name, self.owner.keys(parts), field)


def read(owner: Owner, slots: tuple[Slot, ...], form: Form, config: AdapterConfig, known: Reading | None) -> Reading:
    """Bind the axes of ``owner``'s parts, starting from what is ``known`` of the shared tensors'."""
    reading = Reading(owner, dict(known.sizes), dict(known.origin)) if known else Reading(owner)
    faults: list[Fault] = []
    for slot in slots:
        present = [part for part in owner.parts if in_slot(slot, part)]
        choices = [choice for choice in slot if choice.when(config, owner.name)]
        wanted = [expand(choice, slot, present) for choice in choices]
        exact = [parts for parts in wanted if parts.keys() == set(present)]
        if exact:
            faults += _bound(reading, exact, form)
        elif wanted:
            faults += _incomplete(reading, present, wanted)
    if owner.name and not faults:
        faults += _related(reading, form)
    return replace(reading, faults=tuple(faults))


def _incomplete(reading: Reading, present: list[str], wanted: list[dict[str, str]]) -> Iterator[Fault]:
    """Parts missing from, or beyond, the nearest choice; parts never seen together with those are left out."""
    here = set(present)
    near = min(wanted, key=lambda parts: (len(parts.keys() ^ here), -len(parts.keys() & here)))
    missing = [part for part in near if part not in here]
    surplus = [part for part in present if part not in near]
    if missing:
        beside = f" beside {present[0]}" if present else ""
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        yield reading.fault("missing", f"{named} is missing{beside}" if len(missing) == 1 else
                            f"{named} are missing{beside}", *present)  # fmt: skip
    if surplus:
        yield reading.fault("foreign", f"{surplus[0]} is not a part the config asks for", *surplus)


def _bound(reading: Reading, choices: list[dict[str, str]], form: Form) -> list[Fault]:
    """Bind by the first choice whose shapes agree; the first one's contradictions where none does."""
    first: list[Fault] | None = None
    for choice in choices:
        trial = Reading(reading.owner, dict(reading.sizes), dict(reading.origin))
        faults = [fault for part, axes in choice.items() for fault in _bind(trial, part, axes, form)]
        if not faults:
            reading.sizes.update(trial.sizes)
            reading.origin.update(trial.origin)
            return []
        first = first or faults
    return first or []


def _bind(reading: Reading, part: str, axes: str, form: Form) -> Iterator[Fault]:
    """Give every axis of one part its size."""
    shape = reading.owner.parts[part].shape
    names = axes.split()
    open_ended = bool(names) and names[-1] == "..."
    named = names[:-1] if open_ended else names
    if len(shape) < len(named) or (len(shape) > len(named) and not open_ended):
        must = f"[{', '.join(form.words.get(name, name) for name in names)}]"
        yield reading.fault("shape", f"{part} is {list(shape)} and must be {must}", part, group=f"axes {part}")
        return
    if any(not size and name not in form.may_be_zero for name, size in itertools.zip_longest(named, shape)):
        yield reading.fault("shape", f"{part} is {list(shape)}: it is empty", part, group=f"empty {part}")
        return
    for name, size in zip(named, shape, strict=False):
        wanted = int(name) if name.isdigit() else reading.sizes.setdefault(name, size)
        if wanted == size:
            reading.origin.setdefault(name, part)
            continue
        word = form.words.get(name, name)
        if name.isdigit():
            text, other = f"{part} is {list(shape)}, with {size} where {name} must be", part
        else:
            other = reading.origin[name]
            text = f"{part} is {list(shape)}, its {word} is {size} and that of {other} is {wanted}"
        yield reading.fault("shape", text, *dict.fromkeys((part, other)), group=f"{name} {part}")
        return


def _related(reading: Reading, form: Form) -> Iterator[Fault]:
    """Derive what follows from the sizes, and hold them against each other."""
    for name, derive in form.derived.items():
        try:
            value = derive(reading.sizes)
        except KeyError:
            continue
        if value is not None:
            reading.sizes.setdefault(name, value)
    for relation in form.relations:
        if all(name in reading.sizes for name in relation.about) and not relation.holds(reading.sizes):
            text = relation.text.format(**reading.sizes)
            yield reading.fault("shape", text, *reading.owner.parts, group=relation.text)


def sized(reading: Reading, form: Form, config: AdapterConfig) -> Iterator[Fault]:
    """Hold the sizes of a module against what the config says."""
    for name, size in form.sizes.items():
        if name not in reading.sizes or reading.origin.get(name, "") not in (*reading.owner.parts, ""):
            continue
        expected = size(config, reading.owner.name, reading.sizes)
        value = reading.sizes[name]
        if expected is not None and not expected.accepts(value):
            word, about = form.words.get(name, name), expected.text.partition(" ")[0].partition("[")[0]
            text = f"{word} is {value} in the tensors, and the config says {expected.text}"
            yield reading.fault(
                "size", text, *reading.owner.parts, group=f"{name} {value} {expected.text}", field=about
            )


def foreign(owner: Owner, form: Form, *, shared: bool) -> tuple[str, ...]:
    """Parts that this type does not have."""
    return tuple(part for part in owner.parts if not form.owns(part, shared=shared))


def mistyped(reading: Reading, form: Form, names: Iterable[str]) -> Iterator[Fault]:
    """Whole numbers that are none, and weights that are whole numbers."""
    for part in names:
        kind = reading.owner.parts[part].dtype
        integral = not kind.floating and kind.name not in ("BOOL", "C64")
        indices = any(matched(name, part) for name in form.whole)
        if indices:
            exact = any(matched(name, part) for name in form.loose) and kind.name in ("F32", "F64")
            if not (integral or exact):
                text = f"{part} holds indices, and is stored as {kind.name}"
                yield reading.fault("type", text, part)
        elif not kind.floating:
            yield reading.fault("type", f"{part} holds weights, and is stored as {kind.name}", part)
