"""The fixes: each takes an adapter and gives it back corrected, with what it changed, or leaves it as it is.

A fix is here only if there is one answer and it is faithful: the same ΔW for every module, every other tensor byte for
byte. What needs a decision (which of two weights' files, which rank) is left to whoever made the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from adaptool.adapters.adapter import WEIGHTS_NAME, Adapter
from adaptool.adapters.canonical import SETS
from adaptool.adapters.config import AdapterConfig
from adaptool.fixing.baking import bake
from adaptool.fixing.keys import plain_keys
from adaptool.merging.provenance import base_name, hub_id, snapshot_commit
from adaptool.rules.subject import Subject
from adaptool.tensors.safetensors import SafetensorsFile
from adaptool.tensors.views import Selected


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was changed."""

    what: str
    """In a sentence."""
    fields: tuple[str, ...] = ()
    """Fields of the config it changed."""
    tensors: int = 0
    """Saved tensors it changed."""


@dataclass(frozen=True)
class Fixed:
    """An adapter on its way: what it is now, what it was, and how its keys are called now."""

    adapter: Adapter
    before: Adapter
    """As it was, under the names its keys have now: what the proof compares with."""
    changes: tuple[Change, ...] = field(default=())

    def changed(self, change: Change, *, fields: dict[str, Any] | None = None, **more: Any) -> Fixed:
        """With another config or store."""
        config = AdapterConfig({**self.adapter.config.fields, **(fields or {})}, self.adapter.config.where)
        return replace(self, adapter=replace(self.adapter, config=config, **more), changes=(*self.changes, change))


Fix = Callable[[Fixed, Subject], Fixed]


def fixed(subject: Subject) -> Fixed:
    """Everything that can be corrected, corrected; nothing is written. Raises AdaptoolError where it cannot be read."""
    adapter = subject.adapter
    state = Fixed(adapter, adapter)
    for fix in (as_safetensors, with_plain_keys, with_sorted_lists, with_pinned_revision, with_baked_scales):
        state = fix(state, subject)
    return state


def as_safetensors(state: Fixed, subject: Subject) -> Fixed:
    """A PyTorch file, read by the allow-list reader, becomes safetensors: whatever is written is."""
    if isinstance(subject.store, SafetensorsFile):
        return state
    what = f"{subject.weights_name} was a pickle: its tensors are in {WEIGHTS_NAME} now"
    return state.changed(Change(what, tensors=len(subject.store)))


def with_plain_keys(state: Fixed, subject: Subject) -> Fixed:
    """Keys without the wrappers that training put around the model."""
    names = plain_keys(state.adapter)
    if names is None:
        return state
    old, new = next((old, new) for new, old in names.items() if new != old)
    count = sum(new != old for new, old in names.items())
    store = Selected(state.adapter.store, names)
    change = Change(f"{count} keys are called as PEFT calls them: {old} is {new}", tensors=count)
    after = state.changed(change, store=store)
    return replace(after, before=replace(state.before, store=store))


def with_sorted_lists(state: Fixed, subject: Subject) -> Fixed:
    """Sets, which PEFT saves as lists in whatever order: sorted, each name once, so that versions compare."""
    values = dict(_sorted_lists(state.adapter.config))
    if not values:
        return state
    return state.changed(Change(f"sorted: {', '.join(values)}", fields=tuple(values)), fields=values)


def _sorted_lists(config: AdapterConfig) -> Iterator[tuple[str, list[str]]]:
    for name in sorted(SETS):
        value = config.fields.get(name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value) and value != sorted(set(value)):
            yield name, sorted(set(value))


def with_pinned_revision(state: Fixed, subject: Subject) -> Fixed:
    """The base's commit, where BASE is the snapshot of the very model the adapter names."""
    config, base = state.adapter.config, subject.base
    commit = snapshot_commit(base.path) if base is not None else None
    if base is None or commit is None or config.fields.get("revision") not in (None, "", "main"):
        return state
    repository = base_name(base)
    if hub_id(config.base_model) != repository:
        return state
    change = Change(f"revision is {commit}, the snapshot of {repository} given as --base", fields=("revision",))
    return state.changed(change, fields={"revision": commit})


def with_baked_scales(state: Fixed, subject: Subject) -> Fixed:
    """Plain LoRA for the runtimes that know no other scale than alpha/r."""
    baked = bake(state.adapter, subject.consumers)
    if baked is None:
        return state
    what = f"the scale of every module is in its lora_B now, and lora_alpha = r = {baked.rank}"
    if baked.padded:
        what += f"; {baked.padded} modules of a smaller rank are padded with zeros"
    if baked.widened:
        what += "; the factors are float32, as 16 bits cannot hold the scaled ones"
    names = tuple(name for name, value in baked.fields.items() if value != state.adapter.config.fields.get(name))
    change = Change(what, fields=names, tensors=len(baked.store.scales))
    return state.changed(change, fields=dict(baked.fields), store=baked.store)
