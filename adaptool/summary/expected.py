"""What an adapter's config makes of a base: the tensors PEFT would train, from two JSON files and no weights.

The matching is PEFT's, with its corners: a list of targets matches whole names or endings after a dot, a string is a
regular expression for the whole name, modules_to_save excludes what lies inside, and all-linear spares the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import AdapterConfig, matches, matches_whole
from adaptool.adapters.names import PREFIX, projection_of
from adaptool.adapters.tuners.lora import block_counts as bdlora_blocks
from adaptool.adapters.tuners.sites import PARAMETER_ORDER
from adaptool.archs.shapes import Module, Shape, model_modules
from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.summary.contents import name_ends_with
from adaptool.summary.settings import TASK_HEADS
from adaptool.tensors.dtypes import F32, Array, DType
from adaptool.tensors.store import Store, TensorInfo

TASK_ENDINGS = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
    "SEQ_CLS": ("ForSequenceClassification",),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
    "FEATURE_EXTRACTION": ("Model",),
}
"""How the names of the classes end that a task is trained with, the usual one first."""

OUTPUT_HEADS = ("lm_head", "cls.predictions.decoder", "lm_head.decoder")
EXPERT_MATRICES = {"gate_up_proj": ("w1", "w3", "gate_proj", "up_proj"), "down_proj": ("w2", "down_proj")}

DEFAULT_TARGETS = {
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    **dict.fromkeys(("opt", "llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3",
                     "stablelm"), ("q_proj", "v_proj")),
    **dict.fromkeys(("gpt_neox", "falcon", "bloom"), ("query_key_value",)),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), ("query", "value")),
    "mpt": ("Wqkv",),
    "gpt2": ("c_attn",),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
}  # fmt: skip
"""What PEFT 0.21 targets where target_modules is null, of the families that have a table of shapes."""


@dataclass(frozen=True, eq=False)
class Shapes(Store):
    """Tensors known by shape alone: a model or an adapter that is only a config."""

    shapes: Mapping[str, TensorInfo]
    label: str

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.shapes

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        raise NotFoundError(f"{self.label}: only a config is here, so {name!r} cannot be read")

    def __str__(self) -> str:
        return self.label


def shapes_store(shapes: Mapping[str, Shape], label: str, kind: DType = F32) -> Shapes:
    """A Store of these shapes."""
    return Shapes({name: TensorInfo(name, kind, shape) for name, shape in shapes.items()}, label)


def expected_adapter(config: AdapterConfig, base_config: Mapping[str, Any], path: Path) -> Adapter:
    """The adapter that training with ``config`` on a model with ``base_config`` saves, as shapes without bytes.

    Raises UnsupportedError for a PEFT type other than LoRA, a model without a table, or targets that match nothing.
    """
    if config.peft_type != "LORA":
        raise UnsupportedError(f"what {config.peft_type} trains cannot be told from its config alone")
    if config.fields.get("layer_replication"):
        raise UnsupportedError("layer_replication makes a deeper model than the base's config describes")
    _require_names(config)
    trained = trained_config(base_config, config)
    # a tied head is a module all the same, which an adapter may wrap
    modules, counted = model_modules({**trained, "tie_word_embeddings": False}), model_modules(trained)
    if modules is None or counted is None:
        raise UnsupportedError(f"there is no table of shapes for {_described(base_config)}")
    _refuse_fused_experts(modules, config)
    wrapped = [m for m in modules if m.kind in ("linear", "conv1d", "embed") and _targeted(m, config, base_config)]
    if config.flag("ensure_weight_tying") and any(m.kind == "embed" for m in wrapped):
        wrapped += [m for m in modules if m.name in OUTPUT_HEADS and m not in counted and m not in wrapped]
    factors = dict(shape for module in wrapped for shape in _factors(module, config))
    factors |= dict(_parameter_factors(modules, config))
    if not factors:
        raise UnsupportedError(
            f"target_modules matches no module of {_described(base_config)}", defect="matches-nothing"
        )
    shapes = factors | dict(_beside(modules, wrapped, config))
    whole = AdapterConfig({**config.fields, "modules_to_save": list(kept_whole(config)) or None}, config.where)
    return Adapter(path, whole, shapes_store({PREFIX + key: shape for key, shape in shapes.items()}, str(path)))


def _require_names(config: AdapterConfig) -> None:
    """Raise FormatError where a field that selects modules or tokens holds neither names nor numbers of tokens."""
    for field in ("target_modules", "exclude_modules", "target_parameters"):
        config.names(field)
    tokens = config.fields.get("trainable_token_indices") or []
    lists = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    if not all(isinstance(rows, list) for rows in lists):
        raise FormatError(f"{config.where}: trainable_token_indices must be a list, or map names to lists")


LABELLING = ("score", "classifier")
"""What a head with a row for each label is called; RoBERTa's is classifier.out_proj."""


