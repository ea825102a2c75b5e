"""Every pair of adapters of which it is known what happened, through Git: ``bump`` gives it the level it is owed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from making_git import Repo, isolate

from adaptool.versioning.beginning import Said, begin
from adaptool.versioning.bump import Wanted, bump
from adaptool.versioning.committed import Repositories

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from adapter_pairs import PAIRS

AFTER = {"none": "1.0.0", "patch": "1.0.1", "minor": "1.1.0", "major": "2.0.0"}


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair.level is not None])
def test_a_pair_is_bumped_as_it_is_owed(name, tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "settings")
    repo = Repo(tmp_path / "repo", settings=tmp_path / "settings")
    folder = PAIRS[name].before(repo.folder / "a")
    begin(folder, Said(version="1.0.0"), name="a").write()
    repo.commit()
    manifest = (folder / "adaptool.json").read_bytes()
    shutil.rmtree(folder)
    PAIRS[name].after(folder)
    (folder / "adaptool.json").write_bytes(manifest)
    for _ in range(2):
        step = bump(folder, Wanted(), Said(), Repositories().of(folder))
        assert (PAIRS[name].level, AFTER[PAIRS[name].level]) == (step.change.level, step.change.after), step.change
        step.write()
