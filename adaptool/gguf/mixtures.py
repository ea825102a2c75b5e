"""Which GGML type each tensor of a GGUF gets: llama-quantize's choice, tensor for tensor, with its reasons.

Mixtures count the tensors of a role as they come, so the order matters: ``quantize_order``.
Source: src/llama-quant.cpp of llama.cpp b11434.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from adaptool.errors import UsageError
from adaptool.gguf.mixture_rules import Role, mixture_type, role_of
from adaptool.gguf.places import ModelShape, Place
from adaptool.gguf.recipe import Recipe
from adaptool.tensors.dtypes import F16, DType
from adaptool.tensors.ggml.prebuilt import IMPORTANCE_REQUIRED
from adaptool.tensors.ggml.types import GGMLType, ggml_type
from adaptool.tensors.store import TensorInfo

FALLBACKS = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What stands in, with blocks of 32, where blocks of 256 do not divide the columns."""

LOW_BIT = IMPORTANCE_REQUIRED | {"IQ2_S", "IQ3_XXS"}
"""Types too coarse to choose well without an imatrix."""

KEPT_NAMES = ("position_embd.weight", "token_types.weight")
KEPT_PARTS = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
"""Matrices that are small and sensitive: norms, routers, positions, convolutions, recurrences."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A tensor's type, and why it is not what the recipe says plainly: kept, overridden, or rows no block divides."""

    dtype: DType
    reason: str | None = None


def choose(tensors: Sequence[TensorInfo], model: ModelShape, recipe: Recipe) -> Mapping[str, Choice]:
    """The type of every tensor, in the order of ``quantize_order``.

    ``tensors`` have GGUF names, the intermediate's types and shapes with the columns last. UsageError
    where a type needs an imatrix and has none; MismatchError where the imatrix is another model's.
    """
    chooser = _Chooser(tensors, model, recipe)
    infos = {info.name: info for info in tensors}
    choices = {name: chooser.choice(infos[name]) for name in quantize_order(infos)}
    for name, choice in choices.items():
        _check_imatrix(infos[name], choice, recipe)
    return choices


def quantize_order(names: Iterable[str]) -> list[str]:
    """The order llama-quantize writes tensors in: those outside the blocks first, then block by block, by name."""
    return sorted(names, key=lambda name: (block_of(name, -1), name))


def block_of(name: str, otherwise: int) -> int:
    """The number in "blk.3.…", else ``otherwise``."""
    found = re.match(r"blk\.(\d+)", name)
    return int(found[1]) if found else otherwise


def kept(info: TensorInfo) -> str | None:
    """Why a tensor is never quantised, or None where it may be."""
    return "kept: one row" if info.rows == 1 else _kept_by_name(info.name)


@cache
def _kept_by_name(name: str) -> str | None:
    if not name.endswith("weight"):
        return "kept: no weight"
    if name in KEPT_NAMES or any(part in name for part in KEPT_PARTS):
        return "kept: small and sensitive"
    return None


class _Chooser:
    """One pass over a model's tensors, which counts those of each role as it meets them."""

    def __init__(self, tensors: Sequence[TensorInfo], model: ModelShape, recipe: Recipe) -> None:
        roles = Counter(role_of(info.name) for info in tensors)
        self.model, self.recipe = model, recipe
        self.default = recipe.file_type.default
        self.tied = Role.OUTPUT not in roles
        self.values = roles[Role.ATTN_V]
        self.seen: Counter[Role] = Counter()

    def choice(self, info: TensorInfo) -> Choice:
        reason = kept(info)
        if reason is not None:
            return Choice(info.dtype, reason)
        if not self.recipe.quantises:
            return Choice(self.default)
        override = self.recipe.override(info.name)
        if override is not None:
            pattern, kind = override
            return fitted(info, kind, f"--tensor-type {pattern}")
        return self._from_mixture(info)

    def _from_mixture(self, info: TensorInfo) -> Choice:
        role = role_of(info.name)
        if role is Role.TOKEN_EMBD and self.tied:
            role = Role.OUTPUT  # it is the output too
        place = self._place(info, role)
        self.seen[role] += 1
        name = mixture_type(self.recipe.label, self.default.name, role, place)
        unfilled = role is Role.OUTPUT and not place.aligned
        return fitted(info, ggml_type(name), _not_divided(info, self.default) if unfilled else None)

    def _place(self, info: TensorInfo, role: Role) -> Place:
        nth = self.seen[role]
        experts = role is not Role.ATTN_V and self.model.experts > 1
        return Place(
            self.model,
            nth=nth,
            layer=block_of(info.name, nth) if experts else nth,
            of=self.values if role is Role.ATTN_V else self.model.layers,
            aligned=divides(self.default, info),
            stacked=len(info.shape) > 2 and info.shape[-3] > 1,
            imatrix=self.recipe.imatrix is not None,
        )


def fitted(info: TensorInfo, kind: DType, reason: str | None = None) -> Choice:
    """``kind``, or where its blocks do not divide the columns what stands in for it: at the last, F16."""
    if divides(kind, info):
        return Choice(kind, reason)
    stand_in = ggml_type(FALLBACKS.get(kind.name, kind.name))
    why = _not_divided(info, kind if divides(stand_in, info) else stand_in)
    return Choice(stand_in if divides(stand_in, info) else F16, f"{reason}; {why}" if reason else why)


def divides(kind: DType, info: TensorInfo) -> bool:
    """Whether ``kind``'s blocks fill the tensor's rows."""
    return not isinstance(kind, GGMLType) or info.columns % kind.block == 0


def _not_divided(info: TensorInfo, kind: DType) -> str:
    block = kind.block if isinstance(kind, GGMLType) else 1
    return f"{info.columns} columns are no multiple of {block}"


def needs_imatrix(name: str, kind: DType, label: str) -> bool:
    """Whether a tensor's type would make garbage without an imatrix, in a file of type ``label``."""
    if role_of(name) in (Role.OUTPUT, Role.TOKEN_EMBD):
        return kind.name in IMPORTANCE_REQUIRED  # an override: nothing can write them without
    return kind.name in LOW_BIT or (kind.name == "Q2_K" and label == "Q2_K_S")


def _check_imatrix(info: TensorInfo, choice: Choice, recipe: Recipe) -> None:
    if choice.dtype == info.dtype:
        return
    experts = info.shape[-3] if len(info.shape) > 2 else 1
    measured = recipe.imatrix is not None and recipe.imatrix.fits(info.name, info.columns, experts)
    if measured or not needs_imatrix(info.name, choice.dtype, recipe.label):
        return
    what = f"{recipe.label} makes {info.name} {choice.dtype}, which needs an imatrix"
    if recipe.imatrix is None:
        raise UsageError(what, hint="give one with --imatrix, or choose a type of more bits, such as q3_k_s or iq4_xs")
    raise UsageError(
        f"{what}; {recipe.imatrix.path} has no weights for it",
        hint="keep it in a larger type with --tensor-type, or measure with a longer text",
    )
