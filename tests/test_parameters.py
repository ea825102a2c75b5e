"""Trained and total parameters, against what PEFT counts in the model it has just wrapped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from making import llama, lora

from adaptool.adapters.adapter import Adapter, open_adapter
from adaptool.adapters.base import BaseModel, open_base, read_base_config
from adaptool.adapters.config import AdapterConfig
from adaptool.archs.layouts import LAYOUTS
from adaptool.errors import FormatError
from adaptool.summary.expected import DEFAULT_TARGETS
from adaptool.summary.parameters import count_parameters
from adaptool.tensors.store import MemoryStore

EMPTY = MemoryStore({})

LLAMA_31_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "tie_word_embeddings": False,
}  # fmt: skip

TABLED = [
    "llama_plain_bf16", "llama_all_linear", "llama_regex_target", "llama_excluded", "llama_layers", "llama_one_layer",
    "llama_patterns", "llama_patterns_near_misses", "llama_bias_all", "llama_bias_lora_only", "llama_lora_bias",
    "llama_dora_bf16", "llama_embed_dora", "llama_bdlora", "llama_bdlora_partial", "llama_kasa", "llama_velora",
    "llama_monteclora", "llama_mica", "llama_mica_embed", "llama_embed_head", "llama_tokens_list", "llama_tokens_dict",
    "llama_save_head", "llama_save_embed_and_head", "llama_save_norms", "llama_save_mlp", "llama_seqcls",
    "llama_seqcls_on_causal", "llama_parameter", "qwen2_bias_all", "gemma3_text_all", "phi3_fused", "opt_bias_all",
    "gpt2_lora_bias", "gpt2_bare_base", "gpt2_wte", "gpt_neox_save_head", "t5_all", "t5_dora", "bert_seqcls",
    "bert_seqcls_on_bare", "bert_feature_on_mlm", "bert_bias_all", "bert_gamma", "mixtral_experts", "mixtral_router",
    "qwen3_moe_experts", "tied_both_bf16", "tied_ensured_bf16", "tied_gemma3_both", "tied_save_both",
    "tied_save_ensured", "tied_tokens", "tied_tokens_dict", "tied_tokens_ensured", "tied_t5_head",
]  # fmt: skip
"""Cases whose figures also follow from two configs alone."""

WEIGHTS_ONLY = [
    "llama_resized_modules", "llama_resized_saved", "llama_resized_tokens", "tied_resized_embed", "bloom_all",
    "whisper_dora", "vit_classifier", "vit_patches", "gpt_oss_experts", "llava_everything", "qwen2_vl_visual",
    "conv2d_dora", "conv2d_bias_all", "conv3d", "mha_bias_all", "nested_saved", "refuse_layer_replication",
    "refuse_prompt_tuning", "refuse_ia3", "refuse_loha",
]  # fmt: skip
"""No table of shapes, a resized vocabulary, another PEFT type: the adapter's tensors are needed."""


def counted_by_peft(built):
    """Trainable and all, as ``print_trainable_parameters`` has them when training begins."""
    from peft import get_peft_model
    from zoo_build import load_base, quiet, seed

    part = built.case.parts[0]
    with quiet():
        base = load_base(built.case, built.base_dir, part.vocab)
        seed("adapter", built.case.name, 0)
        return get_peft_model(base, part.config(), adapter_name=part.name).get_nb_trainable_parameters()


@pytest.mark.parametrize("name", [*TABLED, *WEIGHTS_ONLY])
def test_from_the_tensors_and_the_base(zoo, name):
    built = zoo(name)
    counted = count_parameters(open_adapter(built.adapter_dirs[0]), open_base(built.base_dir))
    assert counted_by_peft(built) == (counted.trainable, counted.total)
    assert counted.percent == pytest.approx(100 * counted.trainable / counted.total)
    assert not counted.expected


@pytest.mark.parametrize("name", TABLED)
def test_from_two_configs_alone(zoo, name):
    built = zoo(name)
    adapter = open_adapter(built.adapter_dirs[0])
    bare = Adapter(adapter.path, adapter.config, EMPTY)
    base = BaseModel(built.base_dir, read_base_config(built.base_dir), EMPTY)
    counted = count_parameters(bare, base)
    assert counted_by_peft(built) == (counted.trainable, counted.total)
    assert counted.expected


SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("rank", "targets", "trainable"),
    [
        (16, SEVEN, 41_943_040),
        (16, "all-linear", 41_943_040),
        (16, r".*\.(?:self_attn|mlp)\.\w+_proj", 41_943_040),
        (16, ["q_proj", "k_proj", "v_proj", "o_proj"], 13_631_488),
        (8, ["q_proj", "v_proj"], 3_407_872),
        (8, None, 3_407_872),
    ],
)
def test_llama_31_8b(rank, targets, trainable):
    counted = expected(LLAMA_31_8B, r=rank, target_modules=targets)
    assert (trainable, 8_030_261_248 + trainable) == (counted.trainable, counted.total)
    if trainable == 41_943_040:
        assert f"{counted.percent:.4f}" == "0.5196"


def expected(base_config, **fields):
    config = AdapterConfig({"peft_type": "LORA", "task_type": "CAUSAL_LM", **fields})
    return count_parameters(Adapter(Path("adapter"), config, EMPTY), BaseModel(Path("base"), base_config, EMPTY))


