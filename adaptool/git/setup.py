"""``git diff``, ``git log -p`` and ``git difftool`` taught to tell an adapter's story: attributes and settings.

The attributes are committed and everyone's; the driver's command is a setting of each clone. A clone without it says
"Binary files differ", as before. Content is never rewritten: there is no clean or smudge filter of ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptool.errors import FormatError, UsageError
from adaptool.git.attributes import DRIVER, uses_lfs, with_driver, without_driver
from adaptool.git.process import failure, run_git
from adaptool.git.repository import Repository, repository_of
from adaptool.git.trees import LINK, OWN_NAMES, SUBMODULE
from adaptool.tensors.files import open_file
from adaptool.tensors.pointers import LARGEST
from adaptool.writing.text_file import write_text

Scope = Literal["local", "global"]

LARGEST_ATTRIBUTES = 1 << 20
WEIGHTS = tuple(sorted(name for name in OWN_NAMES if not name.endswith(".json")))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of git: what it was (None: not set), and what it becomes (None: removed)."""

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Setup:
    """What a setup changes, or changed."""

    scope: Scope
    lfs: bool
    attributes: Path
    """The file of attributes: ``.gitattributes`` at the root, or the user's own."""
    before: str
    after: str
    settings: tuple[Setting, ...]
    installs_lfs: bool
    """Whether ``git lfs install --local`` is run: where LFS was asked for and this clone has no filter for it."""
    notes: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything is not yet as it should be."""
        return (
            self.installs_lfs
            or self.before != self.after
            or any(setting.before != setting.after for setting in self.settings)
        )


def plan_setup(path: Path, *, scope: Scope = "local", lfs: bool | None = None, undo: bool = False) -> Setup:
    """What would be changed for the repository ``path`` lies in (or for this user): nothing is written.

    ``lfs`` None: where git-lfs is installed and the repository keeps files with it already.
    """
    repository = Repository(path) if scope == "global" else repository_of(path)
    if repository.bare:
        raise UsageError(f"{repository.folder}: a bare repository has no working tree to set up", hint="use a clone")
    file = _own_attributes(repository) if scope == "global" else repository.folder / ".gitattributes"
    if file.is_symlink():
        raise UsageError(f"{file} is a link: git does not read attributes through one", hint="make it a file")
    before = _read(file)
    installed, used = shutil.which("git-lfs") is not None, uses_lfs(before)
    if lfs and not installed:
        raise UsageError("git-lfs is not installed", hint="install it, or leave --lfs out")
    plain = () if scope == "global" or undo else _plain(repository)
    kept = (installed and used and not plain) if lfs is None else lfs
    after = without_driver(before) if undo else with_driver(before, lfs=kept)
    wanted: Mapping[str, str | None] = _driver()
    wanted = {key: None if undo else value for key, value in wanted.items()}
    settings = tuple(Setting(key, _setting(repository, scope, key), value) for key, value in wanted.items())
    bare = scope == "local" and not undo and repository.run("config", "filter.lfs.clean", okay=(0, 1)) == b""
    notes = () if undo else _notes(plain, asked=lfs, kept=kept)
    if kept and bare and not lfs:
        notes = (*notes, "git-lfs is not set up in this clone: git lfs install")
    return Setup(scope, kept, file, before, after, settings, bool(lfs) and bare, notes)


def carry_out(setup: Setup, path: Path) -> None:
    """Write what was planned: the attributes whole or not at all, then the settings."""
    repository = Repository(path) if setup.scope == "global" else repository_of(path)
    if setup.before != setup.after:
        if setup.after:
            setup.attributes.parent.mkdir(parents=True, exist_ok=True)
            write_text(setup.attributes, setup.after)
        else:
            setup.attributes.unlink(missing_ok=True)
    where = f"--{setup.scope}"
    for setting in setup.settings:
        if setting.before == setting.after:
            continue
        if setting.after is None:
            repository.run("config", where, "--unset-all", setting.key)
        else:
            repository.run("config", where, "--replace-all", setting.key, setting.after)
    if setup.scope == "local" and setup.installs_lfs:
        _install_lfs(repository)


def command() -> str:
    """How git is to start adaptool: by its name where it is found by that, else by its path."""
    if shutil.which("adaptool"):
        return "adaptool"
    beside = Path(sys.executable).with_name("adaptool")
    if beside.is_file():
        from shlex import quote

        return quote(str(beside))
    return "adaptool"


def _driver() -> dict[str, str | None]:
    """The driver's settings. Texts are not cached: Git keeps them as commits in refs/notes, which no reader expects of
    looking at a diff, and an old text would outlive a pointer's fetching and adaptool's next version."""
    program = command()
    return {
        f"diff.{DRIVER}.textconv": f"{program} git textconv",
        f"diff.{DRIVER}.cachetextconv": "false",
        f"diff.{DRIVER}.binary": "true",
        f"diff.{DRIVER}.xfuncname": r"^\[.*\]$",
        f"difftool.{DRIVER}.cmd": f'{program} git difftool "$LOCAL" "$REMOTE" "$MERGED"',
    }


def _setting(repository: Repository, scope: Scope, key: str) -> str | None:
    told = os.fsdecode(repository.run("config", f"--{scope}", "--null", "--get-all", key, okay=(0, 1)))
    return told.removesuffix("\0") if told else None


def _own_attributes(repository: Repository) -> Path:
    """The user's file of attributes, for every repository."""
    told = os.fsdecode(repository.run("config", "--global", "--null", "--type=path", "--get", "core.attributesFile",
                                      okay=(0, 1)))  # fmt: skip
    if told:
        return Path(told.removesuffix("\0"))
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "git" / "attributes"


