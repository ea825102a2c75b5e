"""GGUF → model folder, of the families with a spelling of their own: every name, bit and setting comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from test_gguf_back import GROUPED, RMS, SIZES, TOKENIZER, TOKENS, UNTOLD, as_gguf, back, rounded_trip

from adaptool.adapters.base import open_base
from adaptool.archs.gguf.pooling import read_pooling
from adaptool.archs.gguf.tables import hparams_of, spec_for
from adaptool.errors import FormatError
from adaptool.gguf.back import model_folder
from adaptool.tensors.ggml.values import ValueType, array, text, u32
from adaptool.tensors.gguf import open_gguf

F32_ROUNDOFF = 1e-4
"""Settings are rounded where they are stored, and the matrices of a few layers multiply that."""

ENCODER = {**SIZES, "pad_token_id": 0, "type_vocab_size": 2, "layer_norm_eps": 3e-12}
DISTILBERT = {
    "pad_token_id": 0,
    "vocab_size": 96,
    "dim": 64,
    "hidden_dim": 96,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 128,
}
MPT = {"vocab_size": 96, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "layer_norm_epsilon": 3e-5}
BLOOM = {
    "vocab_size": 96,
    "hidden_size": 64,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": 3e-5,
    "seq_length": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
MINISTRAL3 = {
    **YARN,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 16,
}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
SCALES = {"attention_multiplier": 0.125, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 3.0}
EVERY_OTHER = ["sliding_attention", "full_attention"] * 2

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "nomic-bert": ("NomicBertModel", ENCODER),
    "nomic-bert-wide": ("NomicBertModel", {**ENCODER, "head_dim": 32, "layer_norm_eps": 3e-12}),
    "distilbert": ("DistilBertModel", DISTILBERT),
    "bert-classifier": ("BertForSequenceClassification", {**ENCODER, "num_labels": 3}),
    "bert-ranker": ("BertForSequenceClassification", {**ENCODER, "num_labels": 1}),
    "olmo": ("OlmoForCausalLM", {**SIZES, "clip_qkv": 0.5}),
    "olmo-tied": ("OlmoForCausalLM", {**SIZES, "tie_word_embeddings": True}),
    "olmo3": ("Olmo3ForCausalLM", {**GROUPED, **RMS, "num_hidden_layers": 4, "sliding_window": 16}),
    "olmo3-yarn": (
        "Olmo3ForCausalLM",
        {
            **GROUPED,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {**YARN, "attention_factor": 1.2, "beta_fast": 32.0, "beta_slow": 1.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "olmoe": ("OlmoeForCausalLM", {**SIZES, **RMS, "num_experts": 4, "num_experts_per_tok": 2}),
    "cohere2": ("Cohere2ForCausalLM", {**GROUPED, "num_hidden_layers": 4, "sliding_window": 16, "logit_scale": 0.25}),
    "cohere2-other-layers": (
        "Cohere2ForCausalLM",
        {**GROUPED, "num_hidden_layers": 4, "sliding_window": 16, "layer_types": EVERY_OTHER},
    ),
    "stablelm": ("StableLmForCausalLM", {**SIZES, "num_key_value_heads": 4, "layer_norm_eps": 3e-5}),
    "stablelm-2": ("StableLmForCausalLM", {**GROUPED, "use_qkv_bias": True}),
    "stablelm-2-12b": (
        "StableLmForCausalLM",
        {**GROUPED, "qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 1.0},
    ),
    "granitemoe": ("GraniteMoeForCausalLM", {**GROUPED, **MOE, **SCALES}),
    "granitemoe-shared": (
        "GraniteMoeSharedForCausalLM",
        {**GROUPED, **MOE, "shared_intermediate_size": 32, "tie_word_embeddings": True},
    ),
    "arcee": ("ArceeForCausalLM", {**GROUPED, "head_dim": 32, "mlp_bias": True}),
    "arcee-yarn": ("ArceeForCausalLM", {**GROUPED, "rope_parameters": YARN}),
    "ministral3": ("Ministral3ForCausalLM", {**GROUPED, "head_dim": 32, "rope_parameters": MINISTRAL3}),
    "seed_oss": ("SeedOssForCausalLM", {**GROUPED, "head_dim": 32}),
    "seed_oss-biased": (
        "SeedOssForCausalLM",
        {**GROUPED, "head_dim": 16, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "exaone4": (
        "Exaone4ForCausalLM",
        {**GROUPED, **RMS, "sliding_window": None, "layer_types": ["full_attention"] * 2},
    ),
    "exaone4-32b": (
        "Exaone4ForCausalLM",
        {**GROUPED, "num_hidden_layers": 64, "hidden_size": 16, "intermediate_size": 16, "sliding_window": 16},
    ),
    "bloom": ("BloomForCausalLM", BLOOM),
    "mpt": ("MptForCausalLM", {**MPT, "attn_config": {"clip_qkv": 0.5, "alibi_bias_max": 6}}),
    "mpt-plain": ("MptForCausalLM", MPT),
    "phi3-window": ("Phi3ForCausalLM", {**GROUPED, "sliding_window": 16}),
    "phi-whole-head": ("PhiForCausalLM", {**SIZES, "partial_rotary_factor": 1.0}),
    "gpt-neox-whole-head": ("GPTNeoXForCausalLM", {**SIZES, "rotary_pct": 1.0}),
}
PADDED = {"tokenizer.ggml.padding_token_id": u32(0)}


def made(model: str, settings: Mapping[str, Any], folder: Path) -> Path:
    """A model of transformers with every parameter random, saved by it."""
    torch.manual_seed(7)
    kind = getattr(transformers, model)
    instance = kind(kind.config_class(**settings))
    for parameter in instance.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
        parameter.data += 0.25 * (parameter.ndim == 1)
    instance.bfloat16().save_pretrained(folder)
    return folder


def loaded(model: str, folder: Path) -> Any:
    return getattr(transformers, model).from_pretrained(folder, dtype=torch.float32).eval()


def answers(*models: Any, length: int = 60) -> tuple[torch.Tensor, ...]:
    """What each makes of the same tokens."""
    tokens = torch.arange(1, length)[None]
    with torch.no_grad():
        return tuple(model(tokens)[0] for model in models)


def settings_of(model: Any) -> dict[str, Any]:
    """A config as transformers 5 understands it, but for what is said twice."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in UNTOLD}
    config["rope_parameters"] = without_type(config.get("rope_parameters"))
    return config


