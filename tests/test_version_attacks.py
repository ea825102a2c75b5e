"""What was found by attacking ``diff``, ``version`` and ``git``: one test for each hole that was closed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import numbers
from making_git import Repo, isolate, save_adapter

from adaptool.cli.main import main
from adaptool.errors import DiskError, GitError
from adaptool.versioning.gate.check_result import Check
from adaptool.versioning.verbs import version_check

WEIGHTS = "adapter_model.safetensors"
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
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
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


# --- what Git holds


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Repo:
    """Two adapters with versions on main, nl changed on the branch that is checked out; its root is the folder."""
    made = Repo(tmp_path / "repo")
    monkeypatch.chdir(made.folder)
    made.adapter("a/sql", seed=1)
    made.adapter("a/nl", seed=2)
    assert main(["version", "init", "a", "--base-revision", "0" * 40]) == 0
    made.commit()
    made.branch("work")
    made.adapter("a/nl", seed=3)
    assert main(["version", "bump", "a"]) == 0
    made.commit()
    capsys.readouterr()
    return made


def codes(check: Check, path: str) -> set[str]:
    return {found.code for one in check.adapters if one.path == path for found in one.findings}


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
@pytest.mark.parametrize("against", [None, "main"])
def test_git_told_not_to_look_does_not_hide_a_change(repo: Repo, bit: str, against: str | None) -> None:
    repo.git("update-index", bit, f"a/sql/{WEIGHTS}")
    repo.adapter("a/sql", seed=9)
    assert codes(version_check(against=against), "a/sql") == {"VER003", "VER101"}


def test_files_that_are_not_checked_out_are_unchanged(repo: Repo) -> None:
    repo.git("sparse-checkout", "set", "--no-cone", "a/nl")
    assert not (repo.folder / "a" / "sql").exists()
    assert [one.verdict for one in version_check(against="main").adapters] == ["ok", "ok"]


def test_a_tag_of_a_tag_is_one_that_can_move_too(repo: Repo) -> None:
    repo.tag("inner", "inner")
    repo.tag("sql-v7.0.0", "outer", "inner")
    assert codes(version_check(), "a/sql") == {"VER201"}


@pytest.mark.parametrize("name", ["adaptool.json", "adapter_config.json", WEIGHTS])
@pytest.mark.parametrize("at", [None, "HEAD"])
def test_a_link_to_no_possible_name_is_a_finding_of_its_adapter(repo: Repo, name: str, at: str | None) -> None:
    (repo.folder / "a" / "sql" / name).unlink()
    (repo.folder / "a" / "sql" / name).symlink_to("x" * 2000)
    repo.commit()
    checked = version_check(at=at)
    assert {one.path: one.verdict == "ok" for one in checked.adapters} == {"a/nl": True, "a/sql": False}


def test_a_manifest_too_large_is_a_finding_of_its_adapter(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptool.versioning.kept.sides.LARGEST_MANIFEST", 4096)
    manifest = repo.folder / "a" / "sql" / "adaptool.json"
    manifest.write_text(manifest.read_text(encoding="utf-8") + " " * 5000, encoding="utf-8")
    repo.commit()
    for at in (None, "HEAD"):
        checked = version_check(at=at)
        assert (codes(checked, "a/sql"), codes(checked, "a/nl")) == ({"VER002"}, set())


@pytest.mark.parametrize("config", ["[core\n", "[core]\nrepositoryformatversion = 9\n"])
def test_a_repository_that_git_cannot_read_is_not_called_none(
    repo: Repo, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (repo.folder / ".git" / "config").write_text(config, encoding="utf-8")
    for command in (["version", "check"], ["version", "bump", "a"], ["diff", "HEAD~1:a/sql", "a/sql"]):
        assert main(command) == 3
        assert "error: git rev-parse: " in capsys.readouterr().err


def test_without_git_that_is_said(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repo.folder))
    with pytest.raises(GitError, match="git is not installed"):
        version_check()


@pytest.mark.parametrize("levels", [150, 800, 950])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
@pytest.mark.parametrize("name", ["adaptool.json", "adapter_config.json"])
def test_nesting_is_bounded_wherever_it_is_read(
    repo: Repo, name: str, brackets: str, levels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "[" * levels + "]" * levels if brackets == "[]" else '{"a":' * levels + "1" + "}" * levels
    path = repo.folder / "a" / "sql" / name
    path.write_text(f'{path.read_text(encoding="utf-8").rstrip()[:-1]}, "recipe": {deep}}}', encoding="utf-8")
    for command in (["version", "show", "--json", "a/sql"], ["version", "check"], ["validate", "a/sql"],
                    ["diff", "--json", "main:a/sql", "a/sql"]):  # fmt: skip
        main(command)
        told = capsys.readouterr()
        assert "RecursionError" not in told.out + told.err
    assert version_check().adapters[1].verdict == "findings"


# --- what is written


@pytest.mark.parametrize("command", [["version", "sbom", "a/nl", "--out"], ["version", "log", "a/nl", "--html"],
                                     ["diff", "a/nl", "a/sql", "--html"]])  # fmt: skip
@pytest.mark.parametrize("target", ["pipe", "a/nl/adapter_model.safetensors", "a/nl/adaptool.json"])
def test_a_report_replaces_no_device_and_no_adapter(repo: Repo, command: list[str], target: str) -> None:
    os.mkfifo(repo.folder / "pipe")
    before = (repo.folder / "a" / "nl" / WEIGHTS).read_bytes()
    assert main([*command, target, "--overwrite"]) == 2
    assert (repo.folder / "pipe").is_fifo()
    assert before == (repo.folder / "a" / "nl" / WEIGHTS).read_bytes()


def test_what_a_killed_run_left_is_in_no_manifest_and_no_signature(repo: Repo, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    keys = tmp_path / "keys"
    keys.mkdir()
    write_keys(keys)
    left = repo.folder / "a" / "sql" / ".adaptool.json.123.partial"
    left.write_text("{", encoding="utf-8")
    assert codes(version_check(), "a/sql") == set()
    assert main(["version", "sign", "a/sql", "--key", str(keys / "private.pem")]) == 0
    left.unlink()
    assert main(["version", "verify", "a/sql", "--key", str(keys / "public.pem")]) == 0


def write_keys(folder: Path) -> None:
    """A pair of keys as OpenSSL writes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "private.pem").write_bytes(private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)


