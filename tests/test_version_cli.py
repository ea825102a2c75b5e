"""init, show, bump and tag on real repositories: what a change is worth, what Git tells, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from making import llama, write_json
from making_git import Repo, isolate, needs_lfs, random_factors, save_adapter
from test_schemas import check

from adaptool.cli.main import main
from adaptool.versioning.record import record_beside

COMMIT, OTHER_COMMIT = "0123456789" * 4, "fedcba9876" * 4


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path / "settings")


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository whose root is the current folder."""
    made = Repo(tmp_path / "repo", settings=tmp_path / "settings")
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture
def sql(repo):
    """An adapter with the version 1.0.0, committed."""
    repo.adapter("adapters/sql", seed=1)
    assert main(["version", "init", "adapters/sql", "--version", "1.0.0"]) == 0
    repo.commit("sql")
    return repo.folder / "adapters/sql"


def told(capsys, *args, code=0):
    """What a command prints as JSON."""
    capsys.readouterr()
    assert code == main(["version", *args, "--json"])
    value = json.loads(capsys.readouterr().out)
    check(value["schema"].split("/")[1], value)
    return value


def refused(capsys, *args, code=2):
    """What a command that fails says."""
    capsys.readouterr()
    assert code == main(["version", *args])
    return capsys.readouterr().err


def version(folder="adapters/sql"):
    return record_beside(Path(folder)).version


# --- what a change asks of the version


def rotated(seed):
    """The same ΔW from other factors: B·Q and Qᵀ·A."""
    factors, q = random_factors(seed), np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
    return {key: (q.T @ value if "lora_A" in key else value @ q).astype(np.float32) for key, value in factors.items()}


def scaled(seed):
    return {key: value * (2 if "lora_A" in key else 0.5) for key, value in random_factors(seed).items()}


def halved(seed):
    return {key: value * (0.5 if "lora_B" in key else 1) for key, value in random_factors(seed).items()}


def reordered(seed):
    return dict(reversed(random_factors(seed).items()))


HEAD = {"base_model.model.lm_head.weight": np.ones((40, 32), np.float32)}

