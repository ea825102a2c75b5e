"""One word for what happened between two adapters, and the sentence with the figures it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.comparing.result import ConfigChange, Group, Side, TensorChange, Verdict
from adaptool.comparing.tensors import Entry, rounded, same_values
from adaptool.comparing.updates import Pair, is_lora
from adaptool.tensors.dtypes import BF16, F16, F32

KINDRED_UPDATES = 0.8
"""Cosine of all updates from which two are kin, whatever their factors: two runs on the same data stay below it."""

KINDRED_FACTORS = 0.3
"""Mean cosine of B with B′ and of A with A′ from which they are: those of another run have none to speak of. B decides
where the start was the same and the data were not, for A keeps much of its start."""

SEEN_IN_WEIGHTS = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_bias", "peft_type", "revision",
    "base_model_name_or_path",
}  # fmt: skip
"""Fields whose effect the comparison of tensors and of ΔW shows, or the verdict tells by itself."""


SIZES = ("r", "rank_pattern", "oft_block_size", "num_virtual_tokens")
"""Fields that give the tensors of a type that is no LoRA other shapes, on the same base."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the verdict is drawn from."""

    before: Adapter
    after: Adapter
    sides: tuple[Side, Side]
    same_files: bool
    base: str
    """How the base changed: comparing.base_names' word for it."""
    config: Sequence[ConfigChange]
    pairs: Sequence[Pair]
    tensors: Sequence[TensorChange]
    """Those that differ."""
    others: tuple[Mapping[str, Entry], Mapping[str, Entry]]
    whole: Group

    @property
    def both(self) -> list[Pair]:
        """The modules that can be compared."""
        return [pair for pair in self.pairs if pair.likeness is not None]

    @property
    def beyond_weights(self) -> list[str]:
        """Config fields that change the computation and that no tensor shows."""
        return [c.field for c in self.config if c.matters and c.field.partition(".")[0] not in SEEN_IN_WEIGHTS]

    @property
    def same_updates(self) -> bool:
        """Whether every ΔW and every other tensor is the same."""
        return not self.tensors and all(pair.change.state == "same" for pair in self.pairs)

    @property
    def misfits(self) -> list[str]:
        """What has another shape on the other side: no adapters of one model."""
        grown = ("lora_embedding", "embed_tokens", "lm_head", "wte", "word_embeddings")
        sized = (side.config.fields for side in (self.before, self.after))
        if not is_lora(self.before) and len({str([fields.get(name) for name in SIZES]) for fields in sized}) > 1:
            return []
        reshaped = [t for t in self.tensors if t.state == "changed" and t.shape_before != t.shape_after]
        heads = {t.name.removesuffix(".weight") for t in reshaped if _other_rows(t)}
        return [pair.change.module for pair in self.pairs if pair.misfit] + [
            t.name for t in reshaped
            if t.name.rpartition(".")[0] not in heads and not any(word in t.name for word in grown)
        ]  # fmt: skip


def _other_rows(tensor: TensorChange) -> bool:
    """Whether a weight saved whole is for other labels or tokens: it reads what it read."""
    old, new = tensor.shape_before or (), tensor.shape_after or ()
    return tensor.name.endswith(".weight") and len(old) == len(new) == 2 and old[1] == new[1]


def judge(evidence: Evidence) -> tuple[Verdict, str, bool]:
    """The verdict, why, and whether the two compute the same."""
    types = [side.config.peft_type for side in (evidence.before, evidence.after)]
    if types[0] != types[1]:
        return "other type", f"{types[0]} before, {types[1]} now", False
    if evidence.misfits:
        many = len(evidence.misfits)
        told = f"{evidence.misfits[0]} has another shape" + (f", and {many - 1} more" if many > 1 else "")
        return "other base", f"{told}: it is for a model of other dimensions", False
    if evidence.base in ("other", "revision"):
        same = "every ΔW is the same, but it" if evidence.same_updates else "it"
        names = [side.base_model if evidence.base == "other" else side.revision for side in evidence.sides]
        what = "another base" if evidence.base == "other" else "another revision of the base"
        return "other base", f"{same} is for {what}: {names[0]} before, {names[1]} now", False
    if evidence.same_updates and not evidence.beyond_weights:
        return (*_equal(evidence), True)
    return (*_different(evidence), False)


def _equal(evidence: Evidence) -> tuple[Verdict, str]:
    if evidence.same_files:
        return "identical", "config and weights are the same, byte for byte"
    moved = [pair for pair in evidence.both if not pair.likeness_of.factors or not _same_scale(pair)]
    if not moved:
        return "re-saved", "the same values in other bytes"
    apart = max(pair.change.relative or 0.0 for pair in moved)
    if all(pair.likeness_of.nearly for pair in moved):
        many = _modules(len(moved))
        return "re-saved", f"the same values in other bytes, rounded in {many}: every ΔW is the same (to {apart:.0e})"
    if all(pair.likeness_of.multiples for pair in moved):
        between = "B and A" if all(_same_scale(pair) for pair in moved) else "α and the factors"
        return "re-scaled", f"every ΔW is the same; in {_modules(len(moved))} the scale moved between {between}"
    return (
        "re-factorised",
        f"every ΔW is the same (to {apart:.0e} of its norm), from other factors in {_modules(len(moved))}",
    )


