"""Publishing: a folder appears whole or not at all, and nothing adaptool did not make is ever lost."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from making import llama, lora, merged, refusal_of, tree, write_json

from adaptool.api import merge
from adaptool.errors import AdaptoolError, DiskError, MismatchError, ParityError, UsageError
from adaptool.merging.options import MergeOptions
from adaptool.writing import publish


@pytest.fixture
def base(tmp_path):
    return llama(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path):
    return lora(tmp_path / "adapter")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def leftovers(folder: Path) -> set[str]:
    """What is beside OUT that a finished run should have taken away."""
    return {path.name for path in folder.iterdir()} - {"base", "adapter", "out"}


def failing(code: int):
    def fail(*_: object, **__: object):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_new_folder(base, adapter, out, tmp_path):
    report = merged(base, adapter, out)
    assert leftovers(tmp_path) == set()
    assert set(tree(out)) == {*report.files, "adaptool.json"}
    assert not any(name.startswith(".") for name in tree(out))


def test_parents_are_made(base, adapter, tmp_path):
    merged(base, adapter, tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a" / "b" / "out" / "model.safetensors").is_file()


def test_an_empty_folder_is_filled(base, adapter, out):
    out.mkdir()
    merged(base, adapter, out)
    assert (out / "adaptool.json").is_file()


def test_an_existing_folder_is_refused(base, adapter, out):
    merged(base, adapter, out)
    before = tree(out)
    with pytest.raises(UsageError, match="already exists") as error:
        merged(base, adapter, out)
    assert "--overwrite" in error.value.hint
    assert error.value.exit_code == 2
    assert before == tree(out)


def test_overwriting_replaces_everything(base, adapter, out, tmp_path):
    merged(llama(tmp_path / "old", shards=3), adapter, out)
    shutil.rmtree(tmp_path / "old")
    merged(base, adapter, out, overwrite=True)
    merged(base, adapter, tmp_path / "fresh")
    assert tree(tmp_path / "fresh") == tree(out)
    shutil.rmtree(tmp_path / "fresh")
    assert leftovers(tmp_path) == set()


def edit_manifest(out: Path, **fields: object) -> None:
    write_json(out / "adaptool.json", json.loads((out / "adaptool.json").read_text()) | fields)


FOREIGN = {
    "a file more": lambda out: (out / "notes.txt").write_text("mine"),
    "a hidden file": lambda out: (out / ".notes").write_text("mine"),
    "a file in a folder": lambda out: ((out / "sub").mkdir(), (out / "sub" / "notes.txt").write_text("mine")),
    "a symlink": lambda out: (out / "link").symlink_to("/etc/passwd"),
    "no manifest": lambda out: (out / "adaptool.json").unlink(),
    "another's manifest": lambda out: write_json(out / "adaptool.json", {"schema": "other/1", "files": []}),
    "a manifest that is a list": lambda out: write_json(out / "adaptool.json", []),
    "a manifest without files": lambda out: edit_manifest(out, files=None),
    "a manifest of numbers": lambda out: edit_manifest(out, files=5),
    "a manifest of names": lambda out: edit_manifest(out, files=["model.safetensors"]),
    "a broken manifest": lambda out: (out / "adaptool.json").write_text("{"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_foreign_files_is_not_overwritten(name, base, adapter, out):
    merged(base, adapter, out)
    FOREIGN[name](out)
    before = tree(out)
    with pytest.raises(AdaptoolError) as error:
        merged(base, adapter, out, overwrite=True)
    assert error.value.exit_code in (2, 3)
    assert before == tree(out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_overwritten(base, adapter, out, overwrite):
    out.write_text("mine")
    with pytest.raises(UsageError):
        merged(base, adapter, out, overwrite=overwrite)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["elsewhere", "empty", "full"])
def test_a_symlink_is_not_written_through(base, adapter, out, tmp_path, target, overwrite):
    """Where OUT is a link it is refused before any work is done, or replaced whole; its target is never touched."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    out.symlink_to(tmp_path / target)
    try:
        merged(base, adapter, out, overwrite=overwrite)
    except UsageError:
        assert out.is_symlink()
    else:
        assert (out / "adaptool.json").is_file()
    assert not (tmp_path / "elsewhere").exists()
    assert tree(tmp_path / "empty") == {}
    assert tree(tmp_path / "full") == {"mine": b"mine"}


