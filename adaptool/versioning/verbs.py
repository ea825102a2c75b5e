"""The gate by the paths a user gives: which repository they are in, and which of its folders they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptool.errors import UsageError
from adaptool.git.repository import Repository, repository_of
from adaptool.git.trees import adapters_in_tree, holds_adapter
from adaptool.jobs import default_workers
from adaptool.rules.finding import Severity
from adaptool.rules.prefixes import parse_codes
from adaptool.versioning.gate.check import Options, check
from adaptool.versioning.gate.check_result import Check
from adaptool.versioning.gate.findings import Selection
from adaptool.versioning.log.log import log
from adaptool.versioning.log.log_result import Log


def version_check(
    paths: Sequence[Path | str] = (), *, against: str | None = None, at: str | None = None, remote: str | None = None,
    select: Sequence[str] = (), ignore: Sequence[str] = (), fail_on: Severity = "error", workers: int | None = None,
) -> Check:  # fmt: skip
    """Check the versions of the adapters of a Git repository, all or those in ``paths``.

    against: judge the change since the merge base with this revision, and open nothing that did not change.
    at: a revision to check in place of the working tree. remote: compare tags with those of this remote.
    select, ignore: codes, or how they begin. Raises AdaptoolError where there is no repository or no such revision.
    """
    repository, folders = located(paths)
    chosen = Selection(parse_codes(select), parse_codes(ignore))
    return check(repository, Options(
        against=against, at=at, paths=folders, remote=remote, selection=chosen, fail_on=fail_on,
        workers=workers or default_workers(),
    ))  # fmt: skip


def located(paths: Sequence[Path | str]) -> tuple[Repository, tuple[str, ...]]:
    """The repository that ``paths`` lie in (without any, that of the working directory), and each from its root.

    In a bare repository there are no folders to stand in: a path is one in its tree.
    """
    repository = repository_of(Path(paths[0]) if paths else Path())
    return repository, tuple(_inside(repository, Path(path)) for path in paths)


def _inside(repository: Repository, path: Path) -> str:
    root = repository.folder.resolve()
    if repository.bare:
        inside = path if not path.exists() else path.resolve().relative_to(root)
    else:
        real = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
        if not real.is_relative_to(root):
            raise UsageError(f"{path}: not in the repository {root}", hint="one repository at a time")
        inside = real.relative_to(root)
        if path.is_file():
            inside = inside.parent
    text = inside.as_posix().strip("/")
    return "" if text == "." else text


def version_log(
    adapter: Path | str | None = None, *, revision: str = "HEAD", limit: int | None = None, drift: bool = True,
    first_parent: bool = True,
) -> Log:  # fmt: skip
    """The history of the adapter in a folder from Git; without one, of that in this folder or else the only one.

    revision: whose history, or a range A..B. limit: the newest entries. drift: measure how far ΔW went. first_parent:
    a merge is one entry. Raises AdaptoolError where there is no such adapter in the history.
    """
    repository, folders = located(["." if adapter is None else adapter])
    folder = folders[0]
    if folder == "" or (adapter is None and not holds_adapter(file.name for file in Path().iterdir())):
        folder = _only(repository, revision) or ""
    return log(repository, folder, revision=revision, limit=limit, drifts=drift, first_parent=first_parent)


def _only(repository: Repository, revision: str) -> str | None:
    """The adapter that a revision has, where it has one alone; a UsageError where several are to choose from."""
    commit = repository.commit(revision.rpartition("..")[2] or "HEAD")
    found = sorted(adapters_in_tree(repository.tree(commit))) if commit is not None else []
    if len(found) > 1 and "" not in found:
        named = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise UsageError("there are several adapters in this repository", hint=f"name one: {named}")
    return ("" if "" in found else found[0]) if found else None
