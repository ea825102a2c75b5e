"""Every JSON result against its published schema: valid, and with no field the schema does not describe."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from making import llama, lora, merged, numbers, write_json

from adaptool.api import merge
from adaptool.cli.main import main
from adaptool.reports.json import to_json
from adaptool.reports.schemas import read_schema, schema_names
from adaptool.summary.summary import Failure, Inspection, inspect_path, open_model
from adaptool.tensors.dtypes import BF16

CASES = [
    "llama_plain_bf16", "llama_dora_bf16", "llama_patterns", "llama_resized_modules", "llama_bias_all",
    "llama_tokens_dict", "mixtral_experts", "conv2d_dora", "refuse_pissa", "refuse_prompt_tuning", "refuse_loha",
]  # fmt: skip


def strict(schema):
    """The schema, refusing fields it does not name."""
    closed = copy.deepcopy(schema)
    pending = [closed]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if "properties" in part and part.get("type") == "object":
                part.setdefault("additionalProperties", False)
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return closed


def check(name, value):
    """``value`` through JSON text, against the schema called ``name``."""
    Draft202012Validator(strict(read_schema(name))).validate(json.loads(json.dumps(value, allow_nan=False)))


@pytest.mark.parametrize("name", schema_names())
def test_schemas_are_schemas(name):
    schema = read_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["title"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weights", [False, True])
def test_inspect(zoo, name, weights):
    built = zoo(name)
    base = open_model(built.base_dir)
    results = (
        inspect_path(built.adapter_dirs[0], weights=weights),
        inspect_path(built.adapter_dirs[0], base, weights=weights),
        inspect_path(built.base_dir, weights=weights),
    )
    check("inspect", to_json("inspect", Inspection(results, ())))


def test_inspect_of_odd_things(tmp_path):
    adapter = lora(tmp_path / "adapter", extra={"stray": ("F32", numbers("F32", (2,), 1))}, modules_to_save=["lm_head"])
    (adapter / "training_args.bin").write_bytes(b"\x80\x04K\x01.")
    bare = lora(tmp_path / "bare", layers=3)
    (bare / "adapter_model.safetensors").unlink()
    base = open_model(llama(tmp_path / "base"))
    results = [inspect_path(path, given) for path in (adapter, bare) for given in (None, base)]
    write_json(tmp_path / "only" / "config.json", {"model_type": "mamba"})
    results.append(inspect_path(tmp_path / "only"))
    check("inspect", to_json("inspect", Inspection(tuple(results), (Failure("x", "no such file", None),))))


def test_inspect_on_the_command_line(tmp_path, capsys):
    assert main(["inspect", str(lora(tmp_path / "adapter")), str(llama(tmp_path / "base")), "--weights", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    check("inspect", printed)
    assert printed["schema"] == "adaptool/inspect/1"
    assert [result["kind"] for result in printed["results"]] == ["adapter", "model"]


def test_numbers_json_has_no_word_for(tmp_path):
    magnitude = numbers("F32", (64,), 1)
    magnitude[0] = float("nan")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    adapter = lora(tmp_path / "adapter", layers=1, targets=["q_proj"], extra={key: ("F32", magnitude)}, use_dora=True)
    printed = to_json("inspect", Inspection((inspect_path(adapter, weights=True),), ()))
    place = "results[0].strength.modules[0].magnitudes"
    assert [f"{place}.smallest", f"{place}.mean", f"{place}.largest"] == printed["not_finite"]
    check("inspect", printed)


def test_the_merge_its_plan_and_its_manifest(tmp_path):
    base, adapter = llama(tmp_path / "base"), lora(tmp_path / "adapter")
    job = merge([(adapter, 0.5)], base, tmp_path / "out")
    check("merge-plan", to_json("merge-plan", job.estimate))
    for _ in job:
        pass
    check("merge", to_json("merge", job.report))
    check("manifest", json.loads((tmp_path / "out" / "adaptool.json").read_text()))


def test_the_manifest_of_an_untied_model_with_its_base_digested(tmp_path):
    base, adapter = llama(tmp_path / "base", tied=True, shards=2), lora(tmp_path / "adapter", revision="v1")
    merged(base, adapter, tmp_path / "out", digest_base=True)
    manifest = json.loads((tmp_path / "out" / "adaptool.json").read_text())
    check("manifest", manifest)
    assert manifest["base"]["revision"] == "v1"
    assert "digest" in manifest["base"]


@dataclass(frozen=True)
class Example:
    path: Path
    values: tuple[float, ...]
    kind: object


def test_values_become_json():
    value = Example(Path("a/b"), (1.0, float("inf"), float("nan")), BF16)
    assert to_json("example", value) == {
        "schema": "adaptool/example/1",
        "path": "a/b",
        "values": [1.0, None, None],
        "kind": "BF16",
        "not_finite": ["values[1]", "values[2]"],
    }


def test_the_schema_command(capsys):
    assert main(["schema"]) == 0
    assert schema_names() == [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert main(["schema", "inspect"]) == 0
    assert json.loads(capsys.readouterr().out) == read_schema("inspect")
    assert main(["schema", "inspekt"]) == 2
    assert "did you mean: inspect" in capsys.readouterr().err
