"""TRT001–TRT099: what TensorRT-LLM makes of an adapter. Read from TensorRT-LLM 1.2 (tensorrt_llm/lora_manager.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.names import projection_of
from adaptool.rules.draft import Draft, fields, together
from adaptool.rules.families.consumers.facts import (
    MAGNITUDES,
    Wrapped,
    about,
    and_more,
    beside_factors,
    changed_base,
    is_lora,
    left_out,
    other_type,
    rank_above,
    variants,
    wrapped,
    wrong_scale,
)
from adaptool.rules.families.consumers.mutations import on_head, renamed, with_tensor, without, wrap
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.summary.contents import Saved

MAPPED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3",
          "gate")  # fmt: skip
"""The modules that TensorRT-LLM maps to its own, unless trtllm_modules_to_hf_modules says otherwise."""

IN_A_LAYER = re.compile(r".+\.\d+\.\w+\.(?:\w+|\w+\.\w+|\w+\.\d+\.\w+)")
"""A module as it must be called: a layer's number, a block, and one or two names or an expert's number between."""

ENDS = ("lm_head", "embed_tokens")
"""What a key may name outside the layers; it is passed over."""


def on_experts_with_dora(draft: Draft) -> None:
    """DoRA on an expert."""
    draft.config["use_dora"] = True
    wrap(draft, "model.layers.0.block_sparse_moe.experts.0.w1", 64, 64)
    with_tensor("model.layers.0.block_sparse_moe.experts.0.w1.lora_magnitude_vector", 64)(draft)


def at_an_end(name: str) -> bool:
    """Whether a key is of the head or the embedding."""
    return any(end in name for end in ENDS)


def at_place(one: Wrapped) -> bool:
    """Whether a module's name is one that the loader takes apart."""
    return IN_A_LAYER.fullmatch(one.module) is not None


@rule("TRT001", "error", "TensorRT-LLM loads LORA only", needs=("config",), consumer="tensorrt-llm",
      breaks=fields(peft_type="IA3"))  # fmt: skip
def only_lora(subject: Subject) -> Iterator[Problem]:
    """TensorRT-LLM reads r, lora_alpha and lora_A/lora_B keys, and raises at the first other key.

    Read from TensorRT-LLM 1.2: lora_manager.py iterate_hf_lora.

    Fix: merge the adapter into its base, and serve that.
    """
    yield from other_type(subject, "tensorrt-llm")


def _readable(saved: Saved) -> bool:
    return saved.key.part in MAGNITUDES or at_an_end(saved.key.text)


@rule("TRT002", "error", "keys that TensorRT-LLM does not know", needs=("adapter",), consumer="tensorrt-llm",
      breaks=with_tensor("model.norm.weight", 64))  # fmt: skip
def foreign_keys(subject: Subject) -> Iterator[Problem]:
    """A key that is no factor of a module in a numbered layer raises, unless lm_head or embed_tokens is in it.

    Trained biases, norms and heads of other names are such keys; so are modules outside the layers.
    Read from TensorRT-LLM 1.2: lora_manager.py iterate_hf_lora.

    Fix: merge the adapter (adaptool merge) and build the engine from the result.
    """
    tensors = [saved for saved in beside_factors(subject) if not _readable(saved)]
    outside = {key for one in wrapped(subject) if not at_place(one) and not at_an_end(one.module) for key in one.keys}
    tensors += [saved for saved in subject.saved if saved.key.text in outside]
    yield from left_out(subject, "tensorrt-llm", tensors, "refuses an adapter with this tensor")


@rule("TRT003", "error", "modules that TensorRT-LLM does not map", needs=("adapter",), consumer="tensorrt-llm",
      breaks=renamed("self_attn.q_proj", "self_attn.query"))  # fmt: skip
def unmapped(subject: Subject) -> Iterator[Problem]:
    """Version 1.2 asserts that every module is in its table of names; later ones skip it and say so in the log.

    Read from TensorRT-LLM 1.2: lora_helper.py get_default_trtllm_modules_to_hf_modules.

    Fix: give the engine's LoraConfig a trtllm_modules_to_hf_modules that names them, or merge the adapter.
    """
    found = [one for one in wrapped(subject) if at_place(one) and projection_of(one.module) not in MAPPED]
    if found:
        yield about(subject, found, f"{found[0].name}{and_more(found)} has no name in TensorRT-LLM's table")


@rule("TRT004", "error", "half a pair of factors", needs=("adapter",), consumer="tensorrt-llm",
      breaks=without("layers.0.self_attn.q_proj.lora_B.weight"))  # fmt: skip
