"""FIL300–FIL399: secrets in the text beside the weights."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.draft import file
from adaptool.rules.files.credentials import Credential, tokens
from adaptool.rules.files.logins import assignments, logins, private_keys
from adaptool.rules.files.texts import VOCABULARIES, Text, texts
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

SECRET_FILES = re.compile(
    r"\.env(?:\..+)?|.+\.env|\.?netrc|\.pypirc|\.npmrc|credentials|\.git-credentials|secrets?\..+"
)
"""Files that are made to hold secrets: what is assigned in them is one."""

MOST = 1000
"""Assignments of one text that are told apart."""

HOMES = re.compile(r"(?<![\w.:/])(?:/(?:home|Users)/(?!(?:runner|user|username|ubuntu|jovyan|Shared)\b|your)"
                   r"[\w.\-]{1,60}|[A-Za-z]:\\{1,2}Users\\{1,2}(?!Public\b|username\b|your)[\w.\-]{1,60})")  # fmt: skip
"""The home of a person; not of a container's standard user."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """One text, and what it holds: each secret once, as the most telling of the four."""

    text: Text
    tokens: tuple[Credential, ...]
    keys: tuple[Credential, ...]
    logins: tuple[Credential, ...]
    assigned: tuple[Credential, ...]


def _scan(text: Text) -> Scanned:
    content = text.content
    found, keys = tuple(tokens(content)), tuple(private_keys(content))
    if text.binary:
        return Scanned(text, found, keys, (), ())
    entered = tuple(_outside(logins(content), found))
    trusted = SECRET_FILES.fullmatch(text.name) is None
    values = iter(()) if text.name in VOCABULARIES else islice(assignments(content, trusted=trusted), MOST)
    return Scanned(text, found, keys, entered, tuple(_outside(values, (*found, *keys, *entered))))


def _reported(subject: Subject, part: Callable[[Scanned], tuple[Credential, ...]]) -> Iterator[Problem]:
    """One problem for each kind of credential in each text."""
    for scanned in subject.once("credentials", lambda: [_scan(text) for text in texts(subject)]):
        kinds: dict[tuple[str, bool], list[Credential]] = {}
        for found in part(scanned):
            kinds.setdefault((found.what, found.example), []).append(found)
        for (what, example), group in kinds.items():
            yield _problem(scanned.text, what, group, example)


def _problem(text: Text, what: str, group: list[Credential], example: bool) -> Problem:
    first = min(group, key=lambda found: found.at)
    more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
    kind = f"what looks like an example of a {what}" if example else what
    article = "" if example else "an " if what[0] in "AEIOUaeiou" and not what.startswith("U") else "a "
    message = f"{text.place(first.at)} holds {article}{kind}, {first.shown}{more}"
    return Problem(
        message, text.file, text.field or _config_field(text, first.at), severity="info" if example else None
    )


def _outside(found: Iterator[Credential], known: Sequence[Credential]) -> Iterator[Credential]:
    """Those that do not hold one that is known better."""
    starts = sorted(other.at for other in known)
    for each in found:
        after = bisect.bisect_left(starts, each.at)
        if after == len(starts) or starts[after] >= each.end:
            yield each


def _config_field(text: Text, at: int) -> str:
    """The field of the config that a character belongs to."""
    if text.file != CONFIG_NAME:
        return ""
    named = re.findall(r'"([^"\\\n]{1,100})"\s{0,20}:', text.content[max(0, at - 2000) : at])
    return named[-1] if named else ""


@rule("FIL301", "error", "an access token beside the weights",
      breaks=file("README.md", b"export HF_TOKEN=hf_" + b"QmXb7RkTz2LpWv9sYc4NdJf8GhUeAoViKw" + b"\n"))  # fmt: skip
def access_token(subject: Subject) -> Iterator[Problem]:
    """Whoever downloads the adapter can use the token: to read, to write, and at its owner's expense.

    Fix: revoke the token where it was issued, then delete it from the file and from the history.
    """
    yield from _reported(subject, lambda scanned: scanned.tokens)


@rule("FIL302", "error", "a private key beside the weights",
      breaks=file("notes.txt", b"-----BEGIN " + b"PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n"))  # fmt: skip
def private_key(subject: Subject) -> Iterator[Problem]:
    """A private key signs and decrypts in its owner's name; a service account's opens a cloud project.

    Fix: replace the key pair, then delete the key from the file and from the history.
    """
    yield from _reported(subject, lambda scanned: scanned.keys)


@rule("FIL303", "error", "a password beside the weights",
      breaks=file("train.log", b"fetching https://ana:s3cr3t-w0rd@models.example.org/base\n"))  # fmt: skip
def password(subject: Subject) -> Iterator[Problem]:
    """Addresses with a login in them get into logs and configs unnoticed, and are published with the folder.

    Fix: change the password, then delete it from the file and from the history.
    """
    yield from _reported(subject, lambda scanned: scanned.logins)


@rule("FIL304", "warning", "what looks like a secret beside the weights", push="error",
      breaks=file("train.yaml", b"service:\n  api_key: 9fQ2xW7LrT4vB8nK1mZc6Yd3\n"))  # fmt: skip
def assigned_secret(subject: Subject) -> Iterator[Problem]:
    """A random value assigned to a name like api_key is most likely a credential, of whichever service.

    Fix: revoke it if it is one, and delete it; else say so in the allow-list.
    """
    yield from _reported(subject, lambda scanned: scanned.assigned)


@rule("FIL310", "info", "somebody's home folder in the text", default=False,
      breaks=file("training_config.json", b'{"data": "/home/ana.lopes/corpus"}'))  # fmt: skip
def home_folder(subject: Subject) -> Iterator[Problem]:
    """Paths tell the name of a person and the layout of a machine to everyone who downloads the adapter.

    Fix: write paths relative to the project, or names of data sets.
    """
    for text in texts(subject):
        found = None if text.binary or text.name in VOCABULARIES else HOMES.search(text.content)
        if found is not None:
            yield Problem(f"{text.place(found.start())} names the home folder {found[0][:60]}", text.file, text.field)
