"""How git is started: nothing that a repository's own settings name is run, and nothing is fetched or asked.

Off are file-system monitors, hooks, pagers, textconv and external diff programs, clean and smudge filters, signature
programs, credential prompts, and every transport: with those, what a partial clone lacks is not fetched in passing
(git before 2.45 has no other way to say so).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from adaptool.errors import GitError, NotFetchedError

SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false",
        "-c", "color.ui=false", "-c", "submodule.recurse=false",
        "--no-pager", "--no-optional-locks", "--no-replace-objects", "--literal-pathspecs")  # fmt: skip

ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none", "LC_ALL": "C"}

STATE = ("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH")
"""Set for hooks: the index a commit is made of, the objects a push brought; of the hook's repository alone."""

OWN = (
    *STATE, "GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS",
    "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
)  # fmt: skip
"""Which repository is meant is said by a path here, and what a path means by this program."""

MISSING = re.compile(rb"promisor remote|lazy fetching disabled|transport '.*' not allowed|missing (?:blob|tree|commit)")
"""What git says where it would have to fetch."""

Done = subprocess.CompletedProcess[bytes]


def run_git(
    folder: Path, *arguments: str, asked: bytes = b"", into: IO[bytes] | int = subprocess.PIPE,
    variables: Mapping[str, str] | None = None,
) -> Done:  # fmt: skip
    """One git command in ``folder``, its exit code not judged. Raises GitError where git cannot be started."""
    try:
        return subprocess.run(
            ["git", *SAFE, *arguments], cwd=folder, env={**environment(), **(variables or {})}, input=asked,
            stdout=into, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    except OSError as error:
        raise _not_started(folder, error) from None


def start_git(folder: Path, *arguments: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A git command that answers line by line."""
    try:
        return subprocess.Popen(
            ["git", *SAFE, *arguments], cwd=folder, env={**environment(), **variables},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise _not_started(folder, error) from None


def _not_started(folder: Path, error: OSError) -> GitError:
    if isinstance(error, FileNotFoundError) and folder.is_dir():
        return GitError("git is not installed", hint="install it: this needs the git command")
    return GitError(f"git cannot be started in {folder}: {error.strerror}")


def failure(command: str, stderr: bytes) -> GitError:
    """The error for what git said: NotFetchedError where it lacks an object."""
    text = f"git {command}: {_words(stderr)}"
    if MISSING.search(stderr):
        hint = "this is a partial clone: check that revision out first, or clone without --filter"
        return NotFetchedError(text, hint=hint)
    return GitError(text)


def environment() -> dict[str, str]:
    """The environment git runs in: this process's, without what says which repository is meant."""
    return {**{name: value for name, value in os.environ.items() if name not in OWN}, **ENVIRONMENT}


def state_of(directory: Path) -> dict[str, str]:
    """What git told the hook we run in of the repository ``directory`` (its ``.git``): index, incoming objects."""
    kept = {name: str(Path(value).absolute()) for name in STATE if (value := os.environ.get(name))}
    own = {name: value for name, value in kept.items() if Path(value).resolve().is_relative_to(directory)}
    if "GIT_OBJECT_DIRECTORY" in own and (others := os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES")):
        own["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = others
    else:
        own.pop("GIT_ALTERNATE_OBJECT_DIRECTORIES", None)
    return own


@cache
def objects_alone(objects: Path, form: str) -> Mapping[str, str]:
    """Variables with which git sees an object store and no settings: what it lacks is missing, and not fetched."""
    folder = _scratch(objects, form)
    return {"GIT_DIR": folder.name, "GIT_OBJECT_DIRECTORY": str(objects)}


@cache
def _scratch(objects: Path, form: str) -> TemporaryDirectory[str]:
    """An empty repository of that object format, removed when the process ends."""
    folder = TemporaryDirectory(prefix="adaptool-git-")
    for name in ("objects", "refs"):
        (Path(folder.name) / name).mkdir()
    (Path(folder.name) / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
    extension = f"[extensions]\n\tobjectFormat = {form}\n" if form != "sha1" else ""
    settings = f"[core]\n\trepositoryformatversion = {int(bool(extension))}\n\tbare = true\n{extension}"
    (Path(folder.name) / "config").write_text(settings, encoding="ascii")
    return folder


def _words(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines or ["it failed and said nothing"]
    first = said[0].removeprefix("fatal: ").removeprefix("error: ")
    below = lines[lines.index(said[0]) + 1 :][:1] if said[0] in lines and first.endswith(":") else []
    return " ".join((first, *(line.strip() for line in below)))
