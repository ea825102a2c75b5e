"""What was found by attacking ``diff``, ``version`` and ``git``: one test for each hole that was closed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from making_git import isolate, save_adapter

from adaptool.cli.main import main

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight" for half in "AB")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path / ".settings")
    monkeypatch.chdir(tmp_path)


def change(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def empty_tensors(folder: Path, shapes: dict[str, list[int]]) -> Path:
    """An adapter whose tensors have no elements, whatever its header claims."""
    save_adapter(folder)
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


@pytest.mark.parametrize("rows", [2**50, 2**58, 2**62])
@pytest.mark.parametrize("command", [["diff", "x", "x"], ["version", "init", "x"], ["inspect", "--weights", "x"]])
def test_rows_of_nothing_are_not_counted_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], rows: int
) -> None:
    empty_tensors(tmp_path / "x", {A: [rows, 0], B: [0, rows]})
    assert main(command) in (0, 1, 3)
    assert "internal error" not in capsys.readouterr().err


def test_a_rank_beyond_every_float_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_adapter(tmp_path / "x")
    save_adapter(tmp_path / "y")
    change(tmp_path / "y" / "adapter_config.json", r=10**400)
    assert (main(["diff", "x", "y"]), capsys.readouterr().err) == (1, "")


def test_the_type_in_a_manifest_is_not_shown_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_adapter(tmp_path / "x")
    main(["version", "init", "x"])
    change(tmp_path / "x" / "adaptool.json", peft_type="\x1b[31m\u202eLORA\r")
    capsys.readouterr()
    main(["version", "show", "x"])
    assert not set(capsys.readouterr().out) & set("\x1b\u202e\r")
