"""StarCoder 2: names only; its norms and every linear layer have biases."""

from __future__ import annotations

from adaptool.archs.gguf.decoders import TEXT_MODEL
from adaptool.archs.gguf.keys import COMMON
from adaptool.archs.gguf.spec import ArchSpec

STARCODER2 = ArchSpec(
    name="starcoder2",
    architectures=("Starcoder2ForCausalLM", "Starcoder2Model"),
    keys=COMMON,
    tokenizer="bpe",
    renames=TEXT_MODEL,
    defaults={
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "norm_epsilon": 1e-5,
        "max_position_embeddings": 4096,
    },
    config={"hidden_act": "gelu_pytorch_tanh"},
)

TABLES = (STARCODER2,)
