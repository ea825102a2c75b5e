"""A question to a remote, with no program started but git's own transports and what the user's own settings name.

A repository's settings may name programs for ssh, for credentials and for the other side; those are not run. What the
user set for all repositories is (a deploy key in ``core.sshCommand``, a credential store).
"""

from __future__ import annotations

import os
from pathlib import Path

from adaptool.git.process import Done, run_git

TRANSPORTS = "file:ssh:https:http"
"""``ext::`` and ``git://`` (whose proxy is a program) are left out."""


def ask_remote(folder: Path, *arguments: str) -> Done:
    """``git ls-remote`` with ``arguments`` in the repository at ``folder``; its exit code is not judged."""
    settings = [("core.sshCommand", (_own(folder, "core.sshCommand") or ["ssh"])[-1]),
                ("core.askPass", (_own(folder, "core.askPass") or [""])[-1]), ("credential.helper", ""),
                *(("credential.helper", helper) for helper in _own(folder, "credential.helper"))]  # fmt: skip
    given = [word for key, value in settings for word in ("-c", f"{key}={value}")]
    return run_git(folder, *given, "ls-remote", "--upload-pack=git-upload-pack", *arguments,
                   variables={"GIT_ALLOW_PROTOCOL": TRANSPORTS})  # fmt: skip


def _own(folder: Path, key: str) -> list[str]:
    """What the system's and the user's settings say, the last word last."""
    told = [run_git(folder, "config", where, "--null", "--get-all", key).stdout for where in ("--system", "--global")]
    return [os.fsdecode(value) for value in b"".join(told).split(b"\0")[:-1]]
