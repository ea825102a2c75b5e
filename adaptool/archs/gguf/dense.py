"""Decoders that need names and keys only: Seed-OSS, EXAONE 4."""

from __future__ import annotations

from adaptool.archs.gguf.decoders import HEAD_LENGTHS, TEXT_MODEL, assumed, llama3_factors
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import COMMON, SLIDING_WINDOW, VOCAB_SIZE
from adaptool.archs.gguf.layers import SLIDING_PATTERN, sliding_layers
from adaptool.archs.gguf.spec import ArchSpec

SEED_OSS = ArchSpec(
    name="seed_oss",
    architectures=("SeedOssForCausalLM",),
    keys=(*COMMON, *HEAD_LENGTHS),
    tokenizer="bpe",
    renames=TEXT_MODEL,
    defaults={**assumed(context=524288), "num_key_value_heads": 8, "head_dim": 128},
    config={"hidden_act": "silu"},
)

WINDOWED_LAYERS = 64
"""llama.cpp gives EXAONE 4 windows (and layers that do not rotate) at this size only: 32B."""


def _windows_elsewhere(hp: Hparams) -> str | None:
    windows = any(sliding_layers(hp) or ())
    if windows == (hp.layers == WINDOWED_LAYERS):
        return None
    return f"{hp.layers} layers {'with' if windows else 'without'} sliding windows: llama.cpp has them at 64, always"


EXAONE4 = ArchSpec(
    name="exaone4",
    architectures=("Exaone4ForCausalLM",),
    keys=(*COMMON, *HEAD_LENGTHS, VOCAB_SIZE, SLIDING_WINDOW, SLIDING_PATTERN),
    tokenizer="bpe",
    renames=TEXT_MODEL,
    extras=llama3_factors,
    defaults={
        **assumed(eps=1e-5),
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
    },
    config={"hidden_act": "silu"},
    limits=_windows_elsewhere,
)

TABLES = (SEED_OSS, EXAONE4)