def test_the_targets_peft_takes_where_none_are_named():
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT

    known = {name: tuple(PEFT[name]) for name in (*LAYOUTS, "mt5") if name in PEFT}
    assert known == DEFAULT_TARGETS


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"target_modules": ["c_attn"]}, "target_modules matches no module of LlamaForCausalLM"),
        ({"peft_type": "LOHA"}, "what LOHA trains cannot be told from its config alone"),
        ({"layer_replication": [[0, 4]]}, "layer_replication makes a deeper model than the base's config describes"),
    ],
)
def test_what_cannot_be_told_is_said(fields, note):
    counted = expected(LLAMA_31_8B, **fields)
    assert (None, None, note) == (counted.trainable, counted.total, counted.note)


def test_a_family_without_a_table_is_said():
    counted = expected({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, target_modules=["in_proj"])
    assert counted.note == "there is no table of shapes for MambaForCausalLM"


def test_experts_under_their_old_names_are_not_miscounted():
    mixtral = LLAMA_31_8B | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 8}
    counted = expected(mixtral, target_modules=["q_proj", "w1", "w2", "w3"])
    assert counted.trainable is None
    assert counted.note == "target_modules names experts (w1, w2, w3), counted from weights only"


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_a_pattern_that_runs_away_is_stopped(field):
    with pytest.raises(FormatError, match="takes too long"):
        expected(LLAMA_31_8B, **{"target_modules": ["q_proj"], field: r"(.|..|...)+[!?]"})


def test_without_a_base_only_the_trained_are_known(tmp_path):
    counted = count_parameters(open_adapter(lora(tmp_path / "adapter")))
    assert counted.trainable == 2 * 4 * (64 + 64 + 64 + 32)
    assert counted.total is None
    assert counted.percent is None


def test_a_checkpoint_without_a_config_is_summed(tmp_path):
    folder = llama(tmp_path / "base")
    with_config = count_parameters(open_adapter(lora(tmp_path / "adapter")), open_base(folder))
    without = count_parameters(open_adapter(tmp_path / "adapter"), open_base(folder / "model.safetensors"))
    (folder / "config.json").unlink()
    bare = count_parameters(open_adapter(tmp_path / "adapter"), open_base(folder))
    # making's llama has one norm a layer where a real one has two: the table counts both
    assert with_config.total - bare.total == 2 * 64
    assert without.trainable == bare.trainable == with_config.trainable


PEFT_TYPES = {
    "ADALORA": {"total_step": 10, "init_r": 6, "target_r": 4, "target_modules": ["q_proj"]},
    "BOFT": {"boft_block_size": 8, "target_modules": ["q_proj"]},
    "C3A": {"block_size": 8, "target_modules": ["q_proj"]},
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "DELORA": {"target_modules": ["q_proj"]},
    "FOURIERFT": {"n_frequency": 20, "target_modules": ["q_proj"]},
    "FROD": {"target_modules": ["q_proj"]},
    "HRA": {"target_modules": ["q_proj"]},
    "LN_TUNING": {"target_modules": ["norm", "input_layernorm"]},
    "LOKR": {"target_modules": ["q_proj"]},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2},
    "OFT": {"oft_block_size": 8, "r": 0, "target_modules": ["q_proj"]},
    "POLY": {"n_tasks": 2, "target_modules": ["q_proj"]},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "RANDLORA": {"r": 4, "target_modules": ["q_proj"]},
    "SHADOW": {"target_modules": ["q_proj"]},
    "SHIRA": {"r": 4, "target_modules": ["q_proj"]},
    "TINYLORA": {"target_modules": ["q_proj"]},
    "UNILORA": {"target_modules": ["q_proj"]},
    "VBLORA": {"r": 2, "num_vectors": 16, "vector_length": 8, "topk": 2, "target_modules": ["q_proj"]},
    "VERA": {"target_modules": ["q_proj", "v_proj"]},
}


def trained_with(peft_type, fields, folder):
    """A tiny Llama and a fresh adapter of any PEFT type on it, saved; PEFT's own count."""
    peft = pytest.importorskip("peft")
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from zoo_build import quiet
    from zoo_models import MODELS

    if not hasattr(peft.PeftType, peft_type):
        pytest.skip(f"this PEFT has no {peft_type}")
    with quiet():
        base = MODELS["llama"].make()
        base.save_pretrained(folder / "base")
        config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[peft_type]](task_type="CAUSAL_LM", **fields)
        model = peft.get_peft_model(base, config)
        counts = model.get_nb_trainable_parameters()
        model.save_pretrained(folder / "adapter")
    return counts


@pytest.mark.parametrize("peft_type", PEFT_TYPES)
def test_every_other_type_by_its_tensors(tmp_path, peft_type):
    counts = trained_with(peft_type, PEFT_TYPES[peft_type], tmp_path)
    counted = count_parameters(open_adapter(tmp_path / "adapter"), open_base(tmp_path / "base"))
    assert counts == (counted.trainable, counted.total)


def test_what_was_trained_and_not_saved_is_not_guessed(tmp_path):
    trained_with("P_TUNING", {"num_virtual_tokens": 4, "encoder_hidden_size": 8}, tmp_path)
    counted = count_parameters(open_adapter(tmp_path / "adapter"), open_base(tmp_path / "base"))
    assert counted.trainable is None
    assert counted.note == "the encoder that made the prompts was trained and is not saved"


def test_both_figures_in_json(tmp_path, capsys):
    from adaptool.cli.main import main

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA_31_8B))
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": SEVEN, "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path / "adapter"), "--base", str(tmp_path / "base"), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["results"][0]["parameters"]
    assert (counted["trainable"], counted["total"]) == (41_943_040, 8_072_204_288)
    assert counted["expected"]
