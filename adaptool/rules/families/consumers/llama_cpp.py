"""LCP001–LCP099: what llama.cpp makes of an adapter, by way of its own convert_lora_to_gguf.py.

Read from llama.cpp at 0c1e57098 (convert_lora_to_gguf.py, src/llama-adapter.{h,cpp}); what it exits at, drops and
scales was run with that converter. ``adaptool convert ADAPTER --base BASE --to-gguf-lora`` writes what the runtime
gets right, or refuses.
"""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.adapters.names import projection_of
from adaptool.rules.draft import VOCABULARY, WIDTH, fields, together
from adaptool.rules.families.consumers.facts import (
    about,
    and_more,
    beside_factors,
    changed_base,
    in_tower,
    is_lora,
    left_out,
    other_type,
    variants,
    wrapped,
    wrong_scale,
)
from adaptool.rules.families.consumers.mutations import (
    on_embedding,
    on_experts,
    on_head,
    renamed,
    tied,
    with_tensor,
    without,
)
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.summary.contents import Saved

CONFIG = "adapter_config.json"


@rule("LCP001", "error", "llama.cpp takes LORA only", needs=("config",), consumer="llama.cpp",
      breaks=fields(peft_type="IA3"))  # fmt: skip
def only_lora(subject: Subject) -> Iterator[Problem]:
    """The converter knows lora_A and lora_B, and exits at the first other tensor.

    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py.

    Fix: merge the adapter into its base, and convert the result.
    """
    yield from other_type(subject, "llama.cpp")


@rule("LCP002", "error", "DoRA, which llama.cpp does not have", needs=("config",), consumer="llama.cpp",
      breaks=fields(use_dora=True))  # fmt: skip
def dora(subject: Subject) -> Iterator[Problem]:
    """The converter exits at the first lora_magnitude_vector; the runtime only adds B·A.

    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py.

    Fix: merge the adapter: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    if is_lora(subject) and subject.fields.get("use_dora"):
        yield Problem("use_dora is set, and llama.cpp has no DoRA", CONFIG, "use_dora")


def _is_norm(saved: Saved) -> bool:
    return "_layernorm" in saved.key.text or ".norm" in saved.key.text


@rule("LCP003", "error", "tensors at which the converter exits", needs=("adapter",), consumer="llama.cpp",
      breaks=with_tensor("lm_head.weight", VOCABULARY, WIDTH))  # fmt: skip
def beside(subject: Subject) -> Iterator[Problem]:
    """Modules trained whole, biases, token rows and a resized vocabulary have no place in a GGUF LoRA.

    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py ("Not a lora_A or lora_B tensor").

    Fix: merge the adapter: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    tensors = [saved for saved in beside_factors(subject) if not _is_norm(saved) and saved.key.part != ""]
    yield from left_out(subject, "llama.cpp", tensors, "has no place for this tensor, and its converter exits")


@rule("LCP004", "error", "trained norms that are ignored", needs=("adapter",), consumer="llama.cpp",
      breaks=with_tensor("model.norm.weight", WIDTH))  # fmt: skip
def norms(subject: Subject) -> Iterator[Problem]:
    """The converter writes norms' weights into the GGUF, and the runtime passes over them; biases it refuses.

    Read from llama.cpp at 0c1e57098: src/llama-adapter.cpp.

    Fix: merge the adapter: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    tensors = [saved for saved in beside_factors(subject) if _is_norm(saved)]
    yield from left_out(subject, "llama.cpp", tensors, "loads the adapter without this trained norm")


@rule("LCP005", "error", "another scale in llama.cpp", needs=("adapter",), consumer="llama.cpp",
      breaks=fields(use_rslora=True))  # fmt: skip
def scale(subject: Subject) -> Iterator[Problem]:
    """The GGUF gets lora_alpha, and the runtime divides it by each tensor's rank: no rsLoRA, no alpha_pattern.

    An rsLoRA of r=8 and alpha=16 acts at 2 where 5.66 is right. lora_alpha 0 means 1 to the runtime.
    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py, src/llama-adapter.h get_scale.

    Fix: adaptool convert ADAPTER --base BASE --to-gguf-lora writes each module's own scale into lora_B.
    """
    if not is_lora(subject):
        return
    alpha = subject.config.alpha
    yield from wrong_scale(subject, "llama.cpp", lambda one: alpha / one.own_rank if alpha else 1.0)


@rule("LCP006", "error", "an output head tied to the embedding", needs=("adapter", "base"), consumer="llama.cpp",
      breaks=together(on_head, tied))  # fmt: skip
def tied_head(subject: Subject) -> Iterator[Problem]:
    """A base that ties them has no output.weight in its GGUF: the LoRA is written, and the runtime refuses it.

    Read from llama.cpp at 0c1e57098: src/llama-adapter.cpp ("does not exist in base model").

    Fix: merge the adapter: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    found = [one for one in wrapped(subject) if projection_of(one.module) == "lm_head" and subject.model.tied]
    if found:
        message = "the LoRA on lm_head has no tensor to land on: the base ties its output head to its embedding"
        yield Problem(message, subject.weights_name, tensors=tuple(key for one in found for key in one.keys))


