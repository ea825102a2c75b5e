"""What PEFT's config classes refuse when an adapter is loaded: settings each fine alone, and wrong together.

Each line holds one condition of PEFT 0.21's configs, under the types that have it. PEFT raises where it is true, so
the adapter does not load at all; tests hold both against each other. Values of a wrong type, unknown words and numbers
out of range are the schema's business: a condition only ever sees values the schema accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.adapters.schema import default_of
from adaptool.tensors.jsons import shown


@dataclass(frozen=True, slots=True)
class Refusal:
    """One condition under which PEFT raises."""

    types: frozenset[str]
    fields: tuple[str, ...]
    """Whose values the condition is of; the first is where it is reported."""
    refuses: Callable[..., Any]
    message: str
    """With the values in it, by field."""
    fix: str
    since: str = ""
    """The PEFT that began to refuse it, where earlier ones wrote such configs."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A condition that is true of a config."""

    refusal: Refusal
    message: str


def refused(peft_type: str, config: Mapping[str, Any], unsound: Collection[str]) -> Iterator[Refused]:
    """What PEFT would raise about; conditions on an ``unsound`` field are passed over. One for each field."""
    told: set[str] = set()
    for refusal in REFUSALS:
        if peft_type not in refusal.types or told & {refusal.fields[0]} or set(refusal.fields) & set(unsound):
            continue
        if peft_type == "OFT" and "oft_block_size" not in config:
            continue  # of before 0.14: nothing it says is of today's OFT
        values = {name: config.get(name, default_of(peft_type, name)) for name in refusal.fields}
        if refusal.refuses(*values.values()):
            told.add(refusal.fields[0])
            yield Refused(refusal, refusal.message.format(**{name: shown(value) for name, value in values.items()}))


def _of(types: str) -> frozenset[str]:
    return frozenset(types.split())


def _both_or_neither(blocks: int, size: int) -> bool:
    return (blocks != 0) == (size != 0)


def _lengths(*lists: list[int] | None) -> set[int]:
    tokens = len(lists[0]) if lists[0] is not None else 1
    return {len(given) if given is not None else tokens for given in lists}


LORAS = _of("LORA ADALORA")
PATTERNED = _of("LORA ADALORA C3A DEFT FOURIERFT HIRA HRA MISS PSOFT SHADOW UNILORA WAVEFT BONE")
LAYERED = _of("LORA ADALORA BOFT DEFT DELORA FOURIERFT FROD HRA LILY LOHA LOKR OFT PEANUT PSOFT PVERA SHADOW TINYLORA "
              "VBLORA VERA WAVEFT")  # fmt: skip
TEXTS = _of("MULTITASK_PROMPT_TUNING")
"""PROMPT_TUNING's are a rule of their own (CFG425)."""
NAMED = "List the names in target_modules, or write the layers into its pattern."

