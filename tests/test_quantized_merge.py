"""Merging onto 4-bit bases and the NF4 round trip: the truth is bitsandbytes' dequantised weight plus the delta."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from adaptool import api
from adaptool.errors import UnsupportedError
from adaptool.merging.options import MergeOptions

bnb = pytest.importorskip("bitsandbytes")
QUANTISED = ("self_attn.q_proj", "mlp.down_proj")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bf16 Llama whose columns are whole NF4 blocks, a LoRA on it, and its 4-bit save."""
    folder = tmp_path_factory.mktemp("quantised")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        dtype="bfloat16",
    )
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.save_pretrained(folder / "base")
    adapted = get_peft_model(plain, LoraConfig(r=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float().normal_(0, 0.05)
    adapted.save_pretrained(folder / "adapter")
    for name, double in (("nf4", False), ("nf4-double", True)):
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        loaded = AutoModelForCausalLM.from_pretrained(folder / "base", quantization_config=how, dtype=torch.bfloat16)
        loaded.save_pretrained(folder / name)
    return folder


def expected(folder: Path, module: str, *, double: bool) -> torch.Tensor:
    """round(dequantised W + s·B@A), with bitsandbytes' own round trip of the 16-bit weight."""
    W = load_file(folder / "base" / "model.safetensors")[f"{module}.weight"]
    packed, state = bnb.functional.quantize_4bit(W, quant_type="nf4", compress_statistics=double)
    seen = bnb.functional.dequantize_4bit(packed, state)
    factors = load_file(folder / "adapter" / "adapter_model.safetensors")
    A, B = (factors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
    scale = json.loads((folder / "adapter" / "adapter_config.json").read_text())["lora_alpha"] / 8
    return (seen.float() + (B @ A) * scale).to(torch.bfloat16)


def merged(folder: Path, base: str, out: Path, **how: bool) -> dict[str, torch.Tensor]:
    job = api.merge([(folder / "adapter", 1.0)], folder / base, out, options=MergeOptions(workers=2), **how)
    for _ in job:
        pass
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize(("base", "double"), [("nf4", False), ("nf4-double", True)])
def test_a_4_bit_base_is_merged_as_training_saw_it(model: Path, base: str, double: bool, tmp_path: Path):
    got = merged(model, base, tmp_path / "out")
    for layer in range(2):
        for part in QUANTISED:
            module = f"model.layers.{layer}.{part}"
            assert torch.equal(expected(model, module, double=double), got[f"{module}.weight"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.parametrize("double", [False, True])
def test_onto_nf4_equals_the_merge_of_the_4_bit_base(model: Path, double: bool, tmp_path: Path):
    round_trip = merged(model, "base", tmp_path / "a", onto_nf4=True, double_quant=double)
    four_bit = merged(model, "nf4-double" if double else "nf4", tmp_path / "b")
    assert round_trip.keys() == four_bit.keys()
    for name, tensor in four_bit.items():
        assert torch.equal(tensor, round_trip[name]), name


def test_other_quantised_bases_are_refused_by_name(model: Path, tmp_path: Path):
    base = tmp_path / "gptq"
    base.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.qweight": torch.zeros(8, 64, dtype=torch.int32),
               "model.layers.0.self_attn.q_proj.qzeros": torch.zeros(1, 8, dtype=torch.int32),
               "model.layers.0.self_attn.q_proj.scales": torch.zeros(1, 64, dtype=torch.float16),
               "model.layers.0.self_attn.q_proj.g_idx": torch.zeros(64, dtype=torch.int32)},
              base / "model.safetensors")  # fmt: skip
    (base / "config.json").write_text('{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(UnsupportedError, match=r"(?i)gptq"):
        api.merge([(model / "adapter", 1.0)], base, tmp_path / "out")