def without_type(rope: Any) -> Any:
    if not isinstance(rope, dict):
        return rope
    return {name: without_type(value) for name, value in rope.items() if name != "type"}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_comes_back_bit_for_bit(name: str, tmp_path: Path):
    model, settings = CASES[name]
    folder = made(model, settings, tmp_path / "model")
    path = as_gguf(folder, tmp_path / "model.gguf", more=PADDED if settings.get("pad_token_id") == 0 else None)
    out = back(path, tmp_path / "back")

    theirs, ours = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []

    first, second = loaded(model, folder), loaded(model, out)
    expected, found = settings_of(first), settings_of(second)
    assert {name: found.get(name) for name in expected} == expected
    assert torch.equal(*answers(first, second))


RESPELT = {
    "yarn's two temperatures": (
        "LlamaForCausalLM",
        {**GROUPED, "rope_parameters": {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0}},
        "llama",
    ),
    "no parallel norms": (
        "StableLmForCausalLM",
        {**GROUPED, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
        "stablelm",
    ),
}


@pytest.mark.parametrize("name", RESPELT)
def test_a_setting_comes_back_in_other_words_of_the_same_meaning(name: str, tmp_path: Path):
    model, settings, expected = RESPELT[name]
    folder = made(model, settings, tmp_path / "model")
    out = back(as_gguf(folder, tmp_path / "model.gguf"), tmp_path / "back")
    first, second = loaded(model, folder), loaded(model, out)
    assert second.config.model_type == expected
    torch.testing.assert_close(*answers(first, second), atol=F32_ROUNDOFF, rtol=F32_ROUNDOFF)


PAD = 1
ROBERTA = {
    **SIZES,
    "vocab_size": len(TOKENS),
    "pad_token_id": PAD,
    "type_vocab_size": 1,
    "max_position_embeddings": 130,
    "num_labels": 3,
}
PADDED_BY_ONE = {"tokenizer.ggml.padding_token_id": u32(PAD)}
BPE = {**TOKENIZER, **PADDED_BY_ONE}
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *(f"\u2581t{number}" for number in range(4, len(TOKENS)))]
UNIGRAM = {
    **PADDED_BY_ONE,
    "tokenizer.ggml.model": text("t5"),
    "tokenizer.ggml.pre": text("default"),
    "tokenizer.ggml.tokens": array(ValueType.STRING, PIECES),
    "tokenizer.ggml.scores": array(ValueType.FLOAT32, [0.0] * len(PIECES)),
    "tokenizer.ggml.token_type": array(ValueType.INT32, [3, 3, 3, 2] + [1] * (len(PIECES) - 4)),
    "tokenizer.ggml.bos_token_id": u32(0),
    "tokenizer.ggml.eos_token_id": u32(2),
    "tokenizer.ggml.unknown_token_id": u32(3),
}
BERT_KIN = {
    "RobertaModel": BPE,
    "RobertaForSequenceClassification": BPE,
    "XLMRobertaModel": UNIGRAM,
    "XLMRobertaForSequenceClassification": UNIGRAM,
}


def read_by(model: Any) -> torch.Tensor:
    """What a model makes of two texts, one of them shorter; nothing where the padding is."""
    words = torch.arange(2, 96)[None].repeat(2, 1)
    words[1, 70:] = PAD
    seen = (words != PAD).long()
    with torch.no_grad():
        found = model(words, attention_mask=seen)[0]
    return found * seen[..., None] if found.ndim == 3 else found


