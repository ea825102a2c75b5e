"""What a comparison says: of the config, of every module's update, of every other tensor, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal[
    "identical", "re-saved", "re-factorised", "re-scaled", "rounded", "continued training", "other adapter",
    "other base", "other type", "changed",
]  # fmt: skip
"""In one word. identical: the same files. re-saved: the same values in other bytes (order, type, container, key names,
defaults written out). re-factorised: every ΔW is the same, its factors are not. re-scaled: the same directions at
another strength, or the same ΔW with its scale moved between lora_alpha and the factors. rounded: every tensor is the
old one cast to a narrower type. continued training: ΔW grew out of the old one. other adapter: it did not. other base,
other type: for another model, of another PEFT type. changed: something else than the low-rank updates (and for models
and types that are no LoRA, anything)."""

Level = Literal["none", "patch", "minor", "major"]
"""What a change asks of a semantic version."""

State = Literal["same", "changed", "added", "removed"]

EQUAL = 1e-6
"""‖ΔW′ − ΔW‖_F / ‖ΔW‖_F up to which two updates are the same: what rounding float32 factors once more leaves."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One field that differs, its defaults made explicit on both sides."""

    field: str
    """With what it is inside of: ``alpha_pattern.q_proj``."""
    before: Any
    after: Any
    effect: str
    """What it does, in words: "scale 2 → 4 on k_proj"; "" where it does nothing to the result."""
    matters: bool
    """Whether it can change what the adapter computes (or which model it is for)."""
    defaulted: Literal["", "before", "after"] = ""
    """The side on which the file does not name the field, and its value is PEFT's default."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module sits: stack, layer (None outside every stack) and projection."""

    stack: str
    layer: int | None
    projection: str


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """One low-rank update before and after; norms are Frobenius, of s·B@A, in float64, exactly from the factors.

    Of several experts in one tensor: the whole. What does not exist, or is not finite, is None.
    """

    module: str
    place: Place
    state: State
    """same: ΔW within EQUAL."""
    norm_before: float | None
    norm_after: float | None
    distance: float | None
    """‖ΔW′ − ΔW‖."""
    relative: float | None
    """distance / ‖ΔW‖; None where ΔW was zero and is not."""
    cosine: float | None
    """⟨ΔW′, ΔW⟩ / (‖ΔW′‖‖ΔW‖)."""
    column_angles: tuple[float, ...]
    """Principal angles between the column spaces of the two ΔW, in degrees, the smallest first: what it writes."""
    row_angles: tuple[float, ...]
    """The same of the row spaces: what it reads."""
    rank_before: int | None
    """The rank declared and stored."""
    rank_after: int | None
    used_before: int | None
    """The rank ΔW has: singular values above 10⁻⁶ of the largest."""
    used_after: int | None
    scale_before: float | None
    scale_after: float | None
    same_factors: bool
    """Whether A and B hold the very same values."""


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor that is no low-rank factor: a saved module, a bias, a magnitude vector, a model's weight."""

    name: str
    place: Place
    state: State
    dtype_before: str | None
    dtype_after: str | None
    shape_before: tuple[int, ...] | None
    shape_after: tuple[int, ...] | None
    norm_before: float | None
    distance: float | None
    """‖W′ − W‖_F."""
    relative: float | None
    """distance / ‖W‖."""
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """All modules of one projection (or of one layer): norms are of all of them together."""

    name: str
    modules: int
    changed: int
    norm_before: float
    norm_after: float
    relative: float | None
    """√Σdistance² / √Σ‖ΔW‖²."""
    cosine: float | None
    by_layer: tuple[float | None, ...] = ()
    """Of a projection: each layer's relative distance, in the order of ``Comparison.layers``; None where it has none.

    A module that was added or removed counts as 1, as it would with its distance measured against the larger norm.
    Empty where layers and projections are as many as only a hostile file has.
    """


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two things compared."""

    given: str
    """As the user named it."""
    kind: Literal["adapter", "model"]
    name: str
    peft_type: str | None
    base_model: str | None
    revision: str | None
    nbytes: int
    tensors: int
    dtypes: tuple[str, ...]
    rank: str = ""
    """ "16", "8-32"; "" where that means nothing."""
    version: str | None = None
    """From its manifest."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two adapters or two models compared."""

    before: Side
    after: Side
    verdict: Verdict
    because: str
    """The verdict in one sentence, with the figures it rests on."""
    equal: bool
    """Whether every ΔW and every full tensor is the same, so that the two compute the same: exit code 0."""
    level: Level
    """What the change asks of a version, and ``reasons`` why; of models always patch or none."""
    reasons: tuple[str, ...]
    norm_before: float
    """√Σ‖ΔW‖² over all modules."""
    norm_after: float
    distance: float
    relative: float | None
    """distance / norm_before."""
    cosine: float | None
    """Of all the updates as one vector."""
    config: tuple[ConfigChange, ...]
    modules: tuple[ModuleChange, ...]
    """Every low-rank module of either, in the order of the file."""
    tensors: tuple[TensorChange, ...]
    """Every other tensor of either that is not the same."""
    tensors_same: int
    projections: tuple[Group, ...]
    layers: tuple[int, ...]
    """The layers there are, of all stacks."""
    by_layer: tuple[Group, ...]
    notes: tuple[str, ...] = field(default=())
    """What the reader should know: a side of which only headers could be compared, a tokenizer that changed."""

    @property
    def largest(self) -> tuple[ModuleChange, ...]:
        """The modules that differ, the one furthest from what it was first; added and removed ones before all."""
        apart = [module for module in self.modules if module.state != "same"]
        moved = {id(m): float("inf") if m.relative is None else m.relative for m in apart}
        return tuple(sorted(apart, key=lambda m: (m.state == "changed", -moved[id(m)])))