CHANGES = {
    "nothing": ({}, "none"),
    "re-saved": ({"tensors": reordered(1), "peft_version": "0.17.1", "rank_pattern": {}}, "none"),
    "re-factorised": ({"tensors": rotated(1)}, "none"),
    "re-scaled": ({"tensors": scaled(1)}, "none"),
    "its scale moved to alpha": ({"tensors": halved(1), "alpha": 16}, "none"),
    "pinned": ({"revision": COMMIT}, "none"),
    "dropout": ({"lora_dropout": 0.1}, "none"),
    "trained": ({"seed": 2}, "patch"),
    "alpha": ({"alpha": 16}, "patch"),
    "dora": ({"use_dora": True}, "patch"),
    "another type": ({"dtype": "F64"}, None),
    "rank": ({"seed": 2, "rank": 8}, "minor"),
    "another module": ({"modules": ("q_proj", "v_proj", "k_proj")}, "minor"),
    "more layers": ({"layers": 3}, "minor"),
    "a head": ({"tensors": random_factors(1) | HEAD, "modules_to_save": ["lm_head"]}, "minor"),
    "a module less": ({"modules": ("q_proj",)}, "major"),
    "a layer less": ({"layers": 1}, "major"),
    "another base": ({"base": "org/other"}, "major"),
    "another type of adapter": ({"peft_type": "IA3"}, "major"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_change_decides_and_one_change_is_one_step(sql, repo, capsys, change):
    how, level = CHANGES[change]
    save_adapter(sql, **{"seed": 1, **how})
    after = {"none": "1.0.0", "patch": "1.0.1", "minor": "1.1.0", "major": "2.0.0"}
    for _ in range(2):
        (step,) = told(capsys, "bump", "adapters/sql")["adapters"]
        expected = step["level"] if level is None else level
        assert (expected, "1.0.0", after[expected]) == (step["level"], step["before"], step["after"])
        assert after[expected] == version()
    assert not step["written"]
    repo.commit("bumped")
    (step,) = told(capsys, "bump", "adapters/sql")["adapters"]
    assert ("none", after[expected], after[expected], False) == (
        step["level"], step["before"], step["after"], step["written"]
    )  # fmt: skip


def test_a_vocabulary_is_part_of_what_an_adapter_is_for(sql, repo, capsys):
    save_adapter(sql, tensors=random_factors(1) | HEAD, modules_to_save=["lm_head"])
    main(["version", "bump", "adapters/sql"])
    repo.commit("with a head")
    more = {key: np.ones((41, 32), np.float32) for key in HEAD}
    save_adapter(sql, tensors=random_factors(1) | more, modules_to_save=["lm_head"])
    assert told(capsys, "bump", "adapters/sql")["adapters"][0]["level"] == "major"


@pytest.mark.parametrize(("before", "after", "level"), [
    (None, COMMIT, "none"), (COMMIT, OTHER_COMMIT, "major"), (COMMIT, None, "none"), ("main", COMMIT, "none"),
])  # fmt: skip
def test_a_base_that_is_pinned_to_another_commit_is_another_base(repo, capsys, before, after, level):
    repo.adapter("a", revision=before)
    main(["version", "init", "a"])
    repo.commit()
    repo.adapter("a", revision=after)
    (step,) = told(capsys, "bump", "a")["adapters"]
    assert level == step["level"]
    assert (after or before) == record_beside(Path("a")).base.revision


def test_the_base_is_pinned_by_bump_too(sql, capsys):
    assert told(capsys, "bump", "adapters/sql", "--base-revision", COMMIT)["adapters"][0]["level"] == "none"
    assert record_beside(sql).base.revision == COMMIT


@pytest.mark.parametrize(("relation", "level"), [("composed_of", "minor"), ("trained_from", "none")])
def test_a_parent_merged_in_is_minor(sql, repo, capsys, relation, level):
    repo.adapter("adapters/nl", seed=9)
    (step,) = told(capsys, "bump", "adapters/sql", "--parent", f"{relation}=adapters/nl")["adapters"]
    assert level == step["level"]
    (parent,) = record_beside(sql).parents
    assert (relation, "nl", "adapters/nl", None) == (parent.relation, parent.name, parent.path, parent.version)


def test_the_committed_weights_are_looked_at_where_they_were_recorded(sql, repo, capsys):
    """A commit that changed the weights and forgot the manifest: the change is counted from the manifest's content."""
    save_adapter(sql, seed=2)
    repo.commit("forgot to bump")
    save_adapter(sql, tensors=rotated(1))
    assert told(capsys, "bump", "adapters/sql")["adapters"][0]["level"] == "none"
    repo.git("checkout", "adapters/sql")
    assert told(capsys, "bump", "adapters/sql")["adapters"][0]["level"] == "patch"


def test_without_git_the_manifest_is_what_it_is_counted_from(tmp_path, capsys):
    folder = save_adapter(tmp_path / "sql", seed=1)
    assert main(["version", "init", str(folder)]) == 0
    for seed, after in ((2, "0.1.1"), (2, "0.1.1"), (3, "0.1.2")):
        save_adapter(folder, seed=seed)
        (step,) = told(capsys, "bump", str(folder))["adapters"]
        assert (after, "the manifest") == (step["after"], step["since"])
    save_adapter(folder, tensors=rotated(3))  # the weights before are gone: digests cannot tell
    assert told(capsys, "bump", str(folder))["adapters"][0]["level"] == "patch"


def test_before_the_first_commit_too(repo, capsys):
    repo.adapter("a", seed=1)
    main(["version", "init", "a"])
    repo.adapter("a", seed=2)
    assert told(capsys, "bump", "a")["adapters"][0]["after"] == "0.1.1"


@needs_lfs
@pytest.mark.parametrize("fetched", [True, False])
def test_weights_in_lfs_are_looked_at_where_they_are(repo, capsys, tmp_path, monkeypatch, fetched):
    repo.lfs()
    repo.adapter("a", seed=1)
    main(["version", "init", "a"])
    repo.commit()
    clone = repo.clone(tmp_path / "clone")
    if fetched:
        clone.lfs_pull()
    monkeypatch.chdir(clone.folder)
    save_adapter(clone.folder / "a", tensors=rotated(1))
    assert ("none" if fetched else "patch") == told(capsys, "bump", "a")["adapters"][0]["level"]


def test_a_pointer_cannot_be_bumped(repo, capsys):
    repo.adapter("a")
    main(["version", "init", "a"])
    repo.write("a/adapter_model.safetensors", "version https://git-lfs.github.com/spec/v1\n"
               f"oid sha256:{'a' * 64}\nsize 5000\n")  # fmt: skip
    assert "Git LFS pointer" in refused(capsys, "bump", "a", code=3)


def test_two_branches_bumped_and_merged(sql, repo, capsys):
    repo.branch("theirs")
    save_adapter(sql, rank=8)
    main(["version", "bump", "adapters/sql"])
    repo.commit("1.1.0 there")
    repo.switch("main")
    save_adapter(sql, seed=7)
    main(["version", "bump", "adapters/sql"])
    repo.commit("1.0.1 here")
    repo.git("merge", "theirs", okay=(1,))
    assert "<<<<<<<" in (sql / "adaptool.json").read_text()
    assert "conflict" in refused(capsys, "show", "adapters/sql", code=3)
    repo.git("checkout", "--theirs", "--", "adapters/sql/adapter_model.safetensors", "adapters/sql/adapter_config.json")
    (step,) = told(capsys, "bump", "adapters/sql")["adapters"]
    assert step["after"] == "1.1.0"  # what theirs is called, and enough of a step from ours
    save_adapter(sql, seed=8, rank=8)
    assert told(capsys, "bump", "adapters/sql")["adapters"][0]["after"] == "1.1.1"  # neither: above both
    repo.git("add", "--all")
    repo.git("commit", "--quiet", "--no-edit")
    assert "nothing to do" in shown_of(capsys, "bump", "adapters/sql")


def shown_of(capsys, *args):
    capsys.readouterr()
    assert main(["version", *args]) == 0
    return capsys.readouterr().out


# --- versions that are asked for


@pytest.mark.parametrize(("args", "after"), [
    (["--major"], "2.0.0"), (["--minor"], "1.1.0"), (["--patch"], "1.0.1"), (["--to", "4.0.0-beta"], "4.0.0-beta"),
    (["--pre", "rc"], "1.0.1-rc.1"), (["--minor", "--pre", "rc"], "1.1.0-rc.1"), (["--auto"], "1.0.0"),
])  # fmt: skip
def test_a_version_that_is_asked_for(sql, capsys, args, after):
    assert after == told(capsys, "bump", "adapters/sql", *args)["adapters"][0]["after"]


def test_pre_releases_lead_to_their_release(sql, repo, capsys):
    seen = []
    for seed, args in enumerate((["--pre", "rc"], ["--pre", "rc"], ["--pre", "rc"], [], []), 2):
        save_adapter(sql, rank=8, seed=seed)
        seen.append(told(capsys, "bump", "adapters/sql", *args)["adapters"][0]["after"])
        told(capsys, "bump", "adapters/sql", *args)
        assert seen[-1] == version()
        repo.commit()
    assert seen == ["1.1.0-rc.1", "1.1.0-rc.2", "1.1.0-rc.3", "1.1.0", "1.1.1"]


def test_a_step_that_is_too_small_is_taken_and_told(sql, capsys):
    save_adapter(sql, base="org/other")
    (step,) = told(capsys, "bump", "adapters/sql", "--patch")["adapters"]
    assert (step["after"], step["level"]) == ("1.0.1", "major")
    assert "2.0.0 would say so" in step["notes"][0]


@pytest.mark.parametrize(("args", "words"), [
    (["--to", "0.9.0"], "versions do not go backwards"),
    (["--to", "1.0"], "not a semantic version"),
    (["--to", "v2.0.0"], "not a semantic version"),
    (["--pre", "r c"], "cannot name a pre-release"),
    (["--major", "--to", "2.0.0"], "exclude each other"),
    (["--auto", "--minor"], "exclude each other"),
    (["--metric", "x"], "must be NAME=VALUE"),
    (["--metric", "x=inf"], "not a finite number"),
    (["--base-revision", "main"], "not a whole commit hash"),
    (["--parent", "adapters/none"], "no such file"),
    (["--parent", "son=adapters/sql"], "no relation 'son'"),
    (["--parent", "adapters/sql"], "is the adapter itself"),
    (["--name", "a/b"], "cannot name an adapter"),
    (["HEAD:adapters/sql"], "is a revision, which cannot be changed"),
])  # fmt: skip
def test_what_bump_refuses(sql, capsys, args, words):
    before = (sql / "adaptool.json").read_bytes()
    capsys.readouterr()
    assert main(["version", "bump", "adapters/sql", *args]) in (2, 3)
    assert words in capsys.readouterr().err
    assert before == (sql / "adaptool.json").read_bytes()


def test_a_version_that_is_none_has_to_be_said(sql, capsys):
    write_json(sql / "adaptool.json", json.loads((sql / "adaptool.json").read_text()) | {"version": "latest"})
    assert "bump --to" not in refused(capsys, "bump", "adapters/sql", "--to", "0.5.0")
    assert told(capsys, "bump", "adapters/sql", "--patch")["adapters"][0]["after"] == "1.0.1"


def test_where_even_git_has_no_better(repo, capsys):
    repo.adapter("a")
    main(["version", "init", "a"])
    write_json(Path("a/adaptool.json"), json.loads(Path("a/adaptool.json").read_text()) | {"version": "latest"})
    repo.commit()
    assert "--to 1.0.0" in refused(capsys, "bump", "a")
    assert told(capsys, "bump", "a", "--to", "1.0.0")["adapters"][0]["after"] == "1.0.0"


def test_bump_without_a_manifest(repo, capsys):
    repo.adapter("a")
    assert "adaptool version init a" in refused(capsys, "bump", "a", code=3)


def test_a_manifest_deleted_by_mistake_is_written_again(sql, capsys):
    before = (sql / "adaptool.json").read_text()
    (sql / "adaptool.json").unlink()
    assert told(capsys, "bump", "adapters/sql")["adapters"][0]["after"] == "1.0.0"
    assert before == (sql / "adaptool.json").read_text()


def test_a_tree_is_bumped_each_by_its_own_change(sql, repo, capsys):
    for name in ("b", "c", "new"):
        repo.adapter(f"adapters/{name}", seed=1)
    main(["version", "init", "adapters/b", "adapters/c"])
    repo.commit()
    repo.adapter("adapters/b", seed=2)
    steps = told(capsys, "bump")["adapters"]
    assert {step["name"]: step["after"] for step in steps} == {"b": "0.1.1", "c": "0.1.0", "sql": "1.0.0"}
    assert [step["name"] for step in steps if step["written"]] == ["b"]


def test_one_broken_adapter_spoils_nothing_for_the_others(sql, repo, capsys):
    repo.adapter("adapters/broken")
    main(["version", "init", "adapters/broken"])
    repo.write("adapters/broken/adapter_model.safetensors", b"\0" * 100)
    save_adapter(sql, seed=2)
    value = told(capsys, "bump", "adapters", code=3)
    assert [step["after"] for step in value["adapters"]] == ["1.0.1"]
    assert [failure["path"] for failure in value["failures"]] == ["adapters/broken"]


def test_a_dry_run_writes_nothing(sql, capsys):
    save_adapter(sql, seed=2)
    before = (sql / "adaptool.json").read_bytes()
    value = told(capsys, "bump", "adapters/sql", "--dry-run")
    assert (value["dry_run"], value["adapters"][0]["after"], value["adapters"][0]["written"]) == (True, "1.0.1", True)
    assert before == (sql / "adaptool.json").read_bytes()


def test_a_resave_refreshes_the_files_and_not_the_version(sql, capsys):
    save_adapter(sql, seed=1, peft_version="0.18.0")
    (step,) = told(capsys, "bump", "adapters/sql")["adapters"]
    assert (step["after"], step["written"]) == ("1.0.0", True)
    size = (sql / "adapter_config.json").stat().st_size
    assert size == next(file.size for file in record_beside(sql).files if file.name == "adapter_config.json")


def test_a_message_is_of_its_version_and_metrics_stay_until_they_are_said_anew(sql, repo, capsys):
    save_adapter(sql, seed=2)
    told(capsys, "bump", "adapters/sql", "-m", "more data", "--metric", "acc=0.5", "--metric", "by=hand")
    record = record_beside(sql)
    assert (record.message, dict(record.metrics)) == ("more data", {"acc": 0.5, "by": "hand"})
    repo.commit()
    save_adapter(sql, seed=3)
    (step,) = told(capsys, "bump", "adapters/sql", "--metric", "acc=7")["adapters"]
    record = record_beside(sql)
    assert (record.message, dict(record.metrics)) == (None, {"acc": 7, "by": "hand"})
    assert [note.split(": ")[1].split(":")[0] for note in step["notes"] if "metrics" in note] == [
        "metrics of 1.0.1 are kept (by)"
    ]


# --- the first version


def test_init_writes_what_there_is(repo, capsys):
    repo.adapter("a", revision=COMMIT)
    (step,) = told(capsys, "init", "a", "--metric", "acc=0.5", "--license", "MIT")["adapters"]
    assert (step["before"], step["after"], step["written"], step["base_pinned"]) == (None, "0.1.0", True, True)
    check("manifest", json.loads(Path("a/adaptool.json").read_text()))
    assert step["notes"] == []


def test_init_says_that_the_base_is_not_pinned_and_prints_the_path(repo, capsys):
    repo.adapter("a")
    capsys.readouterr()
    main(["version", "init", "a"])
    said = capsys.readouterr()
    assert said.out == "a/adaptool.json\n"
    assert "org/base is not pinned" in said.err


def test_init_names_an_adapter_in_the_root_after_its_repository(repo, tmp_path, monkeypatch, capsys):
    repo.adapter(".")
    assert told(capsys, "init", "--dry-run")["adapters"][0]["name"] == "repo"
    clone = repo.clone(tmp_path / "somewhere" / "else") if repo.commit() else None
    monkeypatch.chdir(clone.folder)
    assert told(capsys, "init")["adapters"][0]["name"] == "repo"


def test_init_of_a_tree_gives_each_a_name_of_its_own(repo, capsys):
    for path in ("sql/v1", "nl/v1", "solo", "wéird näme"):
        repo.adapter(path)
    names = {step["path"]: step["name"] for step in told(capsys, "init")["adapters"]}
    assert names == {"sql/v1": "sql-v1", "nl/v1": "nl-v1", "solo": "solo", "wéird näme": "w-ird-n-me"}
    repo.adapter("later")
    assert [step["path"] for step in told(capsys, "init")["adapters"]] == ["later"]


def test_init_refuses_a_second_time(sql, capsys):
    assert "adaptool version bump adapters/sql" in refused(capsys, "init", "adapters/sql")
    assert told(capsys, "init", "adapters/sql", "--overwrite")["adapters"][0]["after"] == "0.1.0"


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": 1}', "\0\0"])
def test_init_leaves_a_manifest_that_it_cannot_read(repo, capsys, text):
    repo.adapter("a")
    repo.write("a/adaptool.json", text)
    assert "--overwrite" in refused(capsys, "init", "a")
    assert text == Path("a/adaptool.json").read_text()
    assert main(["version", "init", "a", "--overwrite"]) == 0


def test_init_takes_up_what_fix_left(repo, capsys):
    folder = repo.adapter("old", seed=4)
    fields = json.loads((folder / "adapter_config.json").read_text())
    write_json(folder / "adapter_config.json", fields | {"inference_mode": False, "base_model_name_or_path": None})
    main(["version", "init", "old", "--version", "2.0.0"])
    source = record_beside(folder).content.digest
    manifest = {
        "schema": "adaptool/manifest/1", "kind": "fixed", "adaptool": "0.1.0", "files": [], "changes": ["renamed keys"],
        "parents": [{"relation": "fixed_from", "name": "old", "digest": source, "version": "2.0.0"}], "team": "x",
    }  # fmt: skip
    check("manifest", {name: value for name, value in manifest.items() if name != "team"})
    new = repo.adapter("new", seed=4)
    write_json(new / "adaptool.json", manifest)
    told(capsys, "init", "new")
    record = record_beside(new)
    (parent,) = record.parents
    assert ("fixed_from", "old", "2.0.0", source) == (parent.relation, parent.name, parent.version, parent.digest)
    assert (dict(record.recipe), dict(record.unknown)) == ({"changes": ["renamed keys"]}, {"team": "x"})
    (shown,) = told(capsys, "show", "new")["adapters"]
    assert [shown["lineage"][0]["state"], shown["lineage"][0]["path"]] == ["found", "old"]


def test_what_fix_writes_is_a_manifest_with_a_parent(repo, capsys, tmp_path):
    factors = {key.replace("base_model.model.", ""): value for key, value in random_factors(1).items()}
    repo.adapter("a", tensors=factors)
    main(["version", "init", "a", "--version", "3.0.0"])
    capsys.readouterr()
    if main(["validate", "a", "--fix", "--out", "b"]) not in (0, 1):
        pytest.skip("nothing to fix")
    manifest = json.loads(Path("b/adaptool.json").read_text())
    check("manifest", manifest)
    expected = {"relation": "fixed_from", "name": "a", "digest": record_beside(Path("a")).content.digest,
                "version": "3.0.0"}  # fmt: skip
    assert [expected] == manifest["parents"]
    told(capsys, "init", "b")
    assert record_beside(Path("b")).parents[0].relation == "fixed_from"


def test_init_does_not_touch_the_record_of_a_model(repo, capsys):
    repo.adapter("a")
    write_json(Path("a/adaptool.json"), {"schema": "adaptool/manifest/1", "kind": "merged", "files": []})
    assert "'merged'" in refused(capsys, "init", "a")


def test_the_base_can_be_hashed(repo, capsys, tmp_path):
    base = llama(tmp_path / "base")
    repo.adapter("a")
    told(capsys, "init", "a", "--base-digest", str(base))
    from adaptool.adapters.base import open_base
    from adaptool.versions import content_digest

    record = record_beside(Path("a"))
    assert content_digest(open_base(base).store) == record.base.digest
    assert record.base.pinned


def test_one_name_is_for_one_adapter(repo, capsys):
    repo.adapter("a")
    repo.adapter("b")
    assert "cannot have one name" in refused(capsys, "init", "--name", "x")


def test_parents_of_a_revision_are_pinned_and_hub_ids_noted(sql, repo, capsys):
    repo.tag("first")
    save_adapter(sql, seed=2)
    head = repo.commit("not bumped")
    repo.adapter("b")
    told(capsys, "init", "b", "--parent", "first:adapters/sql", "--parent", f"fixed_from={head[:9]}:adapters/sql",
         "--parent", "composed_of=hub:org/lora@v2")  # fmt: skip
    one, two, three = record_beside(Path("b")).parents
    assert (one.relation, one.name, one.version, one.revision) == ("trained_from", "sql", "1.0.0", "first")
    assert ("fixed_from", None, head) == (two.relation, two.version, two.revision)
    assert (three.name, three.version, three.digest) == ("org/lora", "v2", None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(repo, capsys):
    folder = repo.adapter("a")
    folder.chmod(0o500)
    assert "cannot be written" in refused(capsys, "init", "a", code=3)
    folder.chmod(0o700)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "dangling", "pointer"])
def test_a_manifest_that_is_no_file_harms_nothing(repo, capsys, tmp_path, kind):
    folder, outside = repo.adapter("a"), tmp_path / "outside"
    outside.write_text("mine")
    manifest = folder / "adaptool.json"
    if kind == "folder":
        manifest.mkdir()
    elif kind == "fifo":
        os.mkfifo(manifest)
    elif kind == "pointer":
        manifest.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5\n")
    else:
        manifest.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    for command in ("show", "bump", "init"):
        capsys.readouterr()
        code = main(["version", command, "a"])
        assert code in (2, 3) or (kind, command) == ("dangling", "init")
        assert ("error: " in capsys.readouterr().err) == (code != 0)
    capsys.readouterr()
    assert main(["version", "init", "a", "--overwrite"]) == (3 if kind == "folder" else 0)
    assert outside.read_text() == "mine"
    assert kind == "folder" or not manifest.is_symlink()


@pytest.mark.parametrize("path", ["with space", "-dash", "ünï", "semi;colon", "new\nline", "co:lon", "st*r", "a'b\"c"])
def test_folders_of_any_name(repo, capsys, path):
    repo.adapter(f"{path}/sql", seed=1)
    value = told(capsys, "init", f"./{path}/sql")
    assert value["adapters"][0]["name"] == "sql"
    repo.commit()
    repo.adapter(f"{path}/sql", seed=2)
    assert told(capsys, "bump", f"./{path}/sql")["adapters"][0]["since"] == "HEAD"
    repo.commit()
    assert told(capsys, "tag", f"./{path}/sql")["tag"]["tag"] == "v0.1.1"
    (shown,) = told(capsys, "show", f"./{path}/sql")["adapters"]
    assert (shown["git"]["tag"], shown["git"]["uncommitted"]) == ("v0.1.1", [])


def test_in_a_hook_of_another_repository(sql, capsys, monkeypatch, tmp_path):
    other = Repo(tmp_path / "other", settings=tmp_path / "settings")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.folder / ".git" / "index"))
    save_adapter(sql, seed=2)
    (step,) = told(capsys, "bump", "adapters/sql")["adapters"]
    assert (step["since"], step["after"]) == ("HEAD", "1.0.1")


