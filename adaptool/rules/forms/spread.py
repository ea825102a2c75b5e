"""Types that spread few numbers over a weight, or build it from banks that all modules share."""

from __future__ import annotations

from collections.abc import Mapping

from adaptool.adapters.config import AdapterConfig
from adaptool.rules.forms.checks import frod_categories, tinylora_groups
from adaptool.rules.forms.grammar import (
    Choice,
    Expected,
    Form,
    Relation,
    Size,
    Sizes,
    always,
    at_least_if,
    only_if,
)
from adaptool.rules.forms.sizes import below_dot, capped, flag, number, whole


def _shira(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
    """r for every row and every column of the weight."""
    rank = whole(config.fields.get("r", 32))
    return Expected(f"r = {rank}, of which it must be a multiple", lambda n: n % (rank or 1) == 0) if rank else None


def _frequencies(default: int) -> Size:
    fixed = below_dot("n_frequency", default, "n_frequency_pattern")
    return lambda config, module, sizes: (
        None if config.fields.get("proportional_parameters") else fixed(config, module, sizes)
    )


def _logits(letter: str, axes: str) -> tuple[Choice, ...]:
    """VB-LoRA's choice of vectors: the logits of all, or the best few with their weights, the last one's left out."""
    top = flag("save_only_topk_weights")
    part = f"vblora_logits_{letter}"
    return (
        Choice({part: f"{axes} vectors"}, lambda config, module: not top(config, module)),
        Choice({f"{part}_topk_indices": f"{axes} topk", f"{part}_topk_weights": f"{axes} rest"}, top),
    )


SPREAD: Mapping[str, Form] = {
    "FOURIERFT": Form(
        slots=(always({"fourierft_spectrum": "n"}),), sizes={"n": _frequencies(1000)},
        words={"n": "the number of frequencies"},
    ),
    "FROD": Form(
        slots=(always({"frod_lambda_l": "in", "frod_lambda_s_values": "n"}),),
        shared=(at_least_if(flag("save_projection", True), {
            "frod_V.@": "size@ size@", "frod_s_indices.@": "2 count@", "frod_s_size.@": "2"}),),
        whole=frozenset({"frod_s_indices.@", "frod_s_size.@"}), check=frod_categories,
        may_be_zero=frozenset({"n"}),
    ),
    "SHIRA": Form(
        slots=(always({"shira_weight": "n", "shira_indices": "2 n"}),), sizes={"n": _shira},
        words={"n": "the number of weights"}, whole=frozenset({"shira_indices"}), loose=frozenset({"shira_indices"}),
    ),
    "SUPERTUNING": Form(
        slots=(always({"supertuning_values": "n"}),
               at_least_if(flag("save_precomputed_indices", True), {"supertuning_indices": "n"}),
               only_if(flag("r"), {"supertuning_lora_A.weight": "r in", "supertuning_lora_B.weight": "out r"})),
        sizes={"r": number("r")}, words={"n": "the number of weights", "r": "rank"},
        whole=frozenset({"supertuning_indices"}),
    ),
    "TINYLORA": Form(
        slots=(always({"tinylora_A": "r in", "tinylora_B": "out r"}),
               at_least_if(flag("save_projection", True), {"tinylora_P": "u r r"})),
        shared=(always({"tinylora_v.#": "u"}),),
        sizes={"r": capped("r", 2, "in", "out"), "u": number("u", 64)}, words={"r": "rank"}, check=tinylora_groups,
    ),
    "UNILORA": Form(
        slots=(at_least_if(flag("save_indices"), {
            "unilora_indices_A": "r in", "unilora_indices_B": "out r",
            "unilora_scales_A": "r in", "unilora_scales_B": "out r"}),),
        shared=(always({"unilora_theta_d": "length"}),),
        sizes={"length": number("theta_d_length", 256), "r": number("r", 4)},
        words={"r": "rank", "length": "the length of unilora_theta_d"},
        whole=frozenset({"unilora_indices_A", "unilora_indices_B"}),
    ),
    "VBLORA": Form(
        slots=(_logits("A", "r in_pieces"), _logits("B", "out_pieces r")),
        shared=(always({"vblora_vector_bank": "vectors length"}),),
        derived={"out": lambda s: s["out_pieces"] * s["length"], "in": lambda s: s["in_pieces"] * s["length"]},
        relations=(Relation(("topk", "rest"), lambda s: s["rest"] == s["topk"] - 1,
                            "{topk} indices are saved and {rest} weights, where one less must be"),),
        sizes={"r": number("r", 4), "vectors": number("num_vectors", 256), "length": number("vector_length", 256),
               "topk": number("topk", 2)},
        words={"r": "rank", "vectors": "the number of vectors", "length": "the length of a vector"},
        whole=frozenset({"vblora_logits_A_topk_indices", "vblora_logits_B_topk_indices"}),
    ),
    "WAVEFT": Form(
        slots=(always({"waveft_spectrum": "n"}),), sizes={"n": _frequencies(2592)},
        words={"n": "the number of frequencies"},
    ),
}  # fmt: skip
"""By PEFT type; defaults are PEFT 0.21's."""
