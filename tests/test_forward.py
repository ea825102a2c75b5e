"""Forward parity: agrees with a true merge, and not with one that was not applied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adaptool import api
from adaptool.merging.options import MergeOptions
from adaptool.parity.forward import forward_parity

if TYPE_CHECKING:
    from zoo_case import Built

CASES = [
    "llama_all_linear",
    "llama_seqcls",
    "t5_all",
    "bert_feature",
    "two_plain",
    "tied_both_f32",
    "llama_resized_saved",
]
NEW_HEAD = {"llama_seqcls"}
"""The bare base of these has no trained head to compare."""


@pytest.mark.parametrize("name", CASES)
def test_a_true_merge_agrees_and_the_bare_base_does_not(name: str, zoo: Callable[[str], Built], tmp_path: Path):
    built = zoo(name)
    adapters = list(zip(built.adapter_dirs, built.weights, strict=True))
    job = api.merge(adapters, built.base_dir, tmp_path / "out", options=MergeOptions())
    for _ in job:
        pass
    true = forward_parity(built.base_dir, job.adapters, tmp_path / "out")
    assert true.agrees, true
    assert true.base_divergence > 10 * true.mean_divergence
    if name not in NEW_HEAD and "resized" not in name:
        untouched = shutil.copytree(built.base_dir, tmp_path / "untouched")
        assert not forward_parity(built.base_dir, job.adapters, untouched).agrees
