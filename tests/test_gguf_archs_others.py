"""Gemma, Phi, GPTs and encoders as GGUF: keys and tensors worked out here with torch, answers as transformers'."""

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
from adaptool.archs.gguf.pooling import read_pooling
from adaptool.archs.gguf.tables import architecture_keys, hparams_of, spec_for
from adaptool.errors import AdaptoolError, FormatError, UnsupportedError
from adaptool.tensors.ggml.values import KeyValues, ValueType, array, boolean, text, u32
from adaptool.tensors.gguf_writer import GgufPlan

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

VOCABULARY = 67
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
SIZES = {
    **TOKENS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2 = {**TOKENS, "n_positions": 128, "n_embd": 64, "n_layer": 3, "n_head": 4}
ENCODER = {**SIZES, "pad_token_id": 0, "type_vocab_size": 2}
DISTILBERT = {
    **TOKENS, "pad_token_id": 0, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96,
    "max_position_embeddings": 128,
}  # fmt: skip

KEYS = {
    "block_count": 3,
    "context_length": 128,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
}
RMS = {"attention.layer_norm_rms_epsilon": 1e-6}
NORM = {"attention.layer_norm_epsilon": 1e-5}
GEMMA_KEYS = {
    **KEYS, **RMS, "attention.head_count_kv": 2, "attention.key_length": 24, "attention.value_length": 24,
}  # fmt: skip
GEMMA = {**GROUPED, "head_dim": 24}
PHI3_KEYS = {
    **KEYS,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.scaling.original_context_length": 4096,
    "rope.dimension_count": 16,
    "rope.freq_base": 10000.0,
    "attention.sliding_window": 0,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
    "short_factor": [1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35],
}
NEOX_KEYS = {**KEYS, **NORM, "rope.dimension_count": 4, "use_parallel_residual": True}
FALCON_KEYS = {**KEYS, **NORM, "feed_forward_length": 256, "tensor_data_layout": "jploski"}
BERT_KEYS = {**KEYS, "attention.layer_norm_epsilon": 1e-12, "attention.causal": False}
ODD_LAYERS = ["sliding_attention", "full_attention", "full_attention"]

Weights = dict[str, Any]
Change = Callable[[Any], Any]


def apart(groups: int, queries: int) -> Change:
    """Groups of queries, a key and a value: all queries, all keys, all values."""

    def change(weight: Any) -> Any:
        heads = weight.reshape(groups, queries + 2, -1, *weight.shape[1:])
        parts = (heads[:, :queries], heads[:, queries : queries + 1], heads[:, queries + 1 :])
        return torch.cat([part.reshape(-1, *weight.shape[1:]) for part in parts])

    return change


def plus_one(weight: Any) -> Any:
    return weight.float() + 1


def turned(weight: Any) -> Any:
    return weight.T if weight.ndim == 2 else weight


def unchanged(weight: Any) -> Any:
    return weight


def from_third(weight: Any) -> Any:
    return weight[2:]


LLAMA_LEAVES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
}
GEMMA2_LEAVES = {
    **LLAMA_LEAVES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
PHI_LEAVES = {
    **LLAMA_LEAVES,
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "final_layernorm": "output_norm",
}
GPT2_LEAVES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_f": "output_norm",
    "lm_head": "output",
}
FUSED_LEAVES = {
    "embed_in": "token_embd",
    "word_embeddings": "token_embd",
    "wte": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2",
    "norm_1": "attn_norm",
    "norm_2": "ffn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"{part}.query_key_value": "attn_qkv" for part in ("attention", "self_attention")},
    **{f"{part}.dense": "attn_output" for part in ("attention", "self_attention")},
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
    "final_layer_norm": "output_norm",
    "ln_f": "output_norm",
    "norm_f": "output_norm",
    "embed_out": "output",
    "lm_head": "output",
}
BERT_LEAVES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "attention.q_lin": "attn_q",
    "attention.k_lin": "attn_k",
    "attention.v_lin": "attn_v",
    "attention.out_lin": "attn_output",
    "sa_layer_norm": "attn_output_norm",
    "ffn.lin1": "ffn_up",
    "ffn.lin2": "ffn_down",
    "output_layer_norm": "layer_output_norm",
    "pooler.dense": "",
    "cls.predictions.transform.dense": "",
    "cls.predictions.transform.LayerNorm": "",
    "cls.predictions": "",
    "lm_head.dense": "",
    "lm_head.layer_norm": "",
    "lm_head": "",
}
NOMIC_LEAVES = {
    **BERT_LEAVES,
    "emb_ln": "token_embd_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "norm1": "attn_output_norm",
    "mlp.fc11": "ffn_up",
    "mlp.fc12": "ffn_gate",
    "mlp.fc2": "ffn_down",
    "norm2": "layer_output_norm",
}
BERT_CLASSIFIER_LEAVES = {**BERT_LEAVES, "pooler.dense": "cls", "classifier": "cls.output"}
ROBERTA_CLASSIFIER_LEAVES = {**BERT_LEAVES, "classifier.dense": "cls", "classifier.out_proj": "cls.output"}