def test_nothing_is_left_beside_a_manifest(sql):
    assert {"adapter_config.json", "adapter_model.safetensors", "adaptool.json"} == {p.name for p in sql.iterdir()}


# --- what Git tells


def test_show_tells_what_is_there_and_who_made_it(sql, repo, capsys):
    repo.tag("sql-v1.0.0", "x")
    save_adapter(sql, seed=2)
    told(capsys, "bump", "adapters/sql")
    repo.commit("better")
    save_adapter(sql, seed=3)
    (shown,) = told(capsys, "show", "adapters/sql")["adapters"]
    assert (shown["name"], shown["version"], shown["truth"]) == ("sql", "1.0.1", "differs")
    git = shown["git"]
    assert (git["path"], git["commits"], git["shallow"]) == ("adapters/sql", 2, False)
    assert (git["first"]["subject"], git["last"]["subject"]) == ("sql", "better")
    assert git["first"]["date"] == "2025-01-01T12:00:00+00:00"
    assert (git["uncommitted"], git["tags"], git["tag"]) == (["adapter_model.safetensors"], ["sql-v1.0.0"], None)


@pytest.mark.parametrize("text", ["HEAD~1:adapters/sql", "sql-v1.0.0", "main~1:adapters/sql"])
def test_show_of_a_revision(sql, repo, capsys, text):
    repo.tag("sql-v1.0.0", "x")
    save_adapter(sql, seed=2)
    told(capsys, "bump", "adapters/sql")
    repo.commit("better")
    (shown,) = told(capsys, "show", text)["adapters"]
    assert (shown["version"], shown["truth"], shown["git"]["tag"]) == ("1.0.0", "agrees", "sql-v1.0.0")
    assert (shown["git"]["uncommitted"], shown["git"]["commits"]) == ([], 1)


