"""inspect FILE.gguf: what the header tells, and nothing that repaints the terminal; every JSON against its schema."""

from __future__ import annotations

import json

import pytest
from making_gguf import adapter, converted, converted_lora, merged_gguf, model
from test_schemas import check

from adaptool import api
from adaptool.cli.main import main
from adaptool.errors import FormatError
from adaptool.reports.json import to_json
from adaptool.summary.gguf import inspect_gguf
from adaptool.tensors.ggml.values import ValueType, array, text, u32
from adaptool.tensors.gguf_writer import plan_gguf
from adaptool.tensors.store import MemoryStore

NOTHING = MemoryStore({})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    base, lora = model(folder / "base"), adapter(folder / "lora", base_model_name_or_path="org/base")
    merged_gguf(lora, base, folder / "merged", "q4_k_m,f16", safetensors=False)
    converted_lora(lora, base, folder / "lora.gguf")
    converted(base, folder / "split", "q8_0", split_nbytes=200_000)
    return folder


def settings(pairs):
    return {setting.name: setting.value for setting in pairs}


def test_a_merged_model(made):
    found = inspect_gguf(made / "merged" / "merged-Q4_K_M.gguf")
    assert (found.what, found.architecture, found.file_type, found.parts) == ("model", "llama", "Q4_K_M", 1)
    assert settings(found.sizes)["layers"] == "2"
    assert settings(found.sizes)["kv heads"] == "2"
    assert settings(found.tokenizer)["eos"] == "0 <eos>"
    origin = settings(found.origin)
    assert origin["made from"].startswith("org/base, header hash ")
    assert origin["adapter"].startswith("lora, content hash ")
    assert found.nbytes == (made / "merged" / "merged-Q4_K_M.gguf").stat().st_size
    assert sum(share.tensors for share in found.dtypes) == found.tensors == len(found.tensor_list)
    assert found.bits_per_weight == pytest.approx(sum(s.nbytes for s in found.dtypes) * 8 / found.parameters)


def test_a_lora(made):
    found = inspect_gguf(made / "lora.gguf")
    assert (found.what, found.lora_ranks) == ("adapter", (4,))
    assert found.lora_scale == "in B: no alpha is written"


def test_a_split_model_counts_as_one(made):
    first = min((made / "split").glob("*.gguf"))
    found = inspect_gguf(first)
    assert found.parts == len(list((made / "split").glob("*.gguf"))) > 1
    assert found.tensors == inspect_gguf(made / "merged" / "merged-F16.gguf").tensors


def test_a_vocabulary(tmp_path):
    keys = {
        "general.architecture": text("llama"),
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.tokens": array(ValueType.STRING, ["a", b"\xff", "\x1b[31m"]),
        "tokenizer.ggml.bos_token_id": u32(2),
        "tokenizer.ggml.eos_token_id": u32(9),
    }
    (plan,) = plan_gguf("vocabulary", keys, NOTHING)
    path = tmp_path / plan.name
    path.write_bytes(plan.header)
    found = inspect_gguf(path)
    assert (found.what, found.bits_per_weight, found.file_type) == ("vocabulary", None, None)
    assert settings(found.tokenizer)["eos"] == "9, no token"


def test_what_a_file_says_never_repaints_the_terminal(tmp_path, capsys):
    keys = {
        "general.architecture": text("llama\x1b[2J"),
        "general.name": text("a\u202eb\x07"),
        "x\x1b": text("y\x1b[0m"),
    }
    (plan,) = plan_gguf("odd", keys, NOTHING)
    (tmp_path / plan.name).write_bytes(plan.header)
    assert main(["-v", "inspect", str(tmp_path / plan.name)]) == 0
    printed = capsys.readouterr().out
    assert not {"\x1b", "\u202e", "\x07"} & set(printed)
    assert "odd.gguf  GGUF" in printed


@pytest.mark.parametrize("name", ["merged/merged-Q4_K_M.gguf", "lora.gguf"])
def test_the_command(made, capsys, name):
    assert main(["inspect", str(made / name), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    check("inspect", printed)
    assert printed["results"][0]["kind"] == "gguf"
    assert main(["-v", "inspect", str(made / name)]) == 0
    shown = capsys.readouterr().out
    assert "TENSORS BY TYPE" in shown
    assert "KEYS" in shown


def test_a_broken_file_is_an_error_in_words(made, tmp_path, capsys):
    whole = (made / "lora.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-64])
    with pytest.raises(FormatError, match="cut off"):
        inspect_gguf(tmp_path / "cut.gguf")
    assert main(["inspect", str(tmp_path / "cut.gguf")]) == 3
    assert "error: " in capsys.readouterr().err


def test_conversions_and_their_plans_have_schemas(made, tmp_path):
    options = api.gguf_options("q4,q8")
    job = api.convert(made / "base", tmp_path / "out", options)
    check("convert-plan", to_json("convert-plan", job.estimate))
    for _ in job:
        pass
    check("convert", to_json("convert", job.report))
    check("manifest", json.loads((tmp_path / "out" / "adaptool.json").read_text()))
    check("manifest", json.loads((made / "merged" / "adaptool.json").read_text()))
    back = api.convert_back(made / "merged" / "merged-F16.gguf", tmp_path / "back")
    for _ in back:
        pass
    check("convert", to_json("convert", back.report))
    check("manifest", json.loads((tmp_path / "back" / "adaptool.json").read_text()))
