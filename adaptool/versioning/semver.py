"""Semantic versions as values: parsed strictly, ordered as the specification orders them, moved by a level.

Source: https://semver.org/spec/v2.0.0.html. Python's own versions (``packaging``) order and spell pre-releases in
another way, so they cannot stand in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from adaptool.comparing.result import Level
from adaptool.errors import UsageError

LONGEST = 200
"""Characters: what is longer was not written by a person."""

LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")
"""The smallest first."""

_NUMBER = r"0|[1-9][0-9]*"
_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PATTERN = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
_LABEL = re.compile(_IDENTIFIER)


@dataclass(frozen=True, slots=True)
class Version:
    """MAJOR.MINOR.PATCH, a pre-release and a build; two that differ only in their build are of one rank, not equal."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()
    """``("rc", "1")`` of 1.0.0-rc.1."""
    build: tuple[str, ...] = ()

    def __str__(self) -> str:
        pre = f"-{'.'.join(self.pre)}" if self.pre else ""
        build = f"+{'.'.join(self.build)}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{build}"

    def __lt__(self, other: Version) -> bool:
        return self.rank < other.rank

    def __le__(self, other: Version) -> bool:
        return self.rank <= other.rank

    def __gt__(self, other: Version) -> bool:
        return self.rank > other.rank

    def __ge__(self, other: Version) -> bool:
        return self.rank >= other.rank

    @property
    def rank(self) -> tuple[object, ...]:
        """What orders it: a pre-release before its release, numbers before words, a longer one after its beginning."""
        parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in self.pre)
        return self.major, self.minor, self.patch, not self.pre, parts

    @property
    def release(self) -> Version:
        """Without its pre-release and build."""
        return Version(self.major, self.minor, self.patch)

    def bumped(self, level: Level, pre: str = "") -> Version:
        """The version after a change of ``level``; with ``pre`` ("rc") a pre-release of it, 1.3.0-rc.1.

        A pre-release announces a release: where that is large enough for the change it is what comes next, or with
        ``pre`` its next pre-release, so that 1.3.0-rc.1 becomes 1.3.0-rc.2 and not 1.4.0-rc.1.
        """
        if level == "none" and not pre:
            return self
        target = self.release if self._announces(level) else self._raised(level)
        if not pre:
            return target
        return replace(target, pre=self._following(pre) if self._announces(level) else (pre, "1"))

    def suffices(self, level: Level, after: Version) -> bool:
        """Whether going on to ``after`` is bump enough for a change of ``level``."""
        if level == "none":
            return after >= self
        return after > self and (self._announces(level) or after.release >= self._raised(level))

    def _announces(self, level: Level) -> bool:
        """Whether it is a pre-release, of a release that is itself a step of ``level``, as its zeros tell."""
        step: Level = "patch" if self.patch else "minor" if self.minor else "major"
        return bool(self.pre) and LEVELS.index(level) <= LEVELS.index(step)

    def _raised(self, level: Level) -> Version:
        match level:
            case "major":
                return Version(self.major + 1, 0, 0)
            case "minor":
                return Version(self.major, self.minor + 1, 0)
            case _:
                return Version(self.major, self.minor, self.patch + 1)

    def _following(self, pre: str) -> tuple[str, ...]:
        if self.pre[0] == pre and len(self.pre) == 2 and self.pre[1].isdigit():
            return pre, str(int(self.pre[1]) + 1)
        return pre, "1"


def level_between(before: Version, after: Version) -> Level:
    """How large a step it is: the first of the three numbers that grew; "patch" from pre-release to release."""
    if after <= before:
        return "none"
    if after.major != before.major:
        return "major"
    return "minor" if after.minor != before.minor else "patch"


def parse_version(text: object) -> Version | None:
    """The version ``text`` is, None where it is none: no "v" before it, no number missing, no zero leading."""
    found = _PATTERN.fullmatch(text) if isinstance(text, str) and len(text) <= LONGEST else None
    if found is None:
        return None
    major, minor, patch, pre, build = found.groups()
    return Version(int(major), int(minor), int(patch), _parts(pre), _parts(build))


def require_version(text: str) -> Version:
    """The same, or a UsageError."""
    version = parse_version(text)
    if version is None:
        raise UsageError(
            f"{text[:60]!r} is not a semantic version", hint="write it as 1.2.0 or 1.2.0-rc.1 (https://semver.org)"
        )
    return version


def require_label(text: str) -> str:
    """The word of a pre-release ("rc"), or a UsageError."""
    if len(text) > LONGEST or not _LABEL.fullmatch(text) or text.isdigit():
        raise UsageError(f"{text[:60]!r} cannot name a pre-release", hint="such as: --pre rc")
    return text


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()
