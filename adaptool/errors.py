"""Every error adaptool raises on purpose, so that a caller can tell bad input from a bug.

    AdaptoolError              exit code 3: could not be checked or done
    ├── UsageError             2: the request itself is wrong (an existing OUT, an unknown option value)
    ├── NotFoundError          3: a file, folder or tensor that should be there is not
    ├── FormatError            3: a file is there and is broken, truncated or hostile
    ├── UnsupportedError       3: understood, and not something this version can do faithfully
    ├── MismatchError          3: adapter and base do not fit, or a tensor is left over
    ├── DiskError              3: no room, no permission, an I/O failure
    ├── GitError               3: git is not there, or says no
    │   └── NotFetchedError    3: Git has only a pointer to the content, or not even the object
    └── ParityError            1: the work was done and the check says no

A message says what is wrong and where; ``hint`` says what to try; ``defect`` is a stable word for the kind of damage
("truncated", "duplicate-key", …), by which a rule of ``validate`` knows what it is about.
"""

from __future__ import annotations


class AdaptoolError(Exception):
    """Base of every deliberate error; ``hint`` is what the user can try next."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, defect: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.defect = defect

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.defect)


def _rebuild(kind: type[AdaptoolError], message: str, hint: str | None, defect: str) -> AdaptoolError:
    return kind(message, hint=hint, defect=defect)


class UsageError(AdaptoolError):
    """The request is wrong, whatever the files hold."""

    exit_code = 2


class NotFoundError(AdaptoolError):
    """Something named is not there."""


class FormatError(AdaptoolError):
    """A file is broken, truncated or hostile."""


class UnsupportedError(AdaptoolError):
    """Understood, but not something that can be done faithfully."""


class MismatchError(AdaptoolError):
    """Adapter and base do not fit each other, or a tensor is left over."""


class DiskError(AdaptoolError):
    """The file system said no."""


class GitError(AdaptoolError):
    """Git is not installed, or refused."""


class NotFetchedError(GitError):
    """Content that this clone does not have: an LFS pointer, a shallow history, a partial clone's missing object."""


class ParityError(AdaptoolError):
    """The result was computed and is not what it must be."""

    exit_code = 1