CLASHES = {
    "the base": lambda base, adapter: base,
    "the adapter": lambda base, adapter: adapter,
    "in the base": lambda base, adapter: base / "merged",
    "deep in the base": lambda base, adapter: base / "a" / "b",
    "in the adapter": lambda base, adapter: adapter / "merged",
    "around both": lambda base, adapter: base.parent,
    "the base, said otherwise": lambda base, adapter: base / "x" / "..",
    "the base through a link": lambda base, adapter: link(base),
    "in the base through a link": lambda base, adapter: link(base) / "merged",
}


def link(path: Path) -> Path:
    there = path.with_name("link")
    there.symlink_to(path)
    return there


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", CLASHES)
def test_an_output_that_touches_an_input_is_refused(name, base, adapter, overwrite):
    target = CLASHES[name](base, adapter)
    before = tree(base.parent)
    with pytest.raises(UsageError, match="is, contains or lies in the input"):
        merged(base, adapter, target, overwrite=overwrite)
    assert before == tree(base.parent)


@pytest.mark.parametrize("suffix", [".partial", ".displaced"])
@pytest.mark.parametrize("which", ["base", "adapter"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("made", [False, True], ids=["foreign", "made here"])
def test_an_input_where_the_output_is_prepared_is_refused(which, suffix, exists, made, base, adapter, out):
    """``merge --base model.partial --out model`` may not empty model.partial."""
    if exists:
        merged(base, adapter, out)
    given = {"base": base, "adapter": adapter}
    if made:  # an earlier merge, used as a base: adaptool's own, and an input all the same
        merged(base, adapter, base.with_name("earlier"))
        given["base"] = base.with_name("earlier")
    given[which] = given[which].rename(out.with_name(out.name + suffix))
    before = tree(given[which])
    with pytest.raises(UsageError):
        merged(given["base"], given["adapter"], out, overwrite=True)
    assert before == tree(given[which])


@pytest.mark.parametrize("suffix", [".partial", ".displaced"])
@pytest.mark.parametrize("exists", [False, True])
def test_foreign_files_where_the_output_is_prepared_survive(suffix, exists, base, adapter, out):
    """A folder that happens to be called so is somebody's: refusing is fine, deleting is not."""
    if exists:
        merged(base, adapter, out)
    foreign = out.with_name(out.name + suffix)
    (foreign / "sub").mkdir(parents=True)
    (foreign / "thesis.tex").write_text("ten years")
    (foreign / "sub" / "data").write_text("all of it")
    before = tree(foreign)
    try:
        merged(base, adapter, out, overwrite=True)
    except AdaptoolError as error:
        assert suffix in error.message  # noqa: PT017
    found = [path for path in (foreign, out) if path.exists() and before.items() <= tree(path).items()]
    assert found == [foreign]


def test_a_link_where_the_output_is_prepared_is_not_followed(base, adapter, out, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("ten years")
    out.with_name("out.partial").symlink_to(tmp_path / "home")
    refusal_of(lambda: merged(base, adapter, out))
    assert tree(tmp_path / "home") == {"thesis.tex": b"ten years"}


@pytest.mark.parametrize("spelling", ["out", "./out/", "x/../out", "."])
def test_spellings_of_out(base, adapter, tmp_path, monkeypatch, spelling):
    """Whatever way OUT is written: the folder is there, or a worded error is."""
    (tmp_path / "work" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    if spelling == ".":
        (tmp_path / "work" / "x").rmdir()
    try:
        merged(base, adapter, Path(spelling))
    except UsageError:
        assert spelling == "."
        return
    assert (tmp_path / "work" / spelling / "adaptool.json").resolve().is_file()
    assert [path.name for path in tmp_path.rglob("*.partial")] == []


def test_an_output_beside_a_lone_weights_file(base, adapter, tmp_path):
    """A file is an input; the folder it happens to lie in is not."""
    lone = shutil.copy(base / "model.safetensors", tmp_path / "model.safetensors")
    merged(Path(lone), adapter, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_everything_is_flushed_before_it_is_published(base, adapter, out, monkeypatch):
    (base / "1_Pooling").mkdir()
    write_json(base / "1_Pooling" / "config.json", {"pooling": "mean"})
    flushed: set[int] = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.fstat(fd).st_ino), fsync(fd))[1])
    merged(base, adapter, out)
    missing = [
        str(path.relative_to(out.parent)) for path in (out, *out.rglob("*")) if path.stat().st_ino not in flushed
    ]
    assert missing == []
    assert out.parent.stat().st_ino in flushed


def without_exchange(monkeypatch):
    """A system that has no renameat2."""

    class Libc:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(ctypes, "CDLL", Libc)


def test_the_exchange_is_one_step(base, adapter, out, monkeypatch):
    """At no moment is there no OUT: the old folder is renamed by nobody."""
    merged(base, adapter, out)
    moved = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (moved.append(path), rename(path, to))[1])
    if not publish._renameat2_exchange(out, out):
        pytest.skip("this file system cannot exchange two folders")
    merged(base, adapter, out, overwrite=True)
    assert moved == []


def test_two_renames_where_there_is_no_exchange(base, adapter, out, tmp_path, monkeypatch):
    merged(base, lora(tmp_path / "other", rank=2), out)
    without_exchange(monkeypatch)
    merged(base, adapter, out, overwrite=True)
    merged(base, adapter, tmp_path / "fresh")
    assert tree(tmp_path / "fresh") == tree(out)
    assert leftovers(tmp_path) == {"other", "fresh"}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_two_renames_cut_in_half_are_repaired(base, adapter, out, tmp_path, monkeypatch, step):
    merged(base, lora(tmp_path / "other", rank=2), out)
    old = tree(out)
    without_exchange(monkeypatch)
    rename, steps = Path.rename, []

    def cut(path: Path, target: Path) -> Path:
        steps.append(path)
        if len(steps) == step:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        patch.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merged(base, adapter, out, overwrite=True)
    if step < 3:
        with pytest.raises(UsageError, match="already exists"):
            merged(base, adapter, out)
        assert old == tree(out)
    merged(base, adapter, out, overwrite=True)
    merged(base, adapter, tmp_path / "fresh")
    assert tree(tmp_path / "fresh") == tree(out)
    assert leftovers(tmp_path) == {"other", "fresh"}


@pytest.mark.parametrize("step", ["rename", "exchange"])
def test_a_publication_that_fails_keeps_both(base, adapter, out, tmp_path, monkeypatch, step):
    if step == "exchange":
        merged(base, lora(tmp_path / "other", rank=2), out)
        without_exchange(monkeypatch)
    old = tree(out) if out.exists() else None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing(errno.EACCES))
        with pytest.raises(DiskError, match="cannot be published") as error:
            merged(base, adapter, out, overwrite=True)
    assert "out.partial" in error.value.hint
    assert (tmp_path / "out.partial" / "adaptool.json").is_file()
    assert old == (tree(out) if out.exists() else None)