def test_show_of_a_tree_and_of_one_without_a_version(sql, repo, capsys):
    repo.adapter("adapters/new")
    value = told(capsys, "show", "adapters", code=3)
    assert [shown["name"] for shown in value["adapters"]] == ["sql"]
    assert "adaptool version init" in value["failures"][0]["hint"]


def test_show_in_a_bare_clone(sql, repo, capsys, tmp_path, monkeypatch):
    bare = repo.clone(tmp_path / "bare.git", bare=True)
    monkeypatch.chdir(bare.folder)
    for args in ([], ["HEAD:adapters/sql"], ["main"]):
        (shown,) = told(capsys, "show", *args)["adapters"]
        assert (shown["version"], shown["truth"], shown["git"]["commits"]) == ("1.0.0", "agrees", 1)


def test_show_in_a_shallow_clone(sql, repo, capsys, tmp_path, monkeypatch):
    save_adapter(sql, seed=2)
    told(capsys, "bump", "adapters/sql")
    repo.commit("better")
    clone = repo.clone(tmp_path / "clone", depth=1)
    monkeypatch.chdir(clone.folder)
    git = told(capsys, "show", "adapters/sql")["adapters"][0]["git"]
    assert (git["shallow"], git["first"], git["last"]["subject"]) == (True, None, "better")
    assert "cut off" in shown_of(capsys, "show", "adapters/sql")


