"""What of an adapter is no low-rank factor: saved modules, biases, magnitudes, and all of a type that is no LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.names import FULL
from adaptool.comparing.result import State, TensorChange
from adaptool.comparing.tensors import Entry, apart, same_values
from adaptool.comparing.updates import Modules, place
from adaptool.summary.contents import saved_tensors


def other_tensors(adapter: Adapter, modules: Modules) -> Mapping[str, Entry]:
    """Every tensor but the factors of its ``modules``, by its module and part: key layouts differ, these do not."""
    factors = {key for m in modules.values() for f in m.factors for key in (f.a, f.b, f.diagonal) if key is not None}
    # what lora_bias adds is scaled as the product is
    biases = {m.factors[0].b.removesuffix(".weight") + ".bias": m.applied_scale for m in modules.values()}
    found = {}
    for saved in saved_tensors(adapter):
        key = saved.key
        if key.text not in factors:
            name = key.module if key.part in (FULL, "") else f"{key.module}.{key.part}" if key.module else key.part
            found[name if name not in found else key.text] = Entry(adapter.store, key.text, biases.get(key.text, 1.0))
    return found


def compare_tensors(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> Iterator[TensorChange]:
    """Every tensor of either that is not the same in both."""
    for name, old in before.items():
        if name not in after:
            yield _one_sided(name, old, added=False)
        elif not same_values(old, after[name]):
            yield _changed(name, old, after[name])
    for name, new in after.items():
        if name not in before:
            yield _one_sided(name, new, added=True)


def _changed(name: str, old: Entry, new: Entry) -> TensorChange:
    first, second = old.store[old.key], new.store[new.key]
    found = apart(old, new) if first.shape == second.shape else None
    figures = (None,) * 4 if found is None else (found.norm_before, found.distance, found.relative, found.cosine)
    return TensorChange(
        name, place(name), "changed", first.dtype.name, second.dtype.name, first.shape, second.shape, *figures
    )


def _one_sided(name: str, entry: Entry, *, added: bool) -> TensorChange:
    info = entry.store[entry.key]
    mine, none = (info.dtype.name, info.shape), (None, None)
    (dtype1, shape1), (dtype2, shape2) = (none, mine) if added else (mine, none)
    state: State = "added" if added else "removed"
    return TensorChange(name, place(name), state, dtype1, dtype2, shape1, shape2, None, None, None, None)
