"""Real Git repositories for tests, apart from the developer's own settings, and small adapters to put into them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import numbers, write_json, write_tensors

FIRST_DAY = datetime(2025, 1, 1, 12, tzinfo=UTC)
"""The date of a repository's first commit; each further one is a day later, unless it is given a date."""

SETTINGS = """\
[user]
name = Ada Tool
email = ada@example.com
[init]
defaultBranch = main
[commit]
gpgSign = false
[tag]
gpgSign = false
[core]
autocrlf = false
[protocol "file"]
allow = always
[advice]
detachedHead = false
[gc]
auto = 0
[maintenance]
auto = false
"""

needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")


def environment(folder: Path) -> dict[str, str]:
    """An environment in which git sees no settings but those in ``folder``, and asks nobody anything."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "gitconfig").exists():
        (folder / "gitconfig").write_text(SETTINGS, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**inherited, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "xdg"), "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"), "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}  # fmt: skip


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give this process that environment, for the git that adaptool itself starts: call it in an autouse fixture."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)


class Repo:
    """A repository in a folder of a test, made on construction; ``settings`` is where its git's own settings lie."""

    def __init__(
        self, folder: Path, *, settings: Path | None = None, options: Sequence[str] = (), made: bool = False
    ) -> None:
        self.folder = folder
        self.settings = settings or folder.parent / ".settings"
        self.environment = environment(self.settings)
        self.day = 0
        if not made:
            folder.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", *options)

    def git(
        self, *arguments: str, okay: Sequence[int] = (0,), asked: str = "", date: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """What git prints, without the last line break; an AssertionError with its words where it fails."""
        when = {} if date is None else {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env={**self.environment, **when, **(variables or {})},
            input=asked.encode(), capture_output=True, check=False,
        )  # fmt: skip
        said = done.stdout.decode("utf-8", "surrogateescape")
        assert done.returncode in okay, f"git {' '.join(arguments)}: {said}{done.stderr.decode(errors='replace')}"
        return said.rstrip("\n")

    def next_date(self) -> str:
        """A day after the last commit's."""
        self.day += 1
        return (FIRST_DAY + timedelta(days=self.day - 1)).isoformat()

    # --- making history

    def write(self, path: str, content: str | bytes | Mapping[str, Any]) -> Path:
        """Write a file of the working tree: text, bytes, or a value as JSON."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Mapping):
            return write_json(file, content)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def adapter(self, path: str = ".", **how: Any) -> Path:
        """Write an adapter (see ``save_adapter``) into a folder of the working tree."""
        return save_adapter(self.folder / path, **how)

    def commit(
        self, message: str = "a change", *, date: str | None = None, add: bool = True, empty: bool = True
    ) -> str:
        """Commit everything there is (``add``), or what is staged; its hash."""
        if add:
            self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message, *(["--allow-empty"] if empty else []),
                 date=date or self.next_date())  # fmt: skip
        return self.head

    @property
    def head(self) -> str:
        """The hash of the commit that is checked out."""
        return self.git("rev-parse", "HEAD")

    def branch(self, name: str, start: str = "HEAD") -> None:
        """Make a branch and switch to it."""
        self.git("switch", "--quiet", "--create", name, start)

    def switch(self, name: str) -> None:
        """Switch to a branch, or detach at a commit or tag."""
        self.git("-c", "advice.detachedHead=false", "checkout", "--quiet", name)

    def merge(self, name: str, message: str = "a merge", *, date: str | None = None) -> str:
        """Merge a branch into this one, always by a merge commit; its hash."""
        self.git("merge", "--quiet", "--no-ff", "-m", message, name, date=date or self.next_date())
        return self.head

    def tag(self, name: str, message: str | None = None, revision: str = "HEAD", *, force: bool = False) -> None:
        """A tag, annotated where there is a message."""
        how = [] if message is None else ["-a", "-m", message]
        self.git("tag", *how, *(["--force"] if force else []), name, revision, date=self.next_date())

    # --- other repositories

    @property
    def url(self) -> str:
        """What others clone it by: an address, so that depth and filters are honoured."""
        return f"file://{self.folder.resolve()}"

    def clone(
        self, folder: Path, *, bare: bool = False, depth: int | None = None, filter: str | None = None,
        options: Sequence[str] = (),
    ) -> Repo:  # fmt: skip
        """A clone, for whose ``filter`` this side is set up; its LFS files are pointers until ``lfs_pull``."""
        self.git("config", "uploadpack.allowFilter", "true")
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")
        how = [*options, *(["--bare"] if bare else []), *([f"--depth={depth}"] if depth else []),
               *([f"--filter={filter}"] if filter else [])]  # fmt: skip
        self.git("clone", "--quiet", *how, "--", self.url, str(folder), variables={"GIT_LFS_SKIP_SMUDGE": "1"})
        clone = Repo(folder, settings=self.settings, made=True)
        clone.day = self.day
        return clone

    def worktree(self, folder: Path, revision: str = "HEAD") -> Repo:
        """Another working tree of this repository, its HEAD detached at ``revision``."""
        self.git("worktree", "add", "--quiet", "--detach", str(folder), revision)
        return Repo(folder, settings=self.settings, made=True)

    def submodule(self, other: Repo, path: str) -> Repo:
        """Add another repository as a submodule (not committed yet)."""
        self.git("submodule", "--quiet", "add", "--", other.url, path)
        return Repo(self.folder / path, settings=self.settings, made=True)

    # --- LFS

    def lfs(self, *patterns: str) -> None:
        """Keep the files of these patterns with git-lfs, in this repository's own store."""
        self.git("lfs", "install", "--local", "--skip-repo")
        self.git("lfs", "track", *(patterns or ("*.safetensors",)))

    def lfs_pull(self) -> None:
        """Fetch the LFS objects of HEAD from where this was cloned, and check them out where there are files."""
        self.git("lfs", "install", "--local", "--skip-repo")
        bare = self.git("rev-parse", "--is-bare-repository") == "true"
        self.git("lfs", *(["fetch", "origin", "HEAD"] if bare else ["pull"]))

    def lfs_object(self, oid: str) -> Path:
        """Where the store of a main working tree (or bare repository) keeps an object."""
        inner = self.folder / ".git"
        return (inner if inner.is_dir() else self.folder) / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


def save_adapter(
    folder: Path, *, seed: int = 0, rank: int = 4, alpha: float = 8, modules: Sequence[str] = ("q_proj", "v_proj"),
    layers: int = 2, width: int = 32, dtype: str = "F32", base: str | None = "org/base", revision: str | None = None,
    tensors: Mapping[str, Any] | None = None, **config: Any,
) -> Path:  # fmt: skip
    """A small LoRA as PEFT saves it, its values drawn from ``seed``; ``config`` adds or replaces fields.

    ``tensors``: float32 arrays by saved key, in place of the drawn ones.
    """
    drawn = random_factors(seed, rank=rank, modules=modules, layers=layers, width=width) if tensors is None else tensors
    fields = {
        "base_model_name_or_path": base, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "lora_alpha": alpha, "lora_dropout": 0.0, "modules_to_save": None,
        "peft_type": "LORA", "r": rank, "revision": revision, "target_modules": list(modules),
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False, **config,
    }  # fmt: skip
    write_json(folder / "adapter_config.json", fields)
    write_tensors(
        folder / "adapter_model.safetensors", {name: (dtype, _stored(array, dtype)) for name, array in drawn.items()}
    )
    return folder


def random_factors(
    seed: int, *, rank: int = 4, modules: Sequence[str] = ("q_proj", "v_proj"), layers: int = 2, width: int = 32
) -> dict[str, Any]:
    """The factors of ``save_adapter``, by saved key: take them apart, change them, and save them again."""
    names = [f"base_model.model.model.layers.{i}.self_attn.{name}" for i in range(layers) for name in modules]
    factors: dict[str, Any] = {}
    for i, name in enumerate(names):
        factors[f"{name}.lora_A.weight"] = numbers("F32", (rank, width), 1000 * seed + 2 * i)
        factors[f"{name}.lora_B.weight"] = numbers("F32", (width, rank), 1000 * seed + 2 * i + 1)
    return factors


def _stored(array: Any, dtype: str) -> Any:
    values = np.asarray(array)
    if dtype == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F16": np.float16, "F64": np.float64}.get(dtype, np.float32))
