"""Types that scale, shift or replace what is there, and those that stand beside the model."""

from __future__ import annotations

from collections.abc import Mapping

from adaptool.adapters.config import AdapterConfig, matches
from adaptool.rules.forms.checks import adaption_layers, xlora_layers
from adaptool.rules.forms.grammar import (
    Choice,
    Expected,
    Form,
    Sizes,
    always,
    one_of,
    optional,
)
from adaptool.rules.forms.sizes import exactly, length, number, whole


def feedforward(config: AdapterConfig, module: str) -> bool:
    """Whether IA3 scales this module's inputs: a list's entries are endings, a text a regular expression."""
    named = config.fields.get("feedforward_modules")
    if isinstance(named, str):
        return matches(rf"(?:{named})\Z", module, f"{config.where}: feedforward_modules")
    return isinstance(named, list) and any(isinstance(end, str) and module.endswith(end) for end in named)


def _scales(axes: str, *, inputs: bool) -> Choice:
    return Choice({"ia3_l": axes}, lambda config, module: feedforward(config, module) == inputs)


def _osf(config: AdapterConfig, module: str, sizes: Sizes) -> Expected | None:
    """OSF trains all singular values but the first effective_rank, half of them where nothing is said."""
    value, name = config.fields.get("effective_rank"), "effective_rank"
    patterns = config.fields.get("rank_pattern")
    for pattern in patterns if isinstance(patterns, dict) else ():
        if matches(rf"(?s:.*?)(?:{pattern})", module, f"{config.where}: rank_pattern"):
            value, name = patterns[pattern], f"rank_pattern[{pattern!r}]"  # type: ignore[index]
            break
    least = min(sizes.get("out", 0), sizes.get("in", 0))
    kept = least // 2 if value is None else value
    if isinstance(value, float) and 0 < value <= 1:
        kept = int(least * value)
    fixed = whole(kept)
    return (
        None
        if fixed is None or not least
        else exactly(f"{name}: {least} − {min(least, fixed)}", least - min(least, fixed))
    )


REPLACED: Mapping[str, Form] = {
    "ADAPTION_PROMPT": Form(
        slots=(always({"adaption_prompt": "1 tokens width", "adaption_gate": "1"}),),
        sizes={"tokens": number("adapter_len")}, words={"tokens": "the length of the prompt"}, check=adaption_layers,
    ),
    "BEFT": Form(slots=(always({"beft_bias": "1 out"}),)),
    "IA3": Form(
        slots=(one_of(
            _scales("out 1", inputs=False), _scales("1 out 1 1", inputs=False), _scales("1 out 1 1 1", inputs=False),
            _scales("1 in", inputs=True), _scales("1 in 1 1", inputs=True), _scales("1 in 1 1 1", inputs=True),
        ),),
    ),
    "LN_TUNING": Form(
        slots=(one_of({"ln_tuning_layers.weight": "n ..."},
                      {"ln_tuning_layers.weight": "n ...", "ln_tuning_layers.bias": "n ..."}),
               optional({"ln_tuning_layers.running_mean": "n", "ln_tuning_layers.running_var": "n",
                         "ln_tuning_layers.num_batches_tracked": ""})),
        words={"n": "the number of features"}, whole=frozenset({"ln_tuning_layers.num_batches_tracked"}),
    ),
    "OSF": Form(
        slots=(always({"osf_svd_params.U_low": "out k", "osf_svd_params.S_low": "k", "osf_svd_params.V_low": "k in"}),),
        sizes={"k": _osf}, words={"k": "the number of trained singular values"}, may_be_zero=frozenset({"k"}),
    ),
    "SHADOW": Form(
        slots=(always({
            "shadow_down.default.weight": "r width", "shadow_up.default.weight": "width r",
            **{f"shadow_update_{part}.default.{layer}": axes for part in ("gate", "transform") for layer, axes in {
                "0.weight": "hidden width", "0.bias": "hidden", "2.weight": "width hidden", "2.bias": "width"}.items()},
        }),),
        shared=(always({"shadow_backbone.default.**": "..."}),
                optional({"shadow_projection.default.weight": "width narrow"}),
                optional({"shadow_head.default.**": "..."})),
        sizes={"r": number("r", 8), "hidden": lambda config, module, sizes: exactly(
            "update_hidden_size or r", config.fields.get("update_hidden_size") or config.fields.get("r", 8))},
        words={"r": "rank", "hidden": "the size of the update's hidden layer", "width": "hidden_size"},
    ),
    "TRAINABLE_TOKENS": Form(
        slots=(always({"trainable_tokens_delta": "tokens in"}),),
        sizes={"tokens": length("token_indices")}, words={"tokens": "the number of tokens"},
    ),
    "XLORA": Form(
        shared=(always({"internal_xlora_classifier.layers.@.weight": "out@ in@",
                        "internal_xlora_classifier.layers.@.bias": "out@"}),),
        check=xlora_layers,
    ),
}  # fmt: skip
"""By PEFT type; defaults are PEFT 0.21's."""