# --- what a manifest claims


@pytest.mark.parametrize("path", ["../../etc", "/etc", "a/../../x", "a//nl", "a\0nl", "./a/nl", "a/nl/"])
def test_a_parent_at_no_possible_path_is_a_finding_of_its_adapter(
    repo: Repo, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = {"relation": "trained_from", "name": "zebra", "path": path, "digest": "0" * 64}
    change(repo.folder / "a" / "sql" / "adaptool.json", parents=[parent], version="0.2.0")
    assert codes(version_check(), "a/sql") == {"VER401"}
    for command in (["version", "show", "a/sql"], ["version", "sbom", "a/sql"]):
        assert main(command) == 0
    assert "outside repository" not in capsys.readouterr().out


def test_tokens_that_it_is_not_for_are_no_agreement(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    change(repo.folder / "a" / "sql" / "adaptool.json", vocabulary={"rows": {"lm_head": 9}})
    assert main(["version", "verify", "a/sql"]) == 1
    assert codes(version_check(), "a/sql") == {"VER003"}


def test_an_extended_pointer_does_not_tell_what_the_file_is(repo: Repo) -> None:
    weights = repo.folder / "a" / "sql" / WEIGHTS
    data = weights.read_bytes()
    repo.write(
        f"a/sql/{WEIGHTS}",
        "version https://git-lfs.github.com/spec/v1\n"
        f"ext-0-zebra sha256:{'c' * 64}\noid sha256:{hashlib.sha256(data).hexdigest()}\nsize {len(data)}\n",
    )
    assert [one.verdict for one in version_check().adapters] == ["ok", "unchecked"]


def test_a_tag_is_of_the_adapter_of_that_name_that_had_the_version(repo: Repo) -> None:
    assert main(["version", "tag", "a/sql"]) == 0
    shutil.copytree(repo.folder / "a" / "sql", repo.folder / "b" / "sql")
    repo.commit()
    assert (codes(version_check(), "a/sql"), codes(version_check(), "b/sql")) == (set(), set())
    repo.adapter("b/sql", seed=7)
    assert main(["version", "bump", "b/sql"]) == 0
    repo.commit()
    assert codes(version_check(), "b/sql") == set()
    repo.git("tag", "--force", "-a", "-m", f"sql 0.1.0\n\nadaptool-digest: {'0' * 64}", "sql-v0.1.0", "HEAD~2")
    assert codes(version_check(), "a/sql") == {"VER201"}


@pytest.mark.parametrize("name", ["modeling.py", "chat_template.jinja", "additional_chat_templates/x.jinja",
                                  "adapter_model.bin", "other.safetensors"])  # fmt: skip
def test_another_file_of_the_manifest_is_not_called_saved_again(repo: Repo, name: str) -> None:
    repo.write(f"a/sql/{name}", "one")
    assert main(["version", "bump", "a/sql"]) == 0
    repo.commit()
    repo.write(f"a/sql/{name}", "two")
    assert codes(version_check(), "a/sql") == {"VER003"}
    assert main(["version", "verify", "a/sql"]) == 1


# --- where it is printed


@pytest.mark.parametrize(("redirected", "variables"), [("", {"PYTHONIOENCODING": "latin-1"}), (">&-", {}),
                                                       ("2>&-", {}), ("<&- >&- 2>&-", {})])  # fmt: skip
@pytest.mark.parametrize(("words", "expected"), [("diff a/sql a/nl", 1), ("version log a/nl", 0), ("diff a b", 3)])
def test_closed_streams_and_old_code_pages(
    repo: Repo, redirected: str, variables: dict[str, str], words: str, expected: int
) -> None:
    command = f"{shlex.quote(sys.executable)} -m adaptool {words} {redirected}"
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(["sh", "-c", command], cwd=repo.folder, env=environment, capture_output=True, check=False)
    assert (done.returncode, b"internal error" in done.stderr) == (expected, False)


# --- ranks that no training makes


@pytest.mark.parametrize(("factor_a", "factor_b", "expected"), [
    (1, 1, (0, "identical")), (2, 0.5, (0, "re-factorised")), (1.5, 1, (1, "re-scaled")), (np.nan, 1, (1, "changed")),
])  # fmt: skip
def test_a_rank_beyond_the_matrix_costs_what_the_matrix_does(
    tmp_path: Path, factor_a: float, factor_b: float, expected: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rank = 40_000
    factors = {A: numbers("F32", (rank, 4), 1), B: numbers("F32", (6, rank), 2)}
    save_adapter(tmp_path / "x", rank=rank, tensors=factors)
    factors = {A: factors[A] * np.float32(factor_a), B: factors[B] * np.float32(factor_b)}
    save_adapter(tmp_path / "y", rank=rank, tensors=factors)
    code = main(["diff", "x", "y"])
    assert expected == (code, capsys.readouterr().out.splitlines()[0].rpartition("  ")[2])


def test_a_folder_that_cannot_be_entered_was_not_removed(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    place, real = repo.folder / "a" / "sql", Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.parent == place:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    shutil.rmtree(place)
    assert codes(version_check(), "a/sql") == {"VER501"}
    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(DiskError, match="cannot be looked at"):
        version_check()


def test_the_folder_one_stands_in_is_gone(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    (repo.folder / "gone").mkdir()
    os.chdir(repo.folder / "gone")
    (repo.folder / "gone").rmdir()
    assert main(["version", "check"]) == 3
    assert capsys.readouterr().err == "error: the current folder: No such file or directory\n"


def test_the_repository_to_trust_is_named(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(GitError) as caught:
        version_check([repo.folder / "a" / "sql"])
    assert caught.value.hint == f"git config --global --add safe.directory {repo.folder}"