@pytest.mark.parametrize("model", BERT_KIN)
def test_roberta_comes_back_without_the_positions_nothing_reads(model: str, tmp_path: Path):
    folder = made(model, ROBERTA, tmp_path / "model")
    path = as_gguf(folder, tmp_path / "model.gguf", more=BERT_KIN[model])
    out = back(path, tmp_path / "back")
    first, second = loaded(model, folder), loaded(model, out)
    assert second.config.max_position_embeddings == 130
    assert torch.equal(read_by(first), read_by(second))

    theirs, ours = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    unlike = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert {name.removeprefix("roberta.") for name in unlike} == {"embeddings.position_embeddings.weight"}
    name = unlike.pop()
    assert torch.equal(ours[name][PAD + 1 :], theirs[name][PAD + 1 :])
    assert {name.removeprefix("pooler.dense.") for name in theirs.keys() - ours.keys()} <= {"weight", "bias"}
    assert set(open_gguf(as_gguf(out, tmp_path / "again.gguf"))) == set(open_gguf(path))


@pytest.mark.parametrize("model", ["RobertaModel", "XLMRobertaForSequenceClassification"])
def test_without_its_tokenizer_it_is_the_bert_that_answers_the_same(model: str, tmp_path: Path):
    """A GGUF's positions begin with the first word's; nothing says that a table before them was cut."""
    folder = made(model, ROBERTA, tmp_path / "model")
    out = back(as_gguf(folder, tmp_path / "model.gguf"), tmp_path / "back")
    kind = model.replace("XLM", "").replace("Roberta", "Bert")
    second = loaded(kind, out)
    assert second.config.max_position_embeddings == 130 - PAD - 1
    assert torch.equal(read_by(loaded(model, folder)), read_by(second))


def test_mistral_small_comes_back_as_mistral(tmp_path: Path):
    settings = {**GROUPED, "head_dim": 32, "sliding_window": None}
    folder = made("MistralForCausalLM", settings, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    renamed = {**config, "architectures": ["Mistral3ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(renamed))
    path = as_gguf(folder, tmp_path / "model.gguf")
    assert open_gguf(path).keys["general.architecture"].data == "mistral3"
    out = back(path, tmp_path / "back")
    first, second = (loaded("MistralForCausalLM", place) for place in (folder, out))
    assert settings_of(second) == settings_of(first)
    assert torch.equal(*answers(first, second))


def test_a_ranker_keeps_its_labels(tmp_path: Path):
    labels = {0: "refund", 1: "complaint", 2: "praise"}
    folder = made("BertForSequenceClassification", {**ENCODER, "id2label": labels}, tmp_path / "model")
    path = as_gguf(folder, tmp_path / "model.gguf", more=PADDED)
    assert loaded("BertForSequenceClassification", back(path, tmp_path / "back")).config.id2label == labels


def test_labels_that_do_not_fit_the_classifier_are_refused(tmp_path: Path):
    folder = made("BertForSequenceClassification", {**ENCODER, "num_labels": 3}, tmp_path / "model")
    wrong = {"bert.classifier.output_labels": array(ValueType.STRING, ["a", "b"])}
    path = as_gguf(folder, tmp_path / "model.gguf", more=PADDED | wrong)
    with pytest.raises(FormatError, match=r"names 2 labels, and cls\.output\.weight 3"):
        model_folder(path)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_fused_rows_come_back_as_their_dequantised_values(kind: str, tmp_path: Path):
    folder = made("NomicBertModel", ENCODER, tmp_path / "model")
    found = load_file(back(as_gguf(folder, tmp_path / "m.gguf", kind), tmp_path / "back") / "model.safetensors")
    name = "encoder.layers.1.attn.Wqkv.weight"
    assert torch.equal(found[name], rounded_trip(load_file(folder / "model.safetensors")[name], kind))


@pytest.mark.parametrize("name", ["nomic-bert", "distilbert", "mpt", "stablelm-2-12b", "granitemoe-shared", "olmo3"])
def test_what_came_back_gives_the_gguf_again(name: str, tmp_path: Path):
    model, settings = CASES[name]
    path = as_gguf(made(model, settings, tmp_path / "model"), tmp_path / "one.gguf")
    again = as_gguf(back(path, tmp_path / "back"), tmp_path / "two.gguf")
    one, two = open_gguf(path), open_gguf(again)
    assert {key: value.data for key, value in two.keys.items()} == {key: value.data for key, value in one.keys.items()}
    assert set(two) == set(one)
    assert [name for name in one if two.read(name).tobytes() != one.read(name).tobytes()] == []


@pytest.mark.parametrize(("number", "mode"), [(1, "mean"), (2, "cls"), (3, "lasttoken"), (0, None), (4, None)])
def test_how_sentences_are_pooled_comes_back(number: int, mode: str | None, tmp_path: Path):
    folder = made(*CASES["nomic-bert"], tmp_path / "model")
    path = as_gguf(folder, tmp_path / "model.gguf", more={"nomic-bert.pooling_type": u32(number)})
    assert read_pooling(back(path, tmp_path / "back")) == mode
    base = open_base(path)
    assert hparams_of(spec_for(base.config, "model"), base.config or {}, base.folder).pooling == mode
