"""The gate: where it looks, what it opens, what it says and in which format, in clones of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from making_git import Repo, isolate, needs_lfs
from making_year import PIN, Year

from adaptool.cli.main import main
from adaptool.errors import NotFetchedError, NotFoundError, UsageError
from adaptool.reports.check_formats import WRITERS
from adaptool.reports.check_markdown import LIMIT, MARKER, check_markdown
from adaptool.reports.check_text import check_report
from adaptool.reports.layout import plain
from adaptool.reports.schemas import read_schema
from adaptool.versioning.gate.check_result import Check
from adaptool.versioning.gate.findings import CODES, Selection
from adaptool.versioning.record import Base, Parent
from adaptool.versioning.verbs import version_check

SQL, CHAT = "adapters/sql", "adapters/chat"


@pytest.fixture(autouse=True)
def own_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, tmp_path / ".settings")


@pytest.fixture
def team(tmp_path: Path) -> Year:
    """Two adapters under version, in one commit."""
    year = Year(Repo(tmp_path / "team"))
    for path in (SQL, CHAT):
        year.train(path)
        year.stamp(path, "1.0.0")
    year.repo.commit("two adapters")
    return year


def checked(year: Year | Repo, *paths: str, **how: Any) -> Check:
    folder = (year.repo if isinstance(year, Year) else year).folder
    return version_check([folder / path for path in paths] or [folder], **how)


def codes(found: Check) -> dict[str, list[str]]:
    return {a.path: [f.code for f in a.findings] for a in found.adapters if a.findings}


# --- the working tree


def test_a_clean_tree(team: Year) -> None:
    found = checked(team)
    assert found.exit_code == 0
    assert [(a.path, a.state, a.version_after, a.verdict) for a in found.adapters] == [
        (CHAT, "present", "1.0.0", "ok"), (SQL, "present", "1.0.0", "ok")
    ]  # fmt: skip


def test_what_is_not_committed_yet_is_judged_against_head(team: Year) -> None:
    team.train(SQL)
    team.stamp(SQL, "1.0.0")
    found = checked(team)
    assert codes(found) == {SQL: ["VER101"]}
    assert "adaptool version bump --to 1.0.1 adapters/sql" in {f.fix for a in found.adapters for f in a.findings}
    team.stamp(SQL, "1.0.1")
    assert checked(team).exit_code == 0


def test_an_untracked_adapter_is_found_and_an_ignored_one_is_not(team: Year) -> None:
    team.train("new")
    team.train("scratch/run-1")
    team.repo.write(".gitignore", "scratch/\n")
    assert codes(checked(team)) == {"new": ["VER001"]}


def test_a_repository_where_nothing_has_a_version_is_only_warned(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "plain")
    repo.adapter("one")
    repo.commit()
    found = checked(repo)
    assert (codes(found), found.exit_code) == ({"one": ["VER001"]}, 0)
    assert checked(repo, fail_on="warning").exit_code == 1


def test_before_the_first_commit(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "unborn"))
    year.train("one")
    year.stamp("one", "1.0.0")
    assert checked(year).exit_code == 0
    year.repo.git("add", "--all")
    assert [a.path for a in checked(year).adapters] == ["one"]


def test_an_adapter_in_the_root(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "root"))
    year.train(".")
    year.stamp(".", "1.0.0")
    year.repo.commit()
    year.train(".")
    year.repo.commit("stale")
    found = checked(year, against="HEAD~1")
    assert codes(found) == {".": ["VER003", "VER101"]}
    assert next(f.fix for a in found.adapters for f in a.findings) == "adaptool version bump ."


def test_a_touched_file_is_no_changed_file(team: Year) -> None:
    weights = team.repo.folder / SQL / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    assert {a.state for a in checked(team, against="HEAD").adapters} == {"unchanged"}


# --- what it looks at, and what it opens


def test_with_against_unchanged_files_are_never_opened(team: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit("sql: 1.0.1")
    opened: list[str] = []
    import adaptool.tensors.files as files

    real = files.os.open

    def watched(path: Any, *arguments: Any, **named: Any) -> int:
        opened.append(str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(files.os, "open", watched)
    assert checked(team, against="HEAD~1").exit_code == 0
    assert [path for path in opened if CHAT in path and not path.endswith("adaptool.json")] == []
    assert [path for path in opened if SQL in path] != []


def test_with_against_missing_content_of_unchanged_adapters_is_not_missed(team: Year) -> None:
    """Their blobs may be gone from the clone altogether."""
    blob = team.repo.git("rev-parse", f"HEAD:{CHAT}/adapter_model.safetensors")
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit()
    stored = team.repo.folder / ".git" / "objects" / blob[:2] / blob[2:]
    stored.unlink()
    assert checked(team, against="HEAD~1", at="HEAD").exit_code == 0


@pytest.mark.parametrize(
    ("path", "expected"), [(SQL, [SQL]), ("adapters", [CHAT, SQL]), (f"{SQL}/adaptool.json", [SQL])]
)
def test_paths_limit_it(team: Year, path: str, expected: list[str]) -> None:
    assert [a.path for a in checked(team, path).adapters] == expected


def test_a_path_without_an_adapter_cannot_be_checked(team: Year) -> None:
    found = checked(team, SQL, "adapters/sqll")
    assert (found.exit_code, [failure.path for failure in found.failures]) == (3, ["adapters/sqll"])


def test_a_path_in_another_repository(team: Year, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not in the repository"):
        version_check([team.repo.folder / SQL, tmp_path])


def test_outside_of_every_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not in a Git repository"):
        version_check([tmp_path])


@pytest.mark.parametrize("workers", [1, 4])
def test_the_order_does_not_depend_on_the_threads(team: Year, workers: int) -> None:
    for i in range(12):
        team.train(f"more/a{i:02d}")
    assert [a.path for a in checked(team, workers=workers).adapters] == sorted(
        [SQL, CHAT, *(f"more/a{i:02d}" for i in range(12))]
    )


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ((), (), 1),
        (("VER1",), (), 1),
        (("VER2",), (), 0),
        ((), ("VER101", "VER003"), 0),
        ((), ("ALL",), 0),
        (("VER101",), ("VER1",), 1),
    ],
)
def test_selecting_and_ignoring(team: Year, select: tuple[str, ...], ignore: tuple[str, ...], expected: int) -> None:
    team.train(SQL)
    assert checked(team, select=select, ignore=ignore).exit_code == expected


def test_an_unknown_code() -> None:
    with pytest.raises(UsageError, match="no code begins with 'VER9'"):
        Selection(select=("VER9",))


# --- against another branch


def on_two_branches(team: Year, here: str, there: str) -> None:
    """sql goes on to ``here`` on a branch, and to ``there`` on main."""
    team.repo.branch("feature")
    team.train(SQL)
    team.stamp(SQL, here)
    team.repo.commit("on the branch")
    team.repo.switch("main")
    team.train(SQL)
    team.stamp(SQL, there)
    team.repo.commit("on main")
    team.repo.switch("feature")


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("1.0.1", "1.0.1", ["VER104"]),
        ("1.0.1", "1.1.0", ["VER103"]),
        ("1.1.0", "1.0.1", []),
        ("1.0.0", "1.0.1", ["VER101", "VER103"]),
    ],
)
def test_the_other_branch_went_on(team: Year, here: str, there: str, expected: list[str]) -> None:
    on_two_branches(team, here, there)
    assert codes(checked(team, against="main")).get(SQL, []) == expected


def test_what_main_did_meanwhile_is_not_this_branch_s_change(team: Year) -> None:
    team.repo.branch("feature")
    team.repo.write("README.md", "a change\n")
    team.repo.commit()
    team.repo.switch("main")
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit()
    team.repo.switch("feature")
    found = checked(team, against="main")
    assert {a.path: a.state for a in found.adapters} == {SQL: "unchanged", CHAT: "unchanged"}
    assert found.merge_base == team.repo.git("rev-parse", "main~1")


def test_the_same_version_of_the_same_content_is_not_taken(team: Year) -> None:
    team.repo.branch("feature")
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit()
    team.repo.switch("main")
    team.repo.git("cherry-pick", "feature", date=team.repo.next_date())
    team.repo.commit("more")
    team.repo.switch("feature")
    assert checked(team, against="main").exit_code == 0


def test_a_merge_under_way_is_looked_at_from_both_sides(team: Year) -> None:
    on_two_branches(team, "1.0.1", "1.0.1")
    team.repo.git("merge", "--no-commit", "--no-ff", "main", okay=(0, 1))
    team.repo.git("checkout", "HEAD", "--", SQL)
    assert "VER104" in codes(checked(team))[SQL]


# --- tags


@pytest.mark.parametrize("name", ["sql-v1.0.0", "sql-1.0.0", "sql/v1.0.0", "sql@1.0.0", "adapters/sql/v1.0.0"])
def test_a_tag_that_leads_to_another_version(team: Year, name: str) -> None:
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit()
    team.repo.tag(name)
    assert codes(checked(team)) == {SQL: ["VER201"]}


def test_a_tag_made_for_other_content(team: Year) -> None:
    team.repo.tag("sql-v1.0.0", f"sql 1.0.0\n\nadaptool-digest: {'0' * 64}\n")
    assert codes(checked(team)) == {SQL: ["VER201"]}


def test_good_tags_are_silent(team: Year) -> None:
    digest = team.record(SQL).content.digest
    team.repo.tag("sql-v1.0.0", f"sql 1.0.0\n\nadaptool-digest: {digest}\n")
    team.repo.tag("chat-v1.0.0")
    team.repo.tag("v7.0.0")
    team.repo.tag("release")
    assert checked(team).exit_code == 0
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit()
    assert checked(team).exit_code == 0


@pytest.mark.parametrize("signed", [True, False], ids=["its digest in the tag", "a tag made by hand"])
def test_a_tag_is_good_wherever_its_adapter_was_then(team: Year, signed: bool) -> None:
    digest = team.record(SQL).content.digest
    team.repo.tag("sql-v1.0.0", f"sql 1.0.0\n\nadaptool-digest: {digest}\n" if signed else None)
    team.repo.git("mv", SQL, "adapters/text")
    assert codes(checked(team)) == {}
    team.repo.commit("moved")
    assert codes(checked(team)) == {}
    assert codes(checked(team, against="HEAD~1")) == {}
    team.train("adapters/text")
    team.stamp("adapters/text", "1.0.0")
    team.repo.commit("trained")
    assert codes(checked(team)) == {"adapters/text": ["VER101", "VER201"]}


def test_the_version_is_tagged_with_other_content(team: Year) -> None:
    team.repo.tag("sql-v1.0.0")
    team.train(SQL)
    team.stamp(SQL, "1.0.0")
    assert codes(checked(team)) == {SQL: ["VER101", "VER201"]}


def test_a_remote_s_tags_are_compared_when_asked_for(team: Year, tmp_path: Path) -> None:
    clone = team.repo.clone(tmp_path / "clone")
    team.repo.tag("sql-v1.0.0")
    team.repo.commit("more")
    clone.git("tag", "sql-v1.0.0", "HEAD")
    assert checked(clone, remote="origin").exit_code == 0
    team.repo.tag("sql-v1.0.0", force=True)
    assert checked(clone).exit_code == 0
    assert codes(checked(clone, remote="origin")) == {SQL: ["VER201"]}
    with pytest.raises(UsageError, match="no remote"):
        checked(clone, remote="--upload-pack=touch")


# --- parents and bases


def test_a_parent_on_the_hub_is_only_noted(team: Year) -> None:
    team.stamp(SQL, "1.0.0", parents=(Parent("trained_from", "org/adapter", "0" * 64),))
    found = next(a for a in checked(team).adapters if a.path == SQL)
    assert (found.verdict, found.notes) == (
        "ok", ("trained_from org/adapter lies outside this repository, and was not looked at",)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("base", "expected"),
    [(Base("org/base", PIN), []), (Base("org/base"), ["VER301"]), (Base("org/base", "main"), ["VER301"]),
     (Base("org/base", None, "b" * 64), []), (Base("org/other", PIN), ["VER302"]),
     (Base("org/base", "abcdef0"), ["VER301"])],
)  # fmt: skip
def test_the_base(tmp_path: Path, base: Base, expected: list[str]) -> None:
    year = Year(Repo(tmp_path / "bases"))
    year.train(SQL)
    year.stamp(SQL, "1.0.0", base)
    year.repo.commit()
    assert codes(checked(year)).get(SQL, []) == expected


# --- clones that lack something


def test_a_shallow_clone_without_the_revision(team: Year, tmp_path: Path) -> None:
    team.repo.commit("more")
    clone = team.repo.clone(tmp_path / "shallow", depth=1)
    with pytest.raises(NotFetchedError) as told:
        checked(clone, against="origin/release")
    assert "git fetch origin release --depth=1" in (told.value.hint or "")
    with pytest.raises(NotFetchedError):
        checked(clone, against="HEAD~1")
    assert main(["version", "check", str(clone.folder), "--against", "HEAD~1"]) == 3


def test_a_shallow_clone_compares_with_the_tip(team: Year, tmp_path: Path) -> None:
    team.repo.branch("feature")
    team.train(SQL)
    team.stamp(SQL, "1.0.0")
    team.repo.commit("no version")
    clone = team.repo.clone(tmp_path / "shallow", depth=1)
    clone.git("fetch", "--quiet", "--depth=1", "origin", "main:refs/remotes/origin/main")
    found = checked(clone, against="origin/main")
    assert (codes(found), found.merge_base) == ({SQL: ["VER101"]}, None)
    assert "compared with origin/main as it is" in found.notes[0]


def test_a_shallow_clone_checks_what_is_there(team: Year, tmp_path: Path) -> None:
    team.repo.commit("more")
    clone = team.repo.clone(tmp_path / "shallow", depth=1)
    assert checked(clone).exit_code == 0
    team.stamp(SQL, "1.0.0", parents=(Parent("trained_from", "sql", "0" * 64, path=SQL, revision="0" * 40),))
    team.repo.commit("a parent")
    clone = team.repo.clone(tmp_path / "shallower", depth=1)
    found = checked(clone)
    assert (found.exit_code, [u.code for a in found.adapters for u in a.unchecked]) == (3, ["VER401"])


def test_a_partial_clone_does_not_fetch(team: Year, tmp_path: Path) -> None:
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit("sql: 1.0.1")
    clone = team.repo.clone(tmp_path / "partial.git", bare=True, filter="blob:none")
    found = checked(clone, against="HEAD~1")
    assert (found.exit_code, [u.reason.partition(":")[0] for a in found.adapters for u in a.unchecked]) == (
        3,
        ["not fetched"],
    )
    assert {a.path: a.state for a in found.adapters} == {SQL: "changed", CHAT: "unchanged"}


def test_a_worktree_and_a_submodule_are_repositories_of_their_own(team: Year, tmp_path: Path) -> None:
    tree = team.repo.worktree(tmp_path / "tree")
    assert checked(tree).exit_code == 0
    outer = Repo(tmp_path / "outer")
    outer.submodule(team.repo, "vendor/team")
    outer.commit()
    assert checked(outer).adapters == ()
    assert [a.path for a in checked(outer, "vendor/team").adapters] == [CHAT, SQL]


@needs_lfs
def test_lfs_pointers_are_compared_by_what_they_tell(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "lfs"))
    year.repo.lfs()
    year.train(SQL)
    year.stamp(SQL, "1.0.0")
    year.repo.commit("1.0.0")
    year.train(SQL)
    year.stamp(SQL, "1.0.1")
    year.repo.commit("1.0.1")
    year.train(SQL)
    year.repo.commit("no manifest")
    assert codes(checked(year, against="HEAD~1")) == {SQL: ["VER003", "VER101"]}
    clone = year.repo.clone(tmp_path / "pointers")
    assert checked(clone, at="HEAD~1", against="HEAD~2").exit_code == 0
    found = checked(clone, against="HEAD~1")
    assert (codes(found), found.exit_code) == ({SQL: ["VER003"]}, 1)
    clone.switch("HEAD~1")
    assert checked(clone).exit_code == 0


@needs_lfs
def test_lfs_objects_that_were_not_pushed_are_no_obstacle_where_nothing_needs_them(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "lfs"))
    year.repo.lfs()
    year.train(SQL)
    year.stamp(SQL, "1.0.0")
    year.repo.commit("1.0.0")
    year.train(SQL)
    year.stamp(SQL, "1.0.0")
    year.repo.commit("no version")
    clone = year.repo.clone(tmp_path / "pointers")
    found = checked(clone, against="HEAD~1")
    assert (codes(found), found.exit_code) == ({}, 3)  # the same updates in other factors would look like this
    assert [u.code for a in found.adapters for u in a.unchecked] == ["VER101"]
    assert "only they can tell" in found.adapters[0].unchecked[0].reason
    assert codes(checked(year, against="HEAD~1")) == {SQL: ["VER101"]}
    year.stamp(SQL, "1.0.1")
    year.repo.commit("1.0.1")
    clone = year.repo.clone(tmp_path / "more pointers")
    assert checked(clone, against="HEAD~1").exit_code == checked(clone, against="HEAD~2").exit_code == 0


@needs_lfs
def test_the_same_updates_in_other_factors_are_no_error_where_only_pointers_are(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "lfs"))
    year.repo.lfs()
    year.train(SQL)
    year.stamp(SQL, "1.0.0")
    year.repo.commit("1.0.0")
    flipped(year, SQL)
    year.stamp(SQL, "1.0.0")
    year.repo.commit("other factors")
    assert checked(year, against="HEAD~1").exit_code == 0
    found = checked(year.repo.clone(tmp_path / "pointers"), against="HEAD~1")
    assert (codes(found), found.exit_code) == ({}, 3)


def test_a_xet_pointer_does_not_tell_a_sha256(team: Year) -> None:
    team.repo.write(f"{SQL}/adapter_model.safetensors", f"# xet version 0\nfilesize = 9\nhash = '{'6' * 64}'\n")
    found = checked(team)
    assert found.exit_code == 3
    assert "not fetched" in next(u.reason for a in found.adapters for u in a.unchecked)


# --- a commit whose content was not its version's


def flipped(year: Year, path: str) -> None:
    """The same updates from other factors."""
    year.repo.adapter(path, tensors={name: -value for name, value in year.weights(path).items()})


@pytest.mark.parametrize("against", ["HEAD~1", "HEAD~2", None])
def test_a_manifest_that_catches_up_with_the_same_updates_keeps_its_version(team: Year, against: str | None) -> None:
    flipped(team, SQL)
    team.repo.commit("other factors, no manifest")
    assert codes(checked(team, against="HEAD~1")) == {SQL: ["VER003"]}
    team.stamp(SQL, "1.0.0")
    team.repo.commit("the manifest")
    assert codes(checked(team, against=against)) == {}


@pytest.mark.parametrize("against", ["HEAD~1", "HEAD~2", None])
def test_going_back_to_what_the_version_is_of_is_no_change(team: Year, against: str | None) -> None:
    team.train(SQL)
    team.repo.commit("forgot the manifest")
    assert codes(checked(team, against="HEAD~1")) == {SQL: ["VER003", "VER101"]}
    team.repo.git("revert", "--no-edit", "HEAD")
    assert codes(checked(team, against=against)) == {}


def test_a_config_that_names_the_manifests_base_again(team: Year) -> None:
    config = team.repo.folder / SQL / "adapter_config.json"
    before = config.read_text()
    config.write_text(before.replace('"revision": null', f'"revision": "{"b" * 40}"'))
    team.repo.commit("another revision of the base, no manifest")
    assert "VER302" in codes(checked(team, against="HEAD~1"))[SQL]
    config.write_text(before)
    team.repo.commit("back")
    assert codes(checked(team, against="HEAD~1")) == {}


def test_a_cut_off_history_does_not_tell_what_a_version_was_of(team: Year, tmp_path: Path) -> None:
    flipped(team, SQL)
    team.repo.commit("other factors, no manifest")
    team.stamp(SQL, "1.0.0")
    team.repo.commit("the manifest")
    found = checked(team.repo.clone(tmp_path / "shallow", depth=2), against="HEAD~1")
    assert (codes(found), found.exit_code) == ({}, 3)


def test_a_manifest_edited_by_hand_and_restored(team: Year) -> None:
    record = team.record(SQL)
    team.write(SQL, replace(record, tensors={}))
    team.repo.commit("edited")
    assert codes(checked(team, against="HEAD~1"))[SQL][0] == "VER003"
    team.write(SQL, record)
    team.repo.commit("restored")
    assert codes(checked(team, against="HEAD~1")) == {}


@pytest.mark.parametrize(("version", "found"), [("1.0.1", ["VER102"]), ("1.1.0", []), ("0.9.0", ["VER103"])])
def test_the_step_is_counted_from_what_the_version_was_of(team: Year, version: str, found: list[str]) -> None:
    team.train(SQL, rank=8)
    team.repo.commit("another rank, no manifest")
    team.stamp(SQL, version)
    team.repo.commit("the manifest")
    assert codes(checked(team, against="HEAD~1")).get(SQL, []) == found


def test_of_a_shallow_clone_only_new_parents_are_asked(team: Year, tmp_path: Path) -> None:
    team.train(CHAT)
    team.stamp(CHAT, "1.0.1", parents=(Parent("trained_from", "sql", team.record(SQL).content.digest, path=SQL),))
    team.repo.commit("chat from sql")
    team.train(SQL)
    team.stamp(SQL, "1.0.1")
    team.repo.commit("sql goes on")
    team.train(CHAT)
    team.stamp(CHAT, "1.0.2")
    team.repo.commit("chat goes on")
    clone = team.repo.clone(tmp_path / "shallow", depth=2)
    found = checked(clone, against="HEAD~1")
    assert (codes(found), found.exit_code) == ({}, 0)
    assert "was not looked up" in next(a for a in found.adapters if a.path == CHAT).notes[0]
    assert checked(clone).exit_code == 3


# --- hostile repositories


def test_links_are_not_followed_out_of_the_repository(team: Year, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    weights = team.repo.folder / SQL / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(secret)
    found = checked(team)
    assert found.exit_code == 3
    assert "which is not in this repository" in next(u.reason for a in found.adapters for u in a.unchecked)


def test_a_link_inside_the_repository_is_the_file_it_leads_to(team: Year) -> None:
    weights = team.repo.folder / SQL / "adapter_model.safetensors"
    team.repo.write("shared/weights.safetensors", weights.read_bytes())
    weights.unlink()
    weights.symlink_to("../../shared/weights.safetensors")
    team.repo.commit("linked")
    assert checked(team).exit_code == 0
    assert checked(team, at="HEAD", against="HEAD~1").exit_code == 0


@pytest.mark.parametrize("name", ["a\x1b[31mred", "line\nbreak", "--force", "quo'te", "ünï", "a|b`c"])
def test_names_are_never_shown_raw(team: Year, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    team.train(f"odd/{name}")
    team.repo.commit("odd")
    for style in ("text", *WRITERS):
        main(["version", "check", str(team.repo.folder), "--format", style])
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        assert style == "junit" or "line\nbreak" not in said.out  # in XML's text it is a line break and no more


def test_a_manifest_that_is_hostile_is_a_finding(team: Year) -> None:
    team.repo.write(f"{SQL}/adaptool.json", "[" * 100_000)
    team.repo.write(f"{CHAT}/adaptool.json", '{"schema": "adaptool/manifest/9"}')
    assert codes(checked(team)) == {SQL: ["VER002"], CHAT: ["VER002"]}


# --- what it says


@pytest.fixture
def faulty(team: Year) -> Check:
    team.train(SQL)
    team.repo.commit("forgot")
    return checked(team, against="HEAD~1")


def test_json_is_what_its_schema_says(faulty: Check, team: Year) -> None:
    schema = read_schema("version-check")
    for one in (faulty, checked(team), checked(team, "nowhere")):
        jsonschema.validate(json.loads(WRITERS["json"](one)), schema)


def test_text(faulty: Check) -> None:
    lines = plain(check_report(faulty, 100)).splitlines()
    assert lines[0].split() == ["adapter", "version", "change", "asks", "for", "verdict"]
    assert [line.split() for line in lines[1:3]] == [
        [CHAT, "1.0.0", "unchanged", "ok"], [SQL, "1.0.0", "other", "adapter", "patch", "2", "errors"]
    ]  # fmt: skip
    assert lines[-1] == "the working tree against HEAD~1: 2 adapters, 1 unchanged, 2 errors"


def test_text_counts_the_unchanged_where_there_are_many(faulty: Check) -> None:
    unchanged = faulty.adapters[0]
    many = replace(faulty, adapters=(*(replace(unchanged, path=f"a{i}") for i in range(100)), faulty.adapters[1]))
    assert [line.split()[0] for line in plain(check_report(many, 100)).splitlines()[:3] if line] == ["adapter", SQL]
    assert "a99" in plain(check_report(many, 100, verbose=True))


def test_junit(faulty: Check) -> None:
    root = ElementTree.fromstring(WRITERS["junit"](faulty).encode())
    suite = root.find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
    }
    assert [case.get("classname") for case in suite if case.find("failure") is not None] == [SQL]


def test_annotations_stand_at_the_file(faulty: Check) -> None:
    lines = WRITERS["github"](faulty).splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"::error file={SQL}/adapter_model.safetensors", f"::error file={SQL}/adaptool.json"
    ]  # fmt: skip


def test_a_comment_is_one_that_github_takes(team: Year) -> None:
    for i in range(300):
        team.repo.write(f"{'long' * 20}/a{i}/adapter_config.json", {"peft_type": "LORA"})
    text = check_markdown(checked(team))
    assert text.startswith(MARKER)
    assert len(text) <= LIMIT
    assert "more" in text


def test_every_code_says_what_to_do() -> None:
    assert [code for code, one in CODES.items() if not (one.why and (one.fix or one.severity == "info"))] == []


def test_the_command_s_exit_codes(team: Year, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(team.repo.folder)
    assert main(["version", "check", folder]) == 0
    team.train(SQL)
    assert main(["version", "check", folder]) == 1
    assert main(["-q", "version", "check", folder, "--json"]) == 1
    assert main(["version", "check", folder, "--select", "nonsense"]) == 2
    assert main(["version", "check", f"{folder}/none"]) == 3
    capsys.readouterr()


def test_it_starts_without_torch(team: Year) -> None:
    program = (
        "import sys; from adaptool.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers', 'rich')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "version", "check", str(team.repo.folder)], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_page_lists_every_code():
    page = (Path(__file__).parents[1] / "docs" / "check.md").read_text()
    rows = [line.split(" | ")[:3] for line in page.splitlines() if line.startswith("| VER")]
    assert rows == [[f"| {code.code}", code.severity, code.title] for code in CODES.values()]


def test_a_repository_without_adapters_was_not_checked(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    repo = Repo(tmp_path / "repo")
    repo.write("README.md", "nothing here")
    repo.commit("no adapter")
    monkeypatch.chdir(repo.folder)
    found = version_check()
    assert (found.exit_code, [failed.message for failed in found.failures]) == (3, ["no adapter in this repository"])