def test_show_and_bump_in_a_worktree_and_a_submodule(sql, repo, capsys, tmp_path, monkeypatch):
    tree = repo.worktree(tmp_path / "tree")
    outer = Repo(tmp_path / "outer", settings=tmp_path / "settings")
    inner = outer.submodule(repo, "vendor/sql")
    for place in (tree, inner):
        monkeypatch.chdir(place.folder)
        (shown,) = told(capsys, "show", "adapters/sql")["adapters"]
        assert (shown["git"]["path"], shown["git"]["uncommitted"]) == ("adapters/sql", [])
        save_adapter(place.folder / "adapters/sql", seed=2)
        assert told(capsys, "bump", "adapters/sql")["adapters"][0]["since"] == "HEAD"


@needs_lfs
def test_show_of_pointers(repo, capsys, tmp_path, monkeypatch):
    repo.lfs()
    repo.adapter("a", seed=1)
    main(["version", "init", "a"])
    repo.commit()
    clone = repo.clone(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    (shown,) = told(capsys, "show", "a")["adapters"]
    assert shown["truth"] == "agrees"
    clone.lfs_pull()
    assert told(capsys, "show", "a")["adapters"][0]["truth"] == "agrees"


def test_show_outside_of_git(tmp_path, capsys):
    folder = save_adapter(tmp_path / "sql")
    told(capsys, "init", str(folder))
    (shown,) = told(capsys, "show", str(folder))["adapters"]
    assert (shown["git"], shown["truth"]) == (None, "agrees")


def test_show_where_nothing_is_committed(repo, capsys):
    repo.adapter("a")
    told(capsys, "init", "a")
    git = told(capsys, "show", "a")["adapters"][0]["git"]
    assert (
        git["last"], git["uncommitted"]
    ) == (None, ["adapter_config.json", "adapter_model.safetensors", "adaptool.json"])  # fmt: skip
    assert "not committed" in shown_of(capsys, "show", "a")


def test_what_strangers_wrote_is_not_printed_raw(repo, capsys):
    folder = repo.adapter("a", base="org/\x1b[31mbase")
    told(capsys, "init", "a", "--metric", "a\x1bb=c\x1bd", "-m", "x\x1b]0;y", "--parent", "hub:o/\x1bn")
    repo.commit("a \x1b[2Jsubject")
    write_json(folder / "adaptool.json", json.loads((folder / "adaptool.json").read_text()) | {"name": "n\n::error::x"})
    for command in ("show", "bump"):
        capsys.readouterr()
        assert main(["version", command, "a"]) == 0
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        assert "\n::error" not in said.out + said.err


def test_the_lineage_is_followed_as_far_as_it_goes(sql, repo, capsys):
    repo.adapter("adapters/mid", seed=5)
    told(capsys, "init", "adapters/mid", "--parent", "adapters/sql", "--parent", "hub:org/x")
    repo.commit("mid")
    repo.adapter("top", seed=6)
    told(capsys, "init", "top", "--parent", "composed_of=adapters/mid", "--parent", "composed_of=adapters/sql")
    repo.commit("top")
    save_adapter(sql, seed=9)
    told(capsys, "bump", "adapters/sql")
    repo.commit("sql moved on")
    (shown,) = told(capsys, "show", "top")["adapters"]
    mid, direct = shown["lineage"]
    assert [(one["name"], one["state"]) for one in (mid, direct)] == [("mid", "found"), ("sql", "found")]
    assert direct["revision"] == repo.git("rev-parse", "HEAD~3")  # where it was what it was
    assert [(one["name"], one["state"]) for one in mid["parents"]] == [("sql", "found"), ("org/x", "outside")]
    text = shown_of(capsys, "show", "top")
    assert "├─ composed of mid 0.1.0  adapters/mid" in text
    assert "│  ├─ trained from sql 1.0.0" in text


@pytest.mark.parametrize(("change", "state"), [
    ({"path": "adapters/none", "digest": "a" * 64}, "missing"),
    ({"path": "adapters/sql", "digest": "a" * 64}, "changed"),
    ({"path": "adapters/sql"}, "found"),
    ({"revision": "v7", "path": "adapters/sql"}, "missing"),
    ({"revision": "HEAD", "path": "adapters/none"}, "missing"),
    ({"revision": "HEAD", "path": "adapters/sql"}, "found"),
    ({"revision": "--help", "path": "adapters/sql"}, "missing"),
    ({"revision": "HEAD", "digest": "a" * 64}, "missing"),
    ({"digest": "a" * 64}, "outside"),
    ({"path": "../../etc"}, "missing"),
])  # fmt: skip
def test_parents_that_are_not_what_they_are_said_to_be(sql, repo, capsys, change, state):
    repo.adapter("b")
    told(capsys, "init", "b")
    manifest = json.loads(Path("b/adaptool.json").read_text())
    write_json(Path("b/adaptool.json"), manifest | {"parents": [{"relation": "trained_from", "name": "sql", **change}]})
    assert state == told(capsys, "show", "b")["adapters"][0]["lineage"][0]["state"]


def test_a_parent_whose_commit_was_squashed_away_is_found_by_its_content(sql, repo, capsys):
    repo.branch("work")
    save_adapter(sql, seed=2)
    told(capsys, "bump", "adapters/sql")
    repo.commit("on a branch")
    repo.adapter("b", seed=7)
    told(capsys, "init", "b", "--parent", "HEAD:adapters/sql")
    gone = repo.commit("child")
    repo.switch("main")
    repo.git("merge", "--squash", "work")
    repo.commit("squashed")
    repo.git("branch", "-D", "work")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "--quiet", "--prune=now")
    assert gone[:7] not in repo.git("log", "--all", "--format=%h")
    (parent,) = told(capsys, "show", "b")["adapters"][0]["lineage"]
    assert ("found", repo.head, "1.0.1") == (parent["state"], parent["revision"], parent["version"])


