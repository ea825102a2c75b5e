"""Publishing: a folder appears whole or not at all, and never replaces what it did not make.

Everything is written into OUT.partial beside OUT, flushed, and renamed. Where OUT exists it is exchanged in
one step (``renameat2`` with RENAME_EXCHANGE), or, where the system has none, by two renames (through
OUT.displaced) that the next run repairs. Folders of these names that adaptool did not make are left alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptool.errors import DiskError, UsageError

AT_FDCWD = -100
RENAME_EXCHANGE = 2
LOCK_NAME = ".adaptool-lock"
"""Marks a folder being prepared as adaptool's, and is locked while a run writes into it."""

Ours = Callable[[Path], bool]
"""Whether a folder holds only what an adaptool manifest lists."""


def partial_path(out: Path) -> Path:
    """Where ``out`` is prepared: beside it, so that a rename suffices."""
    return _beside(out, ".partial")


def _displaced_path(out: Path) -> Path:
    return _beside(out, ".displaced")


def _beside(out: Path, suffix: str) -> Path:
    plain = Path(os.path.abspath(out))  # noqa: PTH100 (a last link is kept as it is)
    return plain.with_name(plain.name + suffix)


def check_inputs(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an OUT, or a place it is prepared in, that is an input, holds one or lies in one."""
    if not Path(os.path.abspath(out)).name or _same(out, Path()):  # noqa: PTH100
        raise UsageError(f"{out}: is the current folder or the root", hint="choose another --out")
    for given in inputs:
        for taken in (out, partial_path(out), _displaced_path(out)):
            if _overlap(taken.resolve(), given.resolve()):
                raise UsageError(f"{taken}: is, contains or lies in the input {given}", hint="choose another --out")


def check_target(out: Path, *, overwrite: bool, ours: Ours) -> None:
    """Refuse an OUT that would destroy files adaptool did not write."""
    for prepared in (partial_path(out), _displaced_path(out)):
        if os.path.lexists(prepared) and not _is_ours(prepared, ours):
            raise UsageError(
                f"{prepared}: is in the way and was not made by adaptool", hint="move it away, or choose another --out"
            )
    if not os.path.lexists(out) or _is_empty(out):
        return
    if not overwrite:
        raise UsageError(f"{out}: already exists", hint="choose another --out, or add --overwrite")
    if out.is_symlink() or not out.is_dir() or not ours(out):
        raise UsageError(
            f"{out}: holds files that no adaptool manifest lists, so it is not overwritten",
            hint="choose another --out, or move them away yourself",
        )


def check_file_target(out: Path, *, overwrite: bool, ours: Ours) -> None:
    """The same for an OUT that is one file: ``ours`` says whether adaptool wrote the file that is there."""
    for prepared in (partial_path(out), _displaced_path(out)):
        if os.path.lexists(prepared) and not _is_ours(prepared, lambda _: False):
            raise UsageError(
                f"{prepared}: is in the way and was not made by adaptool", hint="move it away, or choose another --out"
            )
    if not os.path.lexists(out):
        return
    if out.is_dir():
        raise UsageError(f"{out}: is a folder, and --out names the file to write", hint=f"try --out {out}/model.gguf")
    if not overwrite:
        raise UsageError(f"{out}: already exists", hint="choose another --out, or add --overwrite")
    if out.is_symlink() or not ours(out):
        raise UsageError(f"{out}: was not written by adaptool, so it is not overwritten", hint="choose another --out")


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def _is_ours(folder: Path, ours: Ours) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / LOCK_NAME).is_file() or _is_empty(folder) or ours(folder)


def repair(out: Path, ours: Ours) -> None:
    """Finish or undo an exchange by two renames that a crash cut in half."""
    displaced = _displaced_path(out)
    if not os.path.lexists(displaced) or not _is_ours(displaced, ours):
        return
    if os.path.lexists(out):
        _remove(displaced)
    else:
        displaced.rename(out)


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Hold the folder being prepared; a second run on the same OUT is refused rather than interleaved."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(partial / LOCK_NAME, flags, 0o666)
    except OSError as error:
        raise DiskError(f"{partial}: cannot be written: {error.strerror}", hint="choose another --out") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DiskError(f"{partial}: another adaptool is writing there", hint="wait for it to end") from None
    else:
        yield
    finally:
        os.close(descriptor)


def publish(partial: Path, out: Path, scratch: Iterable[str] = (LOCK_NAME,)) -> None:
    """Make ``partial`` without its ``scratch`` files be ``out``, in one step; what was there is removed afterwards."""
    out = Path(os.path.abspath(out))  # noqa: PTH100
    try:
        for path in sorted(partial.rglob("*")):
            _sync(path)
        for name in scratch:
            (partial / name).unlink(missing_ok=True)
        _sync(partial)
        if _is_empty(out):
            out.rmdir()
        if os.path.lexists(out):
            _exchange(partial, out)
        else:
            partial.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise DiskError(f"{out}: cannot be published: {error.strerror}", hint=f"the result is in {partial}") from error


def publish_file(partial: Path, name: str, out: Path) -> None:
    """Make the file ``name`` of ``partial`` be ``out``, in one step, and remove ``partial``."""
    out = Path(os.path.abspath(out))  # noqa: PTH100
    try:
        _sync(partial / name)
        (partial / name).replace(out)
        _sync(out.parent)
        shutil.rmtree(partial)
    except OSError as error:
        raise DiskError(f"{out}: cannot be published: {error.strerror}", hint=f"the result is in {partial}") from error


def _exchange(partial: Path, out: Path) -> None:
    if _renameat2_exchange(partial, out):
        _remove(partial)
        return
    displaced = _displaced_path(out)
    out.rename(displaced)
    partial.rename(out)
    _remove(displaced)


def _remove(folder: Path) -> None:
    """Delete an old output, its manifest last: what a crash leaves is still known to be adaptool's."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in ("adaptool.json", LOCK_NAME):
            path.unlink()
    shutil.rmtree(folder)


def _renameat2_exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically; False where the system or the file system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    return bool(function(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_space(folder: Path, needed: int) -> None:
    """Fail before the first byte where the disk has not ``needed`` bytes free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DiskError(
            f"{folder}: needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free",
            hint="make room, or choose an --out on another disk",
        )
