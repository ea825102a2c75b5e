"""llama.cpp's mixtures as tables: which tensor type a tensor's role gets in which file type.

A mixture spends bits where they matter most: on the output, the values, the down projections, and the
first and last layers. Each table belongs to a role; its first line that names the file type and whose
condition holds decides, and where none does the file type's default stays.
Source: ``llama_tensor_get_type_impl`` in src/llama-quant.cpp of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache

from adaptool.gguf.places import (
    Place,
    When,
    always,
    both,
    eight_experts,
    falcon,
    first_eighth,
    first_eighth_in_order,
    first_four,
    first_sixteenth,
    first_two,
    flat,
    middle_layers,
    more_bits,
    not_,
    shared_heads,
    shared_or_experts,
    unaligned,
    with_imatrix,
)


class Role(Enum):
    """What a tensor does, as far as mixtures tell roles apart."""

    OUTPUT = "output"
    TOKEN_EMBD = "token embeddings"
    ATTN_V = "values"
    ATTN_K = "keys"
    ATTN_Q = "queries"
    ATTN_OUTPUT = "attention output"
    FFN_DOWN = "down"
    FFN_GATE = "gate"
    FFN_UP = "up"
    OTHER = "other"


ROLE_OF_PART = (
    ("attn_qkv.weight", Role.ATTN_V),
    ("attn_kv_b.weight", Role.ATTN_V),
    ("attn_v.weight", Role.ATTN_V),
    ("attn_k.weight", Role.ATTN_K),
    ("attn_q.weight", Role.ATTN_Q),
    ("attn_output.weight", Role.ATTN_OUTPUT),
    ("ffn_up", Role.FFN_UP),
    ("ffn_gate", Role.FFN_GATE),
    ("ffn_down", Role.FFN_DOWN),
)
"""Fused projections count as their values: the part that suffers most."""


@cache
def role_of(name: str) -> Role:
    """The role of a tensor by its GGUF name."""
    if name == "output.weight":
        return Role.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Role.TOKEN_EMBD
    return next((role for part, role in ROLE_OF_PART if part in name), Role.OTHER)


@dataclass(frozen=True, slots=True)
class Line:
    """In these file types, under this condition: this tensor type (None: the default)."""

    files: frozenset[str]
    when: When
    kind: str | None


def line(files: str, when: When, kind: str | None) -> Line:
    """A table's line; ``files`` is their labels, separated by spaces."""
    return Line(frozenset(files.split()), when, kind)


LOW = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
"""About two bits and less: rules of their own."""
REST = (
    "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K "
    "IQ4_NL IQ4_XS IQ3_XXS IQ3_XS IQ3_S IQ3_M TQ1_0 TQ2_0"
)
ALL = f"{LOW} {REST} MXFP4_MOE"

