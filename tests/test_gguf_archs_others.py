"""Gemma, Phi, GPTs and encoders as GGUF: keys and tensors as worked out here with torch alone, answers as transformers'."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptool.adapters.base import open_base
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.pooling import read_pooling
from adaptool.archs.gguf.tables import architecture_keys, hparams_of, spec_for
from adaptool.errors import AdaptoolError, FormatError, UnsupportedError
from adaptool.gguf.converted import Converted
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType, array, boolean, f32, text, u32
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
    return weight.T


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
    """A tiny model: its class, its config, the architecture, its keys, where its tensors go and what changes in them."""

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


PLUS_ONE = {
    leaf: plus_one
    for leaf in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm",
                 "output_norm")
}  # fmt: skip
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
    for name, weight in weights.items():
        module, _, kind = re.sub(PREFIXES, "", name).rpartition(".")
        found = re.match(LAYER, module)
        leaf = family.leaves[found[2] if found else module]
        if not leaf:
            continue
        changed = (
            family.changes[leaf](weight)
            if leaf in family.changes and (weight.ndim > 1 or turned is not family.changes[leaf])
            else weight
        )
        result[f"blk.{found[1]}.{leaf}.{kind}" if found else f"{leaf}.{kind}"] = changed
    return result


def saved_model(family: Family, folder: Path) -> Any:
    """A seeded model with random numbers in every parameter, and its folder."""
    model_class = getattr(transformers, family.model, None)
    if model_class is None:
        pytest.skip(f"this transformers has no {family.model}")
    model = model_class(model_class.config_class(**family.config)).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            near_one = parameter.ndim == 1 and name.endswith("weight") and not family.model.startswith("Gemma")
            parameter.copy_(1 + 0.2 * noise if near_one else (0.3 if parameter.ndim == 1 else 0.12) * noise)
    model.tie_weights()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A family's model and folder, made on first use; nobody may write into it."""
    folder, models = tmp_path_factory.mktemp("families"), {}

    def model(name: str) -> tuple[Any, Path]:
        if name not in models:
            models[name] = saved_model(FAMILIES[name], folder / name), folder / name
        return models[name]

    return model


def converted(folder: Path) -> tuple[KeyValues, Converted]:
    """The architecture's keys and the tensors, as a conversion has them."""
    base = open_base(folder)
    spec = spec_for(base.config, str(folder))
    hparams = hparams_of(spec, base.config, folder)
    shapes = {name: info.shape for name, info in base.store.infos.items()}
    return architecture_keys(spec, hparams), Converted(base.store, place(spec, shapes, hparams), spec.extras(hparams))


def plain(keys: KeyValues) -> dict[str, Any]:
    """Values alone, the tokenizer's left out; float32 are compared as such."""
    return {name: approximate(value) for name, value in keys.items() if not name.startswith("tokenizer.")}


def approximate(value: Value) -> Any:
    return pytest.approx(value.data, rel=1e-6) if value.kind is ValueType.FLOAT32 else value.data


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
