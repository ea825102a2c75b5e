"""Llama and those who kept its shape: Mistral, Mixtral, SmolLM2, TinyLlama, Yi, …"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import COMMON, KEY_LENGTH, VALUE_LENGTH, VOCAB_SIZE, main_rope
from adaptool.archs.gguf.placed import Placed, rotary_pairs
from adaptool.archs.gguf.spec import ArchSpec, Tensor, derived
from adaptool.tensors.ggml.values import u32


def pair_queries(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """q_proj: the rows of each head from halves to rotary pairs."""
    order = rotary_pairs(tensor.shape[0], hp.heads)
    return [Placed(tensor.name, tensor.shape, (tensor.source,), order)]


def pair_keys(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """k_proj: the same, with its own number of heads."""
    order = rotary_pairs(tensor.shape[0], hp.kv_heads)
    return [Placed(tensor.name, tensor.shape, (tensor.source,), order)]


ROTARY_RULES = {r"q_proj\.(?:weight|bias)": pair_queries, r"k_proj\.(?:weight|bias)": pair_keys}


def llama3_factors(hp: Hparams) -> Mapping[str, NDArray[np.float32]]:
    """``rope_freqs``: by how much Llama 3.1 stretches each frequency.

    Source: Llama 3.1's rope scaling: wavelengths below ``original/high`` stay, above ``original/low`` are divided by
    ``factor``, in between they are interpolated.
    """
    rope = main_rope(hp)
    if str(rope.get("rope_type", "")).lower() != "llama3":
        return {}
    exponents = np.arange(0, hp.head_dim, 2, dtype=np.float32) / np.float32(hp.head_dim)
    frequencies = np.float32(1) / np.power(np.float32(rope.get("rope_theta", 10000.0)), exponents)
    factor = float(rope.get("factor", 8))
    low, high = float(rope.get("low_freq_factor", 1)), float(rope.get("high_freq_factor", 4))
    original = rope.get("original_max_position_embeddings", 8192)
    factors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / float(frequency)
        smooth = (original / wavelength - low) / (high - low)
        stretched = 1 / ((1 - smooth) / factor + smooth) if original / low >= wavelength >= original / high else factor
        factors.append(1.0 if wavelength < original / high else stretched)
    return {"rope_freqs.weight": np.array(factors, np.float32)}


LLAMA = ArchSpec(
    name="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel"),
    keys=(*COMMON, KEY_LENGTH, VALUE_LENGTH, VOCAB_SIZE, derived("rope.dimension_count", u32, lambda hp: hp.head_dim)),
    tokenizer="llama",
    rules=ROTARY_RULES,
    extras=llama3_factors,
)
