"""StableLM: a part of each head rotates, and 12B normalises every head of q and k by weights of its own."""

from __future__ import annotations

from collections.abc import Sequence

from adaptool.archs.gguf.decoders import TEXT_MODEL
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import BLOCKS, CONTEXT, EMBEDDING, FEED_FORWARD, HEADS, KV_HEADS, NORM_EPS, main_rope
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.spec import ArchSpec, Tensor, derived, setting
from adaptool.tensors.ggml.values import boolean, f32, u32


def _rotated(hp: Hparams) -> int:
    return int(main_rope(hp).get("partial_rotary_factor", 0.25) * (hp.hidden // hp.heads))


def _unusual_base(hp: Hparams) -> float | None:
    theta = main_rope(hp).get("rope_theta")
    return theta if theta != 10000.0 else None


def _every_head(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """q_layernorm.norms.0, …: one vector a head, stacked where the first stands."""
    if ".norms.0." not in tensor.source:
        return []
    heads = hp.heads if ".q_layernorm." in tensor.name else hp.kv_heads
    sources = tuple(tensor.source.replace(".norms.0.", f".norms.{head}.") for head in range(heads))
    return [Placed(tensor.name.replace(".norms.0.", "."), (heads, *tensor.shape), sources)]


STABLELM = ArchSpec(
    name="stablelm",
    architectures=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    keys=(
        CONTEXT, EMBEDDING, BLOCKS, FEED_FORWARD,
        derived("rope.dimension_count", u32, _rotated),
        derived("rope.freq_base", f32, _unusual_base, "rope_theta"),
        HEADS, KV_HEADS,
        setting("use_parallel_residual", boolean, "use_parallel_residual", default=True),
        NORM_EPS,
    ),
    tokenizer="bpe",
    rules={r"[qk]_layernorm\.norms\.\d+\.weight": _every_head},
    renames=TEXT_MODEL,
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": False,
    },
    config={"hidden_act": "silu"},
)  # fmt: skip

TABLES = (STABLELM,)
