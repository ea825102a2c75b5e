"""Llama's relatives as GGUF: keys and tensors as worked out with torch alone, answers as transformers gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making_archs import approximate, converted, made_once, randomised

from adaptool.adapters.base import open_base
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.tables import architecture_keys, cautions, hparams_of, spec_for, spec_named
from adaptool.errors import MismatchError, UnsupportedError
from adaptool.tensors.ggml.values import KeyValues, ValueType, array, text, u32
from adaptool.tensors.gguf_writer import GgufPlan

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

VOCABULARY = 96
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
SHARED_KEYS = {
    "block_count": 3,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.freq_base": 10000.0,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
LLAMA_KEYS = {"vocab_size": VOCABULARY, "rope.dimension_count": 16}
NO_RMS = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-5}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}
MINISTRAL = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1, "max_position_embeddings": 512}
SCALES = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.25,
    "attention_multiplier": 0.125,
}
GRANITE_KEYS = {
    **LLAMA_KEYS,
    "attention.scale": 0.125,
    "embedding_scale": 12.0,
    "residual_scale": 0.25,
    "logit_scale": 0.5,
}


def lengths(head_dim: int) -> dict[str, int]:
    return {"attention.key_length": head_dim, "attention.value_length": head_dim}


@dataclass(frozen=True)
class Family:
    """A tiny model: its class, its config beyond ``SIZES``, the architecture and the keys beyond ``SHARED_KEYS``."""

    model: str
    arch: str
    config: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    paired: bool = False
    """Whether rows of q and k are reordered."""

    @property
    def expected_keys(self) -> dict[str, Any]:
        merged = {**SHARED_KEYS, **self.keys}
        return {f"{self.arch}.{name}": value for name, value in merged.items() if value is not None}


MOE = {"num_experts_per_tok": 2}
MOE_KEYS = {"expert_count": 4, "expert_used_count": 2}
SLIDING = [True, True, True, False, True]

FAMILIES = {
    "llama": Family("Llama", "llama", {}, {**LLAMA_KEYS, **lengths(16)}, True),
    "llama, tied, biased, wide heads": Family(
        "Llama",
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 24},
        {**LLAMA_KEYS, **lengths(24), "rope.dimension_count": 24},
        True,
    ),
    "llama 3": Family(
        "Llama",
        "llama",
        {"rope_parameters": LLAMA3},
        {**LLAMA_KEYS, **lengths(16), "rope.freq_base": 500000.0},
        True,
    ),
    "llama, linear": Family(
        "Llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {**LLAMA_KEYS, **lengths(16), "rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
        True,
    ),
    "llama, yarn with its own attention factor": Family(
        "Llama",
        "llama",
        {"rope_parameters": {**YARN, "attention_factor": 2.0}},
        {
            **LLAMA_KEYS,
            **lengths(16),
            **YARN_KEYS,
            "rope.scaling.yarn_attn_factor": 2.0,
            "rope.scaling.attn_factor": 1.7564977,  # 2 / (0.1 · ln 4 + 1)
        },
        True,
    ),
    "mistral": Family(
        "Mistral", "llama", {"head_dim": 24}, {**LLAMA_KEYS, **lengths(24), "rope.dimension_count": 24}, True
    ),
    "ministral 3": Family(
        "Ministral3",
        "mistral3",
        {"head_dim": 24, "rope_parameters": MINISTRAL},
        {
            **LLAMA_KEYS,
            **lengths(24),
            **YARN_KEYS,
            "rope.dimension_count": 24,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "attention.temperature_scale": 0.1,
        },
        True,
    ),
    "mixtral": Family(
        "Mixtral",
        "llama",
        {"num_local_experts": 4, **MOE},
        {**LLAMA_KEYS, **MOE_KEYS, "rope.freq_base": 1e6, "attention.layer_norm_rms_epsilon": 1e-5},
        True,
    ),
    "arcee": Family(
        "Arcee", "arcee", {}, {**LLAMA_KEYS, **lengths(16), "attention.layer_norm_rms_epsilon": 1e-5}, True
    ),
    "smollm3": Family(
        "SmolLM3", "smollm3", {"num_hidden_layers": 5}, {**LLAMA_KEYS, "block_count": 5, "rope.freq_base": 2e6}, True
    ),
    "granite": Family("Granite", "granite", {**SCALES, "attention_bias": True}, GRANITE_KEYS, True),
    "granite moe": Family(
        "GraniteMoe", "granitemoe", {**SCALES, "num_local_experts": 4, **MOE}, {**GRANITE_KEYS, **MOE_KEYS}, True
    ),
    "granite moe, shared": Family(
        "GraniteMoeShared",
        "granitemoe",
        {**SCALES, "num_local_experts": 4, "shared_intermediate_size": 48, **MOE},
        {**GRANITE_KEYS, **MOE_KEYS, "expert_shared_feed_forward_length": 48},
        True,
    ),
    "qwen2": Family("Qwen2", "qwen2"),
    "qwen2 moe": Family(
        "Qwen2Moe",
        "qwen2moe",
        {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, **MOE},
        {**MOE_KEYS, "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 48},
    ),
    "qwen3": Family("Qwen3", "qwen3", {"head_dim": 24, "tie_word_embeddings": True}, lengths(24)),
    "qwen3 moe": Family(
        "Qwen3Moe",
        "qwen3moe",
        {"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 24, "norm_topk_prob": True, **MOE},
        {**MOE_KEYS, **lengths(24), "expert_feed_forward_length": 32},
    ),
    "starcoder2": Family("Starcoder2", "starcoder2", {"tie_word_embeddings": True}, NO_RMS),
    "olmo": Family("Olmo", "olmo", {"clip_qkv": 8.0}, {**NO_RMS, "attention.clamp_kqv": 8.0}, True),
    "olmo2": Family("Olmo2", "olmo2", {}, {"attention.layer_norm_rms_epsilon": 1e-5}),
    "olmo3": Family(
        "Olmo3",
        "olmo2",
        {"num_hidden_layers": 5, "sliding_window": 8},
        {
            "block_count": 5,
            "rope.freq_base": 500000.0,
            "rope.freq_base_swa": 500000.0,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": SLIDING,
        },
    ),
    "olmoe": Family(
        "Olmoe",
        "olmoe",
        {"num_experts": 4, "num_key_value_heads": 4, **MOE},
        {**MOE_KEYS, "attention.head_count_kv": 4, "attention.layer_norm_rms_epsilon": 1e-5},
    ),
    "stablelm": Family(
        "StableLm",
        "stablelm",
        {"use_qkv_bias": True},
        {**NO_RMS, "rope.freq_base": None, "rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "stablelm, heads normalised": Family(
        "StableLm",
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True},
        {**NO_RMS, "rope.freq_base": None, "rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "command r": Family(
        "Cohere",
        "command-r",
        {"logit_scale": 1.5, "tie_word_embeddings": True},
        {**NO_RMS, "rope.freq_base": 500000.0, "logit_scale": 1.5, "rope.scaling.type": "none"},
    ),
    "command r7b": Family(
        "Cohere2",
        "cohere2",
        {"num_hidden_layers": 5, "sliding_window": 8, "logit_scale": 1.5, "tie_word_embeddings": True},
        {
            **NO_RMS,
            **LLAMA_KEYS,
            **lengths(16),
            "block_count": 5,
            "logit_scale": 1.5,
            "attention.sliding_window": 8,
            "rope.scaling.type": "none",
        },
    ),
    "seed oss": Family("SeedOss", "seed_oss", {"head_dim": 24}, lengths(24)),
    "exaone 4": Family(
        "Exaone4",
        "exaone4",
        {"sliding_window": None, "layer_types": ["full_attention"] * 3, "head_dim": 16},
        {"vocab_size": VOCABULARY, **lengths(16), "attention.layer_norm_rms_epsilon": 1e-5},
    ),
}

LEAVES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "block_sparse_moe.output_linear": "ffn_down_exps",
    "shared_mlp.output_linear": "ffn_down_shexp",
}
NORMED_AFTER = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "model.norm.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}
EXPERT_MATRICES = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}


def paired(weight: Any, heads: int) -> Any:
    """Halves of each head laid as neighbours."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def expected_tensors(saved: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A GGUF's tensors from a checkpoint's, with torch alone."""
    leaves = LEAVES | (NORMED_AFTER if family.model in ("Olmo2", "Olmo3", "Exaone4", "SeedOss") else {})
    result: dict[str, Any] = {}
    stacks: dict[str, dict[int, Any]] = {}
    for name, weight in saved.items():
        if name in OUTER:
            result[OUTER[name]] = weight
            continue
        layer, leaf, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name).groups()
        if expert := re.fullmatch(r".*\.experts\.(\d+)\.(\w+)", leaf):
            stacks.setdefault(f"blk.{layer}.{EXPERT_MATRICES[expert[2]]}.weight", {})[int(expert[1])] = weight
        elif head := re.fullmatch(r"self_attn\.([qk])_layernorm\.norms\.(\d+)", leaf):
            stacks.setdefault(f"blk.{layer}.attn_{head[1]}_norm.weight", {})[int(head[2])] = weight
        elif leaf.endswith("input_linear"):
            gate, up = weight.chunk(2, dim=-2)
            suffix = "exps" if leaf.startswith("block") else "shexp"
            result |= {f"blk.{layer}.ffn_gate_{suffix}.weight": gate, f"blk.{layer}.ffn_up_{suffix}.weight": up}
        elif family.paired and leaf in ("self_attn.q_proj", "self_attn.k_proj"):
            result[f"blk.{layer}.{leaves[leaf]}.{kind}"] = paired(weight, 4 if "q_proj" in leaf else 2)
        else:
            result[f"blk.{layer}.{leaves[leaf]}.{kind}"] = weight
    return result | {name: torch.stack([each[number] for number in range(len(each))]) for name, each in stacks.items()}