@dataclass(frozen=True)
class Family:
    """A tiny model: its class, its config, the architecture, its keys, where its tensors go and how they change."""

    model: str
    config: Mapping[str, Any]
    arch: str
    keys: Mapping[str, Any]
    leaves: Mapping[str, str]
    changes: Mapping[str, Change] = field(default_factory=dict)
    """GGUF leaf → what becomes of its weight and bias."""

    @property
    def expected_keys(self) -> dict[str, Any]:
        return {f"{self.arch}.{name}": value for name, value in self.keys.items() if value is not None}


NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm", "output_norm")
PLUS_ONE = dict.fromkeys(NORMS, plus_one)
GEMMA2 = {
    **GEMMA,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
GEMMA2_KEYS = {
    **GEMMA_KEYS,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "attention.sliding_window": 8,
}
GEMMA3 = {**GEMMA, "query_pre_attn_scalar": 24, "sliding_window": 8, "num_hidden_layers": 7}
GEMMA3_KEYS = {
    **GEMMA_KEYS,
    "block_count": 7,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
    "attention.sliding_window": 8,
}
EIGHT = [{"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e4}]

FAMILIES = {
    "gemma": Family("GemmaForCausalLM", GEMMA, "gemma", GEMMA_KEYS, LLAMA_LEAVES, PLUS_ONE),
    "gemma 2": Family("Gemma2ForCausalLM", GEMMA2, "gemma2", GEMMA2_KEYS, GEMMA2_LEAVES, PLUS_ONE),
    "gemma 2, other layers": Family(
        "Gemma2ForCausalLM",
        {**GEMMA2, "layer_types": ODD_LAYERS},
        "gemma2",
        {**GEMMA2_KEYS, "attention.sliding_window_pattern": [True, False, False]},
        GEMMA2_LEAVES,
        PLUS_ONE,
    ),
    "gemma 3": Family("Gemma3ForCausalLM", GEMMA3, "gemma3", GEMMA3_KEYS, GEMMA2_LEAVES, PLUS_ONE),
    "gemma 3, stretched, other layers": Family(
        "Gemma3ForCausalLM",
        {
            **GEMMA3,
            "num_hidden_layers": 3,
            "layer_types": ODD_LAYERS,
            "rope_parameters": dict(zip(("full_attention", "sliding_attention"), EIGHT, strict=True)),
        },
        "gemma3",
        {
            **GEMMA3_KEYS,
            "block_count": 3,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "attention.sliding_window_pattern": [True, False, False],
        },
        GEMMA2_LEAVES,
        PLUS_ONE,
    ),
    "phi 2": Family(
        "PhiForCausalLM",
        {**SIZES, "num_key_value_heads": 4},
        "phi2",
        {**KEYS, **NORM, "attention.head_count_kv": 4, "rope.dimension_count": 8},
        PHI_LEAVES,
    ),
    "phi 3": Family("Phi3ForCausalLM", GROUPED, "phi3", PHI3_KEYS, PHI_LEAVES),
    "phi 3, long": Family(
        "Phi3ForCausalLM",
        {
            **GROUPED,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 256,
            "rope_parameters": LONGROPE,
        },
        "phi3",
        {
            **PHI3_KEYS,
            "context_length": 1024,
            "rope.scaling.original_context_length": 256,
            "rope.scaling.attn_factor": (1 + np.log(4) / np.log(256)) ** 0.5,
        },
        PHI_LEAVES,
    ),
    "phi 4 mini": Family(
        "Phi3ForCausalLM",
        {**GROUPED, "partial_rotary_factor": 0.75, "sliding_window": 100, "tie_word_embeddings": True},
        "phi3",
        {**PHI3_KEYS, "rope.dimension_count": 12, "attention.sliding_window": 100},
        PHI_LEAVES,
    ),
    "gpt-2": Family(
        "GPT2LMHeadModel",
        GPT2,
        "gpt2",
        {**KEYS, **NORM, "feed_forward_length": 256},
        GPT2_LEAVES,
        dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), turned),
    ),
    "gpt-2, untied, narrow": Family(
        "GPT2LMHeadModel",
        {**GPT2, "n_inner": 96, "tie_word_embeddings": False},
        "gpt2",
        {**KEYS, **NORM},
        GPT2_LEAVES,
        dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), turned),
    ),
    "gpt-neox": Family("GPTNeoXForCausalLM", SIZES, "gptneox", NEOX_KEYS, FUSED_LEAVES, {"attn_qkv": apart(4, 1)}),
    "gpt-neox, one after the other": Family(
        "GPTNeoXForCausalLM",
        {**SIZES, "use_parallel_residual": False, "rotary_pct": 0.5, "rotary_emb_base": 20000.0},
        "gptneox",
        {**NEOX_KEYS, "use_parallel_residual": False, "rope.dimension_count": 8, "rope.freq_base": 20000.0},
        FUSED_LEAVES,
        {"attn_qkv": apart(4, 1)},
    ),
    "falcon 7b": Family(
        "FalconForCausalLM",
        SIZES,
        "falcon",
        {**FALCON_KEYS, "attention.head_count_kv": 1},
        FUSED_LEAVES,
        {"attn_qkv": apart(1, 4)},
    ),
    "falcon 40b": Family(
        "FalconForCausalLM",
        {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 2, "tie_word_embeddings": False},
        "falcon",
        {**FALCON_KEYS, "attention.head_count_kv": 2},
        FUSED_LEAVES,
        {"attn_qkv": apart(2, 2)},
    ),
    "falcon 11b": Family(
        "FalconForCausalLM",
        {
            **SIZES,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "rope_theta": 500042.0,
            "ffn_hidden_size": 96,
        },
        "falcon",
        {**FALCON_KEYS, "attention.head_count_kv": 2, "feed_forward_length": 96, "rope.freq_base": 500042.0},
        FUSED_LEAVES,
        {"attn_qkv": apart(2, 2)},
    ),
    "bloom": Family(
        "BloomForCausalLM",
        {**TOKENS, "hidden_size": 64, "n_layer": 3, "n_head": 4},
        "bloom",
        {**KEYS, **NORM, "context_length": 2048, "feed_forward_length": 256, "attention.head_count_kv": 4},
        FUSED_LEAVES,
        {"attn_qkv": apart(4, 1)},
    ),
    "mpt": Family(
        "MptForCausalLM",
        {**TOKENS, "d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 128},
        "mpt",
        {**KEYS, **NORM, "feed_forward_length": 256, "attention.max_alibi_bias": 8.0},
        FUSED_LEAVES,
    ),
    "bert": Family("BertModel", ENCODER, "bert", BERT_KEYS, BERT_LEAVES),
    "bert for words": Family("BertForMaskedLM", ENCODER, "bert", BERT_KEYS, BERT_LEAVES),
    "bert for pairs": Family(
        "BertForSequenceClassification",
        ENCODER,
        "bert",
        {**BERT_KEYS, "classifier.output_labels": ["LABEL_0", "LABEL_1"]},
        BERT_CLASSIFIER_LEAVES,
    ),
    "bert for three": Family(
        "BertForSequenceClassification",
        {**ENCODER, "id2label": {2: "neutral", 0: "no", 1: "yes"}},
        "bert",
        {**BERT_KEYS, "classifier.output_labels": ["no", "yes", "neutral"]},
        BERT_CLASSIFIER_LEAVES,
    ),
    "roberta": Family(
        "RobertaModel",
        {**ENCODER, "pad_token_id": 1, "max_position_embeddings": 130, "type_vocab_size": 1},
        "bert",
        BERT_KEYS,
        BERT_LEAVES,
        {"position_embd": from_third},
    ),
    "roberta for words": Family(
        "RobertaForMaskedLM",
        {**ENCODER, "pad_token_id": 1, "max_position_embeddings": 130, "type_vocab_size": 1},
        "bert",
        BERT_KEYS,
        BERT_LEAVES,
        {"position_embd": from_third},
    ),
    "xlm-roberta for ranking": Family(
        "XLMRobertaForSequenceClassification",
        {**ENCODER, "pad_token_id": 1, "max_position_embeddings": 130, "type_vocab_size": 1, "num_labels": 1},
        "bert",
        {**BERT_KEYS, "classifier.output_labels": ["LABEL_0"]},
        ROBERTA_CLASSIFIER_LEAVES,
        {"position_embd": from_third},
    ),
    "distilbert": Family("DistilBertModel", DISTILBERT, "bert", BERT_KEYS, BERT_LEAVES),
    "nomic-bert": Family(
        "NomicBertModel",
        ENCODER,
        "nomic-bert",
        {**BERT_KEYS, "rope.freq_base": 1000.0, "attention.key_length": 16, "attention.value_length": 16},
        NOMIC_LEAVES,
    ),
}
PREFIXES = r"^(?:model\.|transformer\.(?!layer\.)|gpt_neox\.|bert\.|roberta\.|distilbert\.)"
LAYER = r"^(?:encoder\.|transformer\.)?(?:layers?|h|blocks)\.(\d+)\.(.+)$"


