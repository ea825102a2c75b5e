"""From what a user typed to where the bytes are: the one door every command opens its inputs through.

An input is a local path or, where there is none of that name, a Git revision: ``adaptool.git`` registers a resolver in
``RESOLVERS``, as other rooms may (a hub id, hf://, s3://). A lower room never imports the higher one that knows how.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from adaptool.errors import NotFoundError, UnsupportedError

Resolver = Callable[[str], Path | None]
"""Gives the local path of what a string names, or None where the string is not its kind."""

RESOLVERS: list[Resolver] = []

LAID_OUT: dict[str, str] = {}
"""Local folders that a resolver made, and what they hold as the user would name it."""

LOCAL = re.compile(r"(?:\.{1,2}(?:/|$)|/|~)")
"""What begins like this is a path and never reaches a resolver."""


def as_given(text: str) -> str:
    """A message in which folders that a resolver made are called what the user called them."""
    for folder, given in LAID_OUT.items():
        text = text.replace(f"{folder}/", given if given.endswith(":") else f"{given}/").replace(folder, given)
    return text


def locate(text: str | Path) -> Path:
    """The path of an existing file or folder; NotFoundError or UnsupportedError say what the string looks like."""
    if text == "":
        raise NotFoundError("an empty path names nothing", hint="is a variable of the script unset?")
    try:
        path = Path(text).expanduser()
        if path.exists() and not _is_reference(str(text)):
            return path
    except (RuntimeError, OSError, ValueError) as error:  # ~nobody, a name too long, a NUL in it
        raise NotFoundError(f"{text}: not a path: {error}") from None
    text = str(text)
    if not LOCAL.match(text):
        for resolve in RESOLVERS:
            if (found := resolve(text)) is not None:
                return found
        if scheme := re.match(r"([a-z][a-z0-9+.-]*)://", text):
            raise UnsupportedError(
                f"{text}: {scheme.group(1)}:// is not supported by this version", hint="download it and give its folder"
            )
        if re.fullmatch(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?", text):
            raise NotFoundError(
                f"{text}: no such file or folder, and hub ids are not supported by this version",
                hint="download it (hf download) and give its folder",
            )
    raise NotFoundError(f"{text}: no such file or folder")


def _is_reference(text: str) -> bool:
    """Whether a name is one of Git's own files in the current folder, a bare repository: it is the revision then."""
    named = re.fullmatch(r"(?:[A-Z]+_)?HEAD|refs/.+", text)
    return named is not None and Path("HEAD").is_file() and Path("objects").is_dir() and Path("refs").is_dir()
