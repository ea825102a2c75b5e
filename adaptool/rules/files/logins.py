"""Secrets known by where they stand: private keys, logins, and what is assigned to a name that promises one."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from adaptool.rules.files.credentials import MOST, Credential, hidden, is_blank, is_example

KEY = re.compile(r"-----BEGIN ((?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY)(?: BLOCK)?-----"
                 r"(?:\\{1,4}[nr]|[\s\"'+,]|[A-Za-z\-]{3,20}:[^\n\\]{0,80}(?=[\n\\])){0,300}"
                 r"([A-Za-z0-9+/=]{8,100})")  # fmt: skip
"""A private key in PEM, its lines real or escaped, with some of its body."""

URL = re.compile(r"://([^\s/:@\"'<>()\[\]{}`]{0,80}):([^\s/@\"'<>()\[\]`]{3,200})@[A-Za-z0-9\[]")
NETRC = re.compile(
    r"(?:machine\s{1,20}\S{1,200}|default)\s{1,20}login\s{1,20}\S{1,200}\s{1,20}password\s{1,20}(\S{3,200})"
)
DOCKER = re.compile(r"\"auth\"\s{0,20}:\s{0,20}\"([A-Za-z0-9+/]{8,2000}={0,2})\"")

WEAK = {"password", "passwd", "pass", "pwd", "secret", "token", "user", "username", "xxx", "key", "apikey", "api_key",
        "mypass", "mypassword", "my_password", "my-password", "pw", "hunter2", "port"}  # fmt: skip
"""What documentation writes where a password goes."""

NAME = (
    r"(?:api[_\- ]?keys?|(?:access|auth|secret|private|signing|encryption|account|admin|service)[_\- ]?key|token|"
    r"client[_\- ]?secret|secret|passwd|password|authorization)"
)
ASSIGNED = re.compile(
    rf"({NAME})"
    r"[\"']?\s{0,4}(?:=>|[:=])\s{0,4}[\"']?(?:Bearer |token |Basic )?"
    r"([A-Za-z0-9_\-./+=~!@#%^&*]{8,256})(?=[\"'\s,;)}\]\\]|$)",
    re.IGNORECASE,
)
"""A name that promises a credential, and what it is set to."""

ANCHORS = ("key", "token", "secret", "passw", "authorization")

LONGEST_LINE = 4096
"""Characters of a line that are looked at: minified JSON is not an assignment."""

LEAST_LENGTH, LEAST_ENTROPY = 16, 3.5
"""Random text of 20 letters and digits has about 3.9 bits a character, words about 3."""


def private_keys(text: str) -> Iterator[Credential]:
    """Private keys in PEM."""
    if "PRIVATE KEY" not in text:
        return
    for found in KEY.finditer(text):
        if not is_blank(found[2]) and not is_example(found[2]):
            label = found[1].replace("PRIVATE KEY", "private key")
            yield Credential(label, found.start(), found.end(), "-----BEGIN…")


def logins(text: str) -> Iterator[Credential]:
    """Passwords in addresses, in .netrc lines and in Docker's config."""
    if "://" in text:
        for found in URL.finditer(text):
            if not _is_weak(found[2]) and not re.fullmatch(r"\d{1,5}", found[2]):  # a port
                yield Credential("password in an address", found.start(), found.end(), "://…@")
    if "login" in text:
        for found in NETRC.finditer(text):
            if not _is_weak(found[1]):
                yield Credential("password of a .netrc", found.start(), found.end(), "password …")
    if '"auth"' in text:
        for found in DOCKER.finditer(text):
            if _is_login(found[1]):
                yield Credential("login of a Docker config", found.start(), found.end(), '"auth": "…"')


def _is_weak(password: str) -> bool:
    plain = password.lower().strip("<>{}%*")
    return plain in WEAK or not plain or is_blank(password) or is_example(password) or password[0] in "${%"


def _is_login(text: str) -> bool:
    try:
        user, _, password = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return False
    return bool(user and password) and not _is_weak(password)


SHORTEST = 6
"""Characters of a line that assigns nothing: a file may be made of empty ones."""


def assignments(text: str, *, trusted: bool = True) -> Iterator[Credential]:
    """Assignments of what looks random to a name like api_key; where not ``trusted``, as in a .env, of anything."""
    for found in islice(_candidates(text), MOST):
        value = found[2]
        if _looks_random(value) or (not trusted and not _is_weak(value) and not _is_reference(value)):
            before = re.search(r"[\w.\-]{0,40}$", text[max(0, found.start() - 40) : found.start()])
            name = f"{before[0] if before else ''}{found[1]}"
            yield Credential(f"random-looking {name}", found.start(), found.end(), hidden(value))


def _candidates(text: str) -> Iterator[re.Match[str]]:
    """What is assigned to names that promise a credential, line by line."""
    start = 0
    for line in text.splitlines(keepends=True):
        head = line[:LONGEST_LINE].lower()
        if len(head) > SHORTEST and any(anchor in head for anchor in ANCHORS):
            yield from ASSIGNED.finditer(text, start, start + min(len(line), LONGEST_LINE))
        start += len(line)


def _is_reference(value: str) -> bool:
    """Whether it is where to find the secret, and not the secret."""
    return "://" in value or value.startswith(
        ("/", "./", "../", "~/", "os.environ", "env.", "self.", "config.", "args.")
    )


def _looks_random(value: str) -> bool:
    if len(value) < LEAST_LENGTH or is_blank(value) or is_example(value) or _is_reference(value):
        return False
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    parts = re.split(r"[_\-./]", value)
    words = all(re.fullmatch(r"\d{0,4}[A-Za-z]*\d{0,4}", part) for part in parts)  # Llama-3.2-1B-v2, a date
    named = words and (len(parts) > 1 or digits < 6)
    return digits >= 2 and letters >= 4 and not named and entropy(value) >= LEAST_ENTROPY


def entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
