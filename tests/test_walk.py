"""docs/github.md, walked: its commands in order, and its workflow's steps as the runner would run them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from adapter_pairs import PAIRS
from making_git import Repo, isolate

PAGE = (Path(__file__).parents[1] / "docs" / "github.md").read_text()
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
WORKFLOW = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
STEPS = {step["name"]: step for step in WORKFLOW["jobs"]["check"]["steps"] if "run" in step}

UNTRAINED, TRAINED = PAIRS["trained 20 steps on"].before, PAIRS["trained 20 steps on"].after


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A clone of an empty bare repository, with an adapter in adapters/sql that is committed, and adaptool on PATH."""
    isolate(monkeypatch, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "adaptool").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m adaptool "$@"\n')
    (tools / "adaptool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    repo = Repo(tmp_path / "work")
    UNTRAINED(repo.folder / "adapters" / "sql")
    repo.commit("a first adapter")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", tmp_path / "origin.git"], check=True)
    repo.git("branch", "-M", "main")
    repo.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    repo.git("push", "--quiet", "--set-upstream", "origin", "main")
    return repo


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip


def walk(repo: Repo) -> dict[str, str]:
    """Every command of the page in order, the save over the adapter where the page says so; what each printed."""
    said = {}
    for command in COMMANDS:
        if command == "git add .github":
            workflow = repo.folder / ".github" / "workflows" / "adapters.yml"
            workflow.parent.mkdir(parents=True)
            workflow.write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
        if command.startswith("git diff"):
            shutil.copyfile(
                TRAINED(repo.folder.parent / "trained") / "adapter_model.safetensors",
                repo.folder / "adapters" / "sql" / "adapter_model.safetensors",
            )
        done = shell(command, repo.folder)
        assert done.returncode == command.startswith("adaptool diff"), f"{command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    return said


def test_the_page_can_be_walked(clone):
    said = walk(clone)
    assert clone.git("tag").split() == ["v1.0.0"]
    assert "continued training" in said["adaptool diff HEAD:adapters/sql adapters/sql"]
    assert "1.0.1" in said["adaptool version bump adapters/sql"]
    assert clone.git("status", "--porcelain") == ""
    check = said["adaptool version check --against origin/main"]
    assert "1.0.0 → 1.0.1" in check
    assert "VER" not in check


def test_the_workflow_passes_a_bumped_change_and_fails_a_forgotten_bump(clone, tmp_path):
    walk(clone)
    summary = tmp_path / "summary.md"
    runner = {"GITHUB_BASE_REF": "main", "GITHUB_STEP_SUMMARY": str(summary)}
    assert shell(STEPS["Check"]["run"], clone.folder, **runner).returncode == 0
    clone.git("push", "--quiet", "origin", "main")
    weights = clone.folder / "adapters" / "sql" / "adapter_model.safetensors"
    shutil.copyfile(PAIRS["another seed and other data"].after(tmp_path / "other") / weights.name, weights)
    clone.commit("retrained, and nothing said")
    assert shell(STEPS["Summary"]["run"], clone.folder, **runner).returncode == 0
    bad = shell(STEPS["Check"]["run"], clone.folder, **runner)
    assert bad.returncode == 1
    assert "::error" in bad.stdout
    assert "VER101" in bad.stdout
    assert "adapters/sql" in summary.read_text()


def test_a_clone_without_the_setup_works(clone, tmp_path):
    walk(clone)
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", str(tmp_path / "origin.git"), other], check=True)
    shown = shell("git log -p --stat", other, PATH="/usr/bin:/bin")
    assert shown.returncode == 0, shown.stderr
    assert "Binary files" in shown.stdout


def test_a_clone_with_the_setup_shows_the_story(clone):
    walk(clone)
    shown = shell("git log -p -1 -- adapters/sql", clone.folder)
    assert shown.returncode == 0, shown.stderr
    assert "Binary files" not in shown.stdout
    assert "q_proj" in shown.stdout
