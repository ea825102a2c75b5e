"""The block arithmetic on a GPU: the same merge, but for the order a GPU sums in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from adaptool import api
from adaptool.errors import UsageError
from adaptool.merging.options import MergeOptions

if TYPE_CHECKING:
    from zoo_case import Built

BF16_ULP = 2**-7
"""Relative: a product summed in another order may round to the neighbouring number."""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: torch-cpu runs the same code path")
@pytest.mark.parametrize("name", ["llama_all_linear", "llama_dora_bf16", "gpt2_dora", "mixtral_experts"])
def test_cuda_merges_what_the_cpu_merges(name: str, zoo: Callable[[str], Built], tmp_path: Path):
    built = zoo(name)
    adapters = list(zip(built.adapter_dirs, built.weights, strict=True))
    results = {}
    for device in ("cpu", "cuda"):
        job = api.merge(adapters, built.base_dir, tmp_path / device, options=MergeOptions(), device=device)
        for _ in job:
            pass
        results[device] = load_file(tmp_path / device / "model.safetensors")
    for key, tensor in results["cpu"].items():
        difference = (tensor.double() - results["cuda"][key].double()).abs()
        assert (difference <= BF16_ULP * tensor.double().abs().clamp_min(1e-3)).all(), key


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_in_words(zoo: Callable[[str], Built], tmp_path: Path):
    built = zoo("llama_all_linear")
    with pytest.raises(UsageError, match="no GPU") as refused:
        api.merge([(built.adapter_dirs[0], 1.0)], built.base_dir, tmp_path / "out", device="cuda")
    assert refused.value.hint
