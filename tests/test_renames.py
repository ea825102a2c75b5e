"""Every runtime name finds its tensor in the checkpoint transformers saves, and finds that one first."""

import re

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from safetensors.torch import load_file  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES  # noqa: E402
from transformers.utils import logging  # noqa: E402

from adaptool.archs.experts import CONV1D_MODEL_TYPES, EXPERT_PARTS, IS_TRANSPOSED_EXPERTS, expert_parts  # noqa: E402
from adaptool.archs.prefixes import base_model_prefix  # noqa: E402
from adaptool.archs.renames import BLOCKS, disk_names, renames_of  # noqa: E402

logging.set_verbosity_error()

TEXT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
MOE = TEXT | {"moe_intermediate_size": 12, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2}
IMAGE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
         "patch_size": 8, "num_channels": 3}  # fmt: skip
MLA = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
    "head_dim": 4,
}
CLIP_EYES = IMAGE | {"model_type": "clip_vision_model"}
SIGLIP_EYES = IMAGE | {"model_type": "siglip_vision_model"}
LLAMA_TONGUE = TEXT | {"model_type": "llama"}
MODELS = {
    "LlamaForCausalLM": TEXT,
    "Gemma2ForCausalLM": TEXT | {"head_dim": 8},
    "Phi3ForCausalLM": TEXT,
    "FalconForCausalLM": TEXT,
    "GPT2LMHeadModel": {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "GPTNeoXForCausalLM": TEXT,
    "OPTForCausalLM": TEXT | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "T5ForConditionalGeneration": {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2,
                                   "num_heads": 2},
    "BertForSequenceClassification": TEXT,
    "BertModel": TEXT,
    "RobertaForMaskedLM": TEXT,
    "WhisperForConditionalGeneration": {"vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
                                        "encoder_attention_heads": 2, "decoder_attention_heads": 2,
                                        "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 0},
    # mixtures of experts
    "MixtralForCausalLM": MOE,
    "MiniMaxForCausalLM": MOE | {"head_dim": 8},
    "PhimoeForCausalLM": MOE,
    "Qwen2MoeForCausalLM": MOE | {"shared_expert_intermediate_size": 20},
    "Qwen3MoeForCausalLM": MOE,
    "OlmoeForCausalLM": MOE,
    "DeepseekV3ForCausalLM": MOE | MLA | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                                          "first_k_dense_replace": 1},
    "Glm4MoeForCausalLM": MOE | {"n_routed_experts": 4, "first_k_dense_replace": 1, "head_dim": 8},
    "Ernie4_5_MoeForCausalLM": MOE | {"moe_num_experts": 4, "moe_k": 2},
    "JambaForCausalLM": MOE | {"expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2,
                               "attn_layer_offset": 1, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "GraniteMoeForCausalLM": MOE,
    "GptOssForCausalLM": MOE | {"head_dim": 8},
    "Llama4ForCausalLM": MOE | {"intermediate_size_mlp": 24, "head_dim": 8},
    # vision
    "ViTForImageClassification": IMAGE,
    "DeiTForImageClassification": IMAGE,
    "BeitForImageClassification": IMAGE | {"use_relative_position_bias": True},
    "Dinov2ForImageClassification": IMAGE,
    "VideoMAEForVideoClassification": IMAGE | {"num_frames": 2},
    "SwinForImageClassification": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2,
                                   "image_size": 16, "patch_size": 2},
    "SegformerForSemanticSegmentation": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
                                         "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
    "CLIPVisionModel": IMAGE,
    "SiglipVisionModel": IMAGE,
    "CLIPModel": {"text_config": TEXT | {"projection_dim": 8}, "vision_config": IMAGE, "projection_dim": 8},
    # several towers
    "LlavaForConditionalGeneration": {"vision_config": CLIP_EYES, "text_config": LLAMA_TONGUE},
    "LlavaNextForConditionalGeneration": {"vision_config": CLIP_EYES, "text_config": LLAMA_TONGUE},
    "PaliGemmaForConditionalGeneration": {"vision_config": SIGLIP_EYES | {"projection_dim": 16},
                                          "text_config": TEXT | {"model_type": "gemma", "head_dim": 8},
                                          "projection_dim": 16, "image_token_id": 5},
    "Gemma3ForConditionalGeneration": {"vision_config": SIGLIP_EYES, "mm_tokens_per_image": 4,
                                       "text_config": TEXT | {"model_type": "gemma3_text", "head_dim": 8}},
    "Qwen2VLForConditionalGeneration": {
        "vision_config": {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 8},
        "text_config": TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
    },
}  # fmt: skip


def saved_model(architecture: str, sizes: dict, folder) -> tuple[dict, dict, dict]:
    """A tiny model with random weights, saved: its config, its parameters, the checkpoint's tensors."""
    kind = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = kind(kind.config_class(**sizes))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_()
    model.save_pretrained(folder)
    return model.config.to_dict(), parameters, load_file(folder / "model.safetensors")


def on_disk(name: str, config: dict, disk: dict) -> torch.Tensor | None:
    """The first candidate that the checkpoint holds."""
    return next((disk[candidate] for candidate in disk_names(name, config) if candidate in disk), None)


@pytest.mark.parametrize("architecture", MODELS)
def test_every_parameter_is_found_and_is_the_right_one(architecture, tmp_path):
    config, parameters, disk = saved_model(architecture, MODELS[architecture], tmp_path)
    for name, parameter in parameters.items():
        found = on_disk(name, config, disk)
        if found is None:
            parts = expert_parts(name, config)
            assert parts is not None, name
            found = torch.stack(
                [
                    torch.cat([on_disk(part, config, disk) for part in parts.names(expert)])
                    for expert in range(parameter.shape[0])
                ]
            )
            whole = parameter.shape[1]
            shares = [range(whole)[rows] for rows in parts.rows(whole)]
            assert list(range(whole)) == [row for share in shares for row in share]
        assert torch.equal(parameter, found), name


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertModel", "ViTForImageClassification"])
def test_without_a_config_too(architecture, tmp_path):
    _, parameters, disk = saved_model(architecture, MODELS[architecture], tmp_path)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, on_disk(name, None, disk)), name