def expected_tensors(weights: Weights, family: Family) -> Weights:
    """What a GGUF of these checkpoint tensors holds."""
    result: Weights = {}
    for name, stored in weights.items():
        module, _, kind = re.sub(PREFIXES, "", name).rpartition(".")
        found = re.match(LAYER, module)
        leaf = family.leaves[found[2] if found else module]
        if not leaf:
            continue
        weight = family.changes.get(leaf, unchanged)(stored)
        result[f"blk.{found[1]}.{leaf}.{kind}" if found else f"{leaf}.{kind}"] = weight
    return result


def saved_model(family: Family, folder: Path) -> Any:
    """A seeded model with random numbers in every parameter, and its folder."""
    model_class = getattr(transformers, family.model, None)
    if model_class is None:
        pytest.skip(f"this transformers has no {family.model}")
    model = model_class(model_class.config_class(**family.config)).eval()

    def near_one(name: str, parameter: Any) -> bool:
        return parameter.ndim == 1 and name.endswith("weight") and not family.model.startswith("Gemma")

    return randomised(model, folder, near_one)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A family's model and folder, made on first use; nobody may write into it."""
    return made_once(tmp_path_factory.mktemp("families"), lambda name, folder: saved_model(FAMILIES[name], folder))


def plain(keys: KeyValues) -> dict[str, Any]:
    """Values alone, the tokenizer's left out; float32 are compared as such."""
    return {name: approximate(value) for name, value in keys.items() if not name.startswith("tokenizer.")}


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_and_tensors_are_those_llama_cpp_expects(name: str, made: Callable[[str], tuple[Any, Path]]):
    family, (_, folder) = FAMILIES[name], made(name)
    keys, store = converted(folder)
    assert plain(keys) == family.expected_keys
    expected = expected_tensors(load_file(folder / "model.safetensors"), family)
    assert sorted(expected) == sorted(set(store) - set(store.extras))
    for tensor, weight in expected.items():
        assert tuple(weight.shape) == store[tensor].shape, tensor
        found = store.read(tensor).reshape(store[tensor].shape)
        assert np.array_equal(weight.float().numpy(), found), tensor