def test_a_lineage_in_a_circle_ends(repo, capsys):
    for name, other in (("a", "b"), ("b", "a")):
        repo.adapter(name, seed=ord(name))
        told(capsys, "init", name)
        manifest = json.loads(Path(name, "adaptool.json").read_text())
        parents = [{"relation": "trained_from", "name": other, "path": other}] * 30
        write_json(Path(name, "adaptool.json"), manifest | {"parents": parents})
    assert 200 >= shown_of(capsys, "show", "a").count("trained from") > 30


# --- tags


def test_a_tag_is_of_the_commit_and_its_content(sql, repo, capsys):
    value = told(capsys, "tag", "adapters/sql", "-m", "the first")
    assert ("v1.0.0", repo.head, False) == (value["tag"]["tag"], value["tag"]["commit"], value["tag"]["signed"])
    message = repo.git("tag", "-l", "--format=%(contents)", "v1.0.0")
    digest = record_beside(sql).content.digest
    assert f"sql 1.0.0\n\nthe first\n\nadaptool-digest: {digest}" == message
    assert repo.git("cat-file", "-t", "v1.0.0") == "tag"


def test_tag_prints_its_name_and_how_to_push_it(sql, repo, capsys):
    capsys.readouterr()
    assert main(["version", "tag", "adapters/sql", "--dry-run"]) == 0
    assert capsys.readouterr().out == "v1.0.0\n"
    assert repo.git("tag") == ""
    assert main(["version", "tag", "adapters/sql"]) == 0
    said = capsys.readouterr()
    assert said.out == "v1.0.0\n"
    assert "git push origin v1.0.0" in said.err


