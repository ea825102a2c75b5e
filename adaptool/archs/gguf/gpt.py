"""GPT-2, whose layers are stored transposed, and GPT-NeoX, whose heads hold queries, keys and values by turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.keys import (
    BLOCKS,
    CONTEXT,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    NORM_EPS,
    ROPE_BASE_UNUSUAL,
    ROPE_SCALING,
    main_rope,
)
from adaptool.archs.gguf.limits import gelu_only
from adaptool.archs.gguf.placed import Placed, ungrouped
from adaptool.archs.gguf.spec import ArchSpec, Tensor, derived, setting
from adaptool.tensors.ggml.values import boolean, u32


def _transposed(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    rows, columns = tensor.shape
    return [Placed(tensor.name, (columns, rows), (tensor.source,), transposed=True)]


GPT2 = ArchSpec(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    keys=(
        replace(BLOCKS, config="n_layer"),
        setting("context_length", u32, "n_positions", "n_ctx", "max_position_embeddings"),
        replace(EMBEDDING, config="n_embd"),
        setting("feed_forward_length", u32, "n_inner"),
        replace(HEADS, config="n_head"),
        setting("attention.layer_norm_epsilon", NORM_EPS.make, "layer_norm_epsilon"),
    ),
    tokenizer="bpe",
    rules={r"c_(?:attn|proj|fc)\.weight": _transposed},
    dropped=(r"\.attn\.(?:masked_)?bias$",),
    defaults={"n_positions": 1024, "n_inner": lambda hp: 4 * hp.hidden, "layer_norm_epsilon": 1e-5},
    config={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    limits=gelu_only("activation_function"),
)


def each_apart(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """query_key_value, head by head: all queries, all keys, all values."""
    order = ungrouped(tensor.shape[0], hp.heads, 1)
    return [Placed(tensor.name, tensor.shape, (tensor.source,), order)]


def _rotated(hp: Hparams) -> int:
    return int(main_rope(hp).get("partial_rotary_factor", 0.25) * (hp.hidden // hp.heads))


GPT_NEOX = ArchSpec(
    name="gptneox",
    architectures=("GPTNeoXForCausalLM",),
    keys=(
        CONTEXT, EMBEDDING, BLOCKS, FEED_FORWARD,
        derived("rope.dimension_count", u32, _rotated),
        *ROPE_SCALING,
        ROPE_BASE_UNUSUAL,
        HEADS,
        setting("use_parallel_residual", boolean, "use_parallel_residual", default=True),
        NORM_EPS,
    ),
    tokenizer="bpe",
    rules={r"query_key_value\.(?:weight|bias)": each_apart},
    defaults={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "rope_theta": 10000.0},
    model_type="gpt_neox",
    limits=gelu_only("hidden_act"),
)  # fmt: skip

TABLES = (GPT2, GPT_NEOX)
