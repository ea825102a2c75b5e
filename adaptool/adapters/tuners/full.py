"""Full tensors in an adapter (modules_to_save, biases, resized vocabularies) and what tied weights make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptool.adapters.base import BaseModel
from adaptool.adapters.names import kept_by, projection_of
from adaptool.adapters.plan import Plan, Source
from adaptool.errors import MismatchError
from adaptool.tensors.dtypes import DType, most_common
from adaptool.tensors.store import same_bytes

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter
    from adaptool.adapters.config import AdapterConfig

HEADLESS_TASKS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"}
TASK_HEADS = {
    "SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",),
}  # fmt: skip
"""What PEFT adds to modules_to_save by itself."""

TIED_HEADS = {
    "bert": "cls.predictions.decoder.weight",
    "roberta": "lm_head.decoder.weight",
    "xlm-roberta": "lm_head.decoder.weight",
    "distilbert": "vocab_projector.weight",
    "electra": "generator_lm_head.weight",
    "gpt_neox": "embed_out.weight",
}
"""The runtime name of an output head that is not lm_head."""

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "WithLMHead")


def tied_head(adapter: Adapter, base: BaseModel) -> str | None:
    """The head that shares the base's embedding in the model the adapter was trained on; None where there is none."""
    if not base.tied or adapter.config.task_type in HEADLESS_TASKS:
        return None
    architectures = (base.config or {}).get("architectures") or ()
    has_head = any(str(name).endswith(CAUSAL) for name in architectures)
    if not has_head and adapter.config.task_type not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return None
    return base.head or TIED_HEADS.get(base.model_type or "", "lm_head.weight")


def plan_full_tensors(adapter: Adapter, plan: Plan) -> set[str]:
    """Every full tensor replaces the base's of that name, or is a new head; returns the keys accounted for.

    PEFT loads such keys by name and ignores the ones it cannot place; here they are left over, which is an error.
    """
    used = set()
    for name, key in adapter.full_tensors.items():
        parameter = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        if ".original_module." in name or (parameter != name and parameter in adapter.full_tensors):
            used.add(key)  # the wrapper's frozen original, or the trained copy a second time
            continue
        tensor = plan.base.find(parameter)
        if tensor is not None:
            _replace(adapter, parameter, tensor, key, plan)
        elif plan.base.tied and projection_of(parameter.removesuffix(".weight")) == "lm_head":
            _saved_head(adapter, parameter, key, plan)
        elif saved_whole(parameter, adapter.config) and adapter.store[key].size and adapter.store[key].shape:
            plan.added[parameter] = Source(adapter.store, key, main_dtype(plan.base))
            plan.note(f"{parameter} is new: the adapter trained it, and the base has no such tensor")
        else:
            continue
        used.add(key)
    return used


def _replace(adapter: Adapter, parameter: str, tensor: str, key: str, plan: Plan) -> None:
    old, new = plan.base.store[tensor], adapter.store[key]
    whole = saved_whole(parameter, adapter.config)
    is_embedding = tensor in (plan.base.embedding, plan.base.head)
    resized = len(old.shape) == len(new.shape) > 0 and old.shape[1:] == new.shape[1:] and new.shape[0] > 0
    if old.shape != new.shape and not (resized and (is_embedding or _is_head(parameter, whole=whole))):
        raise MismatchError(
            f"{key} is {list(new.shape)} and the base's {tensor} is {list(old.shape)}",
            hint="is this the base it was trained on?",
            defect="full-shape",
        )
    plan.replace(tensor, Source(adapter.store, key, old.dtype))
    if is_embedding and whole and plan.base.tied:
        head = tied_head(adapter, plan.base)
        if tensor == plan.base.head:
            plan.head_dirty = True
        elif head is not None and not adapter.config.flag("ensure_weight_tying"):
            plan.untie(head)


def _is_head(parameter: str, *, whole: bool) -> bool:
    """Whether a tensor may have another number of rows: a task head trained whole, with labels of its own."""
    module = projection_of(parameter.rpartition(".")[0])
    return whole and module in ("classifier", "score", "out_proj", "qa_outputs", "lm_head", "embed_tokens")


def _saved_head(adapter: Adapter, parameter: str, key: str, plan: Plan) -> None:
    """An lm_head saved for a tied base: the embedding again (a resized vocabulary), or a head trained on its own."""
    if saved_whole(parameter, adapter.config) and not adapter.config.flag("ensure_weight_tying"):
        plan.untie(parameter, Source(adapter.store, key, main_dtype(plan.base)))
        return
    embedding = plan.base.embedding
    twin = plan.replaced.get(embedding or "")
    if twin is None and embedding is not None:
        plan.replace(embedding, Source(adapter.store, key, plan.base.store[embedding].dtype))
    elif twin is not None and not same_bytes(twin.store, twin.key, adapter.store, key):
        plan.untie(parameter, Source(adapter.store, key, main_dtype(plan.base)))


def saved_whole(parameter: str, config: AdapterConfig) -> bool:
    """Whether PEFT trains the module of a parameter whole: its name, or one it lies in, ends with an entry of the list.

    The entries are those of modules_to_save, and the heads of the task, which PEFT up to 0.10 did not write there.
    """
    module = parameter.rpartition(".")[0]
    heads = TASK_HEADS.get(config.task_type or "", ())
    return bool(kept_by(module, config.kept_endings)) or any(name_ends_with(module, head) for head in heads)


def name_ends_with(module: str, ending: str) -> bool:
    """Whether a module or one it lies in ends with ``ending``, as a plain string."""
    segments = module.split(".")
    return any(".".join(segments[: i + 1]).endswith(ending) for i in range(len(segments)))


def main_dtype(base: BaseModel) -> DType:
    """The type most of the base's weights have: what a new tensor is written in."""
    return most_common((info.dtype, info.size) for info in base.store.infos.values())
