"""Saved keys that an adapter of their type does not have, each in the one bucket that says best what it is.

A tensor that nothing accounts for is a part of the training that is lost, or a weight that somebody slipped in; which
of the two, and what to do, its name tells nearly always.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import FULL, PREFIX, projection_of
from adaptool.adapters.tuners import TUNERS
from adaptool.adapters.tuners.unmergeable import LATER, PROMPTS, ROUTED
from adaptool.errors import UnsupportedError
from adaptool.rules.subject import Subject
from adaptool.summary.contents import NEEDED_FIELDS, STEMS, Saved

Bucket = Literal[
    "wrapper", "doubled", "named", "format", "prefix", "tuner", "part", "switch", "bias", "weight", "nothing"
]
"""wrapper: a training wrapper's name in it. doubled: PEFT's prefix twice. named: the adapter's own name in it.
format: another tool's spelling. prefix: PEFT's is missing. tuner: a part of another PEFT type. part: one LoRA has not.
switch: a variant's that the config does not switch on. bias, weight: the model's own. nothing: none of these."""

MISSPELT: tuple[Bucket, ...] = ("wrapper", "doubled", "named", "format", "prefix")
"""Keys that a faithful save spells otherwise: what they are meant to be is known, and no base has them as they are."""

WRAPPER = re.compile(
    r"(?:^|\.)_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module|fpw_module|forward_module|flat_params?)(?:\.|$)"
    r"|^(?:base_model\.model\.)?module\."
)
HEADED = re.compile(r"([^.]+)\.base_model\.model\.")
NAMED = re.compile(
    r"\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|lora_diag|lora_velora_embed|trainable_tokens_delta)"
    r"\.(?!(?:weight|bias)$)(?P<lora>[^.]+)(?:\.(?:weight|bias))?$"
    rf"|\.(?:(?:{STEMS.replace(' shadow', '').replace(' ', '|')})_[^.]+|modules_to_save)\.(?P<other>default)(?:\.|$)"
)


USUAL_PARTS = ("lora_A.weight", "lora_B.weight")
ODD_MARKS = ("._", "lora_", "default", "module.", "base_model")


@dataclass(frozen=True, slots=True)
class Format:
    """Another tool's way to spell the same factors."""

    tool: str
    pattern: re.Pattern[str]
    fix: str


PIPELINE = "load it with the pipeline it was made for (diffusers' load_lora_weights); PEFT has no such model"
FORMATS = (
    Format("kohya's sd-scripts", re.compile(r"^lora_(?:unet|te\d?|prior|transformer)_|^lycoris_"), PIPELINE),
    Format("diffusers", re.compile(r"[._]lora(?:_linear_layer)?\.(?:up|down)\.weight$"), PIPELINE),
    Format("diffusers", re.compile(
        r"^(?:unet|text_encoder(?:_\d)?|transformer(?:_\d)?)\."
        r"(?:down_blocks|mid_block|up_blocks|text_model|single_transformer_blocks|transformer_blocks|encoder\.block)\."
    ), PIPELINE),
    Format("ComfyUI", re.compile(r"^(?:model\.)?(?:diffusion_model|cond_stage_model)\."), PIPELINE),
    Format("kohya's sd-scripts", re.compile(r"\.lora_(?:up|down)\.weight$|\.(?:alpha|dora_scale)$"), PIPELINE),
    Format("llama.cpp", re.compile(r"^(?:blk\.\d+|output|token_embd)\b.*\.weight\.lora_[ab]$"),
           "take the adapter that the GGUF was converted from"),
    Format("MLX-LM", re.compile(r"\.lora_[ab]$"),
           "transpose both factors, rename them lora_A.weight and lora_B.weight, and set lora_alpha = scale · r"),
    Format("torchtune", re.compile(r"\.lora_[ab]\.weight$"),
           "save it again with torchtune's adapter format set to PEFT"),
    Format("AdapterHub", re.compile(r"\.loras\.[^.]+\.lora_[AB]$"), "load it with AdapterHub's adapters library"),
    Format("NeMo", re.compile(r"\.(?:lora_\w+_adapter|adapter)\.linear_(?:in|out)\.weight$"),
           "export it from NeMo to a Hugging Face PEFT adapter"),
)  # fmt: skip
"""The first that matches is it."""

TUNER_PART = re.compile(rf"\.({'|'.join(stem for stem in STEMS.split() if stem != 'lora')})_[A-Za-z0-9_]+(?:\.[^.]+)*$")
TYPE_OF_STEM = {"adaption": "ADAPTION_PROMPT", "hada": "LOHA", "internal_xlora": "XLORA"}


def leftovers(subject: Subject) -> Mapping[Bucket, tuple[str, ...]]:
    """Every saved key that nothing accounts for, in one bucket each.

    Raises UnsupportedError for a PEFT type that nothing here knows: its tensors are not analysed.
    """
    return subject.once("leftovers", lambda: _sorted(subject))