def half_a_pair(subject: Subject) -> Iterator[Problem]:
    """Both matrices of a module must be there, or loading stops.

    Read from TensorRT-LLM 1.2: lora_manager.py _check_lora_in_out.

    Fix: save the adapter again; the save was cut off or filtered.
    """
    found = [one for one in wrapped(subject) if (one.a is None) != (one.b is None)]
    if found:
        missing = "lora_A" if found[0].a is None else "lora_B"
        yield about(subject, found, f"{found[0].name} has no {missing}{and_more(found)}")


@rule("TRT005", "error", "another scale in TensorRT-LLM", needs=("adapter",), consumer="tensorrt-llm",
      breaks=fields(alpha_pattern={"q_proj": 3}))  # fmt: skip
def scale(subject: Subject) -> Iterator[Problem]:
    """TensorRT-LLM divides lora_alpha by the rank it finds (its root under rsLoRA); alpha_pattern is not read.

    Read from TensorRT-LLM 1.2: LoraManager.load_from_hf.

    Fix: adaptool validate ADAPTER --for tensorrt-llm --fix --out FIXED multiplies each scale into lora_B, exactly.
    """
    if is_lora(subject):
        alpha, root = subject.config.alpha, subject.config.flag("use_rslora")
        yield from wrong_scale(
            subject, "tensorrt-llm", lambda one: alpha / (one.own_rank**0.5 if root else one.own_rank)
        )


@rule("TRT006", "error", "a head or an embedding that is passed over", needs=("adapter",), consumer="tensorrt-llm",
      breaks=on_head)  # fmt: skip
def ends(subject: Subject) -> Iterator[Problem]:
    """Keys with lm_head or embed_tokens in them are skipped where factors are read, without a word.

    Modules trained whole are taken only by engines built with this adapter's folder as lora_dir.
    Read from TensorRT-LLM 1.2: iterate_hf_lora, load_torch_hf_lora.

    Fix: merge the adapter (adaptool merge) and build the engine from the result.
    """
    outside = {key for one in wrapped(subject) if at_an_end(one.module) and not at_place(one) for key in one.keys}
    tensors = [saved for saved in subject.saved if saved.key.text in outside]
    tensors += [saved for saved in beside_factors(subject) if at_an_end(saved.key.text)]
    yield from left_out(subject, "tensorrt-llm", tensors, "serves the adapter without this tensor")


@rule("TRT007", "warning", "a rank above max_lora_rank", needs=("adapter",), consumer="tensorrt-llm",
      breaks=fields(r=128))  # fmt: skip
def rank(subject: Subject) -> Iterator[Problem]:
    """An engine has room for one largest rank, 64 unless its LoraConfig says otherwise.

    Read from TensorRT-LLM 1.2: lora_helper.py LoraConfig.

    Fix: set max_lora_rank in the engine's LoraConfig to the adapter's rank.
    """
    yield from rank_above(subject, "tensorrt-llm")


@rule("TRT008", "error", "factors for a changed base", needs=("config",), consumer="tensorrt-llm",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; TensorRT-LLM adds them to the whole base.

    Read from TensorRT-LLM 1.2: init_lora_weights is not read.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "tensorrt-llm")


@rule("TRT009", "error", "a variant of LoRA that TensorRT-LLM has not", needs=("config",), consumer="tensorrt-llm",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """TensorRT-LLM reads r, lora_alpha and use_rslora; an aLoRA would act on every token, a router on none.

    Read from TensorRT-LLM 1.2: LoraManager.load_from_hf.

    Fix: merge it where the variant can be merged, or train a plain LoRA.
    """
    names = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "tensorrt-llm", names)


@rule("TRT010", "error", "DoRA on experts", needs=("adapter",), consumer="tensorrt-llm",
      breaks=together(on_experts_with_dora))  # fmt: skip
def dora_on_experts(subject: Subject) -> Iterator[Problem]:
    """DoRA is served for dense layers; for experts the magnitudes are refused or left out.

    Read from TensorRT-LLM 1.2: LoraManager.load_from_hf.

    Fix: merge the adapter (adaptool merge) and build the engine from the result.
    """
    found = [saved for saved in subject.saved if saved.key.part in MAGNITUDES] if is_lora(subject) else []
    found = [saved for saved in found if ".experts." in saved.key.module]
    yield from left_out(subject, "tensorrt-llm", found, "has no DoRA for experts")