def saved_model(family: Family, folder: Path) -> Any:
    """A seeded model with random numbers in every parameter, and its folder."""
    config_class = getattr(transformers, f"{family.model}Config", None)
    if config_class is None:
        pytest.skip(f"this transformers has no {family.model}")
    model = getattr(transformers, f"{family.model}ForCausalLM")(config_class(**SIZES | dict(family.config))).eval()
    return randomised(model, folder, lambda name, _: "norm" in name and name.endswith("weight"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A family's model and folder, made on first use; nobody may write into it."""
    return made_once(tmp_path_factory.mktemp("families"), lambda name, folder: saved_model(FAMILIES[name], folder))


def plain(keys: KeyValues) -> dict[str, Any]:
    """Values alone; float32 are compared as such."""
    return {name: approximate(value) for name, value in keys.items()}


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """The same model with another config.json; None takes a setting out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None or name not in changes}
    target.mkdir()
    (target / "model.safetensors").hardlink_to(folder / "model.safetensors")
    (target / "config.json").write_text(json.dumps(kept))
    return target


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_and_tensors_are_those_llama_cpp_expects(name: str, made: Callable[[str], tuple[Any, Path]]):
    family, (_, folder) = FAMILIES[name], made(name)
    keys, store = converted(folder)
    assert plain(keys) == family.expected_keys
    expected = expected_tensors(load_file(folder / "model.safetensors"), family)
    assert sorted(expected) == sorted(set(store) - {"rope_freqs.weight"})
    for tensor, weight in expected.items():
        assert tuple(weight.shape) == store[tensor].shape, tensor
        found = store.read(tensor).reshape(store[tensor].shape)
        assert np.array_equal(weight.float().numpy(), found), tensor


def in_older_words(folder: Path) -> dict[str, Any]:
    """The rotary settings as transformers 4 saves them."""
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    rope = dict(rope.get("full_attention", rope))
    kind, theta, partial = rope.pop("rope_type"), rope.pop("rope_theta"), rope.pop("partial_rotary_factor", None)
    scaling = {} if kind == "default" else {"rope_scaling": {"type": kind, **rope}}
    return {"rope_parameters": None, "rope_theta": theta, "partial_rotary_factor": partial, **scaling}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_of_transformers_4_gives_the_same(name: str, made: Callable[[str], tuple[Any, Path]], tmp_path: Path):
    _, folder = made(name)
    older = edited(folder, tmp_path / "older", **in_older_words(folder))
    (keys, store), (older_keys, older_store) = converted(folder), converted(older)
    assert keys == older_keys
    assert store.infos == older_store.infos
    for tensor in store.extras:
        assert np.array_equal(store.extras[tensor], older_store.extras[tensor])


CLASS_DEFAULTS = [
    ("LlamaForCausalLM", {"attention.head_count_kv": 4, "rope.freq_base": 10000.0, "context_length": 2048}),
    ("MistralForCausalLM", {"attention.head_count_kv": 8, "attention.key_length": 16, "context_length": 131072}),
    ("MixtralForCausalLM", {"rope.freq_base": 1e6, "expert_count": 8, "expert_used_count": 2}),
    ("SmolLM3ForCausalLM", {"rope.freq_base": 2e6, "attention.head_count_kv": 4, "context_length": 32768}),
    ("GraniteForCausalLM", {"attention.scale": 1.0, "logit_scale": 1.0, "residual_scale": 1.0}),
    ("Qwen2ForCausalLM", {"attention.head_count_kv": 32, "context_length": 32768}),
    ("Qwen3ForCausalLM", {"attention.key_length": 128, "attention.value_length": 128}),
    ("Qwen2MoeForCausalLM", {"expert_count": 60, "expert_used_count": 4, "expert_feed_forward_length": 1408}),
    ("Starcoder2ForCausalLM", {"attention.layer_norm_epsilon": 1e-5, "attention.head_count_kv": 2}),
    ("Olmo3ForCausalLM", {"attention.sliding_window": 4096, "attention.sliding_window_pattern": [True, True, True]}),
    ("StableLmForCausalLM", {"rope.dimension_count": 4, "use_parallel_residual": False}),
    ("CohereForCausalLM", {"rope.freq_base": 500000.0, "logit_scale": 0.0625, "context_length": 8192}),
]


@pytest.mark.parametrize(("architecture", "expected"), CLASS_DEFAULTS, ids=[name for name, _ in CLASS_DEFAULTS])
def test_what_a_config_leaves_out_is_what_its_class_assumes(architecture: str, expected: Mapping[str, Any]):
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = {"architectures": [architecture], **{name: SIZES[name] for name in sizes}}
    spec = spec_for(config, "config.json")
    keys = plain(architecture_keys(spec, hparams_of(spec, config)))
    assert {f"{spec.name}.{name}": value for name, value in expected.items()}.items() <= keys.items()


def test_yarn_without_its_original_length_takes_the_context_length():
    config = {**SIZES, "architectures": ["Qwen2ForCausalLM"], "rope_scaling": {"type": "yarn", "factor": 4.0}}
    spec = spec_for(config, "config.json")
    keys = architecture_keys(spec, hparams_of(spec, config))
    assert u32(512) == keys["qwen2.rope.scaling.original_context_length"]


def test_llama_3_factors_keep_short_waves_and_stretch_long_ones(made: Callable[[str], tuple[Any, Path]]):
    model, folder = made("llama 3")
    _, store = converted(folder)
    unscaled = 1 / 500000.0 ** (torch.arange(0, 16, 2) / 16)
    expected = (unscaled / model.model.rotary_emb.inv_freq).numpy()
    np.testing.assert_allclose(expected, store.read("rope_freqs.weight")[0], rtol=1e-6)
    assert {1.0, 8.0} < set(store.read("rope_freqs.weight")[0].tolist())


SIXTEEN_BITS = [("bfloat16", "BF16"), ("float16", "F16")]


@pytest.mark.parametrize(("dtype", "kind"), SIXTEEN_BITS, ids=["bf16", "f16"])
def test_matrices_keep_their_16_bits_and_vectors_become_float32(dtype: str, kind: str, tmp_path: Path):
    family = FAMILIES["llama, tied, biased, wide heads"]
    saved_model(family, tmp_path / "f32").to(getattr(torch, dtype)).save_pretrained(tmp_path / "half")
    _, store = converted(tmp_path / "half")
    expected = expected_tensors(load_file(tmp_path / "half" / "model.safetensors"), family)
    for name, weight in expected.items():
        matrix = weight.ndim > 1
        assert store[name].dtype.name == (kind if matrix else "F32"), name
        wanted = weight.view(torch.uint16) if matrix else weight.float()
        assert np.array_equal(wanted.numpy(), store.read(name).view(wanted.numpy().dtype).reshape(weight.shape)), name


def placed(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Any, ...]]:
    """Each GGUF tensor's shape, sources and row order."""
    spec = spec_for(config, "config.json")
    return {
        one.name: (one.shape, one.sources, None if one.order is None else one.order.tolist())
        for one in place(spec, shapes, hparams_of(spec, config))
    }


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    return {**SIZES, "architectures": [architecture], "norm_topk_prob": architecture.startswith("Qwen3"), **changes}


LAYER = "model.layers.0."
FUSED = [
    ("MixtralForCausalLM", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ("MixtralForCausalLM", "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
    ("Qwen2MoeForCausalLM", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ("Qwen3MoeForCausalLM", "mlp.experts.gate_up_proj.weight", "mlp.experts.down_proj.weight"),
    ("OlmoeForCausalLM", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ("GraniteMoeForCausalLM", "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
    ("GraniteMoeForCausalLM", "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
]


@pytest.mark.parametrize(("architecture", "gate_up", "down"), FUSED, ids=[f"{a} {g}" for a, g, _ in FUSED])
def test_experts_fused_in_one_tensor_are_split(architecture: str, gate_up: str, down: str):
    config = config_of(architecture, num_key_value_heads=4)
    found = placed(config, {LAYER + gate_up: (2, 6, 64), LAYER + down: (2, 64, 3)})
    assert found == {
        "blk.0.ffn_gate_exps.weight": ((2, 3, 64), (LAYER + gate_up,), [0, 1, 2, 6, 7, 8]),
        "blk.0.ffn_up_exps.weight": ((2, 3, 64), (LAYER + gate_up,), [3, 4, 5, 9, 10, 11]),
        "blk.0.ffn_down_exps.weight": ((2, 64, 3), (LAYER + down,), None),
    }


@pytest.mark.parametrize("shape", [(2, 64, 6), (2, 5, 64)])
def test_experts_fused_the_other_way_are_refused(shape: tuple[int, ...]):
    with pytest.raises(MismatchError, match="gate_up_proj"):
        placed(config_of("Qwen3MoeForCausalLM"), {f"{LAYER}mlp.experts.gate_up_proj": shape})


def test_experts_come_where_the_last_of_their_layer_stands():
    names = [
        f"{LAYER}mlp.experts.{expert}.{matrix}_proj.weight" for matrix in ("up", "down", "gate") for expert in (1, 0)
    ]
    shapes = dict.fromkeys(names, (32, 64)) | {"model.norm.weight": (64,)}
    found = placed(config_of("Qwen3MoeForCausalLM"), shapes)
    assert list(found) == [
        "blk.0.ffn_down_exps.weight", "blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "output_norm.weight",
    ]  # fmt: skip
    assert found["blk.0.ffn_up_exps.weight"][:2] == ((2, 32, 64), (names[1], names[0]))


WRAPPINGS = ["model.", "", "model.language_model.", "language_model.model."]


@pytest.mark.parametrize("prefix", WRAPPINGS)
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Starcoder2ForCausalLM"])
def test_the_text_model_is_found_in_any_wrapping(architecture: str, prefix: str):
    inner = {"embed_tokens.weight": (96, 64), "layers.2.self_attn.v_proj.weight": (32, 64), "norm.weight": (64,)}
    found = placed(config_of(architecture), {prefix + name: shape for name, shape in inner.items()})
    assert list(found) == ["token_embd.weight", "blk.2.attn_v.weight", "output_norm.weight"]


def test_vision_is_left_out_and_buffers_are_dropped():
    shapes = {
        "model.vision_tower.transformer.layers.0.attention.q_proj.weight": (8, 8),
        "multi_modal_projector.linear_1.weight": (8, 8),
        "model.language_model.layers.0.self_attn.rotary_emb.inv_freq": (8,),
        "language_model.lm_head.weight": (96, 64),
    }
    assert list(placed(config_of("Mistral3ForConditionalGeneration"), shapes)) == ["output.weight"]


def test_a_tensor_without_a_place_is_named():
    with pytest.raises(UnsupportedError, match=r"model\.layers\.0\.self_attn\.sinks"):
        placed(config_of("LlamaForCausalLM"), {f"{LAYER}self_attn.sinks": (4,)})


REFUSED = [
    ("LlamaForCausalLM", {"hidden_act": "gelu"}, "hidden_act"),
    ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "hyperbolic", "factor": 2.0}}, "hyperbolic"),
    ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1]}, "no_rope_layers"),
    ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 2}, "no_rope_layers"),
    ("Qwen2MoeForCausalLM", {"norm_topk_prob": True}, "norm_topk_prob"),
    ("Qwen3MoeForCausalLM", {"mlp_only_layers": [1]}, "mlp_only_layers"),
    ("OlmoeForCausalLM", {}, "num_key_value_heads"),
    ("CohereForCausalLM", {"use_qk_norm": True}, "use_qk_norm"),
    ("Exaone4ForCausalLM", {"sliding_window": 8}, "sliding windows"),
]


