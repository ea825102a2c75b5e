"""A year of history, good commits and bad ones: the right verdict at each, from the gate and from the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from making_git import isolate
from making_year import CHAT, MERGED, ROUTER, SQL, Step, Year, a_year

from adaptool.cli.main import main
from adaptool.git.repository import repository_of
from adaptool.versioning.gate.check import Options, check
from adaptool.versioning.gate.check_result import Check
from adaptool.versioning.log.log import log

ADAPTERS = (SQL, CHAT, ROUTER, MERGED)


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Year]:
    folder = tmp_path_factory.mktemp("year")
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, folder / ".settings")
        yield a_year(folder / "repository")


@pytest.fixture(autouse=True)
def own_git(year: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, year.repo.settings)


def errors(found: Check) -> dict[str, set[str]]:
    return {a.path: codes for a in found.adapters if (codes := {f.code for f in a.findings if f.severity == "error"})}


def told(found: Check, step: Step) -> tuple[object, ...]:
    """What a check says, as far as the year expects something of it."""
    milder = {a.path: {f.code for f in a.findings if f.severity != "error"} for a in found.adapters}
    words = {a.path: a.change for a in found.adapters}
    return (step.subject, errors(found), {path: milder[path] for path in step.others},
            {path: words[path] for path in step.words}, found.exit_code)  # fmt: skip


def expected(step: Step) -> tuple[object, ...]:
    return step.subject, dict(step.errors), dict(step.others), dict(step.words), step.exit_code


def test_every_commit_against_the_one_before(year: Year) -> None:
    repository = repository_of(year.repo.folder)
    found = [
        told(check(repository, Options(at=s.commit, against=f"{s.commit}~1", workers=1)), s) for s in year.steps[1:]
    ]
    assert list(map(expected, year.steps[1:])) == found


def test_a_bare_clone_gives_the_same_verdicts(year: Year, tmp_path: Path) -> None:
    clone = year.repo.clone(tmp_path / "bare.git", bare=True)
    repository = repository_of(clone.folder)
    chosen = [step for step in year.steps[1:] if "LFS" not in step.subject and "pointer" not in step.subject][::3]
    found = [told(check(repository, Options(at=s.commit, against=f"{s.commit}~1", workers=1)), s) for s in chosen]
    assert list(map(expected, chosen)) == found


def test_a_checkout_gives_the_same_verdicts(year: Year, tmp_path: Path) -> None:
    tree = year.repo.worktree(tmp_path / "tree")
    chosen = year.steps[1::5]
    found = []
    for step in chosen:
        tree.switch(step.commit)
        found.append(told(check(repository_of(tree.folder), Options(against="HEAD~1", workers=1)), step))
    assert list(map(expected, chosen)) == found


def test_without_anything_to_compare_with_the_present_is_judged(year: Year) -> None:
    """Every bad commit is bad by itself, too, where its history is there; no good one is, before the tag moved."""
    repository = repository_of(year.repo.folder)
    moved = next(i for i, step in enumerate(year.steps) if "tag moved" in step.subject)
    differing = {"router: the base again"}  # the manifest before named another base, and only that is looked at here
    chosen = [step for step in year.steps[:moved] if step.subject not in differing]
    found = {step.subject: set(errors(check(repository, Options(at=step.commit, workers=1)))) for step in chosen}
    assert {step.subject: set(step.errors) for step in chosen} == found


@pytest.mark.parametrize("path", ADAPTERS)
def test_the_log_tells_the_same_of_every_commit(year: Year, path: str) -> None:
    entries = {entry.commit: entry for entry in log(repository_of(year.repo.folder), path).entries}
    found = {
        step.subject: {f.code for f in entries[step.commit].findings if f.severity == "error"}
        for step in year.steps if step.commit in entries
    }  # fmt: skip
    assert {step.subject: step.errors.get(path, set()) for step in year.steps if step.subject in found} == found
    assert {step.subject for step in year.steps if step.errors.get(path)} <= found.keys()


def test_the_log_of_the_command_has_the_codes(year: Year, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "log", str(year.repo.folder / SQL), "--json", "--no-drift"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    codes = {e["commit"]: {f["code"] for f in e["findings"] if f["severity"] == "error"} for e in entries}
    assert {s.commit: s.errors.get(SQL, set()) for s in year.steps if s.commit in codes} == {
        s.commit: codes[s.commit] for s in year.steps if s.commit in codes
    }


def test_equal_updates_do_not_drift(year: Year) -> None:
    entries = {e.subject: e for e in log(repository_of(year.repo.folder), CHAT).entries}
    still = ("chat: saved by another PEFT", "chat: rotated", "chat: re-scaled", "chat: metrics")
    assert [entries[subject].drift_previous for subject in still] == [0.0] * 4
    assert [entries[subject].change for subject in still] == ["re-saved", "re-factorised", "re-scaled", "record only"]
