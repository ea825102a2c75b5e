"""What the working tree changed, without running what a repository names as its filters.

``git diff`` cleans a file through ``filter.<name>.clean``, any command at all, wherever its time stamp alone does not
settle whether it changed. Here filters are off, and LFS, the one that adapters are kept with, is answered for by hand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from adaptool.errors import AdaptoolError, DiskError
from adaptool.git.process import failure, run_git
from adaptool.git.reader import Reader
from adaptool.git.repository import DIFF, Blob, Repository, differences
from adaptool.tensors.files import open_file
from adaptool.tensors.pointers import LARGEST, Pointer, parse_pointer
from adaptool.versions import sha256_of

FILTER = re.compile(r"(filter\..*)\.(?:clean|process|smudge|required)", re.DOTALL)


def changed_here(repository: Repository, before: str) -> Mapping[str, tuple[Blob | None, Blob | None]]:
    """The files that differ between a commit and the working tree; see ``Repository.changed``."""
    variables = {**repository.state, **_without_filters(repository)}
    done = run_git(repository.folder, *DIFF, before, "--", variables=variables)
    if done.returncode:
        raise failure("diff", done.stderr)
    listed = differences(done.stdout)
    with repository.reader() as reader:
        return {path: sides for path, sides in listed.items() if not _same_content(repository, reader, *sides)}


def unwatched(repository: Repository) -> tuple[str, ...]:
    """Files whose changes git was told not to look for (assume-unchanged, skip-worktree), here or not."""
    listed = (row.partition(b" ") for row in repository.run("ls-files", "-v", "-z").split(b"\0"))
    return tuple(os.fsdecode(path) for tag, _, path in listed if path and (tag.islower() or tag == b"S"))


def refuse_hidden(path: Path) -> None:
    """Raise DiskError where git takes for removed what lies in a folder that cannot be entered."""
    try:
        path.lstat()
    except PermissionError as error:
        raise DiskError(f"{path}: cannot be looked at: {error.strerror}") from error
    except OSError:
        return


def _without_filters(repository: Repository) -> dict[str, str]:
    """Variables that give every filter of the repository's settings an empty command."""
    listed = repository.run("config", "--name-only", "-z", "--get-regexp", r"^filter\.", okay=(0, 1))
    names = {found.group(1) for key in listed.split(b"\0") if (found := FILTER.fullmatch(os.fsdecode(key)))}
    given = os.environ.get("GIT_CONFIG_COUNT", "")
    first = int(given) if given.isdigit() else 0
    off = [(f"{name}.{key}", value) for name in sorted(names)
           for key, value in (("clean", ""), ("process", ""), ("required", "false"))]  # fmt: skip
    variables = {"GIT_CONFIG_COUNT": str(first + len(off))}
    for i, (key, value) in enumerate(off, first):
        variables |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return variables


def _same_content(repository: Repository, reader: Reader, before: Blob | None, after: Blob | None) -> bool:
    """Whether the file is what a pointer in the commit stands for."""
    if before is None or after is None or before.mode != after.mode or after.oid.strip("0"):
        return False
    size = reader.size(before.oid)
    if size is None or size >= LARGEST:
        return False
    pointer = parse_pointer(reader.read(before.oid, LARGEST))
    return pointer is not None and is_content(repository.folder / before.path, pointer)


def is_content(path: Path, pointer: Pointer) -> bool:
    """Whether a file has the size and the SHA-256 that an LFS pointer tells."""
    if pointer.kind != "lfs" or pointer.extended:
        return False
    try:
        file = open_file(path)
        return file.size == pointer.size and sha256_of(file) == pointer.oid
    except AdaptoolError:
        return False
