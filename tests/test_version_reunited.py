"""What people said in two manifests, put together again after a merge."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from making_git import Repo, isolate

from adaptool.cli.main import main
from adaptool.versioning.record import Base, Content, Parent, Record
from adaptool.versioning.reunited import Parted, reunited

A, B, C = (Content(config="0" * 64, weights=digit * 64) for digit in "123")
START = Record(
    "sql", "1.0.0", "LORA", Base("org/base"), A, {}, (), metrics={"loss": 0.5}, parents=(Parent("trained_from", "old"),)
)
OURS, THEIRS = replace(START, version="1.0.1", content=B), replace(START, version="1.0.2", content=C)
NEW = Parent("composed_of", "new")

CASES = {
    "theirs alone said a licence": ({}, {"license": "MIT"}, {"license": "MIT"}, "taken"),
    "ours alone": ({"license": "MIT"}, {}, {"license": "MIT"}, ""),
    "both the same": ({"license": "MIT"}, {"license": "MIT"}, {"license": "MIT"}, ""),
    "two licences": ({"license": "MIT"}, {"license": "Apache-2.0"}, {"license": "MIT"}, "kept"),
    "a metric each": (
        {"metrics": {"loss": 0.5, "a": 1}}, {"metrics": {"loss": 0.5, "b": 2}},
        {"metrics": {"loss": 0.5, "a": 1, "b": 2}}, "taken",
    ),
    "one metric, measured on both": (
        {"metrics": {"loss": 0.4}}, {"metrics": {"loss": 0.3}}, {"metrics": {"loss": 0.4}}, "kept"
    ),
    "a metric that theirs took out": ({}, {"metrics": {}}, {"metrics": {}}, "taken"),
    "a field of a later version": ({}, {"unknown": {"tags": [1]}}, {"unknown": {"tags": [1]}}, "taken"),
    "theirs pinned the base": (
        {}, {"base": Base("org/base", "a" * 40)}, {"base": Base("org/base", "a" * 40)}, "taken"
    ),
    "theirs is for another base": ({}, {"base": Base("org/other")}, {"base": Base("org/base")}, ""),
    "theirs has a parent more": ({}, {"parents": (*START.parents, NEW)}, {"parents": (*START.parents, NEW)}, "taken"),
    "theirs took a parent out": ({"parents": (*START.parents, NEW)}, {"parents": ()}, {"parents": (NEW,)}, "taken"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_one_side_alone_changed_is_taken(case):
    ours, theirs, expected, note = CASES[case]
    merged, notes = reunited(Parted(replace(OURS, **ours), replace(THEIRS, **theirs), START), B)
    assert replace(OURS, **expected) == merged
    assert [note] * bool(note) == [next(word for word in ("taken", "kept") if word in told) for told in notes]


def test_the_side_whose_weights_were_taken_decides():
    sides = Parted(replace(OURS, metrics={"loss": 0.4}), replace(THEIRS, metrics={"loss": 0.3}), START)
    assert reunited(sides, C)[0] == sides.theirs
    assert reunited(sides, A)[0] == sides.ours


def test_without_a_common_one_nothing_is_lost():
    sides = Parted(replace(OURS, metrics={"a": 1}), replace(THEIRS, metrics={"b": 2}, license="MIT"), None)
    merged, _ = reunited(sides, B)
    assert (merged.metrics, merged.license, merged.parents) == ({"a": 1, "b": 2}, "MIT", START.parents)


@pytest.mark.parametrize("how", ["merge", "merge, added", "rebase", "cherry-pick"])
def test_a_conflict_is_resolved_by_bump(how, tmp_path, monkeypatch, capsys):
    isolate(monkeypatch, tmp_path)
    repo = Repo(tmp_path / "repo")
    monkeypatch.chdir(repo.folder)
    repo.adapter("sql")
    main(["version", "init", "sql", "--message", "the first"])
    repo.commit("first")
    repo.branch("theirs")
    main(["version", "bump", "sql", "--license", "MIT", "--metric", "f1=0.9"])
    repo.commit("a licence and a metric")
    repo.switch("main")
    repo.adapter("sql", seed=5)
    main(["version", "bump", "sql", "--base-revision", "a" * 40])
    repo.commit("trained")
    if how == "rebase":
        repo.switch("theirs")
    command = {"rebase": ["rebase", "main"], "cherry-pick": ["cherry-pick", "theirs"]}.get(how, ["merge", "theirs"])
    repo.git(*command, okay=(1,))
    assert "<<<<<<<" in (repo.folder / "sql" / "adaptool.json").read_text()
    if how == "merge, added":
        repo.git("add", "--all")
    capsys.readouterr()
    assert main(["version", "show", "sql"]) == 3
    assert "adaptool version bump sql" in capsys.readouterr().err
    assert main(["version", "verify", "sql"]) == 3
    assert "conflict markers" in capsys.readouterr().out
    assert main(["version", "bump", "sql"]) == 0
    assert "taken from the other side of the merge: license, metrics.f1" in capsys.readouterr().err
    made = json.loads((repo.folder / "sql" / "adaptool.json").read_text())
    assert (made["version"], made["license"], made["metrics"], made["base"]["revision"]) == (
        "0.1.1", "MIT", {"f1": 0.9}, "a" * 40,
    )  # fmt: skip
