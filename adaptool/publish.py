"""Publishing: a folder appears whole or not at all, and never replaces what it did not make.

Everything is written into OUT.partial beside OUT, flushed, and renamed. Where OUT exists it is exchanged in
one step (``renameat2`` with RENAME_EXCHANGE), or, where the system has none, by two renames that the next
run repairs.
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


def partial_path(out: Path) -> Path:
    """Where ``out`` is prepared: beside it, so that a rename suffices."""
    return out.with_name(out.name + ".partial")


def _displaced_path(out: Path) -> Path:
    return out.with_name(out.name + ".displaced")


def check_target(out: Path, inputs: Iterable[Path], *, overwrite: bool, ours: Callable[[Path], bool]) -> None:
    """Refuse an OUT that would destroy something: an input, a folder around one, or files adaptool did not write.

    ``ours`` tells whether a folder holds only what an adaptool manifest lists.
    """
    resolved = out.resolve()
    for given in inputs:
        source = given.resolve()
        if resolved == source or resolved in source.parents or source in resolved.parents:
            raise UsageError(f"{out}: is, contains or lies in the input {given}", hint="choose another --out")
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UsageError(f"{out}: already exists", hint="choose another --out, or add --overwrite")
    if out.is_symlink() or not out.is_dir() or not ours(out):
        raise UsageError(
            f"{out}: holds files that no adaptool manifest lists, so it is not overwritten",
            hint="choose another --out, or move them away yourself",
        )


def repair(out: Path) -> None:
    """Finish or undo an exchange by two renames that a crash cut in half."""
    displaced = _displaced_path(out)
    if not os.path.lexists(displaced):
        return
    if os.path.lexists(out):
        shutil.rmtree(displaced, ignore_errors=True)
    else:
        displaced.rename(out)


@contextmanager
def locked(partial: Path) -> Iterator[None]:
    """Hold the folder being prepared; a second run on the same OUT is refused rather than interleaved."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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


def publish(partial: Path, out: Path) -> None:
    """Make ``partial`` be ``out``, in one step; what was there is removed afterwards."""
    try:
        (partial / LOCK_NAME).unlink(missing_ok=True)
        _sync(partial)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        if os.path.lexists(out):
            _exchange(partial, out)
        else:
            partial.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise DiskError(f"{out}: cannot be published: {error.strerror}", hint=f"the result is in {partial}") from error


def _exchange(partial: Path, out: Path) -> None:
    if _renameat2_exchange(partial, out):
        shutil.rmtree(partial)
        return
    displaced = _displaced_path(out)
    out.rename(displaced)
    partial.rename(out)
    shutil.rmtree(displaced)


def _renameat2_exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically; False where the system or the file system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    return bool(function(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
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
