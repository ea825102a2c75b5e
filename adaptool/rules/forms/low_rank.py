"""Types that add or multiply with a product of small factors."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from adaptool.rules.forms.checks import adalora_masks, adamss_subspaces, lokr_factors, peanut_depth
from adaptool.rules.forms.grammar import Choice, Form, Relation, always, at_least_if, one_of, only_if, optional
from adaptool.rules.forms.sizes import any_of, capped, choice_of, flag, number, patterned, product, unless

RANK = {"r": "rank"}
RANDLORA_BASES = {"randlora_A": "r 1 most_least", "randlora_B": "most most_bases r"}


def _hada(half: str) -> tuple[Choice, ...]:
    a, b, core = f"hada_{half}_a", f"hada_{half}_b", f"hada_t{half[-1]}"
    return one_of({a: "out r", b: "r in"}, {core: "r r kh kw", a: "r out", b: "r channels"})


def _glora(letter: str, field: str, default: str, lora: tuple[str, str], vector: str, zeros: str) -> tuple[Choice, ...]:
    """One of GLoRA's five paths; C, D and E are zeros wherever the base has no bias."""
    part = f"glora_{letter}"
    made = (
        Choice({f"{part}.Xd": lora[0], f"{part}.Xu": lora[1]}, choice_of(field, default, "lora")),
        Choice({f"{part}.X": vector}, choice_of(field, default, "vector")),
        Choice({f"{part}.X": "1"}, choice_of(field, default, "constant")),
    )
    if letter in "AB":
        plain = Choice({f"{part}.zeros": zeros}, lambda config, _: config.fields.get(field, default)
                       not in ("lora", "vector", "constant"))  # fmt: skip
        return (*made, plain)
    return (*made[0 if letter == "C" else 1 : 2 if letter == "C" else 3], Choice({f"{part}.zeros": zeros}))