def test_two_runs_at_once(base, adapter, out):
    first = iter(merge([(adapter, 1.0)], base, out, options=MergeOptions(workers=1)))
    for _ in range(3):
        next(first)
    with pytest.raises(DiskError, match="another adaptool is writing") as error:
        merged(base, adapter, out)
    assert error.value.exit_code == 3
    for _ in first:
        pass
    assert (out / "adaptool.json").is_file()


def test_another_process_that_writes_is_waited_for_by_nobody(base, adapter, out):
    partial = out.with_name("out.partial")
    partial.mkdir()
    with (partial / publish.LOCK_NAME).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DiskError, match="another adaptool"):
            merged(base, adapter, out)
    merged(base, adapter, out)


def test_a_full_disk_is_foreseen(base, adapter, out, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DiskError, match="GB free"):
        merged(base, adapter, out)
    assert not out.with_name("out.partial").exists()


def test_space_held_by_an_unfinished_run_counts_as_free(base, adapter, out, monkeypatch):
    job = merge([(adapter, 1.0)], base, out)
    steps = iter(job)
    next(steps)
    steps.close()
    usage = shutil._ntuple_diskusage(10**9, 10**9, (2 << 20) + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    merged(base, adapter, out, resume=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_survived(adapter, small_disk, tmp_path, monkeypatch):
    base = llama(tmp_path / "base", layers=8)
    monkeypatch.setattr("adaptool.writing.job.require_space", lambda *_: None)
    (small_disk / "ballast").write_bytes(bytes(400_000))
    adapter = lora(tmp_path / "large", layers=8)
    with pytest.raises(DiskError, match="No space left") as error:
        merged(base, adapter, small_disk / "out", workers=1)
    assert "--resume" in error.value.hint
    assert not (small_disk / "out").exists()
    (small_disk / "ballast").unlink()
    report = merged(base, adapter, small_disk / "out", resume=True)
    assert report.resumed_pieces > 0
    merged(base, adapter, tmp_path / "fresh")
    assert tree(tmp_path / "fresh") == tree(small_disk / "out")


def test_a_small_disk_is_foreseen_without_writing(small_disk, tmp_path):
    base, adapter = llama(tmp_path / "base", layers=40), lora(tmp_path / "adapter", layers=40)
    with pytest.raises(DiskError, match="GB free"):
        merged(base, adapter, small_disk / "out")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written(base, adapter, out, monkeypatch, code):
    monkeypatch.setattr(Path, "mkdir", failing(code))
    with pytest.raises(DiskError, match="cannot be written") as error:
        merged(base, adapter, out)
    assert os.strerror(code) in error.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(base, adapter, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(DiskError, match="Permission denied"):
        merged(base, adapter, tmp_path / "locked" / "out")


def test_a_failed_check_is_not_published(base, adapter, out):
    def fail(*_: object):
        raise ParityError("it is wrong")

    with pytest.raises(ParityError) as error:
        merged(base, adapter, out, checks=(fail,))
    assert error.value.exit_code == 1
    assert not out.exists()
    assert (out.with_name("out.partial") / "model.safetensors").is_file()


def test_a_wrong_row_is_caught_and_the_partial_is_named(base, adapter, out, monkeypatch):
    """A kernel that computes wrongly: the sample of rows sees it, and OUT does not appear."""
    from adaptool.tensors.compute import NumpyCompute

    add = NumpyCompute.add
    monkeypatch.setattr(
        NumpyCompute,
        "add",
        lambda self, raw, kind, delta, scale, *, safe: add(self, raw, kind, delta, 2 * scale, safe=safe),
    )
    with pytest.raises(ParityError, match="must be") as error:
        merged(base, adapter, out)
    assert not out.exists()
    assert "out.partial" in f"{error.value.message} {error.value.hint}"


def test_a_lost_write_is_caught(base, adapter, out, monkeypatch):
    from adaptool.tensors import writer

    write = writer._write
    monkeypatch.setattr(
        writer, "_write", lambda fd, data, at: write(fd, data, at) if len(data) != 64 * 64 * 2 else None
    )
    with pytest.raises(ParityError, match="q_proj"):
        merged(base, adapter, out)
    assert not out.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_merge_that_changes_nothing_is_never_published(base, tmp_path, out, resume):
    """Updates too small for bf16: refused, and refused again where the refused run is resumed."""
    adapter = lora(tmp_path / "tiny", spread=1e-6)
    for _ in range(2):
        with pytest.raises(MismatchError, match="changes nothing") as error:
            merged(base, adapter, out, resume=resume)
        assert error.value.exit_code == 3
        assert not out.exists()


def test_an_untrained_adapter_is_refused_before_anything_is_written(base, tmp_path, out):
    zeros = {
        f"base_model.model.model.layers.{i}.self_attn.{name}.lora_B.weight": ("F32", np.zeros((rows, 4), np.float32))
        for i in range(2)
        for name, rows in (("q_proj", 64), ("v_proj", 32))
    }  # fmt: skip
    with pytest.raises(MismatchError, match="every update is zero"):
        merged(base, lora(tmp_path / "zeros", extra=zeros), out)
    assert not out.with_name("out.partial").exists()


def test_a_weight_of_zero_is_refused(base, adapter, out):
    with pytest.raises(MismatchError, match="every update is zero"):
        merge([(adapter, 0.0)], base, out)


def test_a_merge_that_was_refused_leaves_inputs_alone(base, adapter, out, tmp_path):
    before = tree(base) | tree(adapter)
    merged(base, adapter, out)
    assert before == tree(base) | tree(adapter)
