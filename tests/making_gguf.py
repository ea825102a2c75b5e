"""A model with everything a conversion to GGUF reads, made without torch: weights, config, and a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
from making import Tensors, lora_config, numbers, write_json, write_tensors

from adaptool import api
from adaptool.gguf.merged import gguf_export
from adaptool.merging.options import MergeOptions
from adaptool.tensors.dtypes import DType

WIDTH, HEADS, KV_HEADS, LAYERS = 256, 4, 2, 2
"""Wide enough for the 256 columns of a K-quant's block."""

MERGES = ("t h", "th e", "Ġ the", "c a", "ca t")
EOS = "<eos>"
PROJECTIONS = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (WIDTH, WIDTH),
    "mlp.up_proj": (WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, WIDTH),
}


def alphabet() -> list[str]:
    """The characters byte-level BPE shows the 256 bytes as: printable ones as themselves. Source: GPT-2."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + moved.index(byte)) for byte in range(256)]


TOKENS = (EOS, *alphabet(), *(merge.replace(" ", "") for merge in MERGES))


def write_tokenizer(folder: Path, rows: int = len(TOKENS), **settings: object) -> None:
    """A tokenizer of bytes and a few words, in a vocabulary of ``rows``."""
    tokens, merges = [*TOKENS, *(f"<extra_{number}>" for number in range(rows - len(TOKENS)))], list(MERGES)
    if rows < len(TOKENS):
        tokens, merges = [*TOKENS[: rows - 1], TOKENS[34] + TOKENS[35]], [f"{TOKENS[34]} {TOKENS[35]}"]
    special = {"id": 0, "content": EOS, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [special | flags],
            "normalizer": None,
            "pre_tokenizer": by_bytes,
            "post_processor": None,
            "decoder": by_bytes,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": merges,
            },
        },
    )
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "eos_token": EOS, **settings})


def model_config(**changes: object) -> dict[str, Any]:
    """config.json of the model; ``changes`` overwrite it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "vocab_size": len(TOKENS),
        "tie_word_embeddings": False,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
        **changes,
    }


def model_tensors(kind: str = "BF16", *, tied: bool = False, seed: int = 0, spread: float = 0.08) -> Tensors:
    """Seeded tensors of the model; norms are near one."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(TOKENS), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in PROJECTIONS.items()}
    if not tied:
        shapes["lm_head.weight"] = (len(TOKENS), WIDTH)
    tensors = {
        name: (kind, numbers(kind, shape, seed + number, spread)) for number, (name, shape) in enumerate(shapes.items())
    }
    ones = numbers("F32", (WIDTH,), seed, 0.1) + 1
    one = {"F32": ones, "F16": ones.astype("float16"), "BF16": (ones.view("uint32") >> 16).astype("uint16")}[kind]
    norms = ["model.norm.weight"]
    for layer in range(LAYERS):
        norms += [f"model.layers.{layer}.{name}_layernorm.weight" for name in ("input", "post_attention")]
    return tensors | dict.fromkeys(norms, (kind, one))


def model(
    folder: Path,
    kind: str = "BF16",
    *,
    tied: bool = False,
    shards: int = 1,
    changed: Tensors | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """A Llama's folder; ``changed`` replaces or adds tensors, ``config`` settings of its config.json."""
    tensors = model_tensors(kind, tied=tied) | (changed or {})
    write_json(folder / "config.json", model_config(tie_word_embeddings=tied) | dict(config or {}))
    write_tokenizer(folder)
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return folder
    homes = {
        name: f"model-{number * shards // len(tensors) + 1:05d}-of-{shards:05d}.safetensors"
        for number, name in enumerate(tensors)
    }
    for file in sorted(set(homes.values())):
        write_tensors(folder / file, {name: tensors[name] for name, home in homes.items() if home == file})
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": homes})
    return folder


def adapter(
    folder: Path,
    *,
    targets: Sequence[str] = ("q_proj", "k_proj", "down_proj"),
    rank: int = 4,
    spread: float = 0.2,
    extra: Tensors | None = None,
    ranks: Mapping[str, int] | None = None,
    **fields: object,
) -> Path:
    """A LoRA for ``model``; ``ranks`` are those of single targets, ``fields`` overwrite its config."""
    tensors: Tensors = {}
    for layer in range(LAYERS):
        for number, (name, (rows, columns)) in enumerate(PROJECTIONS.items()):
            leaf = name.rpartition(".")[2]
            if leaf not in targets:
                continue
            own, seed = (ranks or {}).get(leaf, rank), 1000 + 10 * layer + number
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = ("F32", numbers("F32", (own, columns), seed, spread))
            tensors[f"{key}.lora_B.weight"] = ("F32", numbers("F32", (rows, own), seed + 500, spread))
    write_tensors(folder / "adapter_model.safetensors", tensors | (extra or {}))
    write_json(folder / "adapter_config.json", lora_config(rank=rank, targets=targets) | fields)
    return folder


def converted(source: Path, out: Path, types: str = "q4", *, dtype: DType | None = None, **options: Any) -> Path:
    """Run a conversion to its end; ``options`` are those of ``gguf_options``, and how it is run."""
    how = {name: options.pop(name) for name in ("workers", "resume", "overwrite") if name in options}
    for _ in api.convert(source, out, api.gguf_options(types, **options), dtype=dtype, **how):
        pass
    return out


def converted_lora(adapter: Path, base: Path, out: Path, weight: float = 1.0, **how: Any) -> Path:
    """Run the conversion of an adapter to its end."""
    for _ in api.convert_lora((adapter, weight), base, out, **how):
        pass
    return out


def merged_gguf(adapter: Path, base: Path, out: Path, types: str = "q4", **options: Any) -> Path:
    """Run a merge to GGUF to its end; ``options`` are those of MergeOptions, ``ollama`` and those of gguf_options."""
    gguf = {name: options.pop(name) for name in ("pre", "imatrix", "split_nbytes", "tensor_types") if name in options}
    exports = (gguf_export(api.gguf_options(types, **gguf), ollama=options.pop("ollama", False)),)
    for _ in api.merge([(adapter, 1.0)], base, out, options=MergeOptions(exports=exports, **options)):
        pass
    return out


def contents(*paths: Path) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Every tensor of a GGUF, in one file or several: type, shape and bytes, as the gguf package reads them."""
    return {
        tensor.name: (int(tensor.tensor_type), tuple(map(int, tensor.shape)), tensor.data.tobytes())
        for path in paths
        for tensor in gguf.GGUFReader(path).tensors
    }


def metadata(path: Path) -> dict[str, Any]:
    """A GGUF's keys and values, as the gguf package reads them."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