def rewritten(folder: Path, target: Path, **changes: Any) -> Path:
    """The same model with another config.json; None takes a setting out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    target.mkdir()
    (target / "model.safetensors").hardlink_to(folder / "model.safetensors")
    (target / "config.json").write_text(json.dumps({name: v for name, v in config.items() if v is not None}))
    return target


def in_older_words(folder: Path) -> dict[str, Any]:
    """The rotary settings as transformers 4 saves them."""
    rope = json.loads((folder / "config.json").read_text()).get("rope_parameters") or {}
    local = rope.get("sliding_attention", {}).get("rope_theta")
    rope = dict(rope.get("full_attention", rope))
    kind, theta = rope.pop("rope_type", "default"), rope.pop("rope_theta", None)
    part = rope.pop("partial_rotary_factor", None)
    return {
        "rope_parameters": None,
        "rope_theta": theta,
        "rope_local_base_freq": local,
        "rotary_pct": part,
        **({"rope_scaling": {"type": kind, **rope}} if kind != "default" else {}),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_of_transformers_4_gives_the_same(name: str, made: Callable[[str], tuple[Any, Path]], tmp_path: Path):
    _, folder = made(name)
    older = rewritten(folder, tmp_path / "older", **in_older_words(folder))
    (keys, store), (older_keys, older_store) = converted(folder), converted(older)
    assert keys == older_keys
    assert store.infos == older_store.infos
    for tensor in store.extras:
        assert np.array_equal(store.extras[tensor], older_store.extras[tensor])


def test_the_two_kinds_of_factors_are_tensors(made: Callable[[str], tuple[Any, Path]]):
    _, store = converted(made("phi 3, long")[1])
    assert list(store)[:2] == ["rope_factors_long.weight", "rope_factors_short.weight"]
    for length in ("long", "short"):
        factors = np.array(LONGROPE[f"{length}_factor"], np.float32)
        assert np.array_equal(factors, store.read(f"rope_factors_{length}.weight")[0])


FOUR = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": VOCABULARY}
CONFIGS = [
    ("GemmaForCausalLM", {}, {"attention.key_length": 256, "attention.head_count_kv": 16, "context_length": 8192}),
    (
        "Gemma2ForCausalLM",
        {},
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4096},
    ),
    (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {
                "hidden_size": 2560,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            }
        },
        {
            "block_count": 34,
            "embedding_length": 2560,
            "attention.head_count": 4,
            "attention.head_count_kv": 4,
            "attention.key_length": 256,
            "context_length": 131072,
            "rope.freq_base": 1e6,
            "rope.freq_base_swa": 1e4,
            "rope.scaling.type": "linear",
            "attention.sliding_window": 1024,
        },
    ),
    ("Gemma3ForCausalLM", {"sliding_window_pattern": 1}, {"attention.key_length": 256}),
    ("Phi3ForCausalLM", {}, {"attention.sliding_window": 0, "rope.scaling.original_context_length": 4096}),
    (
        "Phi3ForCausalLM",
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
        },
        {"rope.scaling.attn_factor": 1.190238, "context_length": 131072},
    ),
    ("PhiForCausalLM", {}, {"feed_forward_length": 256, "rope.dimension_count": 8}),
    ("PhiForCausalLM", {"partial_rotary_factor": 0.4, "rope_theta": 1e6}, {"rope.freq_base": 1e6}),
    ("GPT2LMHeadModel", {"n_ctx": 512, "n_positions": 256}, {"context_length": 256, "feed_forward_length": 256}),
    ("GPTNeoXForCausalLM", {}, {"rope.dimension_count": 4, "use_parallel_residual": True}),
    ("FalconForCausalLM", {"multi_query": True}, {"attention.head_count_kv": 1, "context_length": 2048}),
    ("FalconForCausalLM", {"multi_query": True, "num_kv_heads": 4}, {"attention.head_count_kv": 1}),
    ("FalconForCausalLM", {"multi_query": False}, {"attention.head_count_kv": 4}),
    ("RWForCausalLM", {"n_head_kv": 2}, {"attention.head_count_kv": 2}),
    ("RWForCausalLM", {"multi_query": True}, {"attention.head_count_kv": 1}),
    ("BloomForCausalLM", {"seq_length": 1024}, {"context_length": 1024}),
    ("MPTForCausalLM", {"attn_config": {"clip_qkv": 6, "alibi": True}, "max_seq_len": 99}, {"attention.clamp_kqv": 6}),
    ("BertModel", {}, {"context_length": 512, "attention.layer_norm_epsilon": 1e-12}),
    ("BertModel", {"id2label": {"0": "LABEL_0"}}, {"classifier.output_labels": ["LABEL_0"]}),
    ("RobertaModel", {"max_position_embeddings": 514}, {"context_length": 512}),
    ("DistilBertModel", {}, {"attention.layer_norm_epsilon": 1e-12}),
    (
        "NomicBertModel",
        {"n_positions": 8192, "n_inner": 3072, "rotary_emb_base": 1000, "activation_function": "swiglu"},
        {"context_length": 2048, "rope.freq_base": 1000.0, "feed_forward_length": 3072},
    ),
]


def keys_of(config: Mapping[str, Any], folder: Path | None = None) -> KeyValues:
    spec = spec_for(config, "config.json")
    return architecture_keys(spec, hparams_of(spec, config, folder))


@pytest.mark.parametrize(("architecture", "config", "expected"), CONFIGS, ids=[name for name, *_ in CONFIGS])
def test_what_a_config_leaves_out_is_what_its_class_assumes(
    architecture: str, config: Mapping[str, Any], expected: Mapping[str, Any]
):
    config = {**FOUR, "intermediate_size": None, "architectures": [architecture], **config}
    found = {name.partition(".")[2]: value for name, value in plain(keys_of(config)).items()}
    assert dict(expected) == {name: found.get(name) for name in expected}


def placed(architecture: str, shapes: Mapping[str, tuple[int, ...]], **config: Any) -> dict[str, tuple[int, ...]]:
    """Each GGUF tensor's shape."""
    config = {**FOUR, "architectures": [architecture], **config}
    spec = spec_for(config, "config.json")
    return {one.name: one.shape for one in place(spec, shapes, hparams_of(spec, config))}


