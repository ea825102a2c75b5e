"""VLM007, VLM009–VLM014: what vLLM makes of an adapter's tensors. Read from vLLM 0.33.0 (vllm/lora)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.base import EMBEDDINGS
from adaptool.adapters.names import projection_of
from adaptool.rules.draft import PREFIX, RANK, VOCABULARY, WIDTH, Q, numbers
from adaptool.rules.families.consumers.facts import (
    Wrapped,
    about,
    and_more,
    beside_factors,
    in_tower,
    is_lora,
    left_out,
    wrapped,
)
from adaptool.rules.families.consumers.mutations import on_embedding, on_experts, renamed, with_tensor
from adaptool.rules.families.consumers.vllm import HEAD_KEY, HEADS
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.summary.contents import Saved


def _foreign(saved: Saved, heads: tuple[str, ...]) -> bool:
    key = saved.key.text
    if saved.key.part == "":  # without PEFT's prefix; vLLM takes any prefix
        return not re.search(r"\.(?:lora_[AB]\.weight|lora_embedding_[AB])$", key)
    return not (HEAD_KEY.fullmatch(key) and key.split(".")[-2] in heads)


@rule("VLM007", "error", "tensors that vLLM has no place for", needs=("adapter",), consumer="vllm",
      breaks=with_tensor("model.embed_tokens.weight", VOCABULARY, WIDTH))  # fmt: skip
def foreign_keys(subject: Subject) -> Iterator[Problem]:
    """Every key must be lora_A, lora_B, lora_embedding_A/B or the one head; any other stops the load.

    A resized vocabulary saved whole, trained token rows, magnitudes and norms are such keys.
    Read from vLLM 0.33.0: vllm/lora/utils.py parse_fine_tuned_lora_name.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if not is_lora(subject):
        return
    heads = subject.config.names("modules_to_save")
    told = {"unfrozen", "copy"} if any(name not in HEADS for name in heads) else {"unfrozen"}  # VLM003, VLM004
    tensors = [saved for saved in beside_factors(subject) if saved.role not in told and _foreign(saved, heads)]
    tensors += [saved for saved in subject.saved if _unskipped_copy(saved)]
    yield from left_out(subject, "vllm", tensors, "refuses an adapter with this tensor")


def _unskipped_copy(saved: Saved) -> bool:
    """The base's own embedding, saved along: vLLM skips it under two names."""
    skipped = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
    return saved.key.part.endswith("base_layer.weight") and not saved.key.text.endswith(skipped)


@rule("VLM009", "error", "an embedding's LoRA of another vocabulary", needs=("adapter", "base"), consumer="vllm",
      breaks=on_embedding)  # fmt: skip
def vocabulary(subject: Subject) -> Iterator[Problem]:
    """lora_embedding_A has a column per token, and vLLM refuses it unless that is the base's vocabulary.

    Read from vLLM 0.33.0: LoRAModel.from_lora_tensors.

    Fix: train without adding tokens, or merge the adapter (adaptool merge), which writes the larger vocabulary.
    """
    rows = subject.model.text_config.get("vocab_size")
    for one in wrapped(subject):
        if one.a is None or not one.a.name.endswith(".lora_embedding_A") or len(one.a.shape) != 2:
            continue
        if type(rows) is int and projection_of(one.module) in EMBEDDINGS and one.a.shape[1] != rows:
            message = f"{one.a.name} is for {one.a.shape[1]} tokens, and the base has {rows}"
            yield Problem(message, subject.weights_name, tensors=one.keys)


@rule("VLM010", "warning", "fused experts, which may need an option", needs=("adapter",), consumer="vllm",
      breaks=on_experts)  # fmt: skip
