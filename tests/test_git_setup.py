"""git diff, git log -p, git show and git difftool with the driver, through real git; and what the setup writes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from making import write_tensors
from making_git import Repo, isolate, needs_lfs, random_factors, save_adapter

from adaptool.cli.main import main
from adaptool.errors import UsageError
from adaptool.git.attributes import HEADING, PATTERNS, with_driver, without_driver
from adaptool.git.measured import measure
from adaptool.git.setup import carry_out, overridden, plan_setup
from adaptool.git.textconv import textconv
from adaptool.reports.schemas import read_schema
from adaptool.tensors.safetensors import open_safetensors
from adaptool.versions import content_digest, tensor_digest

SQL = "adapters/sql"
WEIGHTS = "adapter_model.safetensors"
LFS_LINE = "*.safetensors filter=lfs diff=lfs merge=lfs -text"
PLAIN = "".join(f"{pattern} diff=adaptool\n" for pattern in PATTERNS)
FOUR_DIGITS = 1e-3


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path / ".settings")


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    """``adaptool`` on the PATH of git."""
    program = tmp_path / "bin" / "adaptool"
    program.parent.mkdir()
    python = shlex.quote(sys.executable)
    program.write_text(f"#!/bin/sh\nexec {python} -c 'from adaptool.cli.main import run; run()' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """An adapter, and a commit after which one of its four modules is twice as strong."""
    made = Repo(tmp_path / "repo")
    _two_versions(made)
    monkeypatch.chdir(made.folder)
    return made


def _two_versions(made):
    made.adapter(SQL)
    made.commit("first")
    made.tag("v1.0.0")
    factors = random_factors(0)
    first = next(iter(factors))
    made.adapter(SQL, tensors={**factors, first: factors[first] * 2})
    made.commit("stronger")


def changed_lines(text):
    return [line for line in text.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def set_up(repo, **how):
    repo.environment["PATH"] = os.environ["PATH"]
    plan = plan_setup(repo.folder, **how)
    carry_out(plan, repo.folder)
    return plan


# --- the text


def test_a_line_a_module(tmp_path):
    save_adapter(tmp_path)
    lines = list(textconv(tmp_path / WEIGHTS))
    store = open_safetensors(tmp_path / WEIGHTS)
    assert lines[0] == "weights: safetensors, 8 tensors (8 F32), 4096 bytes"
    assert lines[2] == f"digest: {content_digest(store)}"
    assert [line for line in lines if line.startswith("[")] == ["[model.layers.0]", "[model.layers.1]"]
    a, b = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight" for half in "AB")
    product = np.linalg.norm(store.array(b).astype(np.float64) @ store.array(a))
    line = next(line for line in lines if line.startswith("self_attn.q_proj"))
    assert f"rank 4  32x32  F32  |BA| {product:.4g}  |A| " in line
    assert line.endswith(f"  {tensor_digest(store, a)[:10]} {tensor_digest(store, b)[:10]}")


def test_the_same_weights_make_the_same_text(tmp_path):
    factors = random_factors(3, layers=12)
    save_adapter(tmp_path / "a", tensors=factors)
    save_adapter(tmp_path / "b", tensors=dict(reversed(factors.items())))
    lines = list(textconv(tmp_path / "a" / WEIGHTS))
    assert lines == list(textconv(tmp_path / "b" / WEIGHTS))
    headings = [line for line in lines if line.startswith("[")]
    assert headings == [f"[model.layers.{i}]" for i in range(12)]


def test_a_refactorised_update_keeps_its_norm(tmp_path):
    factors = random_factors(3)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0].astype(np.float32)
    other = {name: turned.T @ array if "lora_A" in name else array @ turned for name, array in factors.items()}
    norms = []
    for name, tensors in (("a", factors), ("b", other)):
        save_adapter(tmp_path / name, tensors=tensors)
        norms.append([update.norm for update in measure(open_safetensors(tmp_path / name / WEIGHTS)).updates])
    assert norms[0] == pytest.approx(norms[1], rel=FOUR_DIGITS)


@pytest.mark.parametrize(
    ("names", "shapes", "expected"),
    [
        (("m.0.c.lora_A.weight", "m.0.c.lora_B.weight"), ((2, 3, 3, 3), (5, 2, 1, 1)), "c  rank 2  5x27  F32  |BA|"),
        (("m.0.e.lora_embedding_A", "m.0.e.lora_embedding_B"), ((2, 9), (5, 2)), "e  rank 2  5x9  F32  |BA|"),
        (("m.0.q.lora_A.default.weight", "m.0.q.lora_B.default.weight"), ((2, 9), (5, 2)), "q.default  rank 2  5x9"),
        (("blk.0.q.weight.lora_a", "blk.0.q.weight.lora_b"), ((2, 9), (5, 2)), "q.weight  rank 2  5x9"),
        (("m.0.q.lora_A.weight", "m.0.q.lora_B.weight"), ((2, 9), (5, 3)), "q.lora_A.weight  [2, 9]  F32  |W|"),
        (("m.0.experts.lora_A.weight", "m.0.experts.lora_B.weight"), ((8, 9), (5, 8)), "experts.lora_A.weight  [8, 9]"),
        (("m.0.q.lora_A.weight", "m.0.q.lora_B.weight"), ((60_000, 1), (1, 60_000)), "q.lora_A.weight  [60000, 1]"),
        (("m.0.q.lora_A.weight", "norm.weight"), ((2, 9), (5,)), "norm.weight  [5]  F32  |W|"),
    ],
)
def test_every_shape_of_a_pair(tmp_path, names, shapes, expected):
    arrays = [("F32", np.ones(shape, np.float32)) for shape in shapes]
    path = write_tensors(tmp_path / WEIGHTS, dict(zip(names, arrays, strict=True)))
    assert any(line.startswith(expected) for line in textconv(path))


def test_numbers_that_are_none(tmp_path):
    tensors = random_factors(0, layers=1)
    first = next(iter(tensors))
    tensors[first][0, 0] = np.nan
    save_adapter(tmp_path, tensors=tensors)
    assert any("|BA| nan" in line for line in textconv(tmp_path / WEIGHTS))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"PK\3\4 nothing", "cannot be read: "),
        (b"<html>", "cannot be read: "),
        (b"\0" * 5000, "cannot be read: "),
        (b"GGUF" + b"\xff" * 99, "cannot be read: "),
        (b"\x80\x02cos\nsystem\n.", "cannot be read: "),
        (b"# xet version 0\nfilesize = 9\nhash = '" + b"ab" * 32 + b"'\n", "Xet pointer, content not fetched"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 9\n",
            "Git LFS pointer, content not fetched",
        ),
    ],
)
def test_whatever_a_file_holds_git_goes_on(tmp_path, capsys, content, expected):
    path = tmp_path / "git-blob-x" / WEIGHTS
    path.parent.mkdir()
    path.write_bytes(content)
    assert main(["git", "textconv", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(expected)
    assert str(path.parent) not in said
    if "pointer" in expected:
        assert said.splitlines()[2:] == ["size 9"]


def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path):
    assert main(["git", "textconv", str(tmp_path / "nope")]) == 0
    assert capsys.readouterr().out == "cannot be read: no such file\n"


def test_names_stay_on_their_line(tmp_path):
    name = "base_model.model.x\n+forged\x1b[31m.lora_A.weight"
    path = write_tensors(tmp_path / WEIGHTS, {name: ("F32", np.ones((2, 2), np.float32))})
    assert not any(line.startswith("+forged") or "\x1b" in line for line in textconv(path))


def test_pytorch_files_and_the_gguf_of_an_adapter(tmp_path):
    torch = pytest.importorskip("torch")
    factors = random_factors(1)
    torch.save({name: torch.from_numpy(array) for name, array in factors.items()}, tmp_path / "adapter_model.bin")
    save_adapter(tmp_path, tensors=factors)
    pickled = list(textconv(tmp_path / "adapter_model.bin"))
    plain = list(textconv(tmp_path / WEIGHTS))
    assert pickled[0].startswith("weights: PyTorch, 8 tensors")
    assert [line for line in plain if "rank" in line] == [line for line in pickled if "rank" in line]


# --- the attributes


@pytest.mark.parametrize(
    ("before", "lfs", "expected"),
    [
        ("", False, f"{HEADING}\n{PLAIN}"),
        ("*.py text\n", False, f"*.py text\n{HEADING}\n{PLAIN}"),
        ("*.py text", False, f"*.py text\n{HEADING}\n{PLAIN}"),
        ("*.py text\r\n", False, f"*.py text\n{HEADING}\n{PLAIN}".replace("\n", "\r\n")),
        (f"# mine\n{LFS_LINE}\n", False, f"# mine\n{LFS_LINE}\n{HEADING}\n{PLAIN}"),
        (
            f"{LFS_LINE}\n",
            True,
            f"{LFS_LINE}\n{HEADING}\nadapter_model.safetensors diff=adaptool\n"
            "adapter_model.bin filter=lfs diff=adaptool merge=lfs -text\n"
            "*.gguf filter=lfs diff=adaptool merge=lfs -text\n",
        ),
        (
            "adapter_model.safetensors filter=lfs diff=lfs merge=lfs -text lockable\n",
            False,
            "adapter_model.safetensors filter=lfs diff=adaptool merge=lfs -text lockable\n"
            f"{HEADING}\nadapter_model.bin diff=adaptool\n*.gguf diff=adaptool\n",
        ),
        ("*.gguf binary\n", False, f"*.gguf binary diff=adaptool\n{HEADING}\n{PLAIN.partition('*')[0]}"),
        (f"{PLAIN}* -diff\n", False, f"* -diff\n{HEADING}\n{PLAIN}"),
        (f"{HEADING}\n{PLAIN}{LFS_LINE}\n", False, f"{LFS_LINE}\n{HEADING}\n{PLAIN}"),
        (
            "[attr]weights diff=lfs\n",
            True,
            f"[attr]weights diff=lfs\n{HEADING}\n"
            + "".join(f"{pattern} filter=lfs diff=adaptool merge=lfs -text\n" for pattern in PATTERNS),
        ),
    ],
)
def test_attributes(before, lfs, expected):
    after = with_driver(before, lfs=lfs)
    assert expected == after
    assert after == with_driver(after, lfs=lfs)


@pytest.mark.parametrize(
    "before", ["", "*.py text\n", f"# mine\n\n{LFS_LINE}\n", "adapter_model.bin filter=lfs diff=lfs merge=lfs -text\n"]
)
def test_undone_attributes_are_what_they_were(before):
    assert before == without_driver(with_driver(before, lfs=False))


# --- through git


def test_git_diff_tells_the_module_that_changed(repo):
    set_up(repo)
    lines = changed_lines(repo.git("diff", "v1.0.0", "HEAD"))
    assert [line.split()[0] for line in lines] == [
        "-updates:", "-digest:", "+updates:", "+digest:", "-self_attn.q_proj", "+self_attn.q_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("words", ["log -p", "show", "diff HEAD~1"])
def test_every_command_of_git_tells_it(repo, words):
    set_up(repo)
    assert "+self_attn.q_proj  rank 4  32x32  F32  |BA| 0.2827" in repo.git(*words.split())


def test_the_working_tree_and_the_heading_of_a_hunk(repo):
    factors = random_factors(0, layers=9)
    repo.adapter(SQL, tensors=factors)
    repo.commit()
    last = list(factors)[-1]
    repo.adapter(SQL, tensors={**factors, last: factors[last] * 3})
    set_up(repo)
    said = repo.git("diff", "-U0", "--", SQL)
    assert "@@ [model.layers.8]" in said


def test_a_clone_without_the_driver_works_as_before(repo, tmp_path):
    set_up(repo)
    repo.commit("attributes")
    clone = repo.clone(tmp_path / "clone")
    assert f"Binary files a/{SQL}/{WEIGHTS} and b/{SQL}/{WEIGHTS} differ" in clone.git(
        "diff", "v1.0.0", "HEAD", "--", SQL
    )
    assert clone.git("status", "--short") == ""


def test_added_and_removed_and_broken_files(repo):
    set_up(repo)
    (repo.folder / SQL / WEIGHTS).write_bytes(b"broken")
    repo.adapter("adapters/new", seed=5)
    repo.commit("odd")
    said = repo.git("show")
    assert "+cannot be read: " in said
    assert "+weights: safetensors, 8 tensors" in said
    repo.git("rm", "--quiet", "-r", "adapters/new")
    assert "-weights: safetensors, 8 tensors" in repo.git("diff", "HEAD")


def test_patches_carry_the_bytes_and_not_the_text(repo):
    set_up(repo)
    repo.commit("attributes")
    assert "GIT binary patch" in repo.git("format-patch", "--stdout", "--binary", "HEAD~2..HEAD~1")


def test_looking_writes_nothing(repo, installed):
    set_up(repo)
    references = repo.git("for-each-ref")
    assert "self_attn.q_proj" in repo.git("diff", "v1.0.0", "HEAD")
    assert "self_attn.q_proj" in repo.git("log", "-p")
    assert repo.git("for-each-ref") == references


@needs_lfs
@pytest.mark.parametrize("clone", [False, True])
def test_with_lfs(tmp_path, monkeypatch, clone):
    repo = Repo(tmp_path / "kept")
    repo.lfs()
    _two_versions(repo)
    here = repo.clone(tmp_path / "clone") if clone else repo
    monkeypatch.chdir(here.folder)
    plan = set_up(here)
    assert plan.lfs
    said = here.git("diff", "v1.0.0", "HEAD", "--", SQL)
    if not clone:
        assert "+self_attn.q_proj  rank 4  32x32  F32  |BA| 0.2827" in said
        return
    assert "-oid sha256:" in said
    assert "+oid sha256:" in said
    here.lfs_pull()
    here.git("lfs", "fetch", "origin", "v1.0.0")
    assert "+self_attn.q_proj  rank 4  32x32  F32  |BA| 0.2827" in here.git("diff", "v1.0.0", "HEAD", "--", SQL)


@needs_lfs
def test_lfs_from_the_store_without_its_filters(tmp_path, monkeypatch):
    repo = Repo(tmp_path / "kept")
    repo.lfs()
    _two_versions(repo)
    monkeypatch.chdir(repo.folder)
    set_up(repo)
    repo.git("config", "--remove-section", "filter.lfs")
    assert "+self_attn.q_proj  rank 4  32x32  F32  |BA| 0.2827" in repo.git("diff", "v1.0.0", "HEAD", "--", SQL)


@needs_lfs
def test_lfs_where_it_is_asked(tmp_path, monkeypatch):
    repo = Repo(tmp_path / "new")
    monkeypatch.chdir(repo.folder)
    assert not plan_setup(repo.folder).lfs
    set_up(repo, lfs=True)
    repo.adapter(SQL)
    repo.commit()
    assert [f"{SQL}/{WEIGHTS}"] == repo.git("lfs", "ls-files", "--name-only").splitlines()
    assert (repo.folder / ".git" / "hooks" / "pre-push").exists()
    repo.git("lfs", "track", "*.safetensors")
    repo.git("lfs", "track", "adapter_model.bin")
    set_up(repo)
    assert overridden(repo.folder) == ()
    assert repo.git("diff", "--", SQL) == ""


def test_lfs_that_is_not_installed(repo, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not plan_setup(repo.folder).lfs
    with pytest.raises(UsageError, match="git-lfs is not installed"):
        plan_setup(repo.folder, lfs=True)


def test_weights_that_are_committed_plain_are_not_handed_to_lfs_unasked(repo, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    repo.write(".gitattributes", "*.png filter=lfs diff=lfs merge=lfs -text\n")
    assert not plan_setup(repo.folder).lfs
    asked = plan_setup(repo.folder, lfs=True)
    assert asked.notes[0].startswith("1 files of weights are committed without LFS")


def test_another_file_of_attributes_has_the_last_word(repo):
    repo.write("adapters/.gitattributes", "*.safetensors -diff\n")
    set_up(repo)
    assert (f"{SQL}/{WEIGHTS}",) == overridden(repo.folder)


def test_difftool(repo):
    set_up(repo)
    said = repo.git("difftool", "-y", "-t", "adaptool", "v1.0.0", "HEAD")
    assert f"{SQL}/{WEIGHTS} before → after" in said
    assert "re-scaled" in said
    repo.write(f"{SQL}/adapter_config.json", "{}")
    repo.adapter("adapters/new", seed=4)
    repo.git("add", "--all")
    said = repo.git("difftool", "-y", "-t", "adaptool", "HEAD", "--", f"{SQL}/adapter_config.json", "adapters/new")
    assert "+{}" in said
    assert "added\nweights: safetensors" in said


@pytest.mark.parametrize("name", ["wïth space", "-quo'te"])
def test_odd_names_through_git(repo, name):
    set_up(repo)
    repo.adapter(f"adapters/{name}", seed=1)
    repo.commit()
    repo.adapter(f"adapters/{name}", seed=2)
    assert "+updates: 4 modules" in repo.git("diff", "HEAD", "--", f"adapters/{name}")
    assert "before → after" in repo.git("difftool", "-y", "-t", "adaptool", "HEAD", "--", f"adapters/{name}")


# --- the command


def run(capsys, *arguments):
    code = main(["git", "setup", *arguments])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out, said.err


def test_setup_twice_and_undone(repo, capsys):
    said, hint = run(capsys, "--dry-run")
    assert "+ adapter_model.safetensors diff=adaptool" in said
    assert not (repo.folder / ".gitattributes").exists()
    said, hint = run(capsys)
    assert "+ diff.adaptool.textconv = adaptool git textconv" in said
    assert "commit .gitattributes" in hint
    assert run(capsys)[0] == "everything is set up already\n"
    assert repo.git("config", "diff.adaptool.textconv") == "adaptool git textconv"
    assert repo.git("config", "diff.adaptool.cachetextconv") == "false"
    run(capsys, "--undo")
    assert not (repo.folder / ".gitattributes").exists()
    assert repo.git("config", "--get-regexp", "adaptool", okay=(1,)) == ""
    assert repo.git("status", "--short") == ""


def test_setup_from_below_the_root(repo, capsys, monkeypatch):
    monkeypatch.chdir(repo.folder / SQL)
    run(capsys)
    assert (repo.folder / ".gitattributes").read_text() == f"{HEADING}\n{PLAIN}"


def test_setup_as_json(repo, capsys):
    for arguments in (["--dry-run"], [], ["--undo"]):
        value = json.loads(run(capsys, "--json", *arguments)[0])
        Draft202012Validator(read_schema("git-setup")).validate(value)
        assert ("--dry-run" not in arguments, True) == (value["written"], value["changed"])


def test_setup_for_all_repositories(repo, capsys, tmp_path):
    run(capsys, "--global")
    assert (tmp_path / ".settings" / "xdg" / "git" / "attributes").read_text() == f"{HEADING}\n{PLAIN}"
    assert repo.git("status", "--short") == ""
    repo.environment["PATH"] = os.environ["PATH"]
    assert "+self_attn.q_proj" in repo.git("show")
    run(capsys, "--global", "--undo")
    assert "Binary files" in repo.git("show")


def test_setup_where_it_cannot_be(repo, capsys, tmp_path, monkeypatch):
    bare = repo.clone(tmp_path / "bare.git", bare=True)
    monkeypatch.chdir(bare.folder)
    assert main(["git", "setup"]) == 2
    assert "has no working tree" in capsys.readouterr().err
    (repo.folder / ".gitattributes").symlink_to("/etc/hostname")
    monkeypatch.chdir(repo.folder)
    assert main(["git", "setup"]) == 2
    monkeypatch.chdir("/")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    assert main(["git", "setup"]) == 3
    assert "hint: run it inside a clone" in capsys.readouterr().err


def test_setup_keeps_the_users_lines_and_bytes(repo):
    path = repo.folder / ".gitattributes"
    path.write_bytes(b"# caf\xe9\n*.txt text=auto\n\n\n*.png binary\n")
    set_up(repo)
    assert path.read_bytes() == b"# caf\xe9\n*.txt text=auto\n\n\n*.png binary\n" + f"{HEADING}\n{PLAIN}".encode()
    set_up(repo, undo=True)
    assert path.read_bytes() == b"# caf\xe9\n*.txt text=auto\n\n\n*.png binary\n"


def test_adaptool_that_is_not_on_the_path_is_named_by_its_path(monkeypatch, tmp_path):
    from adaptool.git.setup import command

    monkeypatch.setattr(shutil, "which", lambda name: None)
    folder = tmp_path / "my tools"
    folder.mkdir()
    (folder / "adaptool").touch()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    assert shlex.quote(str(folder / "adaptool")) == command()
    (folder / "adaptool").unlink()
    assert command() == "adaptool"


def test_help(capsys):
    for arguments in (["git", "--help"], ["git", "setup", "--help"], ["git", "textconv", "--help"]):
        assert main(arguments) == 0
        assert "Example:" in capsys.readouterr().out
    assert main(["git", "setpu"]) == 2
    assert "did you mean: adaptool git setup" in capsys.readouterr().err
    assert Path.cwd().exists()
