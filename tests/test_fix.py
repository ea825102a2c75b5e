"""validate --fix: what has one faithful answer is corrected, proved, and never anything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_schemas import check

from adaptool.adapters.adapter import open_adapter
from adaptool.api import fix, merge, validate, validation_options
from adaptool.cli.main import main
from adaptool.errors import ParityError, UnsupportedError
from adaptool.fixing.proof import prove
from adaptool.reports.json import to_json
from adaptool.rules.draft import LAYERS, PREFIX, RANK, Draft, Q, V, numbers
from adaptool.tensors.safetensors import open_safetensors


def run(job):
    for _ in job:
        pass
    return job.report


def deltas(folder: Path, base: Path, out: Path) -> dict[str, np.ndarray]:
    """The merged tensors of an adapter on the draft's base, float32."""
    for _ in merge([(folder, 1.0)], base, out):
        pass
    store = open_safetensors(out / "model.safetensors")
    return {name: store.array(name) for name in store}


def uneven(draft: Draft) -> None:
    """Another rank and alpha for the first layer's q, rsLoRA for all."""
    draft.config |= {"use_rslora": True, "rank_pattern": {"layers.0.self_attn.q_proj": RANK // 2},
                     "alpha_pattern": {"v_proj": 12}}  # fmt: skip
    draft.tensors[f"{Q}.lora_A.weight"] = draft.tensors[f"{Q}.lora_A.weight"][: RANK // 2].copy()
    draft.tensors[f"{Q}.lora_B.weight"] = draft.tensors[f"{Q}.lora_B.weight"][:, : RANK // 2].copy()


@pytest.mark.parametrize("consumer", ["sglang", "lorax", "tgi", "ollama", "llama.cpp", "tensorrt-llm"])
def test_scales_are_baked_for_who_knows_one_scale(tmp_path, consumer):
    draft = Draft()
    uneven(draft)
    adapter, base = draft.write(tmp_path)
    report = run(fix(adapter, tmp_path / "out", consumers=[consumer]))
    plain = open_adapter(tmp_path / "out")
    assert {name: plain.config.fields[name] for name in ("r", "lora_alpha", "use_rslora", "rank_pattern")} == {
        "r": RANK, "lora_alpha": RANK, "use_rslora": False, "rank_pattern": {},
    }  # fmt: skip
    assert plain.store[f"{Q}.lora_A.weight"].shape[0] == RANK
    assert report.proof.modules == 2 * LAYERS
    assert 0 < report.proof.largest < 1e-6
    before, after = deltas(adapter, base, tmp_path / "m1"), deltas(tmp_path / "out", base, tmp_path / "m2")
    assert all(np.allclose(before[name], after[name], rtol=1e-5, atol=1e-6) for name in before)
    codes = [f.code for f in validate([adapter], options=validation_options(consumers=[consumer])).results[0].findings]
    left = validate([tmp_path / "out"], options=validation_options(consumers=[consumer])).results[0].findings
    assert len([f for f in left if f.severity == "error"]) <= len(codes)


@pytest.mark.parametrize(("rank", "served"), [(4, 8), (8, 8), (12, 16), (24, 32)])
def test_ranks_are_those_that_lorax_has_kernels_for(tmp_path, rank, served):
    """It divides lora_alpha by the rank it pads to."""
    draft = Draft()
    draft.config |= {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["v_proj", "q_proj"]}
    draft.tensors = {key: np.resize(value, (rank, 64) if "lora_A" in key else (value.shape[0], rank)).astype(np.float32)
                     for key, value in draft.tensors.items()}  # fmt: skip
    run(fix(draft.write(tmp_path)[0], tmp_path / "out", consumers=["lorax"]))
    plain = open_adapter(tmp_path / "out")
    assert plain.store[f"{Q}.lora_A.weight"].shape[0] == plain.config.rank == served
    assert plain.config.alpha == (2 * rank if rank == served else served)
    result = validate([tmp_path / "out"], options=validation_options(consumers=["lorax"])).results[0]
    assert [finding.code for finding in result.findings if finding.code.startswith("LRX")] == []


@pytest.mark.parametrize("consumers", [[], ["vllm"], ["peft"]])
def test_scales_stay_where_they_are_understood(tmp_path, consumers):
    draft = Draft()
    uneven(draft)
    job = fix(draft.write(tmp_path)[0], tmp_path / "out", consumers=consumers)
    assert job.state.changes == ()
    with pytest.raises(UnsupportedError, match="nothing that --fix can correct"):
        run(job)
    assert not (tmp_path / "out").exists()


def test_16_bit_factors_are_widened_to_hold_their_scale(tmp_path):
    draft = Draft()
    draft.config["use_rslora"] = True
    draft.tensors = {key: array.astype(np.float16) for key, array in draft.tensors.items()}
    report = run(fix(draft.write(tmp_path)[0], tmp_path / "out", consumers=["sglang"]))
    assert {info.dtype.name for info in open_adapter(tmp_path / "out").store.infos.values()} == {"F32"}
    assert report.proof.largest < 1e-6
    assert "float32" in report.changes[0].what


def test_a_lora_bias_is_scaled_with_its_factor(tmp_path):
    draft = Draft()
    draft.config |= {"use_rslora": True, "lora_bias": True}
    for key in list(draft.tensors):
        if key.endswith("lora_B.weight"):
            draft.tensors[key.replace("weight", "bias")] = numbers((draft.tensors[key].shape[0],), 3)
    draft.base_tensors |= {
        f"model.layers.{layer}.self_attn.{name}.bias": numbers((rows,), 5)
        for layer in range(LAYERS) for name, rows in (("q_proj", 64), ("v_proj", 32))
    }  # fmt: skip
    adapter, base = draft.write(tmp_path)
    run(fix(adapter, tmp_path / "out", consumers=["sglang"]))
    before, after = deltas(adapter, base, tmp_path / "m1"), deltas(tmp_path / "out", base, tmp_path / "m2")
    assert all(np.allclose(before[name], after[name], rtol=1e-5, atol=1e-6) for name in before)


RENAMES = {
    "torch.compile": lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "FSDP": lambda key: key.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."),
    "activation checkpointing": lambda key: key.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
    "DistributedDataParallel": lambda key: f"module.{key}",
    "the prefix twice": lambda key: PREFIX + key,
    "no prefix": lambda key: key.removeprefix(PREFIX),
    "the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "all of it": lambda key: "module._orig_mod." + PREFIX + key.replace(".weight", ".my_adapter.weight"),
}


@pytest.mark.parametrize("name", RENAMES)
def test_keys_are_as_peft_calls_them(tmp_path, name):
    draft = Draft()
    good = dict(draft.tensors)
    draft.tensors = {RENAMES[name](key): array for key, array in good.items()}
    report = run(fix(draft.write(tmp_path)[0], tmp_path / "out"))
    assert sorted(open_adapter(tmp_path / "out").store) == sorted(good)
    assert report.proof.tensors == len(good)
    assert report.proof.largest == 0
    assert validate([tmp_path / "out"]).exit_code == 0


def test_keys_that_would_collide_are_left(tmp_path):
    draft = Draft()
    draft.tensors[f"module.{Q}.lora_A.weight"] = draft.tensors[f"{Q}.lora_A.weight"]
    assert fix(draft.write(tmp_path)[0], tmp_path / "out").state.changes == ()


def test_keys_of_whole_modules_are_left(tmp_path):
    """What is no part of an adapter has no one right name."""
    draft = Draft()
    draft.tensors["score.weight"] = numbers((2, 64), 1)
    assert fix(draft.write(tmp_path)[0], tmp_path / "out").state.changes == ()


def test_lists_are_sorted(tmp_path):
    draft = Draft()
    draft.config |= {"target_modules": ["v_proj", "q_proj", "v_proj"], "exclude_modules": ["b", "a"]}
    run(fix(draft.write(tmp_path)[0], tmp_path / "out"))
    fields = open_adapter(tmp_path / "out").config.fields
    assert fields["target_modules"] == ["q_proj", "v_proj"]
    assert fields["exclude_modules"] == ["a", "b"]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(("repository", "revision", "pinned"), [
    ("HuggingFaceTB--SmolLM2-135M-Instruct", None, COMMIT), ("HuggingFaceTB--SmolLM2-135M-Instruct", "main", COMMIT),
    ("HuggingFaceTB--SmolLM2-135M-Instruct", "v2", "v2"), ("HuggingFaceTB--SmolLM2-135M", None, None),
])  # fmt: skip
def test_a_revision_is_pinned_where_it_is_proved(tmp_path, repository, revision, pinned):
    draft = Draft()
    draft.config |= {"revision": revision, "target_modules": ["v_proj", "q_proj"]}
    adapter, base = draft.write(tmp_path)
    snapshot = tmp_path / f"models--{repository}" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    base.rename(snapshot)
    run(fix(adapter, tmp_path / "out", snapshot))
    assert open_adapter(tmp_path / "out").config.fields["revision"] == pinned


def test_a_pickle_becomes_safetensors(tmp_path):
    import torch

    draft = Draft()
    adapter = draft.write(tmp_path)[0]
    torch.save({k: torch.from_numpy(v.copy()) for k, v in draft.tensors.items()}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    report = run(fix(adapter, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "adaptool.json",
    ]  # fmt: skip
    assert "adapter_model.bin" in report.left
    assert report.proof.tensors == len(draft.tensors)


def test_what_travels_and_what_does_not(tmp_path):
    draft = Draft()
    draft.config["target_modules"] = ["v_proj", "q_proj"]
    draft.files |= {
        "README.md": b"card",
        "tokenizer.json": b"{}",
        "LICENSE": b"MIT",
        "train.py": b"x",
        "optimizer.pt": b"x",
    }
    draft.links["notice.txt"] = "/etc/hostname"
    report = run(fix(draft.write(tmp_path)[0], tmp_path / "out"))
    assert {"README.md", "tokenizer.json", "LICENSE"} <= set(report.files)
    assert {"train.py", "optimizer.pt", "notice.txt"} <= set(report.left)
    assert not (tmp_path / "out" / "notice.txt").exists()


def test_unknown_fields_survive(tmp_path):
    draft = Draft()
    draft.config |= {"target_modules": ["v_proj", "q_proj"], "my_tool": {"a": [1, None]}}
    run(fix(draft.write(tmp_path)[0], tmp_path / "out"))
    assert open_adapter(tmp_path / "out").config.fields["my_tool"] == {"a": [1, None]}


@pytest.mark.parametrize("field", ["kasa_config", "use_bdlora"])
def test_layouts_without_a_plain_form_are_refused(tmp_path, field):
    draft = Draft()
    draft.config |= {"use_rslora": True, field: {}}
    with pytest.raises(UnsupportedError, match=field):
        fix(draft.write(tmp_path)[0], tmp_path / "out", consumers=["sglang"])


def test_the_proof_sees_another_delta(tmp_path):
    one, other = Draft(), Draft()
    other.tensors[f"{V}.lora_B.weight"] = other.tensors[f"{V}.lora_B.weight"] * np.float32(1.00001)
    before, after = open_adapter(one.write(tmp_path / "a")[0]), open_adapter(other.write(tmp_path / "b")[0])
    assert prove(before, before).largest == 0
    with pytest.raises(ParityError, match="v_proj"):
        prove(before, after)


def test_the_proof_sees_another_bias(tmp_path):
    one, other = Draft(), Draft()
    for draft, value in ((one, 1.0), (other, 1.00001)):
        draft.config["lora_bias"] = True
        draft.tensors[f"{Q}.lora_B.bias"] = np.full(64, value, np.float32)
    before, after = open_adapter(one.write(tmp_path / "a")[0]), open_adapter(other.write(tmp_path / "b")[0])
    assert prove(before, before).largest == 0
    with pytest.raises(ParityError, match="q_proj"):
        prove(before, after)


def test_the_proof_sees_another_tensor(tmp_path):
    one, other = Draft(), Draft()
    for draft, value in ((one, 1.0), (other, 2.0)):
        draft.config["modules_to_save"] = ["score"]
        draft.tensors[f"{PREFIX}score.weight"] = np.full((2, 64), value, np.float32)
    with pytest.raises(ParityError, match="score"):
        prove(open_adapter(one.write(tmp_path / "a")[0]), open_adapter(other.write(tmp_path / "b")[0]))


def test_the_command_line(tmp_path, capsys):
    draft = Draft()
    draft.config["use_rslora"] = True
    adapter, _ = draft.write(tmp_path)
    out = str(tmp_path / "out")
    words = ["validate", str(adapter), "--fix", "--out", out, "--for", "sglang"]
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would fix: ")
    assert main([*words, "--dry-run", "--json"]) == 0
    check("fix-plan", json.loads(capsys.readouterr().out))
    assert not Path(out).exists()
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == out
    assert "proved: the updates of 4 modules" in printed.err
    assert main(words) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--json"]) == 0
    check("fix", json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("arguments", [["--fix"], ["--fix", "--out", "{adapter}"], ["--fix", "--out", "{adapter}/in"],
                                       ["--fix", "--out", "x", "--format", "sarif"]])  # fmt: skip
def test_wrong_requests(tmp_path, arguments, capsys):
    draft = Draft()
    draft.config["target_modules"] = ["v_proj", "q_proj"]
    adapter, _ = draft.write(tmp_path)
    before = sorted(path.name for path in adapter.iterdir())
    assert main(["validate", str(adapter), *(word.format(adapter=adapter) for word in arguments)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(path.name for path in adapter.iterdir()) == before


def test_nothing_to_fix_writes_nothing(tmp_path, capsys):
    adapter, _ = Draft().write(tmp_path)
    assert main(["validate", str(adapter), "--fix", "--out", str(tmp_path / "out")]) == 0
    assert "nothing that --fix can correct" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_report_is_as_its_schema_says(tmp_path):
    draft = Draft()
    draft.config["target_modules"] = ["v_proj", "q_proj"]
    job = fix(draft.write(tmp_path)[0], tmp_path / "out")
    check("fix-plan", to_json("fix-plan", job.estimate))
    check("fix", to_json("fix", run(job)))
