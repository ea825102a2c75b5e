"""merge --to-gguf --verify: the GGUF is held against the merge before anything is published."""

from __future__ import annotations

import json

import pytest
from making_gguf import adapter, model

from adaptool.cli.main import main
from adaptool.gguf.merged import GgufExport
from adaptool.tensors.gguf import open_gguf


@pytest.fixture
def arguments(tmp_path):
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "lora")
    return ["merge", str(lora), "--base", str(base), "--out", str(tmp_path / "out"), "--to-gguf", "q4,q8", "--verify"]


@pytest.mark.parametrize("alone", [False, True])
def test_every_gguf_is_verified(arguments, capsys, alone):
    assert main([*arguments, "--json", *(["--no-safetensors"] if alone else [])]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert sorted(checks) == sorted(["verify GGUF"] + ([] if alone else ["verify"]))
    assert [found["verdict"] for found in checks["verify GGUF"]["files"]] == ["bit-equal", "bit-equal"]


def test_a_wrong_gguf_is_not_published(arguments, tmp_path, capsys, monkeypatch):
    finish = GgufExport.finish

    def damaged(self, folder):
        finish(self, folder)
        path = folder / "out-Q8_0.gguf"
        at = open_gguf(path).offsets["blk.1.ffn_up.weight"] + 3
        raw = bytearray(path.read_bytes())
        raw[at] ^= 0x7F
        path.write_bytes(raw)

    monkeypatch.setattr(GgufExport, "finish", damaged)
    assert main(arguments) == 1
    assert "blk.1.ffn_up" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_running_the_merged_model_needs_it_written(arguments, capsys):
    assert main([*arguments, "--parity", "forward", "--no-safetensors"]) == 2
    assert "--no-safetensors does not write" in capsys.readouterr().err