def test_of_several_adapters_a_tag_says_which(sql, repo, capsys):
    repo.adapter("adapters/nl", seed=2)
    repo.adapter("more/nl", seed=3)
    told(capsys, "init", "adapters/nl")
    told(capsys, "init", "more/nl")
    repo.commit()
    assert told(capsys, "tag", "adapters/sql")["tag"]["tag"] == "sql-v1.0.0"
    assert told(capsys, "tag", "adapters/nl")["tag"]["tag"] == "adapters/nl/v0.1.0"
    assert told(capsys, "tag", "more/nl")["tag"]["tag"] == "more/nl/v0.1.0"


def test_in_the_root_a_tag_is_a_version(repo, capsys):
    repo.adapter(".")
    told(capsys, "init", "--version", "2.0.0-rc.1")
    repo.commit()
    assert told(capsys, "tag")["tag"]["tag"] == "v2.0.0-rc.1"


def test_a_tag_does_not_move(sql, repo, capsys):
    assert "tags do not move" in refused(capsys, "tag", "adapters/sql", "--force")
    told(capsys, "tag", "adapters/sql")
    assert "is there already" in refused(capsys, "tag", "adapters/sql")
    save_adapter(sql, seed=2)
    repo.commit("not bumped")
    assert "bump" in refused(capsys, "tag", "adapters/sql")


@pytest.mark.parametrize("taken", ["1.0.0", "sql-1.0.0", "sql/v1.0.0", "sql@1.0.0", "adapters/sql/v1.0.0"])
def test_a_version_is_tagged_once_in_whatever_form(sql, repo, capsys, taken):
    repo.tag(taken, "by hand")
    assert f"the tag {taken} is there already" in refused(capsys, "tag", "adapters/sql")


def test_a_tag_is_of_what_is_committed(sql, repo, capsys):
    (sql / "adapter_config.json").write_text((sql / "adapter_config.json").read_text() + "\n")
    assert "not as committed: adapter_config.json" in refused(capsys, "tag", "adapters/sql")
    repo.git("checkout", ".")
    repo.write("adapters/sql/tokenizer.json", {"version": "1.0"})
    told(capsys, "bump", "adapters/sql")
    assert "adaptool.json, tokenizer.json" in refused(capsys, "tag", "adapters/sql")


