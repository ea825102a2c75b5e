"""Two models compared, whole checkpoints or GGUFs in any pair: streamed, in a few blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from adaptool.adapters.base import BaseModel
from adaptool.comparing.beside import manifest_of, version_in
from adaptool.comparing.groups import by_layer, by_projection, distance, layers_of, total
from adaptool.comparing.models_beside import notes_beside, same_files
from adaptool.comparing.models_config import compare_model_configs
from adaptool.comparing.models_measure import Measured, measure, same_origin, stored, stored_type
from adaptool.comparing.models_pairing import LinedUp, line_up, names_of
from adaptool.comparing.models_rank import DifferenceRank, difference_rank
from adaptool.comparing.models_verdict import LOSSES, QUANTISED, Evidence, fits, judge, near, percent
from adaptool.comparing.result import Comparison, ConfigChange, ModuleChange, Place, Side, TensorChange
from adaptool.comparing.updates import place
from adaptool.gguf.dequantized import Dequantized
from adaptool.jobs import run
from adaptool.parity.compare import Pair
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.dtypes import F32

SKETCHED = 4
"""Projections of whose difference the rank is asked: those that moved most, each in the layer where it did."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of both models, named and measured."""

    name: str
    measured: Measured

    @property
    def place(self) -> Place:
        """Where it sits; a weight goes by its module's name."""
        return place(self.name.removesuffix(".weight"))


def compare_models(
    before: BaseModel, after: BaseModel, given: tuple[str, str] | None = None, *, workers: int = 1
) -> Comparison:
    """Compare two models; ``given`` is what the user called them. Raises AdaptoolError where one cannot be read.

    Norms are over every tensor that both have: ΔW here is the whole weight. Memory is a few blocks a worker.
    """
    before, after = _exact(before), _exact(after)
    lined = line_up(before, after)
    identical = same_files(before, after)
    names = tuple(names_of(lined.pairs, before, after))
    weights: tuple[Weight, ...] = ()
    ranks: dict[str, DifferenceRank] = {}
    if not identical and fits(before, after, lined):
        with single_threaded_blas():
            weights = tuple(_measured(lined.pairs, names, before, after, workers))
            ranks = dict(_ranks(weights, before, after, workers))
    config = _tied_settled(compare_model_configs(before, after), weights, before, after)
    changes = [_as_module(weight) for weight in weights]
    matrices = [c for c, w in zip(changes, weights, strict=True) if before.store[w.measured.pair.expected].rows > 1]
    evidence = Evidence(
        before, after, identical, lined, config, [weight.measured for weight in weights], total(changes),
        total(matrices), _told(ranks),
    )  # fmt: skip
    verdict, because, equal = judge(evidence)
    tensors = (*_changed(weights, before, after), *_one_sided(lined, before, after))
    layers = layers_of((*changes, *tensors))
    whole, called = evidence.whole, given or (str(before.path), str(after.path))
    return Comparison(
        before=_side(before, called[0]), after=_side(after, called[1]), verdict=verdict, because=because, equal=equal,
        level="none" if equal else "patch", reasons=() if equal else (because,), norm_before=whole.norm_before,
        norm_after=whole.norm_after, distance=distance(changes), relative=0.0 if identical else whole.relative,
        cosine=whole.cosine, config=config, modules=(), tensors=tensors,
        tensors_same=len(lined.pairs) if identical else sum(weight.measured.same for weight in weights),
        projections=by_projection(changes, layers), layers=layers, by_layer=by_layer(changes, layers),
        notes=(*lined.notes, *_grown_notes(lined, before, after), *_rank_notes(ranks), *notes_beside(before, after)),
    )  # fmt: skip


def _exact(model: BaseModel) -> BaseModel:
    """A GGUF without the rounding to 16 bits that a base gets: what is compared is what it stores."""
    store = model.store
    return replace(model, store=replace(store, target=F32)) if isinstance(store, Dequantized) else model


def _measured(
    pairs: Sequence[Pair], names: Sequence[str], before: BaseModel, after: BaseModel, workers: int
) -> Iterator[Weight]:
    shifted = [model.store for model in (before, after) if isinstance(model.store, Dequantized)]

    def one(number: int) -> tuple[int, Measured]:
        pair = pairs[number]
        if same_origin(pair, before.store, after.store):
            mine = replace(pair, actual=pair.expected, actual_row=pair.expected_row)
            return number, replace(measure(mine, before.store, before.store), pair=pair)
        found = measure(pair, before.store, after.store)
        plus_one = any(store.origins[name].shift for store in shifted for name in (pair.expected, pair.actual)
                       if name in store.origins)  # fmt: skip
        return number, replace(found, same=True) if plus_one and near(found) else found

    found = dict(run(one, range(len(pairs)), workers))
    return (Weight(name, found[number]) for number, name in enumerate(names))