BUFFERS_AND_HEADS = [
    ("GPT2LMHeadModel", ["h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
    ("GPTNeoXForCausalLM", [f"gpt_neox.layers.0.attention.{name}" for name in ("bias", "masked_bias")]),
    ("GPTNeoXForCausalLM", ["gpt_neox.layers.0.attention.rotary_emb.inv_freq"]),
    ("GemmaForCausalLM", ["lm_head.weight"]),
    ("Gemma3ForConditionalGeneration", ["model.vision_tower.vision_model.embeddings.patch_embedding.weight"]),
    ("Gemma3ForConditionalGeneration", ["vision_tower.x.weight", "multi_modal_projector.mm_soft_emb_norm.weight"]),
    ("BertModel", ["embeddings.position_ids", "pooler.dense.weight", "bert.pooler.dense.bias"]),
    ("BertForPreTraining", ["cls.predictions.bias", "cls.seq_relationship.weight", "bert.pooler.dense.weight"]),
    ("RobertaForMaskedLM", ["lm_head.bias", "lm_head.dense.weight", "roberta.embeddings.position_ids"]),
    ("DistilBertForMaskedLM", ["vocab_transform.weight", "vocab_projector.bias", "vocab_layer_norm.weight"]),
]


@pytest.mark.parametrize(("architecture", "names"), BUFFERS_AND_HEADS)
def test_what_llama_cpp_has_no_use_for_is_left_out(architecture: str, names: list[str]):
    assert placed(architecture, dict.fromkeys(names, (64, 64))) == {}


OTHER_NAMES = [
    ("GPT2LMHeadModel", "h.2.mlp.c_fc.weight", (64, 256), "blk.2.ffn_up.weight", (256, 64)),
    (
        "Gemma3ForConditionalGeneration",
        "language_model.model.embed_tokens.weight",
        (8, 64),
        "token_embd.weight",
        (8, 64),
    ),
    ("Gemma3ForConditionalGeneration", "model.language_model.norm.weight", (64,), "output_norm.weight", (64,)),
    ("Gemma3ForConditionalGeneration", "language_model.lm_head.weight", (8, 64), "output.weight", (8, 64)),
    ("BertModel", "bert.embeddings.LayerNorm.gamma", (64,), "token_embd_norm.weight", (64,)),
    ("BertModel", "bert.encoder.layer.1.output.LayerNorm.beta", (64,), "blk.1.layer_output_norm.bias", (64,)),
    ("BloomForCausalLM", "h.0.self_attention.dense.bias", (64,), "blk.0.attn_output.bias", (64,)),
    ("FalconForCausalLM", "transformer.h.0.input_layernorm.bias", (64,), "blk.0.attn_norm.bias", (64,)),
]


@pytest.mark.parametrize(("architecture", "name", "shape", "expected", "placed_shape"), OTHER_NAMES)
def test_names_of_other_releases(
    architecture: str, name: str, shape: tuple[int, ...], expected: str, placed_shape: tuple[int, ...]
):
    assert placed(architecture, {name: shape}) == {expected: placed_shape}


REFUSED = [
    ("GemmaForCausalLM", {"tie_word_embeddings": False}, "no output head"),
    ("Gemma2ForCausalLM", {"final_logit_softcapping": None}, "final_logit_softcapping"),
    ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("Phi3ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
    ("PhiForCausalLM", {"num_key_value_heads": 2}, "num_key_value_heads"),
    ("PhiForCausalLM", {"qk_layernorm": True}, "qk_layernorm"),
    ("GPT2LMHeadModel", {"activation_function": "relu"}, "activation_function"),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("GPTNeoXForCausalLM", {"hidden_act": "silu"}, "hidden_act"),
    ("FalconForCausalLM", {"alibi": True}, "alibi"),
    ("FalconForCausalLM", {"parallel_attn": False}, "parallel_attn"),
    ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}, "apply_residual"),
    ("BertModel", {"position_embedding_type": "relative_key"}, "relative_key"),
    ("BertModel", {"is_decoder": True}, "is_decoder"),
    ("NomicBertModel", {"prenorm": True}, "prenorm"),
    ("DistilBertForSequenceClassification", {}, "DistilBertForSequenceClassification"),
]


@pytest.mark.parametrize(("architecture", "changes", "named"), REFUSED, ids=[f"{a} {n}" for a, _, n in REFUSED])
def test_what_llama_cpp_would_run_differently_is_refused(architecture: str, changes: Mapping[str, Any], named: str):
    config = {**FOUR, "intermediate_size": 96, "architectures": [architecture], **changes}
    with pytest.raises(AdaptoolError, match=named):
        keys_of(config)


def test_factors_that_do_not_fit_the_heads_are_refused():
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 7}
    config = {**FOUR, "architectures": ["Phi3ForCausalLM"], "rope_scaling": factors}
    spec = spec_for(config, "config.json")
    with pytest.raises(FormatError, match="long_factor has 7 numbers, and 8 pairs rotate"):
        spec.extras(hparams_of(spec, config))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("FalconForCausalLM", "transformer.h.0.post_attention_layernorm.weight"),
        ("BertModel", "bert.encoder.layer.0.crossattention.self.query.weight"),
        ("GemmaForCausalLM", "model.layers.0.self_attn.sinks"),
    ],
)
def test_a_tensor_without_a_place_is_named(architecture: str, name: str):
    with pytest.raises(UnsupportedError, match=re.escape(name)):
        placed(architecture, {name: (64,)})