REFUSALS = (
    Refusal(
        PATTERNED | {"DELORA"}, ("layers_to_transform", "target_modules"),
        lambda layers, target: layers is not None and isinstance(target, str),
        "layers_to_transform is {layers_to_transform}, and target_modules one pattern ({target_modules}), "
        "which already says in which layers", NAMED,
    ),
    Refusal(
        PATTERNED, ("layers_pattern", "target_modules"),
        lambda pattern, target: pattern is not None and isinstance(target, str),
        "layers_pattern is {layers_pattern}, and target_modules one pattern ({target_modules}), "
        "which already says in which layers", NAMED,
    ),
    Refusal(
        LAYERED, ("layers_pattern", "layers_to_transform"),
        lambda pattern, layers: pattern and layers is None,
        "layers_pattern is {layers_pattern}, and layers_to_transform names no layers",
        "Name the layers in layers_to_transform, or set layers_pattern to null.", "0.14.0",
    ),
    Refusal(
        _of("LORA"), ("use_dora", "megatron_config"), lambda dora, megatron: dora and megatron,
        "use_dora is true with a megatron_config, and DoRA has no Megatron layers", "Set megatron_config to null.",
    ),
    Refusal(
        _of("ADALORA"), ("use_dora",), lambda dora: dora,
        "use_dora is true, and AdaLoRA has no magnitudes", "Set use_dora to false; the weights hold no magnitudes.",
    ),
    Refusal(
        LORAS, ("init_lora_weights", "loftq_config"), lambda init, loftq: init == "loftq" and not loftq,
        "init_lora_weights is \"loftq\", and there is no loftq_config",
        "Add the loftq_config of the training, such as {\"loftq_bits\": 4, \"loftq_iter\": 1}.",
    ),
    Refusal(
        _of("ADALORA"), ("loftq_config", "init_lora_weights"), lambda loftq, init: loftq and init == "loftq",
        "loftq_config is given, and AdaLoRA cannot be initialised by LoftQ",
        "Set init_lora_weights to true and loftq_config to {}.", "0.11.0",
    ),
    Refusal(
        LORAS, ("lora_bias", "init_lora_weights"), lambda bias, init: bias and isinstance(init, str),
        "lora_bias is true with init_lora_weights {init_lora_weights}; PEFT has it with true or false only",
        "Set init_lora_weights to true: a finished adapter is not initialised again.",
    ),
    Refusal(
        LORAS, ("lora_bias", "use_dora"), lambda bias, dora: bias and dora,
        "lora_bias and use_dora are both true, and DoRA has no bias of its own", "Set the one that was not trained to "
        "false: the weights tell (lora_B.bias, or lora_magnitude_vector).",
    ),
    Refusal(
        LORAS, ("use_bdlora",),
        lambda bd: bd and set(bd.get("target_modules_bd_a") or ()) & set(bd.get("target_modules_bd_b") or ()),
        "use_bdlora names the same modules for a block-diagonal A and a block-diagonal B: {use_bdlora}",
        "Leave each module in one of the two lists.",
    ),
    Refusal(
        _of("ADALORA"), ("total_step",), lambda steps: steps is None,
        "total_step is null; AdaLoRA needs the number of training steps", "Set total_step to the steps of the "
        "training; any number above tinit + tfinal serves for loading.", "0.15.0",
    ),
    Refusal(
        _of("ADALORA"), ("tinit", "tfinal", "total_step"), lambda begin, end, steps: steps and begin >= steps - end,
        "tinit {tinit} and tfinal {tfinal} leave none of total_step's {total_step} steps for pruning",
        "Lower tinit or tfinal, or raise total_step.", "0.15.0",
    ),
    Refusal(
        _of("ADAMSS"), ("mask_interval", "use_asa"), lambda every, asa: asa and every <= 0,
        "mask_interval is {mask_interval}; with use_asa it must be at least 1", "Set the interval of the training.",
    ),
    Refusal(
        _of("ADAMSS"), ("init_warmup", "final_warmup", "use_asa"), lambda begin, end, asa: asa and begin >= end,
        "init_warmup {init_warmup} is not before final_warmup {final_warmup}", "Set the two steps of the training.",
    ),
    Refusal(
        _of("ADAMSS"), ("asa_target_subspaces", "use_asa"), lambda left, asa: asa and left <= 0,
        "asa_target_subspaces is {asa_target_subspaces}; with use_asa it must be at least 1",
        "Set the number of the training.",
    ),
    Refusal(
        _of("ADAMSS"), ("asa_schedule_exponent", "use_asa"), lambda power, asa: asa and power <= 0,
        "asa_schedule_exponent is {asa_schedule_exponent}; with use_asa it must be more than 0",
        "Set the exponent of the training.",
    ),
    Refusal(
        _of("BOFT"), ("boft_block_num", "boft_block_size"), _both_or_neither,
        "boft_block_size is {boft_block_size} and boft_block_num {boft_block_num}; exactly one of them must be 0",
        "Keep the one the weights have the shape of, and set the other to 0.",
    ),
    Refusal(
        _of("OFT"), ("r", "oft_block_size"), _both_or_neither,
        "r is {r} and oft_block_size {oft_block_size}; exactly one of them must be 0",
        "Keep the one the weights have the shape of, and set the other to 0.",
    ),
    Refusal(
        _of("CARTRIDGE"), ("num_frozen_tokens", "num_virtual_tokens"),
        lambda frozen, tokens: tokens is not None and frozen > tokens,
        "num_frozen_tokens is {num_frozen_tokens}, more than the {num_virtual_tokens} virtual tokens",
        "Set num_virtual_tokens to the rows of the weights.",
    ),
    Refusal(
        _of("CPT"), ("task_type",), lambda task: task != "CAUSAL_LM",
        "task_type is {task_type}; CPT is for CAUSAL_LM only", "Set task_type to \"CAUSAL_LM\".", "0.18.0",
    ),
    Refusal(
        _of("CPT"), ("cpt_token_ids", "cpt_mask", "cpt_tokens_type_mask"), lambda *lists: len(_lengths(*lists)) > 1,
        "cpt_token_ids, cpt_mask and cpt_tokens_type_mask differ in length", "Restore the lists of the training.",
    ),
    Refusal(
        _of("GRALORA"), ("gralora_k", "r"), lambda blocks, rank: rank % blocks,
        "gralora_k {gralora_k} does not divide r {r}", "Set r and gralora_k to what the weights have the shape of.",
    ),
    Refusal(
        _of("IA3"), ("feedforward_modules", "target_modules"),
        lambda inner, target: isinstance(inner, list) and isinstance(target, list) and not set(inner) <= set(target),
        "feedforward_modules {feedforward_modules} are not all among target_modules {target_modules}",
        "Add the missing names to target_modules, or take them out of feedforward_modules.",
    ),
    Refusal(
        TEXTS, ("tokenizer_name_or_path", "prompt_tuning_init"), lambda name, init: init == "TEXT" and not name,
        "prompt_tuning_init is \"TEXT\", and there is no tokenizer_name_or_path",
        "Set prompt_tuning_init to \"RANDOM\": the weights hold what was learned.", "0.10.0",
    ),
    Refusal(
        TEXTS, ("prompt_tuning_init_text", "prompt_tuning_init"), lambda text, init: init == "TEXT" and text is None,
        "prompt_tuning_init is \"TEXT\", and there is no prompt_tuning_init_text",
        "Set prompt_tuning_init to \"RANDOM\": the weights hold what was learned.", "0.10.0",
    ),
    Refusal(
        TEXTS, ("tokenizer_kwargs", "prompt_tuning_init"), lambda given, init: given and init != "TEXT",
        "tokenizer_kwargs are given, and prompt_tuning_init is {prompt_tuning_init}, which reads no text",
        "Set tokenizer_kwargs to null.",
    ),
    Refusal(
        _of("PSOFT"), ("num_cayley_neumann_terms", "use_cayley_neumann"), lambda terms, used: used and terms <= 0,
        "num_cayley_neumann_terms is {num_cayley_neumann_terms}; with use_cayley_neumann it must be at least 1",
        "Set the number of the training.",
    ),
    Refusal(
        _of("PSOFT"), ("cayley_neumann_eps", "use_cayley_neumann"),
        lambda eps, used: used and eps is not None and not 0 < eps < 1,
        "cayley_neumann_eps is {cayley_neumann_eps}; with use_cayley_neumann it must lie between 0 and 1",
        "Set the number of the training, or null.",
    ),
    *(Refusal(
        _of("SHADOW"), (field, "shadow_model"), lambda size, model: size is not None and model != "mirror",
        f"{field} is {{{field}}}, and shadow_model is {{shadow_model}}, which has a size of its own",
        f"Set {field} to null.",
    ) for field in ("shadow_num_hidden_layers", "shadow_hidden_size", "shadow_num_attention_heads",
                    "shadow_intermediate_size")),
    Refusal(
        _of("SUPERTUNING"), ("lora_alpha", "r"), lambda alpha, rank: alpha is not None and rank is None,
        "lora_alpha is {lora_alpha}, and r is null", "Set r to the rank of the weights' lora_A, or lora_alpha to null.",
    ),
)  # fmt: skip
