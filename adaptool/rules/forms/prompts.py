"""Types that add virtual tokens: one matrix of them, whatever made it."""

from __future__ import annotations

from collections.abc import Mapping

from adaptool.rules.forms.grammar import Form, Size, always
from adaptool.rules.forms.sizes import length, number, product

WORDS = {"tokens": "the number of virtual tokens", "width": "the width of a token", "tasks": "the number of tasks",
         "ranks": "the number of ranks"}  # fmt: skip


def _submodules(*names: str) -> Size:
    """An encoder–decoder gets a prompt for either half, where num_transformer_submodules says so."""
    return product(*names, "num_transformer_submodules", num_transformer_submodules=1)


PROMPT_FORMS: Mapping[str, Form] = {
    "PROMPT_TUNING": Form(
        shared=(always({"prompt_embeddings": "tokens width"}),),
        sizes={"tokens": _submodules("num_virtual_tokens"), "width": number("token_dim")}, words=WORDS,
    ),
    "P_TUNING": Form(
        shared=(always({"prompt_embeddings": "tokens width"}),),
        sizes={"tokens": _submodules("num_virtual_tokens"), "width": number("token_dim")}, words=WORDS,
    ),
    "PREFIX_TUNING": Form(
        shared=(always({"prompt_embeddings": "tokens width"}),),
        sizes={"tokens": number("num_virtual_tokens"), "width": product("num_layers", "token_dim", times=2)},
        words=WORDS,
    ),
    "CARTRIDGE": Form(
        shared=(always({"prompt_embeddings": "tokens width"}),),
        sizes={"tokens": number("num_virtual_tokens"), "width": product("num_layers", "token_dim", times=2)},
        words=WORDS,
    ),
    "CPT": Form(
        shared=(always({"prompt_embeddings": "tokens width"}),),
        sizes={"tokens": length("cpt_token_ids"), "width": number("token_dim")}, words=WORDS,
    ),
    "MULTITASK_PROMPT_TUNING": Form(
        shared=(always({"prompt_embeddings": "tokens width", "prefix_task_cols": "tasks tokens ranks",
                        "prefix_task_rows": "tasks ranks width"}),),
        sizes={"tokens": _submodules("num_virtual_tokens"), "width": number("token_dim"),
               "tasks": number("num_tasks", 1), "ranks": number("num_ranks", 1)},
        words=WORDS,
    ),
}  # fmt: skip
"""By PEFT type. P-tuning and a projected prefix save what their encoder made, not the encoder."""
