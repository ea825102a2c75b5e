"""What an adapter was trained on against what it is merged onto: said, never guessed silently."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from making import edit_json, llama, lora

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.base import BaseModel, open_base
from adaptool.api import merge, open_inputs
from adaptool.errors import UsageError
from adaptool.merging.provenance import base_name, hub_id, origin_note


def base_called(folder: Path, name: str) -> BaseModel:
    return open_base(llama(folder / name))


def note(tmp_path: Path, named: str | None, given: str = "llama-3-8b", **more: bool) -> str | None:
    adapter = open_adapter(lora(tmp_path / "adapter", base_model_name_or_path=named))
    return origin_note(adapter, base_called(tmp_path, given), **more)


@pytest.mark.parametrize(
    "name", ["org/name", "meta-llama/Llama-3.1-8B", "a/b", "TheBloke/x_y.z-1", "Qwen/Qwen2.5-7B-Instruct"]
)
def test_hub_ids(name):
    assert name == hub_id(name)


@pytest.mark.parametrize(
    "name",
    [None, "", "name", "/org/name", "./org/name", "../name", "a/b/c", "org/", "/name", "org/na me", "org/name\n",
     "~/name", "C:\\org\\name", "-x/y", ".x/y", "org/" + "x" * 200, "a/b:c", "s3://a/b", "../../etc/passwd"],
)  # fmt: skip
def test_what_is_no_hub_id(name):
    assert hub_id(name) is None


@pytest.mark.parametrize(
    "named", ["org/llama-3-8b", "org/Llama-3-8B", "/home/me/llama-3-8b/", "llama-3-8b", "C:\\m\\llama-3-8b"]
)
def test_the_same_model_needs_no_note(tmp_path, named):
    assert note(tmp_path, named) is None


def test_another_model_is_said(tmp_path):
    said = note(tmp_path, "org/mistral-7b")
    assert "org/mistral-7b" in said
    assert "llama-3-8b" in said


def test_a_base_unnamed_is_said(tmp_path):
    assert "does not name the base" in note(tmp_path, None)
    assert "does not name the base" in note(tmp_path, "")


@pytest.mark.parametrize(
    "named",
    ["unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b-unsloth-bnb-4bit", "TheBloke/llama-3-8b-AWQ",
     "org/llama-3-8b-GPTQ", "TheBloke/llama-3-8b-GPTQ-v2", "org/llama-3-8b.fp8", "org/llama-3-8b_int4",
     "org/llama-3-8b-4bit", "org/llama-3-8b-int8"],
)  # fmt: skip
def test_a_quantised_sibling_is_said(tmp_path, named):
    said = note(tmp_path, named)
    assert "a quantised model" in said
    assert "--onto-nf4" in said


@pytest.mark.parametrize("named", ["org/nf4ll", "org/awqward", "org/8bitter-lesson"])
def test_names_that_only_look_quantised(tmp_path, named):
    assert "a quantised model" not in note(tmp_path, named)


def test_onto_nf4_answers_the_quantised_sibling(tmp_path):
    said = note(tmp_path, "unsloth/llama-3-8b-bnb-4bit", onto_nf4=True)
    assert said is None or "--onto-nf4" not in said


def test_a_base_is_called_by_its_repository(tmp_path):
    snapshot = tmp_path / "models--org--my-model" / "snapshots" / "abc"
    shutil.copytree(llama(tmp_path / "source"), snapshot)
    assert base_name(open_base(snapshot)) == "org/my-model"


def test_a_base_is_called_by_its_folder(tmp_path, monkeypatch):
    base = llama(tmp_path / "folder")
    assert base_name(open_base(base)) == "folder"
    monkeypatch.chdir(base)
    assert base_name(open_base(Path())) == "folder"


@pytest.mark.parametrize("junk", [5, ["a"], {"a": 1}, True])
def test_junk_for_a_name_is_no_name(tmp_path, junk):
    base = llama(tmp_path / "base")
    edit_json(base / "config.json", _name_or_path=junk)
    assert base_name(open_base(base)) == "base"


def test_notes_reach_the_job(tmp_path):
    adapter, base = lora(tmp_path / "a", base_model_name_or_path="org/other"), llama(tmp_path / "base")
    assert any("org/other" in said for said in merge([(adapter, 1.0)], base, tmp_path / "out").notes)


def test_double_quantisation_goes_with_onto_nf4(tmp_path):
    with pytest.raises(UsageError, match="--onto-nf4"):
        open_inputs([(lora(tmp_path / "a"), 1.0)], llama(tmp_path / "base"), double_quant=True)