LOW_RANK: Mapping[str, Form] = {
    "ADALORA": Form(
        slots=(always({"lora_A": "r in", "lora_B": "out r", "lora_E": "r 1"}),),
        words=RANK, may_be_zero=frozenset({"r"}), check=adalora_masks,
    ),
    "ADAMSS": Form(
        slots=(always({"adamss_A.#": "rank# r", "adamss_B.#": "rows# rank#", "adamss_newB": "r width"}),),
        derived={"out": lambda s: sum(size for name, size in s.items() if name.startswith("rows"))},
        sizes={"r": capped("r", 100, "out", "width")}, words={"r": "the rank of adamss_newB"}, check=adamss_subspaces,
    ),
    "DEFT": Form(
        slots=(always({"deft_P": "out r"}), only_if(unless("para"), {"deft_R": "r in"})),
        sizes={"r": capped("r", 8, "out")}, words=RANK,
    ),
    "DELORA": Form(
        slots=(always({"delora_A": "r in", "delora_B": "out r", "delora_lambda": "1"}),
               optional({"delora_w_norm": "in"})),
        sizes={"r": patterned("r", 8, "rank_pattern")}, words=RANK,
    ),
    "GLORA": Form(
        slots=(_glora("A", "config_A_B", "lora", ("out r", "r in"), "out 1", "out in"),
               _glora("B", "config_A_B", "lora", ("out r", "r in"), "out 1", "out in"),
               _glora("C", "config_C", "lora", ("in r", "r 1"), "in 1", "in 1"),
               _glora("D", "config_D_E", "constant", ("", ""), "out", "out"),
               _glora("E", "config_D_E", "constant", ("", ""), "out", "out")),
        sizes={"r": number("r", 8)}, words=RANK,
    ),
    "GRALORA": Form(
        slots=(always({"gralora_A": "blocks in_block r", "gralora_B": "blocks r out_block"}),
               only_if(flag("hybrid_r"), {"gralora_A_general.weight": "hybrid in",
                                          "gralora_B_general.weight": "out hybrid"})),
        derived={"out": lambda s: s["blocks"] * s["out_block"], "in": lambda s: s["blocks"] * s["in_block"]},
        relations=(
            Relation(("in", "in_block"), lambda s: s["in"] == s["blocks"] * s["in_block"],
                     "gralora_A has {blocks} blocks of {in_block} columns, and gralora_A_general.weight {in}"),
            Relation(("out", "out_block"), lambda s: s["out"] == s["blocks"] * s["out_block"],
                     "gralora_B has {blocks} blocks of {out_block} rows, and gralora_B_general.weight {out}"),
        ),
        sizes={"r": number("r", 32), "blocks": number("gralora_k", 2), "hybrid": number("hybrid_r", 0)},
        words={"r": "rank", "blocks": "the number of blocks", "hybrid": "the rank of the general part"},
    ),
    "HIRA": Form(
        slots=(one_of(
            {"hira_A": "r in", "hira_B": "out r"}, {"hira_embedding_A": "r out", "hira_embedding_B": "in r"},
            {"hira_A": "r channels k", "hira_B": "out r 1"},
            {"hira_A": "r channels kh kw", "hira_B": "out r 1 1"},
            {"hira_A": "r channels kd kh kw", "hira_B": "out r 1 1 1"},
        ),),
        derived={"in": lambda s: s["channels"] * s.get("kd", 1) * s.get("kh", 1) * s.get("kw", 1) * s.get("k", 1)},
        # PEFT 0.21 reads rank_pattern, and builds every module with r
        sizes={"r": any_of(number("r", 32), patterned("r", 32, "rank_pattern"))}, words=RANK,
    ),
    "LILY": Form(
        slots=(always({"lily_A.weight": "r in", "lily_B.weight": "rows out", "lily_router.weight": "experts r"}),),
        relations=(Relation(("rows", "experts", "r"), lambda s: s["rows"] == s["experts"] * s["r"],
                            "lily_B.weight has {rows} rows, where {experts} experts of rank {r} have another number"),),
        sizes={"r": number("r", 32), "experts": number("num_B", 2)},
        words={"r": "rank", "experts": "the number of experts"},
    ),
    "LOHA": Form(
        slots=(_hada("w1"), _hada("w2")),
        derived={"in": lambda s: s["channels"] * s["kh"] * s["kw"]},
        sizes={"r": patterned("r", 8, "rank_pattern")}, words=RANK,
    ),
    "LOKR": Form(
        slots=(
            one_of({"lokr_w1": "a c"}, Choice({"lokr_w1_a": "a r", "lokr_w1_b": "r c"}, flag("decompose_both"))),
            one_of({"lokr_w2": "b d"}, {"lokr_w2": "b d kh"}, {"lokr_w2": "b d kh kw"},
                   {"lokr_w2_a": "b r", "lokr_w2_b": "r columns"},
                   {"lokr_t2": "r r kh kw", "lokr_w2_a": "r b", "lokr_w2_b": "r d"}),
        ),
        derived={"columns": lambda s: s["d"] * s.get("kh", 1) * s.get("kw", 1),
                 "out": lambda s: s["a"] * s["b"], "in": lambda s: s["c"] * s["columns"]},
        sizes={"r": patterned("r", 8, "rank_pattern")}, words=RANK, check=lokr_factors,
    ),
    "PEANUT": Form(
        slots=(
            always({"peanut_A.weight": "r out", "peanut_B.weight": "out r"}),
            only_if(flag("depth"), {"peanut_encoders.#.weight": "r r", "peanut_decoders.#.weight": "r r"}),
        ),
        sizes={"r": number("r", 32)}, words=RANK, check=peanut_depth,
    ),
    "POLY": Form(
        slots=(always({"poly_lora_A": "splits skills in_split r", "poly_lora_B": "splits skills r out_split",
                       "poly_router.module_logits": "tasks slots"}),),
        derived={"out": lambda s: s["splits"] * s["out_split"], "in": lambda s: s["splits"] * s["in_split"]},
        relations=(Relation(("slots",), lambda s: s["slots"] == s["splits"] * s["skills"],
                            "poly_router.module_logits has {slots} columns, for {splits} splits of {skills} skills"),),
        sizes={"r": number("r", 8), "tasks": number("n_tasks", 1), "skills": number("n_skills", 4),
               "splits": number("n_splits", 1)},
        words={"r": "rank", "tasks": "the number of tasks", "skills": "the number of skills",
               "splits": "the number of splits"},
    ),
    "PVERA": Form(
        slots=(always({"pvera_lambda_b": "out", "pvera_lambda_d": "twice"}),),
        shared=(at_least_if(flag("save_projection", True), {"pvera_A": "twice most_in", "pvera_B": "most_out r"}),),
        relations=(Relation(("out", "most_out"), lambda s: s["out"] <= s["most_out"],
                            "pvera_lambda_b has {out} entries, and the shared pvera_B {most_out} rows"),
                   Relation(("twice", "r"), lambda s: s["twice"] == 2 * s["r"],
                            "pvera_lambda_d has {twice} entries, and the shared pvera_B {r} columns: half as many")),
        sizes={"r": number("r", 256), "twice": product("r", times=2, r=256)},
        words={"r": "rank", "twice": "twice the rank"},
    ),
    "RANDLORA": Form(
        slots=(always({"randlora_lambda": "r bases", "randlora_gamma": "bases least"}),
               optional(RANDLORA_BASES)),
        shared=(at_least_if(flag("save_projection", True), RANDLORA_BASES),),
        relations=(Relation(("bases", "least"), lambda s: s["bases"] == ceil(s["least"] / s["r"]),
                            "randlora_lambda has {bases} bases: rank {r} takes another number for {least} features"),
                   Relation(("least", "most_least"), lambda s: s["least"] <= s["most_least"],
                            "randlora_gamma has {least} columns, and the shared randlora_A {most_least}")),
        sizes={"r": number("r", 32)}, words=RANK,
    ),
    "VERA": Form(
        slots=(always({"vera_lambda_b": "out", "vera_lambda_d": "r"}),),
        shared=(at_least_if(flag("save_projection", True), {"vera_A": "r most_in", "vera_B": "most_out r"}),),
        relations=(Relation(("out", "most_out"), lambda s: s["out"] <= s["most_out"],
                            "vera_lambda_b has {out} entries, and the shared vera_B {most_out} rows"),),
        sizes={"r": number("r", 256)}, words=RANK,
    ),
}  # fmt: skip
"""By PEFT type; defaults are PEFT 0.21's."""