def _different(evidence: Evidence) -> tuple[Verdict, str]:
    if evidence.same_updates:
        return "changed", f"the weights are the same, but {_listed(evidence.beyond_weights)} changed what is computed"
    changed = [pair for pair in evidence.pairs if pair.change.state != "same"]
    if (kind := _rounded_to(evidence)) is not None:
        moved = f": ΔW moved by {_percent(evidence.whole.relative)}" if evidence.whole.relative else ""
        return "rounded", f"every tensor that differs is the old one cast to {kind}{moved}"
    if not changed:
        return "changed", "every ΔW is the same; " * bool(evidence.pairs) + _tensors(evidence.tensors)
    if any(pair.change.distance is None for pair in changed):
        bad = next(pair.change.module for pair in changed if pair.change.distance is None)
        return "changed", f"{bad} holds numbers that are not finite, and nothing can be said of its direction"
    common = [pair for pair in changed if pair.change.state == "changed"]
    added = sum(pair.change.state == "added" for pair in changed)
    removed = sum(pair.change.state == "removed" for pair in changed)
    if not common:
        told = [f"{_modules(n)} {word}" for n, word in ((added, "added"), (removed, "removed")) if n]
        return "changed", f"{' and '.join(told)}; every other ΔW is the same"
    parallel = all(pair.likeness_of.parallel for pair in common)
    if parallel and not evidence.tensors and not added + removed and any(map(_rescales, common)):
        return "re-scaled", _rescaled(evidence, common)
    return _kinship(evidence, common)


def _kinship(evidence: Evidence, common: Sequence[Pair]) -> tuple[Verdict, str]:
    """Continued training or another adapter: by the cosine of all updates, and by what is left of the factors."""
    cosine = evidence.whole.cosine or 0.0
    figures = f"distance {_percent(evidence.whole.relative)} of ‖ΔW‖, cosine {_cosine(cosine)}"
    B, A = (_mean(pair.likeness_of.kinship[i] for pair in common) for i in (0, 1))
    if not evidence.whole.norm_before:
        kin = A is not None and A >= KINDRED_FACTORS
        started = "the same start" if kin else "another start"
        return (
            "continued training" if kin else "other adapter",
            f"untrained before (every ΔW zero), trained now from {started}",
        )
    if cosine >= KINDRED_UPDATES:
        return "continued training", f"ΔW grew out of the old one: {figures}"
    if A is not None and B is not None and min(A, B) >= KINDRED_FACTORS:
        return "continued training", f"its factors grew out of the old ones (cosines A {A:.2g}, B {B:.2g}): {figures}"
    return "other adapter", f"ΔW is no continuation of the old one: {figures}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rescaled(evidence: Evidence, common: Sequence[Pair]) -> str:
    factors = sorted(
        {float(f"{_factor(pair):.6g}") for pair in common if pair.change.norm_before} or {0.0}, key=abs
    )  # fmt: skip
    rest = len(evidence.pairs) - len(common)
    where = "everywhere" if not rest else f"in {_modules(len(common))}, {rest} are the same"
    if len(factors) == 1:
        return f"ΔW is {factors[0]:.4g} × what it was, {where}"
    return f"ΔW points where it did, {factors[0]:.4g} to {factors[-1]:.4g} × as strong, {where}"


def _rescales(pair: Pair) -> bool:
    """Whether it is another multiple of what it was, as far as four digits tell: a tiny step is parallel, too."""
    return not pair.change.norm_before or abs(_factor(pair) - 1) > 5e-5


def _factor(pair: Pair) -> float:
    change = pair.change
    sign = -1.0 if (change.cosine or 0.0) < 0 else 1.0
    return sign * (change.norm_after or 0.0) / (change.norm_before or 1.0)


def _rounded_to(evidence: Evidence) -> str | None:
    """The type that every tensor of the old adapter was cast to, if that is all that happened."""
    if any(pair.change.state in ("added", "removed") or not _same_scale(pair) for pair in evidence.pairs):
        return None
    one, two = evidence.before.store, evidence.after.store
    if set(one) != set(two):
        return None
    moved = [key for key in one if not same_values(Entry(one, key), Entry(two, key))]
    casts = (kind for kind in (BF16, F16, F32) if all(rounded(Entry(one, key), Entry(two, key), kind) for key in moved))
    return next((kind.torch_name for kind in casts), None)


def _same_scale(pair: Pair) -> bool:
    return pair.change.scale_before == pair.change.scale_after


def _modules(many: int) -> str:
    return "1 module" if many == 1 else f"{many} modules"


def _tensors(tensors: Sequence[TensorChange]) -> str:
    """What became of the tensors that differ, one clause a kind."""
    said = {"changed": ("is not what it was", "are not what they were"), "added": ("is new", "are new"),
            "removed": ("is gone", "are gone")}  # fmt: skip
    kinds = {state: [tensor.name for tensor in tensors if tensor.state == state] for state in said}
    return "; ".join(f"{_listed(names)} {said[state][len(names) > 1]}" for state, names in kinds.items() if names)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _cosine(measured: float) -> str:
    """Three digits, and near 1 as many as tell it from 1."""
    return next((text for digits in (3, 4, 6) if (text := f"{measured:.{digits}g}") != "1"), "1")


def _percent(share: float | None) -> str:
    return "not known" if share is None else f"{100 * share:.3g} %"
