"""The outside world of Git: repositories, revisions, LFS objects. The git binary, read-only but for the setup.

Importing the room makes Git revisions something that every command can be given.
"""

from pathlib import Path

from adaptool.tensors.locate import RESOLVERS


def resolve(text: str) -> Path | None:
    """The local path of what a Git revision names (see ``revisions.py``, imported when it is asked)."""
    from adaptool.git.revisions import resolve_revision

    return resolve_revision(text)


RESOLVERS.append(resolve)
