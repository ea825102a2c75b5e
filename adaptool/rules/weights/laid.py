"""An adapter laid on its base: what the merge's own planning says of it module by module, from headers.

Where a base is only a config, or quantised into another layout, the table of its family's shapes stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS, BaseModel
from adaptool.adapters.names import PREFIX, projection_of
from adaptool.adapters.plan import Plan
from adaptool.adapters.tuners import TUNERS
from adaptool.archs.layouts import LAYOUTS
from adaptool.archs.renames import disk_names
from adaptool.errors import AdaptoolError, MismatchError, UnsupportedError
from adaptool.rules.forms import all_features
from adaptool.rules.subject import Subject
from adaptool.rules.weights.leftovers import misspelt
from adaptool.summary.coverage import adapted_modules, misfits, planned, with_shapes
from adaptool.tensors.bnb import Bnb4bit
from adaptool.tensors.quantized import label, quantization_of
from adaptool.tensors.store import MemoryStore
from adaptool.tensors.views import select

MOST_LAYERS = 10_000
"""That layer_replication makes: any number can stand there."""

IN_PLACE = {"fp8", "fbgemm_fp8", "bnb-8bit"}
"""Quantisations that keep every weight's name and shape."""


@dataclass(frozen=True)
class Laid:
    """One adapter on one base."""

    base: BaseModel
    """As the rules see it: shapes of a table where the real ones cannot be had."""
    quantised: str | None
    """How the base is quantised, in words."""
    plan: Plan | None
    problem: AdaptoolError | None
    """What a merge would end with."""
    modules: tuple[str, ...]
    misfits: Mapping[str, AdaptoolError]
    """Why a module, or a full tensor, has no place in the base, for each that has none."""

    def failing(self, *defects: str) -> tuple[str, ...]:
        """The modules or full tensors that have no place for one of these reasons."""
        return tuple(name for name, error in self.misfits.items() if error.defect in defects)


def laid(subject: Subject) -> Laid:
    """The subject on its base, worked out once.

    Raises UnsupportedError for a base without tensors whose family has no table of shapes.
    """
    return subject.once("laid", lambda: _lay(_well_spelt(subject), subject.model))


def _well_spelt(subject: Subject) -> Adapter:
    """The adapter without the keys that are wrong already as keys: no base has those."""
    wrong = misspelt(subject)
    adapter = subject.adapter
    return replace(adapter, store=select(adapter.store, [key for key in adapter.store if key not in wrong]))


def _lay(adapter: Adapter, model: BaseModel) -> Laid:
    base, method = model, None
    if model.store and not isinstance(model.store, Bnb4bit):
        method = quantization_of(model.config, model.store)
    if method is not None and method not in IN_PLACE:
        base = replace(model, store=MemoryStore({}))
    quantised = label("bnb-4bit") if isinstance(model.store, Bnb4bit) else label(method) if method else None
    base = with_shapes(base, adapter)
    modules = adapted_modules(adapter)
    if not base.store and not model.store:
        raise UnsupportedError(f"{model.path} is only a config, of a family without a table of shapes")
    if adapter.config.peft_type in TUNERS and base.store:
        if adapter.config.fields.get("layer_replication"):
            return Laid(base, quantised, None, None, modules, misfits(adapter, base, _replicated(adapter)))
        plan, problem = planned(adapter, base)
        lacking = {} if problem is None else misfits(adapter, base)
        return Laid(base, quantised, plan, problem, modules, lacking)
    where = base if base.store else model
    return Laid(where, quantised, None, None, modules, _other_misfits(adapter, where, modules, shaped=bool(base.store)))