def misspelt(subject: Subject) -> frozenset[str]:
    """The keys in the buckets whose names are wrong, and not what they hold."""
    found = leftovers(subject)
    return frozenset(key for bucket in MISSPELT for key in found.get(bucket, ()))


def adapter_names(keys: Sequence[str]) -> tuple[str, ...]:
    """The names of adapters left in keys, each once."""
    return tuple(dict.fromkeys(name for key in keys if (name := _name_in(key, headed=True))))


def format_of(key: str) -> Format | None:
    """The tool whose spelling a key has."""
    return next((known for known in FORMATS if known.pattern.search(key)), None)


def tuner_of(key: str) -> str | None:
    """The PEFT type that a part belongs to where it is not LoRA's."""
    if key.endswith((".lora_A", ".lora_B", ".lora_E")):
        return "ADALORA"
    found = TUNER_PART.search(key)
    return TYPE_OF_STEM.get(found[1], found[1].upper()) if found else None


def first_of(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _sorted(subject: Subject) -> Mapping[Bucket, tuple[str, ...]]:
    config = subject.adapter.config
    if config.peft_type not in {*TUNERS, *PROMPTS, *ROUTED, *LATER}:
        raise UnsupportedError(f"{config.peft_type} is no PEFT type this version knows: its tensors are not analysed")
    heads = {head[1] for key in subject.store if PREFIX in key[1:] and (head := HEADED.match(key))}
    adalora = any(key.endswith(".lora_E") for key in subject.store)
    found: dict[Bucket, list[str]] = {}
    for tensor in subject.saved:
        if config.peft_type == "LORA" and _is_usual(tensor):
            continue
        bucket = _misspelling(tensor, headed=len(heads) > 1) or next(_remainder(tensor, config, adalora=adalora), None)
        if bucket is not None:
            found.setdefault(bucket, []).append(tensor.key.text)
    return {bucket: tuple(keys) for bucket, keys in found.items()}


def _is_usual(tensor: Saved) -> bool:
    """Whether it is a factor, and its module's name has nothing in it that any bucket asks for: nearly all are so."""
    module = tensor.key.module
    usual = tensor.role == "trained" and tensor.key.part in USUAL_PARTS and module and module[0] != "_"
    return bool(usual) and not any(mark in module for mark in ODD_MARKS)


def _misspelling(tensor: Saved, *, headed: bool) -> Bucket | None:
    """What is wrong with a key's spelling; ``headed``: whatever stands before PEFT's prefix is an adapter's name."""
    text = tensor.key.text
    if _name_in(text, headed=headed):
        return "named"
    if WRAPPER.search(text) or HEADED.match(text):
        return "wrapper"
    if text.startswith(PREFIX * 2):
        return "doubled"
    if tensor.role in ("stray", "undeclared") and format_of(text):
        return "format"
    return "prefix" if tensor.role == "stray" and text else None


def _name_in(text: str, *, headed: bool) -> str | None:
    found = NAMED.search(text)
    head = HEADED.match(text) if headed else None
    return (found["lora"] or found["other"]) if found else head[1] if head and head[1] != "module" else None


def _remainder(tensor: Saved, config: AdapterConfig, *, adalora: bool) -> Iterator[Bucket]:
    """What a key is whose spelling is right, the likeliest first; nothing where the config accounts for it."""
    key, lora = tensor.key, config.peft_type == "LORA"
    shared = lora and key.text and not key.module and key.part != FULL  # LoRA's modules share nothing
    off = lora and key.module and _switched_off(key.part, config)
    if not (tensor.role in ("undeclared", "stray") or shared or off or _hidden(tensor)):
        return
    if off:
        yield "switch"
    if lora and tuner_of(key.text) and (adalora or TUNER_PART.search(key.text)):
        yield "tuner"
    if shared:
        yield "prefix"
    if lora and key.part == FULL and re.search(r"\.lora_[A-Za-z0-9_]+(?:\.|$)", key.text):
        yield "part"
    leaf = projection_of(key.text)
    if leaf == "bias" and key.module:
        yield "bias"
    if leaf == "weight" and key.module not in ("weight", ""):
        yield "weight"
    yield "nothing"


def _switched_off(part: str, config: AdapterConfig) -> bool:
    """Whether a part belongs to a variant that the config does not name; an empty ``kasa_config: {}`` names it."""
    for begin, field in NEEDED_FIELDS.items():
        if part.startswith(begin) and config.fields.get(field) in (None, False):
            return True
    return False


def _hidden(tensor: Saved) -> bool:
    """A wrapped layer's own weight or bias, which PEFT saves for embeddings and heads alone (a resized vocabulary)."""
    if tensor.role != "carried" or "base_layer." not in tensor.key.part:
        return False
    return projection_of(tensor.key.module) not in (*EMBEDDINGS, *HEADS)
