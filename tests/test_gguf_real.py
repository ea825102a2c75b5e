"""A real model and a really trained adapter as GGUF: it answers in llama.cpp like the merged model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import test_real
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from adaptool import api
from adaptool.gguf.merged import gguf_export
from adaptool.merging.options import MergeOptions
from adaptool.parity.gguf_forward import forward_gguf

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs adaptool[runtime]: xllamacpp"),
]

ADAPTER = Path(__file__).parent.parent / "fixtures" / "smollm2-lora"
PROMPTS = (
    "The capital of France is Paris, and the capital of Germany is Berlin. Water boils at 100 degrees.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "<|im_start|>user\nWhat is the opposite of hot?<|im_end|>\n<|im_start|>assistant\nCold.<|im_end|>\n",
    "Once upon a time, in a small village by the sea, there lived a fisherman who never caught anything.",
)
LORA_KL = 5e-4
"""Nats. The adapter beside the base in 16 bits, against their sum rounded to bfloat16."""

fetched, smollm2 = test_real.fetched, test_real.smollm2


@pytest.fixture(scope="module")
def merged(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped adapter merged, with two GGUFs beside the checkpoint."""
    out = tmp_path_factory.mktemp("gguf") / "merged"
    exports = (gguf_export(api.gguf_options("q8_0,q4_k_m")),)
    for _ in api.merge([(ADAPTER, 1.0)], smollm2, out, options=MergeOptions(exports=exports)):
        pass
    return out


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_smollm2_answers_like_the_merged_model(kind: str, merged: Path):
    found = forward_gguf(merged / f"merged-{kind}.gguf", merged, PROMPTS)
    assert (found.file_type, found.tokenization, found.agrees) == (kind, (), True)


def test_the_gguf_is_the_merged_models_and_not_the_bases(merged: Path, smollm2: Path):
    ours, bases = (
        forward_gguf(merged / "merged-Q8_0.gguf", model, PROMPTS).distributions for model in (merged, smollm2)
    )
    assert ours is not None
    assert bases is not None
    assert 10 * ours.mean_kl < bases.mean_kl


@pytest.fixture(scope="module")
def rslora(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An rsLoRA adapter of several ranks and alphas, its weights as large as training makes them."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=16,
        lora_alpha=8,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
        rank_pattern={"v_proj": 8},
        alpha_pattern={"o_proj": 16},
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    out = tmp_path_factory.mktemp("rslora") / "adapter"
    model.save_pretrained(out)
    return out


def test_an_rslora_adapter_as_gguf_gives_the_merged_models_answers(smollm2: Path, rslora: Path, tmp_path: Path):
    base, adapter, out = tmp_path / "base.gguf", tmp_path / "adapter.gguf", tmp_path / "merged"
    for job in (
        api.convert(smollm2, base, api.gguf_options("f16")),
        api.convert_lora((rslora, 1.0), smollm2, adapter),
        api.merge([(rslora, 1.0)], smollm2, out),
    ):
        for _ in job:
            pass
    beside = forward_gguf(base, out, PROMPTS, lora=[(adapter, 1.0)])
    alone = forward_gguf(base, out, PROMPTS).distributions
    assert beside.agrees
    assert beside.distributions is not None
    assert alone is not None
    assert beside.distributions.mean_kl < LORA_KL < alone.mean_kl / 100
