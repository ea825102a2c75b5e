"""What the tables of decoders share: names without their wrappings, what config classes assume, llama3's rope."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import main_rope
from adaptool.archs.gguf.spec import derived, setting
from adaptool.tensors.ggml.values import u32

TEXT_MODEL = {
    r"^(?:model\.)?language_model\.": "",
    r"^(?=(?:layers|embed_tokens|norm)\.)": "model.",
}
"""Renames: the text part of a multimodal checkpoint, and a base model saved without its head, both as "model.…"."""

VISION = (r"^(?:model\.)?(?:vision_tower|vision_model|visual|multi_modal_projector)\.",)
"""What a text model's GGUF leaves out."""

HEAD_LENGTHS = (setting("attention.key_length", u32, "head_dim"), setting("attention.value_length", u32, "head_dim"))
"""Written where the config, or its class, says ``head_dim``; else the runtime divides."""

ROTARY_LENGTH = derived("rope.dimension_count", u32, lambda hp: hp.head_dim)
"""All of a head rotates."""


def every_head(hp: Hparams) -> int:
    """A default of ``num_key_value_heads``: no grouped queries."""
    return hp.heads


def divided(hp: Hparams) -> int:
    """A default of ``head_dim``."""
    return hp.hidden // hp.heads


def assumed(theta: float = 10000.0, eps: float = 1e-6, context: int = 2048) -> Mapping[str, object]:
    """What most config classes of transformers assume of keys that a config.json leaves out."""
    return {
        "num_key_value_heads": every_head,
        "rope_theta": theta,
        "rms_norm_eps": eps,
        "max_position_embeddings": context,
    }


def llama3_factors(hp: Hparams) -> Mapping[str, NDArray[np.float32]]:
    """``rope_freqs``: by how much Llama 3.1 stretches each frequency.

    Wavelengths below ``original/high`` stay, above ``original/low`` they are stretched by ``factor``, in between
    smoothly. Every step is rounded to float32, as the reference does. Source: Llama 3.1's model card and code.
    """
    rope = main_rope(hp)
    if str(rope.get("rope_type", "")).lower() != "llama3":
        return {}
    exponents = np.arange(0, hp.head_dim, 2, dtype=np.float32) / np.float32(hp.head_dim)
    powers = np.power(np.float64(rope.get("rope_theta", 10000.0)), exponents.astype(np.float64)).astype(np.float32)
    wavelengths = np.float32(2 * np.pi) / (np.float32(1) / powers)
    factor = np.float32(rope.get("factor", 8.0))
    low, high = float(rope.get("low_freq_factor", 1.0)), float(rope.get("high_freq_factor", 4.0))
    original = float(rope.get("original_max_position_embeddings", 8192))
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / factor + smooth)
    factors = np.where(wavelengths > original / low, factor, between)
    return {"rope_freqs.weight": np.where(wavelengths < original / high, np.float32(1), factors).astype(np.float32)}