def test_files_that_git_ignores_are_not_committed(repo, capsys):
    repo.adapter("a")
    repo.write(".gitignore", "*.safetensors\n")
    told(capsys, "init", "a")
    repo.commit()
    assert "not as committed: adapter_model.safetensors" in refused(capsys, "tag", "a")


def test_a_manifest_of_another_content_is_not_tagged(sql, repo, capsys):
    save_adapter(sql, seed=2)
    repo.commit("not bumped")
    assert "adaptool version bump" in refused(capsys, "tag", "adapters/sql")


@pytest.mark.parametrize("text", ["HEAD:adapters/sql", "adapters"])
def test_what_cannot_be_tagged(sql, repo, capsys, text):
    repo.adapter("adapters/nl")
    capsys.readouterr()
    assert main(["version", "tag", text]) == 2
    assert "hint: " in capsys.readouterr().err


def test_a_tag_outside_of_git_and_before_the_first_commit(tmp_path, repo, capsys):
    folder = save_adapter(tmp_path / "out" / "sql")
    told(capsys, "init", str(folder))
    assert "not in a Git repository" in refused(capsys, "tag", str(folder), code=3)
    repo.adapter("a")
    told(capsys, "init", "a")
    assert "nothing is committed" in refused(capsys, "tag", "a")


def test_a_tagger_needs_a_name(sql, repo, capsys, tmp_path):
    (tmp_path / "settings" / "gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    assert "git config user.name" in refused(capsys, "tag", "adapters/sql", code=3)


def test_a_message_cannot_claim_another_digest(sql, capsys):
    assert "adaptool-digest" in refused(capsys, "tag", "adapters/sql", "-m", f"x\nadaptool-digest: {'a' * 64}")


@needs_lfs
def test_pointers_are_tagged_where_they_agree(repo, capsys, tmp_path, monkeypatch):
    repo.lfs()
    repo.adapter("a", seed=1)
    main(["version", "init", "a"])
    repo.commit()
    clone = repo.clone(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    assert told(capsys, "tag", "a")["tag"]["tag"] == "v0.1.0"


# --- whose a tag is


@pytest.mark.parametrize(("tag", "whose"), [
    ("sql-v1.2.0", {"a/sql": "1.2.0"}), ("sql-1.2.0", {"a/sql": "1.2.0"}), ("sql/v1.2.0", {"a/sql": "1.2.0"}),
    ("sql@1.2.0", {"a/sql": "1.2.0"}), ("a/sql/v1.2.0-rc.1", {"a/sql": "1.2.0-rc.1"}),
    ("a/sql-v1.2.0+b.1", {"a/sql": "1.2.0+b.1"}), ("sql-2-v1.0.0", {"b/sql-2": "1.0.0"}),
    ("sql-2-1.0.0", {"b/sql-2": "1.0.0"}), ("sql-1.0.0-2-v1", {"a/sql": "1.0.0-2-v1"}),
    ("other-v1.0.0", {}), ("sqlv1.0.0", {}), ("sql-v1.0", {}), ("sql", {}), ("v1", {}), ("release-2025.01", {}),
    ("v1.0.0", {}), ("1.0.0", {}),
])  # fmt: skip
def test_whose_version_a_tag_is(repo, tag, whose):
    from adaptool.git.repository import repository_of
    from adaptool.versioning.tags import tags_of

    repo.adapter("a/sql")
    repo.adapter("b/sql-2")
    repo.commit()
    repo.tag(tag)
    found = tags_of(repository_of(repo.folder), {"a/sql": "sql", "b/sql-2": "sql-2"})
    assert whose == {path: str(version) for path, tags in found.items() for version, _ in tags}


def test_a_plain_tag_is_of_the_only_adapter_there_was(repo):
    from adaptool.git.repository import repository_of
    from adaptool.versioning.tags import tags_of

    repo.adapter("a")
    repo.commit()
    repo.tag("v0.9.0")
    repo.tag("1.0.0", "annotated")
    repo.adapter("b")
    repo.commit()
    repo.tag("v2.0.0", "whose?")
    found = tags_of(repository_of(repo.folder), {"a": "a", "b": "b"})
    assert {path: [tag.name for _, tag in own] for path, own in found.items()} == {"a": ["v0.9.0", "1.0.0"], "b": []}


def test_help_of_every_command(capsys):
    from adaptool.cli.version import COMMANDS

    for name in ("init", "show", "bump", "tag"):
        capsys.readouterr()
        assert main(["version", name, "--help"]) == 0
        assert f"Example:  adaptool version {name}" in capsys.readouterr().out
    assert {"init", "show", "bump", "tag", "log", "check", "sign", "verify", "sbom"} == set(COMMANDS)


def test_the_minute_in_the_documentation(repo, capsys):
    text = (Path(__file__).parents[1] / "docs" / "version.md").read_text(encoding="utf-8")
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    seed = 1
    for line in lines:
        program, *args = shlex.split(line)
        if args[:2] in (["version", "init"], ["version", "bump"]):
            repo.adapter("adapters/sql", seed=seed)
            seed += 1
        assert program in ("adaptool", "git")
        assert main(args) == 0 if program == "adaptool" else repo.git(*args) is not None
    assert repo.git("tag").split() == ["v0.1.0", "v0.1.1"]
    assert "sql 0.1.0 → 0.1.1 (patch)" in capsys.readouterr().out
