"""A small good adapter and its base, to be broken: what each rule's mutation works on, and its test writes to disk.

It is a rank-8 LoRA on q_proj and v_proj of a two-layer Llama, as PEFT saves one. Nothing here is used outside tests and
documentation; it lives beside the rules so that a rule and what breaks it are read together.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.adapters.adapter import WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME

WIDTH, HIDDEN, VOCABULARY, LAYERS, RANK = 64, 96, 40, 2, 8
PREFIX = "base_model.model."
Q = f"{PREFIX}model.layers.0.self_attn.q_proj"
"""The first module: ``f"{Q}.lora_A.weight"`` is (RANK, WIDTH), its B (WIDTH, RANK)."""
V = f"{PREFIX}model.layers.0.self_attn.v_proj"
"""Its B is (WIDTH // 2, RANK)."""

MODULES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH), "mlp.down_proj": (WIDTH, HIDDEN),
}  # fmt: skip

CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False,
    "lora_dropout": 0.05, "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": RANK, "rank_pattern": {}, "revision": "7e27bd9f95328f0f3b08261d1252705110c806f8",
    "target_modules": ["q_proj", "v_proj"], "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    "velora_config": None,
}  # fmt: skip

BASE_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
    "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip

NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16",
         "int8": "I8", "uint8": "U8", "bool": "BOOL"}  # fmt: skip
"""safetensors' names of NumPy's types."""

CARD = b"""---
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: peft
license: apache-2.0
---
# An example
"""

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass
class Draft:
    """An adapter not yet written, and the base beside it: change anything, then ``write``."""

    config: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(CONFIG)))
    tensors: dict[str, Array] = field(default_factory=lambda: _factors())
    dtypes: dict[str, str] = field(default_factory=dict)
    """safetensors' name of a tensor's type where it is not its array's own: "BF16" of uint16, …"""
    metadata: dict[str, str] = field(default_factory=lambda: {"format": "pt"})
    files: dict[str, bytes] = field(default_factory=lambda: {"README.md": CARD})
    """Written last: another file beside the adapter, or in place of one of its own."""
    links: dict[str, str] = field(default_factory=dict)
    """Symbolic links, and where they point."""
    pipes: set[str] = field(default_factory=set)
    """Named pipes, on which whoever opens them waits."""
    removed: set[str] = field(default_factory=set)
    base_config: dict[str, Any] = field(default_factory=lambda: dict(BASE_CONFIG))
    base_tensors: dict[str, Array] = field(default_factory=lambda: _base())
    max_rank: int | None = None
    """What the test validates with, as --max-rank."""

    def weights(self) -> bytes:
        """The weights' file as it would be written now."""
        return packed(self.tensors, self.dtypes, self.metadata)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The adapter's folder and its base's, below ``folder``."""
        adapter, base = folder / "adapter", folder / "base"
        for place in (adapter, base):
            place.mkdir(parents=True)
        (base / "config.json").write_text(json.dumps(self.base_config))
        (base / "model.safetensors").write_bytes(packed(self.base_tensors, {}, {"format": "pt"}))
        own = {CONFIG_NAME: json.dumps(self.config, indent=2).encode(), WEIGHTS_NAME: self.weights()} | self.files
        for name, content in own.items():
            if name not in self.removed:
                (adapter / name).parent.mkdir(parents=True, exist_ok=True)
                (adapter / name).write_bytes(content)
        for name, target in self.links.items():
            (adapter / name).unlink(missing_ok=True)
            (adapter / name).symlink_to(target)
        for name in self.pipes:
            (adapter / name).unlink(missing_ok=True)
            os.mkfifo(adapter / name)
        return adapter, base


def fields(**values: Any) -> Callable[[Draft], object]:
    """The mutation that sets fields of the config."""
    return lambda draft: draft.config.update(json.loads(json.dumps(values)))


def file(name: str, content: bytes) -> Callable[[Draft], object]:
    """The mutation that puts a file into the folder, or in the place of one of the adapter's own."""
    return lambda draft: draft.files.update({name: content})


def tensors(**changed: Callable[[Array], Array]) -> Callable[[Draft], object]:
    """The mutation that rewrites every tensor of a part: ``tensors(lora_B=lambda B: 0 * B)``."""

    def mutate(draft: Draft) -> None:
        for key, array in draft.tensors.items():
            for part, change in changed.items():
                if f".{part}" in key:
                    draft.tensors[key] = change(array)

    return mutate


def renamed(spell: Callable[[str], str]) -> Callable[[Draft], object]:
    """The mutation that spells every tensor's key anew."""
    return lambda draft: setattr(draft, "tensors", {spell(key): array for key, array in draft.tensors.items()})


def extra(key: str, *shape: int) -> Callable[[Draft], object]:
    """The mutation that adds a tensor of numbers, or puts one in another's place."""
    return lambda draft: draft.tensors.update({key: numbers(shape, 99)})


def remade(
    peft_type: str, parts: Mapping[str, Shape], shared: Mapping[str, Shape] | None = None, **values: Any
) -> Callable[[Draft], object]:
    """The mutation that makes it another PEFT type's: these parts in every layer's q_proj, these for all, as shared."""
    common = ("base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "auto_mapping")

    def mutate(draft: Draft) -> None:
        targets = {"target_modules": ["q_proj"]} if parts else {}
        draft.config = {name: draft.config[name] for name in common} | {"peft_type": peft_type} | targets | values
        prefixes = [f"{PREFIX}model.layers.{layer}.self_attn.q_proj." for layer in range(LAYERS)]
        shapes = {prefix + part: shape for prefix in prefixes for part, shape in parts.items()} | dict(shared or {})
        draft.tensors = {key: numbers(shape, seed) for seed, (key, shape) in enumerate(shapes.items())}

    return mutate


def together(*mutations: Callable[[Draft], object]) -> Callable[[Draft], object]:
    """Several mutations, one after the other."""
    return lambda draft: [mutation(draft) for mutation in mutations]


def packed(tensors: dict[str, Array], dtypes: dict[str, str], metadata: dict[str, str]) -> bytes:
    """A safetensors file of these arrays."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for key, array in tensors.items():
        kind = dtypes.get(key) or NAMES[array.dtype.name]
        header[key] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    return framed(json.dumps(header).encode(), b"".join(array.tobytes() for array in tensors.values()))


def framed(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file of any header and data, well-formed or not."""
    return struct.pack("<Q", len(header)) + header + data


def numbers(shape: tuple[int, ...], seed: int, spread: float = 0.05) -> Array:
    """Seeded normal float32."""
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def _factors() -> dict[str, Array]:
    made: dict[str, Array] = {}
    for layer in range(LAYERS):
        for name in ("self_attn.q_proj", "self_attn.v_proj"):
            rows, columns = MODULES[name]
            key = f"{PREFIX}model.layers.{layer}.{name}"
            made[f"{key}.lora_A.weight"] = numbers((RANK, columns), len(made))
            made[f"{key}.lora_B.weight"] = numbers((rows, RANK), len(made), 0.01)
    return made


def _base() -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in MODULES.items()}
        shapes |= {f"model.layers.{layer}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}
    return {name: numbers(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