LLAVA = {
    "model_type": "llava",
    "vision_config": {"model_type": "clip_vision_model"},
    "text_config": {"model_type": "llama"},
}
QWEN2_VL = {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}}
OMNI = {"model_type": "qwen2_5_omni_thinker", "text_config": {"model_type": "qwen2_5_omni_text"}}


@pytest.mark.parametrize(
    ("config", "runtime", "disk"),
    [
        # transformers 4.52 and later, a published checkpoint
        (LLAVA, "model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        (LLAVA, "lm_head.weight", "language_model.lm_head.weight"),
        (
            LLAVA,
            "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        ),
        (LLAVA, "model.multi_modal_projector.linear_1", "multi_modal_projector.linear_1"),
        (QWEN2_VL, "model.language_model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj"),
        (QWEN2_VL, "model.visual.blocks.0.attn.qkv", "visual.blocks.0.attn.qkv"),
        # transformers 5 dropped a level of the vision tower
        (
            LLAVA,
            "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        ),
        ({"model_type": "siglip_vision_model"}, "encoder.layers.0.mlp.fc1", "vision_model.encoder.layers.0.mlp.fc1"),
        (OMNI, "model.language_model.layers.0.mlp.up_proj", "thinker.model.layers.0.mlp.up_proj"),
        (OMNI, "model.audio_tower.layers.0.fc1", "thinker.audio_tower.layers.0.fc1"),
        # an older adapter, a checkpoint saved under the newer names
        (LLAVA, "language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
        (QWEN2_VL, "model.layers.1.self_attn.q_proj", "model.language_model.layers.1.self_attn.q_proj"),
        (QWEN2_VL, "visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv"),
        (
            {"model_type": "vit"},
            "vit.encoder.layer.3.attention.attention.query.weight",
            "vit.layers.3.attention.q_proj.weight",
        ),
        ({"model_type": "mixtral"}, "model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate"),
        # task model and bare body
        ({"model_type": "bert"}, "bert.encoder.layer.0.output.dense", "encoder.layer.0.output.dense"),
        ({"model_type": "bert"}, "encoder.layer.0.output.dense", "bert.encoder.layer.0.output.dense"),
        ({"model_type": "vit"}, "vit.layers.0.mlp.fc1", "encoder.layer.0.intermediate.dense"),
        ({"model_type": "llama"}, "transformer.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        # what every model may have
        ({"model_type": "bert"}, "bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
        ({"model_type": "bert"}, "embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.beta"),
        (
            {"model_type": "wav2vec2"},
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
            "wav2vec2.encoder.pos_conv_embed.conv.weight_g",
        ),
        ({"model_type": "gpt_neox"}, "lm_head", "embed_out"),
        # nothing known of the model
        (None, "model.language_model.layers.0.mlp.up_proj", "language_model.model.layers.0.mlp.up_proj"),
        (None, "vit.layers.0.mlp.fc1", "vit.encoder.layer.0.intermediate.dense"),
        (None, "layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        (None, "deberta.encoder.layer.0.x", "encoder.layer.0.x"),
    ],
)
def test_names_across_generations(config, runtime, disk):
    assert disk in disk_names(runtime, config)


@pytest.mark.parametrize("config", [None, {}, {"model_type": "vit"}, LLAVA, QWEN2_VL])
def test_the_name_itself_comes_first_and_none_comes_twice(config):
    names = list(disk_names("model.layers.0.self_attn.q_proj.weight", config))
    assert names[0] == "model.layers.0.self_attn.q_proj.weight"
    assert len(names) == len(set(names))


def test_every_rename_can_be_undone():
    """A row put into a name, to run time and back, is itself: no row says less on one side than on the other."""

    def example(pattern: str) -> str:
        return re.sub(
            r"\{(.*?)\}", lambda found: "7" if found[1] == "n" else found[1].split(",")[0], pattern.removeprefix("^")
        )

    for rename in renames_of(BLOCKS.values()):
        if "^" in (rename.disk, rename.runtime):
            continue
        disk, runtime = f"{example(rename.disk)}.weight", f"{example(rename.runtime)}.weight"
        assert runtime == rename.to_runtime(disk)
        assert disk == rename.to_disk(runtime)


def test_experts_that_are_fused_on_disk_have_no_parts():
    for model_type in ("gpt_oss", "llama4_text", "granitemoe"):
        assert expert_parts("model.layers.0.mlp.experts.gate_up_proj", {"model_type": model_type}) is None
    assert expert_parts("model.layers.0.mlp.up_proj.weight", {"model_type": "mixtral"}) is None
    assert expert_parts("model.layers.0.mlp.experts.gate_up_proj", None) is None


def test_expert_parts_of_mixtral():
    parts = expert_parts("model.layers.4.mlp.experts.gate_up_proj", {"model_type": "mixtral"})
    block = "model.layers.4.block_sparse_moe.experts.3"
    assert parts.names(3) == (f"{block}.w1.weight", f"{block}.w3.weight")
    assert parts.rows(28672) == (slice(0, 14336), slice(14336, 28672))


def test_the_marks_of_experts_are_those_of_transformers():
    for architecture in ("GptOssForCausalLM", "Llama4ForCausalLM", "Qwen3MoeForCausalLM", "GraniteMoeForCausalLM"):
        kind = getattr(transformers, architecture)
        model = kind(kind.config_class(**MODELS[architecture]))
        marks = {module.is_transposed for module in model.modules() if hasattr(module, "is_transposed")}
        assert (True in marks) == (model.config.model_type in IS_TRANSPOSED_EXPERTS)
    assert not IS_TRANSPOSED_EXPERTS & set(EXPERT_PARTS)


def test_conv1d_model_types():
    from transformers.pytorch_utils import Conv1D

    for model_type in ("gpt2", "openai-gpt", "imagegpt", "llama", "bert", "gpt_neo", "gptj", "gpt_bigcode"):
        config = transformers.AutoConfig.for_model(model_type)
        config.num_hidden_layers = 1 if model_type != "gpt_neo" else config.num_hidden_layers
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config)
        assert (model_type in CONV1D_MODEL_TYPES) == any(isinstance(module, Conv1D) for module in model.modules())


def test_prefixes_are_those_of_transformers():
    wrong = {}
    for model_type, names in MODEL_MAPPING_NAMES.items():
        name = names if isinstance(names, str) else names[0]
        try:
            expected = getattr(transformers, name).base_model_prefix
        except (ImportError, AttributeError):  # needs a package that is not here
            continue
        if expected != base_model_prefix(model_type):
            wrong[model_type] = expected
    assert wrong == {}