def fused_experts(subject: Subject) -> Iterator[Problem]:
    """A LoRA on target_parameters is a fused 3-D one; a model whose experts vLLM keeps apart refuses it unless told.

    With only one of gate_up_proj and down_proj targeted, vLLM's assertion fails whatever the option.
    Read from vLLM 0.33.0: LoRAModelManager._validate_moe_lora_format, _stack_moe_lora_weights.

    Fix: start vLLM with --enable-mixed-moe-lora-format and set is_3d_lora_weight on the LoRA request.
    """
    found = [one for one in wrapped(subject) if one.module.removesuffix(".base_layer").endswith(".experts")]
    names = {one.module for one in found}
    alone = [one for one in found if _other_parameter(one.module) not in names]
    for modules, says in ((alone, "and gate_up_proj and down_proj are not both trained"), (found, "")):
        if modules:
            keys = tuple(key for one in modules for key in one.keys)
            yield Problem(
                f"{modules[0].module} holds a LoRA on fused experts{and_more(modules)}"
                + (f", {says}" if says else ", which vLLM takes for models it holds fused"),
                subject.weights_name, tensors=keys,
                fix="train both, or merge the adapter (adaptool merge)." if says else "",
                severity="error" if says else None,
            )  # fmt: skip
            return


def _other_parameter(module: str) -> str:
    """gate_up_proj's wrapper lies inside down_proj's, and is called ``experts.base_layer``."""
    return module.removesuffix(".base_layer") if module.endswith(".base_layer") else f"{module}.base_layer"


@rule("VLM011", "error", "modules that the base has not", needs=("adapter", "base"), consumer="vllm",
      breaks=renamed("model.layers", "model.decoder.layers"))  # fmt: skip
def elsewhere(subject: Subject) -> Iterator[Problem]:
    """vLLM checks a module's last name only: with another prefix the adapter loads, and the base answers.

    Read from vLLM 0.33.0: LoRAModel.from_local_checkpoint, LoRAModelManager.activate_adapter (a debug message).

    Fix: rename the keys to the served model's, or serve the model the adapter was trained on.
    """
    absent = [one for one in wrapped(subject) if not _in_base(subject, one)]
    if absent:
        message = f"the base has no {absent[0].name}{and_more(absent)}; vLLM would serve it without a word"
        yield about(subject, absent, message)


def _in_base(subject: Subject, one: Wrapped) -> bool:
    name = one.name.removeprefix(PREFIX)
    if any(subject.model.find(parameter) is not None for parameter in (f"{name}.weight", name)):
        return True
    return projection_of(name) == "lm_head" and subject.model.tied


@rule("VLM012", "warning", "a LoRA on a vision tower", needs=("adapter",), consumer="vllm",
      breaks=renamed("model.layers.1", "model.vision_tower.layers.1"))  # fmt: skip
def tower(subject: Subject) -> Iterator[Problem]:
    """vLLM applies LoRA to the language model; to a tower or its connector only with an option, for a few models.

    Read from vLLM 0.33.0: LoRAModelManager._maybe_init_mm.

    Fix: start vLLM with --enable-tower-connector-lora, and look in its log that the model supports it.
    """
    found = in_tower(subject)
    if found:
        message = f"{found[0].name}{and_more(found)} is no part of the language model, and is passed over by default"
        yield about(subject, found, message)


@rule("VLM014", "error", "a LoRA on a layer that is not linear", needs=("adapter",), consumer="vllm",
      breaks=lambda draft: draft.tensors.update({f"{Q}.lora_A.weight": numbers((RANK, WIDTH, 3), 1)}))  # fmt: skip
def not_linear(subject: Subject) -> Iterator[Problem]:
    """vLLM wraps linear layers, embeddings and experts; a convolution's factors have no layer to go to.

    Read from vLLM 0.33.0: vllm/lora/utils.py get_supported_lora_modules.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    found = [one for one in wrapped(subject) if one.a is not None and len(one.a.shape) > 2]
    if found:
        keys = tuple(key for one in found for key in one.keys)
        message = f"{keys[0]} has {len(found[0].a.shape) if found[0].a else 0} axes{and_more(found)}: no linear layer"
        yield Problem(message, subject.weights_name, tensors=keys)