def sentence_encoder(folder: Path, pooling: Mapping[str, Any], path: str = "1_Pooling") -> Path:
    """A folder as sentence-transformers writes it, without its model."""
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": path, "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


POOLED = [
    ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, 1),
    ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, 2),
    ({"pooling_mode_lasttoken": True}, 3),
    ({"pooling_mode": "mean"}, 1),
]


@pytest.mark.parametrize(("pooling", "number"), POOLED)
def test_a_sentence_encoder_pools_as_its_folder_says(pooling: Mapping[str, Any], number: int, tmp_path: Path):
    config = {**ENCODER, "architectures": ["BertModel"]}
    assert keys_of(config, sentence_encoder(tmp_path, pooling))["bert.pooling_type"] == u32(number)


def test_without_modules_nothing_is_said_of_pooling(tmp_path: Path):
    assert read_pooling(tmp_path) is None


@pytest.mark.parametrize(
    ("pooling", "path", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "1_Pooling", "llama.cpp pools by mean, cls, lasttoken only"),
        ({}, "../elsewhere", "no folder of the model"),
        ({}, "2_Pooling", "there is no"),
    ],
)
def test_a_pooling_that_cannot_be_read_is_refused(pooling: Mapping[str, Any], path: str, message: str, tmp_path: Path):
    with pytest.raises(AdaptoolError, match=message):
        read_pooling(sentence_encoder(tmp_path, pooling, path))