def _ranks(
    weights: Sequence[Weight], before: BaseModel, after: BaseModel, workers: int
) -> Iterator[tuple[str, DifferenceRank]]:
    """Of the projections that moved most, the rank of the difference in the layer where it is largest."""
    furthest: dict[tuple[str, str], Weight] = {}

    def quantised(one: Measured) -> bool:
        kinds = stored_type(before.store, one.pair.expected), stored_type(after.store, one.pair.actual)
        return any(LOSSES.get(kind, 0.0) >= QUANTISED for kind in kinds)

    for weight in weights:
        apart, key = weight.measured.apart, (weight.place.stack, weight.place.projection)
        if weight.measured.same or apart is None or len(before.store[weight.measured.pair.expected].shape) != 2:
            continue
        if weight.measured.cast or weight.measured.widened or weight.place.layer is None or quantised(weight.measured):
            continue
        if key not in furthest or apart.distance > _distance(furthest[key]):
            furthest[key] = weight
    chosen = sorted(furthest.values(), key=_distance, reverse=True)[:SKETCHED]
    found = dict(run(lambda w: (w.name, difference_rank(w.measured.pair, before.store, after.store)), chosen, workers))
    return ((w.name, rank) for w in chosen if (rank := found[w.name]) is not None)


def _distance(weight: Weight) -> float:
    return weight.measured.apart.distance if weight.measured.apart is not None else 0.0


def _told(ranks: dict[str, DifferenceRank]) -> str:
    low = [found.rank for found in ranks.values() if found.rank is not None]
    if not ranks or (low and len(low) < len(ranks)):
        return ""
    if not low:
        return "the difference is of full rank: no merged LoRA"
    span = f"{min(low)}" if min(low) == max(low) else f"{min(low)} to {max(low)}"
    return f"the difference is of rank {span} where it is largest, as a merged LoRA leaves it"


def _grown_notes(lined: LinedUp, before: BaseModel, after: BaseModel) -> Iterator[str]:
    """Of a vocabulary that was resized: what became of the rows that both have."""
    for pair in lined.misshapen:
        old, new = before.store[pair.expected], after.store[pair.actual]
        if len(old.shape) == len(new.shape) == 2 and old.columns == new.columns:
            rows = min(old.rows, new.rows)
            found = measure(Pair(old.name, new.name, rows), before.store, after.store)
            apart = found.apart.relative if found.apart is not None else None
            how = "the same" if found.same else "not the same" if apart is None else f"{percent(apart)} off"
            yield f"{old.name}: {old.rows} rows before, {new.rows} now; the first {rows} are {how}"


def _rank_notes(ranks: dict[str, DifferenceRank]) -> Iterator[str]:
    for name, found in ranks.items():
        of = "of full rank" if found.rank is None else f"of rank {found.rank}, which holds {found.explained:.1%} of it"
        yield f"{name}: the difference is {of}"


def _tied_settled(
    config: tuple[ConfigChange, ...], weights: Sequence[Weight], before: BaseModel, after: BaseModel
) -> tuple[ConfigChange, ...]:
    """Tying head and embedding changes nothing where the head that is stored is the embedding."""
    pairs = [(w.measured.pair.expected, w.measured.pair.actual) for w in weights if w.measured.same]
    settled = (before.embedding, after.head) in pairs or (before.head, after.embedding) in pairs
    return tuple(replace(change, matters=False) if settled and change.field == "tie_word_embeddings" else change
                 for change in config)  # fmt: skip


def _as_module(weight: Weight) -> ModuleChange:
    """A weight as what is grouped: ΔW is the whole of it."""
    apart, unknown = weight.measured.apart, (None,) * 6
    same = weight.measured.same
    one, two, away, relative, cosine = (
        (None, None, None, None, None) if apart is None
        else (apart.norm_before, apart.norm_after, apart.distance, apart.relative, apart.cosine)
    )  # fmt: skip
    return ModuleChange(
        weight.name, weight.place, "same" if same else "changed", one, two, 0.0 if same else away, relative, cosine,
        (), (), *unknown, same_factors=False,
    )  # fmt: skip


def _changed(weights: Sequence[Weight], before: BaseModel, after: BaseModel) -> Iterator[TensorChange]:
    for weight in weights:
        pair, apart = weight.measured.pair, weight.measured.apart
        if weight.measured.same:
            continue
        figures = (None,) * 4 if apart is None else (apart.norm_before, apart.distance, apart.relative, apart.cosine)
        shape = min(before.store[pair.expected].shape, after.store[pair.actual].shape, key=len)
        yield TensorChange(
            weight.name, weight.place, "changed", stored_type(before.store, pair.expected),
            stored_type(after.store, pair.actual), shape, shape, *figures,
        )  # fmt: skip


def _one_sided(lined: LinedUp, before: BaseModel, after: BaseModel) -> Iterator[TensorChange]:
    unknown = (None,) * 4
    for pair in lined.misshapen:
        old, new = before.store[pair.expected], after.store[pair.actual]
        yield TensorChange(
            pair.expected, place(pair.expected.removesuffix(".weight")), "changed", stored_type(before.store, old.name),
            stored_type(after.store, new.name), old.shape, new.shape, *unknown,
        )  # fmt: skip
    for name in lined.removed:
        info = before.store[name]
        yield TensorChange(name, place(name.removesuffix(".weight")), "removed", stored_type(before.store, name), None,
                           info.shape, None, *unknown)  # fmt: skip
    for name in lined.added:
        info = after.store[name]
        yield TensorChange(name, place(name.removesuffix(".weight")), "added", None, stored_type(after.store, name),
                           None, info.shape, *unknown)  # fmt: skip


def _side(model: BaseModel, given: str) -> Side:
    lying = stored(model.store)
    kinds = tuple(sorted({stored_type(model.store, name) for name in model.store}))
    return Side(
        given, "model", model.path.resolve().name, None, None, None, lying.nbytes, len(model.store), kinds,
        version=version_in(manifest_of(model.folder)) if model.beside is None else None,
    )  # fmt: skip