@pytest.mark.parametrize(("architecture", "changes", "named"), REFUSED, ids=[f"{a} {n}" for a, _, n in REFUSED])
def test_what_llama_cpp_would_run_differently_is_refused(architecture: str, changes: Mapping[str, Any], named: str):
    config = config_of(architecture, **changes)
    spec = spec_for(config, "config.json")
    with pytest.raises(UnsupportedError, match=named):
        architecture_keys(spec, hparams_of(spec, config))


def test_a_router_that_llama_cpp_normalises_is_converted_with_a_word():
    config = config_of("Qwen3MoeForCausalLM", norm_topk_prob=False)
    spec = spec_for(config, "config.json")
    said = cautions(spec, hparams_of(spec, config))
    assert [words for words in said if "norm_topk_prob is False" in words] == said != []
    assert cautions(spec, hparams_of(spec, config_of("Qwen3MoeForCausalLM"))) == []


@pytest.mark.parametrize("name", ["silu", "swish"])
def test_an_activation_by_another_name_is_itself(name: str):
    config = config_of("LlamaForCausalLM", hidden_act=name)
    assert hparams_of(spec_for(config, "config.json"), config).find("hidden_act") == name


SAME_NAME = [
    ("llama", [], [], "LlamaForCausalLM"),
    ("llama", ["llama.expert_count"], [], "MixtralForCausalLM"),
    ("olmo2", [], [], "Olmo2ForCausalLM"),
    ("olmo2", ["olmo2.attention.sliding_window"], [], "Olmo3ForCausalLM"),
    ("granitemoe", ["granitemoe.expert_shared_feed_forward_length"], [], "GraniteMoeSharedForCausalLM"),
    ("bert", [], ["token_types.weight"], "BertModel"),
    ("bert", [], [], "DistilBertModel"),
]