def trained_config(
    base_config: Mapping[str, Any], config: AdapterConfig, full: Mapping[str, Shape] | None = None
) -> Mapping[str, Any]:
    """The config of the model that was trained: its task's class, the labels and vocabulary of its ``full`` tensors.

    A checkpoint may be of another class (a causal one trained as a classifier, a masked one as a feature extractor).
    """
    trained = {**base_config, "architectures": [_task_class(base_config, config)]}
    for name, shape in (full or {}).items():
        owner = projection_of(name.removesuffix(".weight").removesuffix(".out_proj"))
        if name.endswith(".weight") and len(shape) == 2 and owner in (*EMBEDDINGS, *HEADS):
            trained["vocab_size"] = shape[0]
        if name.endswith(".weight") and owner in LABELLING:
            trained["num_labels"] = shape[0]
    return trained


def _task_class(base_config: Mapping[str, Any], config: AdapterConfig) -> str:
    named = str((base_config.get("architectures") or [""])[0])
    endings = TASK_ENDINGS.get(config.task_type or "")
    if not named or endings is None or named.endswith(endings):
        return named
    return re.sub(r"(?:LMHeadModel|ForPreTraining|For[A-Z]\w+|EncoderModel|Model)$", "", named) + endings[0]


def _described(base_config: Mapping[str, Any]) -> str:
    named = base_config.get("architectures") or [None]
    return f"{named[0] or base_config.get('model_type')}"


def _targeted(module: Module, config: AdapterConfig, base_config: Mapping[str, Any]) -> bool:
    """PEFT's ``check_target_module_exists``."""
    excluded = config.fields.get("exclude_modules")
    if excluded and named_by(module.name, excluded, config):
        return False
    if any(matches(rf"(^|.*\.){name}($|\..*)", module.name, config.where) for name in kept_whole(config)):
        return False
    targets = config.fields.get("target_modules")
    if targets is None and not config.fields.get("target_parameters"):
        targets = list(DEFAULT_TARGETS.get(str(base_config.get("model_type")), ()))
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return module.kind != "embed" and module.name not in OUTPUT_HEADS
    if not targets or not named_by(module.name, targets, config):
        return False
    return isinstance(targets, str) or in_layers(module.name, config)


def _refuse_fused_experts(modules: tuple[Module, ...], config: AdapterConfig) -> None:
    """Experts targeted by the names transformers 4 gave them: parameters now, which PEFT converts in its own way."""
    targets = config.fields.get("target_modules")
    raw = {projection_of(module.name) for module in modules if module.kind == "raw"}
    fused = {name for parameter in raw for name in EXPERT_MATRICES.get(parameter, ())}
    named = sorted(fused & set(targets)) if isinstance(targets, list) else []
    if named and not any(named_by(module.name, named, config) for module in modules if module.kind == "linear"):
        raise UnsupportedError(f"target_modules names experts ({', '.join(named)}), counted from weights only")


def named_by(module: str, names: str | list[str], config: AdapterConfig) -> bool:
    """Whether a pattern is the module's whole name, or a list has it or an ending of it after a dot."""
    if isinstance(names, str):
        return matches_whole(names, module, config.where)
    return any(module == name or module.endswith(f".{name}") for name in names)


def in_layers(module: str, config: AdapterConfig) -> bool:
    """``layers_to_transform``: the first number after a segment matching ``layers_pattern``; none means no."""
    layers = config.fields.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    wanted = layers if isinstance(layers, list) else [layers]
    patterns = config.names("layers_pattern")
    # PEFT asks for two segments before the number where no pattern is given
    heads = [rf"(?:^|.*?\.){pattern}\." for pattern in patterns] or [r".*?\.[^.]*\."]
    numbers = (_number_after(head, module, config) for head in heads)
    return next((number in wanted for number in numbers if number is not None), False)


