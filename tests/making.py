"""Small bases and adapters made without torch and without adaptool's own writer: what a test can take apart."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.api import merge
from adaptool.errors import AdaptoolError
from adaptool.merging.options import MergeOptions, MergeReport

STORAGE = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}
WIDTH, HIDDEN, VOCABULARY = 64, 96, 40
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}

Tensors = dict[str, tuple[str, NDArray[Any]]]


def pack(header: object, data: bytes = b"") -> bytes:
    """A safetensors file of any header, well-formed or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(kind: str, shape: Sequence[int], start: int, stop: int) -> dict[str, object]:
    """One tensor in a safetensors header."""
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, stop]}


def numbers(kind: str, shape: Sequence[int], seed: int, spread: float = 0.05) -> NDArray[Any]:
    """Seeded normal numbers as the storage type of ``kind``; bfloat16 by truncation."""
    values = np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else values.astype(STORAGE[kind])


def write_tensors(path: Path, tensors: Tensors) -> Path:
    """A safetensors file, by the format's own words."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, array) in tensors.items():
        header[name] = entry(kind, array.shape, at, at + array.nbytes)
        at += array.nbytes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(header, b"".join(array.tobytes() for _, array in tensors.values())))
    return path


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return path


def llama(folder: Path, *, kind: str = "BF16", layers: int = 2, shards: int = 1, tied: bool = False) -> Path:
    """A base folder: a Llama of ``layers`` layers, config and tokenizer beside it."""
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in SHAPES.items()}
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (WIDTH,)
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    tensors = {name: (kind, numbers(kind, shape, seed)) for seed, (name, shape) in enumerate(shapes.items())}
    write_json(folder / "config.json", llama_config(layers, tied))
    write_json(folder / "tokenizer.json", {"version": "1.0"})
    write_json(folder / "generation_config.json", {"do_sample": True})
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return folder
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    homes = {name: names[i * shards // len(tensors)] for i, name in enumerate(tensors)}
    for file in names:
        write_tensors(folder / file, {name: value for name, value in tensors.items() if homes[name] == file})
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 0}, "weight_map": homes})
    return folder


def llama_config(layers: int = 2, tied: bool = False) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }


def lora(
    folder: Path,
    *,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    layers: int = 2,
    rank: int = 4,
    spread: float = 0.05,
    extra: Tensors | None = None,
    **fields: object,
) -> Path:
    """An adapter folder for ``llama``; ``fields`` overwrite its config, ``extra`` adds or replaces tensors."""
    tensors: Tensors = {}
    for layer in range(layers):
        for number, (name, (rows, columns)) in enumerate(SHAPES.items()):
            if name.rpartition(".")[2] in targets:
                key, seed = f"base_model.model.model.layers.{layer}.{name}", 1000 + 10 * layer + number
                tensors[f"{key}.lora_A.weight"] = ("F32", numbers("F32", (rank, columns), seed, spread))
                tensors[f"{key}.lora_B.weight"] = ("F32", numbers("F32", (rows, rank), seed + 500, spread))
    write_tensors(folder / "adapter_model.safetensors", tensors | (extra or {}))
    write_json(folder / "adapter_config.json", lora_config(rank=rank, targets=targets) | fields)
    return folder


def lora_config(*, rank: int = 4, targets: Sequence[str] = ("q_proj", "v_proj")) -> dict[str, Any]:
    return {
        "base_model_name_or_path": "zoo/base",
        "bias": "none",
        "lora_alpha": 8,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
    }


def edit_json(path: Path, **fields: object) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)


def merged(base: Path, adapter: Path, out: Path, ignore: Sequence[str] = (), **options: Any) -> MergeReport:
    """Run a merge to its end; ``ignore`` names what validate would refuse the adapter for."""
    job = merge([(adapter, 1.0)], base, out, options=MergeOptions(**options), ignore=ignore)
    for _ in job:
        pass
    return job.report


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name: what "whole" and "untouched" are compared by."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal_of(action: Callable[[], object]) -> AdaptoolError | None:
    """The worded error that ``action`` raises, None where it succeeds; any other error is a test's failure."""
    try:
        action()
    except AdaptoolError as error:
        return error
    return None
