"""The shapes read off a config are those of the model transformers builds from it."""

import random
import warnings

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from adaptool.archs.layouts import LAYOUTS  # noqa: E402
from adaptool.archs.shapes import linear_modules, parameter_shapes  # noqa: E402
from adaptool.errors import FormatError  # noqa: E402

# As published on the hub, cut down to what decides a shape; the numbers are the published parameter counts.
LLAMA_31_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "max_position_embeddings": 131072,
}  # fmt: skip
PUBLISHED = {
    "Llama-3.1-8B": (LLAMA_31_8B, 8_030_261_248),
    "Llama-3.2-1B": (
        LLAMA_31_8B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
                       "tie_word_embeddings": True},
        1_235_814_400,
    ),
    "Mistral-7B-v0.1": (
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
         "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False},
        7_241_732_096,
    ),
    "Mixtral-8x7B-v0.1": (
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096,
         "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "num_local_experts": 8, "tie_word_embeddings": False},
        46_702_792_704,
    ),
    "Qwen2.5-7B": (
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584,
         "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
         "tie_word_embeddings": False},
        7_615_616_512,
    ),
    "Qwen3-0.6B": (
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
         "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 128, "tie_word_embeddings": True},
        596_049_920,
    ),
    "Qwen3-30B-A3B": (
        {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936,
         "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
         "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
         "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False},
        30_532_122_624,
    ),
    "gemma-2b": (
        {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "vocab_size": 256000, "hidden_size": 2048,
         "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
         "head_dim": 256},
        2_506_172_416,
    ),
    "gemma-2-9b": (
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 3584,
         "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 256},
        9_241_705_984,
    ),
    "gemma-3-1b": (
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 262144,
         "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
         "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512},
        999_885_952,
    ),
    "gemma-3-4b": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
         "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                         "num_hidden_layers": 34, "sliding_window": 1024},
         "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                           "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27,
                           "patch_size": 14, "vision_use_head": False}},
        4_300_079_472,
    ),
    "phi-2": (
        {"architectures": ["PhiForCausalLM"], "model_type": "phi", "vocab_size": 51200, "hidden_size": 2560,
         "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "partial_rotary_factor": 0.4, "qk_layernorm": False, "tie_word_embeddings": False},
        2_779_683_840,
    ),
    "Phi-3-mini-4k": (
        {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072,
         "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "tie_word_embeddings": False},
        3_821_079_552,
    ),
    "gpt2": (
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_head": 12,
         "n_layer": 12, "n_positions": 1024},
        124_439_808,
    ),
    "falcon-7b": (
        {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "vocab_size": 65024, "hidden_size": 4544,
         "num_attention_heads": 71, "num_hidden_layers": 32, "num_kv_heads": 71, "multi_query": True,
         "parallel_attn": True, "new_decoder_architecture": False, "bias": False, "alibi": False},
        6_921_720_704,
    ),
    "opt-125m": (
        {"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 50272, "hidden_size": 768,
         "ffn_dim": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "max_position_embeddings": 2048,
         "word_embed_proj_dim": 768, "do_layer_norm_before": True},
        125_239_296,
    ),
    "opt-350m": (
        {"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 50272, "hidden_size": 1024,
         "ffn_dim": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "max_position_embeddings": 2048,
         "word_embed_proj_dim": 512, "do_layer_norm_before": False},
        331_196_416,
    ),
    "t5-small": (
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 32128, "d_model": 512,
         "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "relative_attention_num_buckets": 32},
        60_506_624,
    ),
    "all-MiniLM-L6-v2": (
        {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 30522, "hidden_size": 384,
         "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 6, "type_vocab_size": 2},
        22_713_216,
    ),
}  # fmt: skip


def built(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of the model transformers builds; a tied one comes once."""
    rest = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], **rest)
    kind = getattr(transformers, config["architectures"][0])
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return {name: tuple(parameter.shape) for name, parameter in kind(made).named_parameters()}


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_config_gives_the_published_count(name):
    config, expected = PUBLISHED[name]
    shapes = parameter_shapes(config)
    assert expected == count(shapes)
    assert built(config) == shapes


@pytest.mark.parametrize(
    ("rank", "leaves", "expected"),
    [
        (16, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, 41_943_040),
        (16, {"q_proj", "k_proj", "v_proj", "o_proj"}, 13_631_488),
        (8, {"q_proj", "v_proj"}, 3_407_872),
    ],
)
def test_lora_cost_of_llama_31_8b(rank, leaves, expected):
    chosen = (io for name, io in linear_modules(LLAMA_31_8B).items() if name.rpartition(".")[2] in leaves)
    assert expected == sum(rank * sum(io) for io in chosen)


# The class to build, its keys, and the values each may take besides the common ones.
SMALL = {"hidden_size": [32, 48], "num_attention_heads": [4, 8], "num_hidden_layers": [1, 3], "vocab_size": [50, 64]}
MLP = {"intermediate_size": [24, 40]}
GROUPED = {"num_key_value_heads": [1, 2, 4]}
TIE = {"tie_word_embeddings": [False, True]}
HEAD = {"head_dim": [8, 16]}
BIAS = {"attention_bias": [False, True]}
MOE = {
    "num_experts": [3, 4],
    "moe_intermediate_size": [12, 20],
    "decoder_sparse_step": [1, 2],
    "mlp_only_layers": [[], [0]],
}
DECODER = SMALL | MLP | GROUPED | TIE
ENCODER = SMALL | MLP | {"max_position_embeddings": [40], "type_vocab_size": [1, 2], "num_labels": [2, 5]}
DISTILBERT = {"dim": [32, 48], "n_heads": [4], "n_layers": [2], "hidden_dim": [24], "vocab_size": [40],
              "max_position_embeddings": [40]}  # fmt: skip
SIZES = {
    "LlamaForCausalLM": DECODER | HEAD | BIAS | {"mlp_bias": [False, True]},
    "LlamaForSequenceClassification": DECODER | {"num_labels": [1, 3]},
    "LlamaForTokenClassification": DECODER | {"num_labels": [1, 3]},
    "LlamaModel": DECODER,
    "MistralForCausalLM": DECODER | HEAD,
    "MixtralForCausalLM": DECODER | {"num_local_experts": [2, 3]},
    "Qwen2ForCausalLM": DECODER,
    "Qwen2MoeForCausalLM": DECODER | MOE | {"shared_expert_intermediate_size": [10], "qkv_bias": [False, True]},
    "Qwen3ForCausalLM": DECODER | HEAD | BIAS,
    "Qwen3MoeForCausalLM": DECODER | HEAD | BIAS | MOE,
    "GemmaForCausalLM": DECODER | HEAD | BIAS,
    "Gemma2ForCausalLM": DECODER | HEAD | BIAS,
    "Gemma3ForCausalLM": DECODER | HEAD | BIAS,
    "PhiForCausalLM": DECODER | {"qk_layernorm": [False, True]},
    "Phi3ForCausalLM": DECODER | {"pad_token_id": [0]},
    "GPT2LMHeadModel": {"n_embd": [32], "n_head": [4], "n_layer": [2], "n_inner": [None, 20], "n_positions": [16],
                        "vocab_size": [40], "add_cross_attention": [False, True]},
    "GPT2ForTokenClassification": {"n_embd": [32], "n_head": [4], "n_layer": [2], "num_labels": [4]},
    "GPTNeoXForCausalLM": SMALL | MLP | BIAS | TIE,
    "FalconForCausalLM": SMALL | TIE | {"new_decoder_architecture": [False, True], "multi_query": [False, True],
                                        "parallel_attn": [False, True], "bias": [False, True], "num_kv_heads": [2],
                                        "ffn_hidden_size": [None, 20]},
    "OPTForCausalLM": SMALL | TIE | {"ffn_dim": [20], "word_embed_proj_dim": [None, 16], "enable_bias": [False, True],
                                     "layer_norm_elementwise_affine": [False, True],
                                     "do_layer_norm_before": [False, True], "max_position_embeddings": [30]},
    "BertForMaskedLM": ENCODER | TIE,
    "BertForPreTraining": ENCODER,
    "BertForSequenceClassification": ENCODER,
    "BertForTokenClassification": ENCODER,
    "BertForQuestionAnswering": ENCODER | {"num_labels": [2]},
    "BertModel": ENCODER,
    "RobertaForMaskedLM": ENCODER | TIE,
    "RobertaForSequenceClassification": ENCODER,
    "RobertaModel": ENCODER,
    "T5ForConditionalGeneration": {"d_model": [32], "d_kv": [8], "d_ff": [20], "num_layers": [2], "num_heads": [4],
                                   "num_decoder_layers": [None, 3], "feed_forward_proj": ["relu", "gated-gelu"],
                                   "vocab_size": [40]},
    "T5EncoderModel": {"d_model": [32], "d_ff": [20], "num_layers": [2], "num_heads": [4], "vocab_size": [40]},
    "Starcoder2ForCausalLM": DECODER | {"use_bias": [False, True]},
    "SmolLM3ForCausalLM": DECODER | BIAS | {"mlp_bias": [False, True], "pad_token_id": [0]},
    "GraniteForCausalLM": DECODER | BIAS | {"mlp_bias": [False, True]},
    "Olmo2ForCausalLM": DECODER | BIAS,
    "CohereForCausalLM": DECODER | BIAS | {"use_qk_norm": [False, True]},
    "Cohere2ForCausalLM": DECODER | BIAS,
    "OlmoForCausalLM": DECODER | BIAS,
    "Olmo3ForCausalLM": DECODER | BIAS,
    "OlmoeForCausalLM": DECODER | BIAS | {"num_experts": [2, 3]},
    "Exaone4ForCausalLM": DECODER,
    "ArceeForCausalLM": DECODER | HEAD | BIAS | {"mlp_bias": [False, True]},
    "Ministral3ForCausalLM": DECODER | HEAD,
    "SeedOssForCausalLM": DECODER | HEAD | BIAS | {"attention_out_bias": [False, True], "mlp_bias": [False, True]},
    "StableLmForCausalLM": DECODER | {"use_qkv_bias": [False, True], "qk_layernorm": [False, True],
                                      "use_parallel_residual": [False, True]},
    "GraniteMoeForCausalLM": DECODER | BIAS | {"num_local_experts": [2, 3]},
    "GraniteMoeSharedForCausalLM": DECODER | BIAS | {"num_local_experts": [2], "shared_intermediate_size": [0, 20]},
    "BloomForCausalLM": {"hidden_size": [32], "n_layer": [2], "n_head": [4], "vocab_size": [40]} | TIE,
    "BloomForTokenClassification": {"hidden_size": [32], "n_layer": [2], "n_head": [4], "num_labels": [3]},
    "MptForCausalLM": {"d_model": [32, 64], "n_layers": [2], "n_heads": [4], "expansion_ratio": [2, 4]} | TIE,
    "XLMRobertaForMaskedLM": ENCODER | {"tie_word_embeddings": [False]},
    "XLMRobertaForSequenceClassification": ENCODER,
    "DistilBertForMaskedLM": DISTILBERT | TIE,
    "DistilBertForSequenceClassification": DISTILBERT | {"num_labels": [3]},
    "DistilBertForTokenClassification": DISTILBERT | {"num_labels": [3]},
    "DistilBertForQuestionAnswering": DISTILBERT,
    "DistilBertModel": DISTILBERT,
    "NomicBertForMaskedLM": ENCODER | TIE,
    "NomicBertForSequenceClassification": ENCODER,
    "NomicBertForTokenClassification": ENCODER,
    "NomicBertModel": ENCODER | HEAD,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("architecture", SIZES)
def test_random_config(architecture, seed):
    draw = random.Random(f"{architecture}{seed}")
    config = {key: draw.choice(values) for key, values in SIZES[architecture].items()}
    kind = getattr(transformers, architecture).config_class
    config |= {"model_type": kind.model_type, "architectures": [architecture]}
    expected = built(config)
    assert expected == parameter_shapes(config)
    # as transformers 5 writes it, whole and with only what differs from the defaults
    made = kind(**config)
    assert expected == parameter_shapes(made.to_dict() | {"architectures": [architecture]})
    assert expected == parameter_shapes(made.to_diff_dict() | {"architectures": [architecture]})


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_an_empty_config_has_its_class_defaults(model_type):
    made = transformers.AutoConfig.for_model(model_type)
    assert parameter_shapes(made.to_dict()) == parameter_shapes({"model_type": model_type})


def test_an_untied_t5_keeps_the_head_its_checkpoint_has():
    """Transformers 5 ties every T5; flan-t5's checkpoints hold a head of their own, which transformers 4 trained."""
    tied, config = PUBLISHED["t5-small"][1], PUBLISHED["t5-small"][0] | {"tie_word_embeddings": False}
    assert tied + 32128 * 512 == count(parameter_shapes(config))


@pytest.mark.parametrize("config", [{}, {"model_type": "mamba"}, {"model_type": "bert", "architectures": ["BertForX"]}])
def test_what_has_no_table_is_none(config):
    assert parameter_shapes(config) is None
    assert linear_modules(config) is None


@pytest.mark.parametrize(
    "nonsense",
    [
        {"num_hidden_layers": 10**9},
        {"hidden_size": "big"},
        {"vocab_size": -1},
        {"num_attention_heads": 0},
        {"vocab_size": None},
    ],
)
def test_a_config_that_cannot_be_is_refused(nonsense):
    with pytest.raises(FormatError, match=r"config\.json"):
        parameter_shapes(LLAMA_31_8B | nonsense)


def test_conv1d_counts_in_before_out():
    assert linear_modules(PUBLISHED["gpt2"][0])["transformer.h.0.attn.c_attn"] == (768, 2304)
    assert linear_modules(PUBLISHED["Qwen2.5-7B"][0])["model.layers.0.self_attn.k_proj"] == (3584, 512)