def test_phi_2_begins_without_a_token():
    keys = keys_of({**FOUR, "architectures": ["PhiForCausalLM"]})
    assert keys["tokenizer.ggml.add_bos_token"] == boolean(False)


def gguf_file(folder: Path, target: Path) -> Path:
    """The model with a vocabulary of words that mean nothing."""
    keys, store = converted(folder)
    base = open_base(folder)
    words = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, VOCABULARY))]
    tokenizer = {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.tokens": array(ValueType.STRING, words),
        "tokenizer.ggml.scores": array(ValueType.FLOAT32, [0.0] * VOCABULARY),
        "tokenizer.ggml.token_type": array(ValueType.INT32, [2, 3, 3] + [1] * (VOCABULARY - 3)),
        "tokenizer.ggml.token_type_count": u32((base.config or {}).get("type_vocab_size", 1)),
    }
    name = spec_for(base.config, str(folder)).name
    plan = GgufPlan("x", {"general.architecture": text(name), **keys, **tokenizer}, tuple(store.infos.values()))
    with target.open("wb") as handle:
        handle.write(plan.header)
        for tensor, offset in plan.offsets.items():
            handle.seek(offset)
            handle.write(np.ascontiguousarray(store.read(tensor)).tobytes())
    return target


HALF_PRECISION_CACHE = 2e-2
"""Nats, or units of an embedding whose elements spread by about one: the cache is float16."""
TRAINED_CONTEXT = 128
"""Of positions the runtime is given: an encoder's table has no more, and beyond 256 Phi 3 changes its factors."""


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_answers_as_transformers_does(name: str, made: Callable[[str], tuple[Any, Path]], tmp_path: Path):
    pytest.importorskip("xllamacpp")
    from adaptool.parity.runtime import open_runtime

    model, folder = made(name)
    tokens = np.random.default_rng(3).integers(3, VOCABULARY, 40).tolist()
    encoder = FAMILIES[name].keys.get("attention.causal") is False
    with torch.no_grad():
        run = (model.base_model if encoder else model)(torch.tensor([tokens]))
    expected = (run.last_hidden_state if encoder else torch.log_softmax(run.logits, -1))[0].numpy()
    with open_runtime(gguf_file(folder, tmp_path / "model.gguf"), threads=1, context=TRAINED_CONTEXT) as runtime:
        found = runtime.embedding(tokens) if encoder else runtime.log_probabilities(tokens)
    np.testing.assert_allclose(expected, found, atol=HALF_PRECISION_CACHE)
    assert expected.std() > 10 * HALF_PRECISION_CACHE