MIXTURES: Mapping[Role, tuple[Line, ...]] = {
    Role.OUTPUT: (
        line("MXFP4_MOE", always, "Q8_0"),
        line(ALL, falcon, "Q8_0"),
        line(ALL, unaligned, "Q8_0"),
        line(f"{LOW} IQ3_XXS", always, "Q5_K"),
        line("Q8_0", always, None),
        line(ALL, always, "Q6_K"),
    ),
    Role.TOKEN_EMBD: (
        line("IQ1_S IQ1_M IQ2_XXS IQ2_XS", always, "Q2_K"),
        line("IQ2_S IQ2_M IQ3_XXS", always, "IQ3_S"),
        line("TQ1_0 TQ2_0", always, "Q4_K"),
    ),
    Role.ATTN_V: (
        line(LOW, shared_or_experts, "Q4_K"),
        line("IQ2_S IQ2_M", always, "IQ3_S"),
        line(LOW, always, "Q2_K"),
        line(REST, eight_experts, "Q8_0"),
        line("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", shared_heads, "Q4_K"),
        line("IQ4_NL IQ4_XS", shared_heads, "Q5_K"),
        line("Q2_K", always, "Q3_K"),
        line("IQ3_XXS", not_(with_imatrix), "IQ3_S"),
        line("IQ3_M", always, "Q4_K"),
        line("Q3_K_M", first_two, "Q5_K"),
        line("Q3_K_M", always, "Q4_K"),
        line("Q3_K_L", always, "Q5_K"),
        line("Q4_K_S", first_four, "Q5_K"),
        line("Q4_K_M Q5_K_M", more_bits, "Q6_K"),
    ),
    Role.ATTN_K: (
        line(LOW, eight_experts, "Q4_K"),
        line(REST, eight_experts, "Q8_0"),
        line("IQ3_XS", always, "IQ3_XXS"),
        line("IQ3_XXS", always, "IQ2_S"),
    ),
    Role.ATTN_Q: (
        line("IQ3_XS", always, "IQ3_XXS"),
        line("IQ3_XXS", always, "IQ2_S"),
    ),
    Role.ATTN_OUTPUT: (
        line(LOW, eight_experts, "Q5_K"),
        line("IQ1_S IQ1_M", always, "IQ2_XXS"),
        line("IQ2_S IQ2_M", always, "IQ3_S"),
        line("Q3_K_L", falcon, "Q4_K"),
        line(REST, falcon, None),
        line(
            "Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS",
            eight_experts,
            "Q5_K",
        ),
        line(REST, eight_experts, None),
        line("Q2_K", always, "Q3_K"),
        line("IQ3_XXS", always, "IQ3_S"),
        line("Q3_K_M IQ3_M", always, "Q4_K"),
        line("Q3_K_L", always, "Q5_K"),
    ),
    Role.FFN_DOWN: (
        line("IQ2_S IQ2_M", first_eighth_in_order, "IQ3_S"),
        line(LOW, first_eighth_in_order, "Q2_K"),
        line("Q2_K", always, "Q3_K"),
        line("Q2_K_S", first_eighth, "Q4_K"),
        line("IQ3_XXS", both(not_(with_imatrix), first_eighth), "Q4_K"),
        line("IQ3_XXS", not_(with_imatrix), "Q3_K"),
        line("Q3_K_M", first_sixteenth, "Q5_K"),
        line("Q3_K_M", both(falcon, not_(more_bits)), None),
        line("Q3_K_M", always, "Q4_K"),
        line("IQ3_M", first_eighth, "Q4_K"),
        line("IQ3_M", both(eight_experts, more_bits), "Q4_K"),
        line("Q3_K_L", falcon, "Q4_K"),
        line("Q3_K_L", always, "Q5_K"),
        line("Q4_K_S", both(not_(falcon), first_eighth), "Q5_K"),
        line("Q4_K_M", both(falcon, first_sixteenth), "Q6_K"),
        line("Q4_K_M", both(falcon, more_bits), "Q5_K"),
        line("Q4_K_M", falcon, None),
        line("Q4_K_M Q5_K_M", more_bits, "Q6_K"),
        line("IQ4_NL IQ4_XS", both(not_(with_imatrix), first_eighth), "Q5_K"),
        line("Q4_0", both(with_imatrix, first_eighth), "Q4_1"),
        line("Q5_0", both(with_imatrix, first_eighth), "Q5_1"),
    ),
    Role.FFN_GATE: (line("IQ3_XS", middle_layers, "IQ3_XXS"),),
    Role.FFN_UP: (line("IQ3_XS", middle_layers, "IQ3_XXS"),),
    Role.OTHER: (),
}

IN_EVERY_ROLE = (line("MXFP4_MOE", flat, "Q8_0"), line("MXFP4_MOE", always, None))
"""MXFP4 is for experts alone. Comes first for all but the output."""


@cache
def _lines(label: str, role: Role) -> tuple[Line, ...]:
    """The lines that name a file type in a role's table."""
    table = MIXTURES[role] if role is Role.OUTPUT else (*IN_EVERY_ROLE, *MIXTURES[role])
    return tuple(line for line in table if label in line.files)


def mixture_type(label: str, default: str, role: Role, place: Place) -> str:
    """The tensor type that the file type ``label``, whose default is ``default``, gives a role at a place."""
    kind = next((line.kind for line in _lines(label, role) if line.when(place)), None) or default
    if role is Role.ATTN_V and kind in ("Q3_K", "Q4_K") and place.model.large and label in REST.split():
        return "Q5_K"  # a 70B's values are an eighth of its queries: more bits there cost next to nothing
    return kind