@rule("LCP007", "error", "factors for a changed base", needs=("config",), consumer="llama.cpp",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; llama.cpp adds them to the whole base.

    Read from llama.cpp at 0c1e57098: init_lora_weights is not read.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "llama.cpp")


@rule("LCP008", "error", "a variant of LoRA that llama.cpp has not", needs=("config",), consumer="llama.cpp",
      breaks=fields(use_bdlora={"nblocks": 2}))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """The converter reads lora_alpha and aLoRA's invocation tokens; of other variants it knows nothing.

    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py.

    Fix: merge it where the variant can be merged: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    names = ("layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "llama.cpp", names)


@rule("LCP009", "error", "fused experts, which the converter refuses", needs=("adapter",), consumer="llama.cpp",
      breaks=on_experts)  # fmt: skip
def experts(subject: Subject) -> Iterator[Problem]:
    """A LoRA on target_parameters lays all experts into one pair of factors, which has no name in the converter.

    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py ("Can not map tensor").

    Fix: adaptool convert ADAPTER --base BASE --to-gguf-lora gives each expert its factors.
    """
    found = [one for one in wrapped(subject) if one.module.removesuffix(".base_layer").endswith(".experts")]
    if found:
        message = f"{found[0].module}{and_more(found)} holds factors of fused experts, at which the converter stops"
        yield about(subject, found, message)


@rule("LCP010", "error", "half a pair of factors", needs=("adapter",), consumer="llama.cpp",
      breaks=without("layers.0.self_attn.q_proj.lora_B.weight"))  # fmt: skip
def half_a_pair(subject: Subject) -> Iterator[Problem]:
    """Both matrices of a module must be there, or an assertion of the converter fails.

    Read from llama.cpp at 0c1e57098: convert_lora_to_gguf.py.

    Fix: save the adapter again; the save was cut off or filtered.
    """
    found = [one for one in wrapped(subject) if (one.a is None) != (one.b is None)]
    if found:
        message = f"{found[0].name} has no {'lora_A' if found[0].a is None else 'lora_B'}{and_more(found)}"
        yield about(subject, found, message)


@rule("LCP011", "error", "a LoRA on a vision tower", needs=("adapter",), consumer="llama.cpp",
      breaks=renamed("model.layers.1", "model.vision_tower.layers.1"))  # fmt: skip
def tower(subject: Subject) -> Iterator[Problem]:
    """The converter takes the language model's tensors and drops a tower's without a word.

    Read from llama.cpp at 0c1e57098: conversion's filter_tensors.

    Fix: merge the adapter into its base, and convert the result with its projector.
    """
    found = in_tower(subject)
    if found:
        message = f"{found[0].name}{and_more(found)} is no part of the language model, and is left out of the GGUF"
        yield about(subject, found, message)


@rule("LCP012", "error", "an embedding of another vocabulary", needs=("adapter", "base"), consumer="llama.cpp",
      breaks=on_embedding)  # fmt: skip
def vocabulary(subject: Subject) -> Iterator[Problem]:
    """The GGUF's embedding has the base's tokens; factors for another number are written, and refused at load.

    Read from llama.cpp at 0c1e57098: src/llama-adapter.cpp ("has incorrect shape").

    Fix: merge the adapter: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    embedding = subject.model.embedding
    size = subject.model.store[embedding].shape[0] if embedding else None
    for one in wrapped(subject):
        shape = one.a.shape if one.a is not None and one.a.name.endswith("lora_embedding_A") else ()
        if size is not None and len(shape) == 2 and shape[1] != size:
            message = f"{one.name} has factors for {shape[1]} tokens, and the base has {size}"
            yield Problem(message, subject.weights_name, tensors=one.keys)
