"""Types that turn a weight by blocks: rotations, reflections, circulants, shared blocks."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from adaptool.adapters.config import AdapterConfig
from adaptool.rules.forms.grammar import (
    Choice,
    Expected,
    Form,
    Relation,
    Size,
    Sizes,
    always,
    one_of,
    only_if,
    optional,
)
from adaptool.rules.forms.sizes import any_of, below_dot, choice_of, exactly, flag, no_choice_of, number, unless, whole

WORDS = {"b": "the block size", "blocks": "the number of blocks", "r": "rank"}


def corner(elements: int) -> int | None:
    """The b whose b×b matrix has so many elements above its diagonal."""
    b = (1 + isqrt(1 + 8 * elements)) // 2
    return b if b * (b - 1) // 2 == elements else None


def positive(field: str, default: int) -> Size:
    """A field's number, where it is not 0: BOFT and OFT take one of two, and leave the other at 0."""
    return lambda config, module, sizes: exactly(field, config.fields.get(field, default) or None)


def _oft(field: str) -> Size:
    """OFT takes the nearest divisor where a field does not divide the features; a shared block tells of none."""

    def size(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
        value = whole(config.fields.get(field))
        return exactly(field, value) if value and sizes.get("in", 0) % value == 0 else None

    return size


def _road(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
    group = whole(config.fields.get("group_size", 64))
    text = f"group_size = {group}, which must divide it"
    return Expected(text, lambda out: out % (group or 1) == 0) if group else None


ROAD_ANGLES = {"road_1": (1, 2), "road_2": (1, 1), "road_4": (2, 1)}
"""Angles per output, as a fraction."""


OFT_PARTS = {"oft_R.weight": "elements", "oft_embedding_R.weight": "elements", "oft_r": "b b"}
"""oft_r, and oft_s beside it: as PEFT up to 0.15 saved them, which later ones pass over."""


def _road_slot(variant: str) -> Choice:
    return Choice({"road_theta": f"{variant}", "road_alpha": f"{variant}"}, choice_of("variant", "road_1", variant))


BLOCKS: Mapping[str, Form] = {
    "BOFT": Form(
        slots=(always({"boft_R": "factors blocks b b"}), one_of({"boft_s": "out 1"}, {"boft_s": "1 out"}),
               optional({"boft_P": "..."})),
        derived={"in": lambda s: s["blocks"] * s["b"]},
        sizes={"b": positive("boft_block_size", 4), "blocks": positive("boft_block_num", 0),
               # without the CUDA extension PEFT takes 1, whatever is asked for
               "factors": any_of(number("boft_n_butterfly_factor", 1), lambda config, module, sizes: exactly("", 1))},
        words=WORDS | {"factors": "the number of butterfly factors"},
    ),
    "BONE": Form(
        slots=(one_of(Choice({"bone_block": "pieces r r"}, choice_of("init_weights", True, "bat")),
                      Choice({"bone_block": "r out"}, no_choice_of("init_weights", "bat"))),),
        derived={"out": lambda s: s["pieces"] * s["r"]}, sizes={"r": number("r", 64)}, words=WORDS,
    ),
    "C3A": Form(
        slots=(always({"c3a_kernel": "rows columns b"}),),
        derived={"out": lambda s: s["rows"] * s["b"], "in": lambda s: s["columns"] * s["b"]},
        sizes={"b": below_dot("block_size", 256, "block_size_pattern")}, words=WORDS,
    ),
    "HRA": Form(slots=(always({"hra_u": "in r"}),), sizes={"r": number("r", 8)}, words=WORDS),
    "MISS": Form(
        slots=(one_of(Choice({"miss_block": "pieces r r"}, choice_of("init_weights", True, "bat")),
                      Choice({"miss_block": "r mini"}, choice_of("init_weights", True, "mini")),
                      Choice({"miss_block": "r out"}, no_choice_of("init_weights", "bat", "mini"))),),
        derived={"out": lambda s: s["pieces"] * s["r"]},
        sizes={"r": number("r", 64), "mini": number("mini_r", 1)}, words=WORDS | {"mini": "mini_r"},
    ),
    "OFT": Form(
        slots=(one_of(*(Choice({part: f"{blocks} {axes}"}, when) for part, axes in OFT_PARTS.items()
                        for blocks, when in (("1", flag("block_share")), ("blocks", unless("block_share"))))),
               optional({"oft_s": "out 1"})),
        derived={"b": lambda s: corner(s["elements"]), "in": lambda s: s["blocks"] * s["b"]},
        relations=(Relation(("elements",), lambda s: "b" in s,
                            "no block has the {elements} elements above its diagonal that a row of oft_R.weight has"),),
        sizes={"b": _oft("oft_block_size"), "blocks": _oft("r")}, words=WORDS,
    ),
    "PSOFT": Form(
        slots=(one_of(Choice({"psoft_R.weight": "elements"}, flag("psoft_orth", True)),
                      Choice({"psoft_R.weight": "r r"}, unless("psoft_orth", True))),
               only_if(flag("psoft_mag_a", True), {"psoft_R.vector_a": "r"}),
               only_if(flag("psoft_mag_b", True), {"psoft_R.vector_b": "r"})),
        derived={"r": lambda s: corner(s["elements"])},
        relations=(Relation(("elements",), lambda s: s.get("r") == corner(s["elements"]),
                            "psoft_R.weight has {elements} elements: not those above the diagonal of its rank"),),
        sizes={"r": number("r", 32)}, words=WORDS,
    ),
    "ROAD": Form(
        slots=(one_of(*(_road_slot(variant) for variant in ROAD_ANGLES)),),
        derived={"out": lambda s: next((s[name] * below // above for name, (above, below) in ROAD_ANGLES.items()
                                        if name in s), None)},
        sizes={"out": _road},
        words={"out": "the number of outputs"} | dict.fromkeys(ROAD_ANGLES, "the number of angles"),
    ),
}  # fmt: skip
"""By PEFT type; defaults are PEFT 0.21's."""
