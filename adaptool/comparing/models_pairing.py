"""Two models lined up tensor by tensor, whatever library named them and however their experts and heads are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from adaptool.adapters.base import BaseModel
from adaptool.adapters.plan import Plan
from adaptool.archs.published import checkpoint_shapes
from adaptool.archs.renames import disk_names
from adaptool.merging.merged import Merged
from adaptool.parity.compare import Pair
from adaptool.parity.pairing import is_constant, pair_up
from adaptool.tensors.compute import NumpyCompute


@dataclass(frozen=True, slots=True)
class LinedUp:
    """The counterparts, and what has none."""

    pairs: tuple[Pair, ...]
    """In the order of the first; where they are rows of a tensor, those of one expert."""
    misshapen: tuple[Pair, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    notes: tuple[str, ...]


def line_up(before: BaseModel, after: BaseModel) -> LinedUp:
    """Pair the tensors of two models; a merge of nothing into the first is what the second is held against."""
    model = before if before.model_type else replace(before, config=after.config)
    pairing = pair_up(Merged(Plan(model), NumpyCompute(), safe=False), after.store, config=after.config)
    found = {pair.expected for pair in (*pairing.pairs, *pairing.misshapen)}
    reached = {pair.actual for pair in (*pairing.pairs, *pairing.misshapen)}
    lost = [name for name in before.store if name not in found]
    new = [name for name in after.store if name not in reached]
    placeless = [*_placeless(lost, after), *_placeless(new, before)]
    order = {name: place for place, name in enumerate(before.store)}
    return LinedUp(
        tuple(sorted(pairing.pairs, key=lambda pair: (order[pair.expected], pair.expected_row))),
        pairing.misshapen,
        tuple(name for name in lost if name not in placeless and not is_constant(name, before.store)),
        tuple(name for name in new if name not in placeless and not is_constant(name, after.store)),
        (*_notes(pairing.pairs, before, after, lost), *_placeless_notes(placeless)),
    )


def _placeless(names: list[str], other: BaseModel) -> list[str]:
    """Those that a model has and llama.cpp no use for, where the other is a GGUF: it could not hold them."""
    if other.beside is None or not names:
        return []
    unheld = checkpoint_shapes(other.config or {}).keys() - other.store.infos.keys()
    return [name for name in names if not unheld.isdisjoint(disk_names(name, other.config))]


def _placeless_notes(names: list[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - 1} more" if names[1:] else ""
        yield f"a GGUF has no place for {names[0]}{more}: not compared"


def names_of(pairs: tuple[Pair, ...], before: BaseModel, after: BaseModel) -> Iterator[str]:
    """What each pair is called: the first's name, or the second's where that says more."""
    seen: set[str] = set()
    for pair in pairs:
        whole = pair.rows == before.store[pair.expected].rows and pair.expected not in seen
        seen.add(pair.expected)
        yield pair.expected if whole else pair.actual


def _notes(pairs: tuple[Pair, ...], before: BaseModel, after: BaseModel, lost: list[str]) -> Iterator[str]:
    other = [pair for pair in pairs if pair.expected != pair.actual]
    parts = {pair.expected if pair.rows < before.store[pair.expected].rows else pair.actual for pair in pairs
             if pair.rows < before.store[pair.expected].rows or pair.rows < after.store[pair.actual].rows}  # fmt: skip
    if parts:
        fused = "first" if any(pair.rows < before.store[pair.expected].rows for pair in pairs) else "second"
        yield f"the experts of a layer are one tensor in the {fused}, and one each in the other"
    heads = [pair for pair in other if pair.expected == before.embedding != pair.actual and pair.actual == after.head]
    heads += [pair for pair in other if pair.expected == before.head and pair.actual == after.embedding]
    if heads:
        side = "second" if heads[0].actual == after.head else "first"
        yield f"only the {side} stores the output head, which is tied to the embedding"
    named = [pair for pair in other if pair not in heads and pair.rows == before.store[pair.expected].rows
             and pair.rows == after.store[pair.actual].rows]  # fmt: skip
    if named:
        yield f"{len(named)} tensors have other names: {named[0].expected} is {named[0].actual} in the second"
    constants = [name for name in lost if is_constant(name, before.store)]
    constants += [name for name in after.store if is_constant(name, after.store) and name not in before.store]
    if constants:
        yield f"constants that newer libraries compute are stored in one of the two only: {constants[0]}"