def _other_misfits(
    adapter: Adapter, base: BaseModel, modules: tuple[str, ...], *, shaped: bool
) -> Mapping[str, AdaptoolError]:
    """For types without a merge: modules that the base has not, or (``shaped``) not in the size their form tells."""
    owners = {prefix for name in base.store for prefix in _prefixes(name)}
    features = all_features(adapter) if shaped else {}
    found: dict[str, AdaptoolError] = {}
    for module in modules:
        plain = module.replace(".base_layer", "")
        tensor = base.find(f"{plain}.weight")
        if tensor is None and _shares(plain, base):
            continue
        if tensor is None and not any(name in owners for name in disk_names(plain, base.config)):
            found[module] = MismatchError(f"{base.path} has no {module}", defect="no-module")
        elif tensor is not None and module in features and not _has_features(base, tensor, *features[module]):
            out, inputs = ("?" if size is None else size for size in features[module])
            found[module] = MismatchError(
                f"{module}: the adapter is for [{out}, {inputs}] and the base's {tensor} is "
                f"{list(base.store[tensor].shape)}", defect="shape",
            )  # fmt: skip
    return found


def _shares(module: str, base: BaseModel) -> bool:
    """Whether a module has no tensor of its own because it shares the embedding: a tied head, T5's two stacks."""
    leaf = projection_of(module)
    return base.embedding is not None and (leaf in EMBEDDINGS or (leaf in HEADS and base.tied))


def _has_features(base: BaseModel, tensor: str, out: int | None, inputs: int | None) -> bool:
    """Whether a weight is (out, in) as far as they are known, or, where it may be a Conv1D's, the other way round."""
    shape = base.store[tensor].shape
    if len(shape) < 2:
        return True
    rows, columns = shape[0], prod(shape[1:])
    ways = [(rows, columns)] if base.has_conv1d is False else [(rows, columns), (columns, rows)]
    return any(out in (None, one) and inputs in (None, other) for one, other in ways)


def _prefixes(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _replicated(adapter: Adapter) -> Callable[[str], str]:
    """From a key of the deeper model that ``layer_replication`` makes to that of the layer it is a copy of."""
    spans: Any = adapter.config.fields.get("layer_replication")
    try:
        copied = (layer for start, stop in spans for layer in range(start, min(stop, start + MOST_LAYERS)))
        sources = list(islice(copied, MOST_LAYERS))
    except (TypeError, ValueError):
        sources = []

    def source(key: str) -> str:
        found = re.search(r"\.(\d{1,6})\.", key)
        if found is None or int(found[1]) >= len(sources):
            return key
        return f"{key[: found.start(1)]}{sources[int(found[1])]}{key[found.end(1) :]}"

    return source


def family_of(modules: tuple[str, ...]) -> str | None:
    """The model families that have such modules, in words; None where no table knows them."""
    spelt = {re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", m) for m in modules if m.rpartition(".")[2] not in HEADS}
    known = [model_type for model_type in LAYOUTS if spelt and spelt <= _names_of(model_type)]
    if not known:
        return None
    return known[0] if len(known) == 1 else f"{known[0]} and {len(known) - 1} families like it"


def _names_of(model_type: str) -> set[str]:
    layout = LAYOUTS[model_type]
    rows = [line.split()[1] for line in layout.body.splitlines() if line.strip()]
    plain = {re.sub(r"\{[^}]*\}", "*", name) for name in rows}
    return plain | {f"{layout.prefix}.{name}" for name in plain}


def elsewhere(module: str, base: BaseModel) -> str | None:
    """A module of the base that has the same place under another prefix."""
    tail = ".".join(module.split(".")[-4:])
    numbered = re.search(r"\d", tail) is not None
    return next(
        (n.removesuffix(".weight") for n in base.store if numbered and n.endswith(f".{tail}.weight")), None
    )  # fmt: skip


def keys_of(subject: Subject, modules: tuple[str, ...]) -> tuple[str, ...]:
    """The saved keys of modules, or of full tensors by their parameters' names."""
    wanted = set(modules)
    return tuple(
        t.key.text for t in subject.saved if t.key.module in wanted or t.key.text.removeprefix(PREFIX) in wanted
    )