@pytest.mark.parametrize(("arch", "keys", "tensors", "expected"), SAME_NAME)
def test_tables_of_one_name_are_told_apart(arch: str, keys: list[str], tensors: list[str], expected: str):
    assert spec_named(arch, keys, tensors).architectures[0] == expected


@pytest.mark.parametrize(("vocabulary", "expected"), [("gpt2", "RobertaModel"), ("t5", "XLMRobertaModel")])
def test_and_by_a_vocabulary(vocabulary: str, expected: str):
    assert spec_named("bert", [], ["token_types.weight"], vocabulary).architectures[0] == expected


def test_an_unknown_architecture_has_no_table():
    assert spec_named("abacus", [], []) is None


def gguf_file(folder: Path, target: Path) -> Path:
    """The model with a vocabulary of words that mean nothing."""
    keys, store = converted(folder)
    spec = spec_for(open_base(folder).config, str(folder))
    words = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, VOCABULARY))]
    tokenizer = {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.tokens": array(ValueType.STRING, words),
        "tokenizer.ggml.scores": array(ValueType.FLOAT32, [0.0] * VOCABULARY),
        "tokenizer.ggml.token_type": array(ValueType.INT32, [2, 3, 3] + [1] * (VOCABULARY - 3)),
    }
    plan = GgufPlan("x", {"general.architecture": text(spec.name), **keys, **tokenizer}, tuple(store.infos.values()))
    with target.open("wb") as handle:
        handle.write(plan.header)
        for name, offset in plan.offsets.items():
            handle.seek(offset)
            handle.write(np.ascontiguousarray(store.read(name)).tobytes())
    return target


HALF_PRECISION_CACHE = 2e-2
"""Nats: llama.cpp keeps keys and values in float16, which moves log-probabilities of these models by up to 0.015."""


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_answers_as_transformers_does(name: str, made: Callable[[str], tuple[Any, Path]], tmp_path: Path):
    pytest.importorskip("xllamacpp")
    from adaptool.parity.runtime import open_runtime

    model, folder = made(name)
    tokens = np.random.default_rng(3).integers(3, VOCABULARY, 40).tolist()
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1).numpy()
    with open_runtime(gguf_file(folder, tmp_path / "model.gguf"), threads=1) as runtime:
        found = runtime.log_probabilities(tokens)
    np.testing.assert_allclose(expected, found, atol=HALF_PRECISION_CACHE)
    assert expected.std() > 10 * HALF_PRECISION_CACHE
