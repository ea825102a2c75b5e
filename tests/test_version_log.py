"""An adapter's history: which commits are in it, what each did, how far ΔW went, and what it takes to tell."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from making_git import Repo, isolate, needs_lfs, random_factors
from making_year import Year

from adaptool.adapters.adapter import open_adapter
from adaptool.cli.main import main
from adaptool.comparing.adapters import compare_adapters
from adaptool.errors import NotFetchedError, NotFoundError, UsageError
from adaptool.reports.json import to_json
from adaptool.reports.layout import plain
from adaptool.reports.log_html import log_html
from adaptool.reports.log_text import log_report
from adaptool.reports.schemas import read_schema
from adaptool.versioning.log.drift import drift
from adaptool.versioning.log.log_result import Entry, Log
from adaptool.versioning.verbs import version_log

SQL = "adapters/sql"
FLOAT32 = 1e-5
"""Relative: what rounding the factors to float32 leaves of a distance."""


@pytest.fixture(autouse=True)
def own_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, tmp_path / ".settings")


@pytest.fixture
def team(tmp_path: Path) -> Year:
    """One adapter in three versions, and a readme between them."""
    year = Year(Repo(tmp_path / "team"))
    for version in ("1.0.0", "1.0.1", "1.1.0"):
        year.train(SQL)
        year.stamp(SQL, version)
        year.repo.commit(version)
        year.repo.write("README.md", version)
        year.repo.commit("a readme")
    return year


def history(year: Year | Repo, path: str = SQL, **how: object) -> Log:
    return version_log((year.repo if isinstance(year, Year) else year).folder / path, **how)  # type: ignore[arg-type]


def told(found: Log, *names: str) -> list[tuple[object, ...]]:
    return [tuple(getattr(entry, name) for name in names) for entry in found.entries]


# --- which commits


def test_the_newest_first_and_only_what_touched_it(team: Year) -> None:
    found = history(team)
    assert told(found, "subject", "version_before", "version_after", "state", "asked", "given") == [
        ("1.1.0", "1.0.1", "1.1.0", "changed", "patch", "minor"),
        ("1.0.1", "1.0.0", "1.0.1", "changed", "patch", "patch"),
        ("1.0.0", None, "1.0.0", "added", None, None),
    ]
    assert (found.name, found.path) == ("sql", SQL)
    assert {(entry.author, entry.email) for entry in found.entries} == {("Ada Tool", "ada@example.com")}


def test_the_only_adapter_needs_no_name(team: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(team.repo.folder)
    assert version_log() == history(team)


def test_of_several_one_must_be_named(team: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    team.train("adapters/chat")
    team.repo.commit()
    monkeypatch.chdir(team.repo.folder)
    with pytest.raises(UsageError, match="several"):
        version_log()
    monkeypatch.chdir(team.repo.folder / SQL)
    assert version_log().path == SQL


def test_limits_and_ranges(team: Year) -> None:
    whole = history(team).entries
    assert history(team, limit=2).entries == whole[:2]
    assert [entry.subject for entry in history(team, revision="HEAD~2..HEAD").entries] == ["1.1.0"]
    assert [entry.subject for entry in history(team, revision="HEAD~2").entries] == ["1.0.1", "1.0.0"]


def test_a_renamed_folder_is_followed(team: Year) -> None:
    team.repo.git("mv", SQL, "adapters/queries")
    team.repo.commit("renamed")
    team.train("adapters/queries")
    team.stamp("adapters/queries", "1.1.1")
    team.repo.commit("1.1.1")
    found = history(team, "adapters/queries")
    assert told(found, "subject", "path", "moved_from", "state")[:3] == [
        ("1.1.1", "adapters/queries", None, "changed"), ("renamed", "adapters/queries", SQL, "moved"),
        ("1.1.0", SQL, None, "changed"),
    ]  # fmt: skip
    assert len(found.entries) == 5


def test_removed_and_added_again(team: Year) -> None:
    team.repo.git("rm", "-r", "--quiet", SQL)
    team.repo.commit("removed")
    assert told(history(team), "subject", "state", "version_after")[0] == ("removed", "removed", None)
    team.repo.git("checkout", "HEAD~1", "--", SQL)
    team.repo.commit("restored")
    found = history(team)
    assert told(found, "subject", "state", "verdict")[:2] == [("restored", "added", "ok"), ("removed", "removed", "ok")]
    assert len(found.entries) == 5


def test_merges_are_one_entry_unless_all_are_asked_for(team: Year) -> None:
    team.repo.branch("feature")
    for version in ("1.1.1", "1.1.2"):
        team.train(SQL)
        team.stamp(SQL, version)
        team.repo.commit(version)
    team.repo.switch("main")
    team.repo.write("README.md", "more")
    team.repo.commit("a readme")
    team.repo.merge("feature")
    assert told(history(team), "subject", "version_before", "version_after")[0] == ("a merge", "1.1.0", "1.1.2")
    assert [entry.subject for entry in history(team, first_parent=False).entries][-5:] == [
        "1.1.2", "1.1.1", "1.1.0", "1.0.1", "1.0.0"
    ]  # fmt: skip


def test_tags_stand_at_their_commits(team: Year) -> None:
    team.repo.tag("sql-v1.0.1", revision="HEAD~3")
    team.repo.tag("unrelated", revision="HEAD~3")
    assert told(history(team), "tags") == [((),), (("sql-v1.0.1",),), ((),)]


def test_no_such_adapter(team: Year) -> None:
    with pytest.raises(NotFoundError, match="no adapter there"):
        history(team, "adapters/none")
    with pytest.raises(NotFetchedError):
        history(team, revision="v9")


# --- what was there


def test_before_the_first_commit(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo")
    repo.adapter(SQL)
    with pytest.raises(NotFoundError, match="no commit yet"):
        history(repo)


def test_commits_without_a_manifest(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "old"))
    year.train(SQL)
    year.repo.commit("before versions")
    year.stamp(SQL, "1.0.0")
    year.repo.commit("init")
    found = history(year)
    assert told(found, "subject", "version_after", "verdict", "drift_previous") == [
        ("init", "1.0.0", "ok", 0.0), ("before versions", None, "ok", None)
    ]  # fmt: skip


def test_a_broken_commit_in_the_middle(team: Year) -> None:
    weights = team.repo.folder / SQL / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    team.repo.commit("cut off")
    weights.write_bytes(whole)
    team.repo.commit("whole again")
    found = history(team)
    assert told(found, "subject", "drift", "verdict")[:3] == [
        ("whole again", "measured", "ok"), ("cut off", "unreadable", "findings"), ("1.1.0", "measured", "ok")
    ]  # fmt: skip
    assert found.exit_code == 0
    assert "/tmp" not in " ".join(f.message for entry in found.entries for f in entry.findings)


def test_a_config_that_is_no_config(team: Year) -> None:
    team.repo.write(f"{SQL}/adapter_config.json", "{")
    team.repo.commit("broken")
    assert told(history(team), "drift", "verdict")[0] == ("unreadable", "findings")


@needs_lfs
def test_what_is_not_fetched_is_said_to_be(tmp_path: Path) -> None:
    year = Year(Repo(tmp_path / "lfs"))
    year.repo.lfs()
    for version in ("1.0.0", "1.0.1"):
        year.train(SQL)
        year.stamp(SQL, version)
        year.repo.commit(version)
    assert told(history(year), "drift") == [("measured",), ("measured",)]
    clone = year.repo.clone(tmp_path / "pointers")
    found = history(clone)
    assert told(found, "subject", "drift", "asked", "verdict") == [
        ("1.0.1", "not fetched", "patch", "ok"), ("1.0.0", "not fetched", None, "ok")
    ]  # fmt: skip
    assert found.exit_code == 3
    clone.lfs_pull()
    assert (told(history(clone), "drift"), history(clone).exit_code) == ([("measured",), ("not fetched",)], 0)


def test_a_shallow_clone_says_so(team: Year, tmp_path: Path) -> None:
    clone = team.repo.clone(tmp_path / "shallow", depth=3)
    found = history(clone)
    assert [entry.version_after for entry in found.entries] == ["1.1.0", "1.0.1"]
    assert "shallow" in found.notes[0]


def test_a_bare_clone_tells_the_same(team: Year, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = team.repo.clone(tmp_path / "bare.git", bare=True)
    monkeypatch.chdir(clone.folder)
    assert version_log(SQL).entries == history(team).entries


# --- how far it went


def test_drift_is_what_diff_measures(team: Year, tmp_path: Path) -> None:
    found = history(team)
    folders = [tmp_path / f"v{i}" for i in range(3)]
    for folder, entry in zip(folders, found.entries[::-1], strict=True):
        folder.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            blob = team.repo.git("rev-parse", f"{entry.commit}:{SQL}/{name}")
            data = _blob(team.repo, blob)
            (folder / name).write_bytes(data)
    first, middle, last = map(open_adapter, folders)
    newest, second, oldest = found.entries
    assert newest.drift_previous == pytest.approx(compare_adapters(middle, last).relative, rel=FLOAT32)
    assert newest.drift_first == pytest.approx(compare_adapters(first, last).relative, rel=FLOAT32)
    assert second.drift_first == pytest.approx(second.drift_previous, rel=FLOAT32)
    assert (oldest.drift_previous, oldest.drift_first) == (None, 0.0)


def _blob(repo: Repo, oid: str) -> bytes:
    import subprocess

    return subprocess.run(["git", "cat-file", "blob", oid], cwd=repo.folder, check=True, capture_output=True).stdout


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.0), (2.0, 1.0), (0.5, 0.5), (-1.0, 2.0), (0.0, 1.0)])
def test_drift_of_a_multiple(tmp_path: Path, factor: float, expected: float) -> None:
    repo = Repo(tmp_path / "multiples")
    factors = random_factors(1)
    one = repo.adapter("one", tensors=factors)
    two = repo.adapter("two", tensors={n: v * factor if "lora_B" in n else v for n, v in factors.items()})
    found = drift(open_adapter(one), open_adapter(two))
    assert found is not None
    assert found.relative == pytest.approx(expected, rel=FLOAT32)


def test_drift_counts_modules_of_one_side_whole(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "modules")
    factors = random_factors(1)
    one = open_adapter(repo.adapter("one", tensors=factors))
    half = {name: value for name, value in factors.items() if "q_proj" in name}
    two = open_adapter(repo.adapter("two", tensors=half, modules=("q_proj",)))
    there, back = drift(one, two), drift(two, one)
    assert there is not None
    assert back is not None
    assert there.distance == pytest.approx(np.sqrt(there.norm_before**2 - there.norm_after**2), rel=FLOAT32)
    assert back.distance == pytest.approx(there.distance, rel=FLOAT32)


def test_an_adapter_of_another_type_has_no_drift(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "ia3")
    tensors = {"base_model.model.model.layers.0.self_attn.k_proj.ia3_l": np.ones((32, 1), np.float32)}
    repo.adapter("one", tensors=tensors, peft_type="IA3", feedforward_modules=[])
    repo.commit()
    assert told(history(repo, "one"), "drift", "drift_first") == [("no updates", None)]


def test_without_drift_nothing_is_measured(team: Year) -> None:
    assert told(history(team, drift=False), "drift", "drift_first")[0] == ("not asked", None)


def test_the_first_is_the_first_of_all_also_with_a_limit(team: Year) -> None:
    assert told(history(team, limit=1), "drift_first") == told(history(team), "drift_first")[:1]


# --- what it says


def test_json_is_what_its_schema_says(team: Year) -> None:
    jsonschema.validate(to_json("version-log", history(team)), read_schema("version-log"))


def test_text(team: Year) -> None:
    lines = plain(log_report(history(team), 120)).splitlines()
    assert lines[0] == "sql  adapters/sql, 3 commits of HEAD"
    assert [line.split()[0] for line in lines[3:6]] == ["1.1.0", "1.0.1", "1.0.0"]
    assert lines[-1].split()[0:2] == ["from", "first"]
    narrow = plain(log_report(history(team), 80)).splitlines()
    assert max(map(len, narrow)) <= 80
    assert all(entry.commit[:8] in line for entry, line in zip(history(team).entries, narrow[3:6], strict=True))


def test_a_page(team: Year, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "history.html"
    assert main(["version", "log", str(team.repo.folder / SQL), "--html", str(out)]) == 0
    assert main(["version", "log", str(team.repo.folder / SQL), "--html", str(out)]) == 2
    assert main(["version", "log", str(team.repo.folder / SQL), "--html", str(out), "--overwrite", "--json"]) == 0
    text = out.read_text()
    assert "<svg" in text
    assert all(entry.commit[:10] in text for entry in history(team).entries)
    capsys.readouterr()


HOSTILE = "<script>alert(1)</script> \x1b[31m\u202e"


def test_subjects_and_authors_are_never_shown_raw(team: Year, capsys: pytest.CaptureFixture[str]) -> None:
    team.train(SQL)
    team.repo.git("-c", f"user.name={HOSTILE}", "commit", "--all", "--quiet", "-m", HOSTILE, date=team.repo.next_date())
    page = log_html(history(team))
    assert "<script>alert" not in page
    main(["-v", "version", "log", str(team.repo.folder / SQL)])
    said = capsys.readouterr().out
    assert not any(bad in said + page for bad in ("\x1b", "\u202e"))
    assert json.loads(json.dumps(to_json("version-log", history(team))))["entries"][0]["subject"].startswith("<script>")


def test_an_entry_is_a_value() -> None:
    assert Entry.__dataclass_params__.frozen  # type: ignore[attr-defined]
