"""One word for what happened between two models, and the sentence with the figures it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adaptool.adapters.base import EMBEDDINGS, HEADS, BaseModel
from adaptool.comparing.models_measure import Measured, stored, stored_type
from adaptool.comparing.models_pairing import LinedUp
from adaptool.comparing.result import EQUAL, ConfigChange, Group, Verdict
from adaptool.parity.gguf_bands import TYPICAL, WIDEST, WITH_IMATRIX
from adaptool.tensors.store import TensorInfo

UNRELATED = 0.2
"""Overall cosine of the matrices below which they were not trained from one another: any fine-tune is above 0.9."""

FITTING = 0.5
"""Share of the weights, those of the vocabulary aside, that must have a counterpart of their shape."""

LOSSES: Mapping[str, float] = {**TYPICAL, "NF4": 0.095, "FP4": 0.12}
"""Relative error of quantised normal weights, by type; bitsandbytes' in blocks of 64."""

QUANTISED = LOSSES["Q8_0"]
"""The loss from which on a type is one of blocks."""

DIMENSIONS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the verdict is drawn from."""

    before: BaseModel
    after: BaseModel
    same_files: bool
    lined: LinedUp
    config: Sequence[ConfigChange]
    measured: Sequence[Measured]
    whole: Group
    """All tensors that both have."""
    matrices: Group
    """Those of more than one dimension."""
    ranks: str = ""
    """What their difference is of, where that was asked."""

    @property
    def different(self) -> list[Measured]:
        """The tensors whose values differ."""
        return [one for one in self.measured if not one.same]

    @property
    def same_weights(self) -> bool:
        """Whether every tensor of either is the same in the other."""
        lined = self.lined
        return not (self.different or lined.misshapen or lined.removed or lined.added)

    @property
    def settings(self) -> list[str]:
        """Settings that change what is computed."""
        return [change.field for change in self.config if change.matters]


def judge(evidence: Evidence) -> tuple[Verdict, str, bool]:
    """The verdict, why, and whether the two compute the same."""
    if evidence.same_files:
        return "identical", "weights and config.json are the same, byte for byte", True
    if not fits(evidence.before, evidence.after, evidence.lined):
        return "other base", f"the shapes do not fit: {_dimensions(evidence)}", False
    if evidence.same_weights:
        if evidence.settings:
            return (
                "changed",
                f"the weights are the same, config.json is not: {_listed(evidence.settings)}",
                False,
            )
        return "re-saved", f"the same values in other bytes: {_how_saved(evidence)}", True
    if evidence.matrices.cosine is not None and evidence.matrices.cosine < UNRELATED:
        told = f"cosine {evidence.matrices.cosine:.2f} over all matrices"
        return "other base", f"the shapes are the same, the weights have nothing to do with each other: {told}", False
    lined = evidence.lined
    if not (lined.misshapen or lined.removed or lined.added):
        if kinds := rounded_to(evidence.different, evidence):
            return "rounded", _rounding(kinds, evidence), False
        if kinds := rounded_to(evidence.different, evidence, back=True):
            return "changed", f"the first is the second rounded: {_rounding(kinds, evidence)}", False
    return "changed", _change(evidence), False


def fits(before: BaseModel, after: BaseModel, lined: LinedUp) -> bool:
    """Whether most of the weights have a counterpart of their shape."""
    fitting = sum(pair.rows * before.store[pair.expected].columns for pair in lined.pairs
                  if not _of_vocabulary(pair.expected))  # fmt: skip
    totals = (sum(info.size for info in model.store.infos.values() if not _of_vocabulary(info.name))
              for model in (before, after))  # fmt: skip
    return fitting >= FITTING * min(totals) and bool(lined.pairs or not before.store)


def rounded_to(different: Sequence[Measured], evidence: Evidence, *, back: bool = False) -> dict[str, float]:
    """The types that all differing tensors were rounded to, and their shares of the elements; {} where one was not."""
    found: dict[str, float] = {}
    for one in different:
        kind = _rounded_to(one, evidence, back=back)
        if kind is None:
            return {}
        found[kind] = found.get(kind, 0.0) + one.pair.rows * evidence.before.store[one.pair.expected].columns
    total = sum(found.values()) or 1.0
    return {kind: found[kind] / total for kind in sorted(found, key=lambda kind: -found[kind])}


def _rounded_to(one: Measured, evidence: Evidence, *, back: bool) -> str | None:
    if (cast := one.widened if back else one.cast) is not None:
        return cast.name
    kinds = (stored_type(evidence.before.store, one.pair.expected), stored_type(evidence.after.store, one.pair.actual))
    old, new = reversed(kinds) if back else kinds
    loss = LOSSES.get(new, 0.0)
    if one.apart is None or one.apart.relative is None or loss < QUANTISED or loss <= LOSSES.get(old, 0.0):
        return None
    most = min(0.95, WIDEST * WITH_IMATRIX * math.hypot(loss, LOSSES.get(old, 0.0)))
    return new if one.apart.relative <= most else None


def _rounding(kinds: Mapping[str, float], evidence: Evidence) -> str:
    quantised = any(LOSSES.get(kind, 0.0) >= QUANTISED for kind in kinds)
    told = ", ".join(f"{kind} {share:.0%}" if len(kinds) > 1 else kind for kind, share in kinds.items())
    of = f"{len(evidence.different)} of {_counted(len(evidence.measured), 'tensor')}"
    apart = "" if evidence.whole.relative is None else f", {percent(evidence.whole.relative)} off in all"
    how = "quantised to" if quantised else "the old ones cast to"
    within = "; that is as far as such a type rounds, and a change below it could not be seen" if quantised else ""
    return f"{of} are {how} {told}{apart}{within}"


def _how_saved(evidence: Evidence) -> str:
    before, after = evidence.before, evidence.after
    kinds = [sorted({stored_type(model.store, name) for name in model.store}) for model in (before, after)]
    if kinds[0] != kinds[1]:
        return f"{', '.join(kinds[0])} before, {', '.join(kinds[1])} now, nothing lost"
    files = [len(stored(model.store).files) for model in (before, after)]
    if files[0] != files[1]:
        return f"{_counted(files[0], 'file')} before, {files[1]} now"
    if list(before.store) != list(after.store):
        return "other names, or another order"
    return "config.json alone differs" if evidence.config else "other headers or another layout"


def _change(evidence: Evidence) -> str:
    parts = list(_parts(evidence))
    if evidence.different and evidence.whole.relative is not None:
        parts.append(f"{percent(evidence.whole.relative)} off in all")
    if evidence.ranks:
        parts.append(evidence.ranks)
    return "; ".join(parts)


def _parts(evidence: Evidence) -> Iterator[str]:
    lined = evidence.lined
    if evidence.different:
        of = _counted(len(evidence.measured), "tensor")
        yield f"{len(evidence.different)} of {of} differ{'s' if len(evidence.different) == 1 else ''}"
    for words, names in (("added", lined.added), ("removed", lined.removed)):
        if names:
            yield f"{len(names)} {words}, such as {names[0]}"
    if lined.misshapen:
        old, new = (evidence.before.store[lined.misshapen[0].expected], evidence.after.store[lined.misshapen[0].actual])
        yield f"{len(lined.misshapen)} of another shape: {old.name} {_shape(old)} → {_shape(new)}"
    if evidence.settings:
        yield f"config.json: {_listed(evidence.settings)}"


def _dimensions(evidence: Evidence) -> str:
    changes = {change.field: change for change in evidence.config}
    told = [f"{name} {changes[name].before} → {changes[name].after}" for name in DIMENSIONS if name in changes]
    if told:
        return ", ".join(told)
    if evidence.lined.misshapen:
        return next(_parts(Evidence(evidence.before, evidence.after, same_files=False, lined=evidence.lined, config=(),
                                    measured=(), whole=evidence.whole, matrices=evidence.matrices)))  # fmt: skip
    return f"{len(evidence.lined.removed)} tensors are gone, {len(evidence.lined.added)} new"


def _shape(info: TensorInfo) -> str:
    return "×".join(map(str, info.shape))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _of_vocabulary(name: str) -> bool:
    return name.removesuffix(".weight").rpartition(".")[2] in (*EMBEDDINGS, *HEADS)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def percent(value: float) -> str:
    """Three digits of a share."""
    return f"{100 * value:.3g} %"


def near(one: Measured) -> bool:
    """Whether what is left is rounding of the comparison's own: a GGUF holds some norms plus one."""
    return one.apart is not None and one.apart.relative is not None and one.apart.relative <= EQUAL
