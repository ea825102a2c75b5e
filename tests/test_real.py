"""Real models and really trained adapters, fetched as packages: skipped, with the reason, where none can be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from adaptool import api
from adaptool.merging.options import MergeOptions

pytestmark = pytest.mark.real

FIXTURES = Path(__file__).parent.parent / "fixtures"
F32_ULP = 2**-23
"""Of the larger of |W| and |ΔW|; two BLAS libraries may differ by two of them."""


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory):
    """A package's model folder by its name in fixtures/fetch.py."""
    folder = tmp_path_factory.mktemp("real")

    def fetch(name: str) -> Path:
        if not (folder / name).exists():
            command = [sys.executable, str(FIXTURES / "fetch.py"), name, str(folder / name)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode != 0:
                pytest.skip(f"cannot fetch {name}: {done.stderr.strip()[-200:]}")
        return folder / name

    return fetch


@pytest.fixture(scope="session")
def smollm2(fetched, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in bf16, dequantised from its GGUF."""
    out = tmp_path_factory.mktemp("smollm2") / "base"
    gguf = next(fetched("smollm2").glob("*.gguf"))
    subprocess.run([sys.executable, str(FIXTURES / "smollm2.py"), str(gguf), str(out)], check=True, timeout=300)
    return out


def merged(adapter: Path, base: Path, out: Path) -> tuple[api.MergeJob, dict[str, torch.Tensor]]:
    job = api.merge([(adapter, 1.0)], base, out, options=MergeOptions())
    for _ in job:
        pass
    return job, load_file(out / "model.safetensors")


def test_smollm2_is_merged_bit_for_bit(smollm2: Path, tmp_path: Path):
    adapter = FIXTURES / "smollm2-lora"
    job, ours = merged(adapter, smollm2, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "peft")
    theirs = load_file(tmp_path / "peft" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert [name for name in theirs if not torch.equal(theirs[name], ours[name])] == []
    assert job.report.changed == 60
    check = api.verify(tmp_path / "peft", smollm2, [(adapter, 1.0)])
    for _ in check:
        pass
    assert check.report.ok


@pytest.mark.parametrize(
    ("name", "model_class", "labels"),
    [("minilm-lora", AutoModel, {}), ("minilm-seqcls-lora", AutoModelForSequenceClassification, {"num_labels": 6})],
)
def test_minilm_is_merged_as_peft_merges_it(
    name: str, model_class: type, labels: dict[str, int], fetched, tmp_path: Path
):
    base, adapter = fetched("minilm"), FIXTURES / name
    _, ours = merged(adapter, base, tmp_path / "out")
    model = model_class.from_pretrained(base, **labels)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "peft")
    theirs = load_file(tmp_path / "peft" / "model.safetensors")
    assert theirs.keys() <= ours.keys()
    for key, tensor in theirs.items():
        if tensor.is_floating_point() and "pooler" not in key:
            allowed = 2 * F32_ULP * torch.maximum(tensor.abs(), ours[key].abs())
            assert ((tensor - ours[key]).abs() <= allowed).all(), key
    assert model_class.from_pretrained(tmp_path / "out") is not None


def test_a_third_party_s_adapter_is_shown_without_its_base(fetched):
    found = api.inspect(fetched("t5-lora"), weights=True)
    assert (found.peft_type, found.task_type, found.base_model) == ("LORA", "SEQ_2_SEQ_LM", "t5-large")
    assert found.elements == 4_718_592
    assert found.strength is not None