def _read(file: Path) -> str:
    if not file.exists():
        return ""
    content = open_file(file).read_all(LARGEST_ATTRIBUTES)
    if b"\0" in content:
        raise FormatError(f"{file}: not a text of attributes", hint="move it away")
    return content.decode("utf-8", "surrogateescape")


def overridden(path: Path) -> tuple[str, ...]:
    """Adapters of the repository that another file of attributes still gives another driver, by their paths."""
    repository = repository_of(path)
    files = [name for name in repository.index() if name.rpartition("/")[2] in WEIGHTS or name.endswith(".gguf")]
    done = run_git(repository.folder, "check-attr", "-z", "--stdin", "diff",
                   asked=b"".join(os.fsencode(name) + b"\0" for name in files))  # fmt: skip
    if done.returncode:
        raise failure("check-attr", done.stderr)
    told = [os.fsdecode(word) for word in done.stdout.split(b"\0")]
    return tuple(name for name, value in zip(told[::3], told[2::3], strict=False) if value != DRIVER)


def _plain(repository: Repository) -> tuple[str, ...]:
    """Weights that are staged or committed as they are, by their paths."""
    files = [blob for name, blob in repository.index().items() if name.rpartition("/")[2] in WEIGHTS]
    with repository.reader() as reader:
        return tuple(
            blob.path for blob in files
            if blob.mode not in (SUBMODULE, LINK) and (reader.size(blob.oid) or 0) >= LARGEST
        )  # fmt: skip


def _notes(plain: Sequence[str], *, asked: bool | None, kept: bool) -> tuple[str, ...]:
    """What the reader should know of LFS."""
    if kept and plain:
        return (
            f"{len(plain)} files of weights are committed without LFS: git add --renormalize . hands over what comes "
            "next; what was is rewritten by: git lfs migrate import",
        )
    if not kept and asked is None:
        return ("adapters are kept in Git itself: --lfs keeps them with Git LFS, which is better above some MB",)
    return ()


def _install_lfs(repository: Repository) -> None:
    """``git lfs install``, for this clone: its filters, and the hook that pushes what the pointers stand for."""
    done = subprocess.run(["git", "lfs", "install", "--local"], cwd=repository.folder, capture_output=True, check=False)
    if done.returncode:
        raise failure("lfs install", done.stderr)