def _number_after(head: str, module: str, config: AdapterConfig) -> int | None:
    segments = module.split(".")
    for i, segment in enumerate(segments[:-1]):
        before = "".join(f"{part}." for part in segments[:i])
        if segment.isdecimal() and matches(rf"(?:{head})\Z", before, config.where):
            return int(segment)
    return None


def _factors(module: Module, config: AdapterConfig) -> Iterator[tuple[str, Shape]]:
    """What wrapping one linear layer or embedding adds."""
    rank, name = config.rank_of(module.name), module.name
    if module.kind == "embed":
        tokens, outputs = module.shape
        yield f"{name}.lora_embedding_A", (rank, tokens)
        yield f"{name}.lora_embedding_B", (outputs, rank)
    else:
        inputs, outputs = module.features
        blocks_a, blocks_b = bdlora_blocks(name, config)
        yield f"{name}.lora_A.weight", (rank, inputs // blocks_a)
        yield f"{name}.lora_B.weight", (outputs, rank // blocks_b)
        if config.flag("lora_bias"):
            yield f"{name}.lora_B.bias", (outputs,)
        if config.fields.get("kasa_config") is not None:
            yield f"{name}.lora_diag", (rank,)
        if isinstance(sampler := config.fields.get("monteclora_config"), Mapping):
            yield f"{name}.lora_monteclora_sampler.std_prior", (rank,)
            yield f"{name}.lora_monteclora_sampler.expert_weights_prior", (sampler.get("num_samples", 8),)
    if config.flag("use_dora"):
        yield f"{name}.lora_magnitude_vector", (outputs,)


def _parameter_factors(modules: tuple[Module, ...], config: AdapterConfig) -> Iterator[tuple[str, Shape]]:
    """``target_parameters``: one wrapper per parameter, nested in the order the module registers them."""
    wanted = config.names("target_parameters")
    found = [
        (name, shape)
        for module in modules
        for name, shape in module.parameters()
        if any(name == key or name.endswith(f".{key}") for key in wanted)
    ]
    for name, shape in found:
        owner, _, leaf = name.rpartition(".")
        beside = (other.rpartition(".") for other, _ in found)
        siblings = sorted((last for head, _, last in beside if head == owner), key=_order)
        depth = len(siblings) - 1 - siblings.index(leaf)
        experts = shape[0] if len(shape) == 3 else 1
        rank = config.rank_of(owner if leaf == "weight" else name) * experts
        wrapper = owner + ".base_layer" * depth
        yield f"{wrapper}.lora_A.weight", (rank, shape[-1])
        yield f"{wrapper}.lora_B.weight", (shape[-2], rank)


def _order(leaf: str) -> int:
    return PARAMETER_ORDER.index(leaf) if leaf in PARAMETER_ORDER else len(PARAMETER_ORDER)


def kept_whole(config: AdapterConfig) -> tuple[str, ...]:
    """``modules_to_save``, with what PEFT adds for the task."""
    return (*config.names("modules_to_save"), *TASK_HEADS.get(config.task_type or "", ()))


def _beside(modules: tuple[Module, ...], wrapped: list[Module], config: AdapterConfig) -> Iterator[tuple[str, Shape]]:
    """Whole modules, biases and trained token rows."""
    bias = config.fields.get("bias", "none")
    names = {module.name for module in wrapped}
    tokens = dict(_tokens(config, modules))
    for module in modules:
        if module.name in tokens:
            yield f"{module.name}.token_adapter.trainable_tokens_delta", (tokens[module.name], module.shape[1])
        for parameter, shape in module.parameters():
            owner, _, leaf = parameter.rpartition(".")
            if any(name_ends_with(owner, name) for name in kept_whole(config)):
                yield parameter, shape
            elif "bias" in parameter and (bias == "all" or (bias == "lora_only" and owner in names)):
                yield f"{owner}.base_layer.{leaf}" if owner in names else parameter, shape


def _tokens(config: AdapterConfig, modules: tuple[Module, ...]) -> Iterator[tuple[str, int]]:
    """Embeddings with trained rows, and how many; a list means the input embedding."""
    indices = config.fields.get("trainable_token_indices")
    if isinstance(indices, list):
        first = next((m.name for m in modules if m.kind == "embed" and projection_of(m.name) in EMBEDDINGS), None)
        indices = {} if first is None else {first: indices}
    for ending, rows in (indices or {}).items():
        for module in modules:
            named = module.kind == "embed" or projection_of(module.name) in HEADS
            if named and module.name.endswith(ending):
                yield module.name, len(rows)
