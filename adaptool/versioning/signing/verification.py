"""What verifying an adapter says: of its signature, its manifest, and every file that is not what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SignatureStatus = Literal["verified", "mismatch", "invalid", "missing", "none", "unchecked"]
"""verified: by a key of the user's, over exactly these files. mismatch: by such a key, over others. invalid: no
signature by any of the keys. missing: keys were given and there is no signature. none: no key was given, and there is
none. unchecked: there is one, and it could not be checked: no key was given, or it is of another kind."""

ManifestStatus = Literal["agrees", "differs", "none", "unchecked"]

What = Literal["changed", "missing", "unsigned", "left out", "unlisted", "contradiction"]
"""unsigned: there, and not in the signature. left out: the same, by the signer's choice, and a loader could read it.
unlisted: there, and not in the manifest. contradiction: of the manifest with itself."""

Verdict = Literal["verified", "not signed", "not verified", "unchecked"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One file that is not what was signed, or what the manifest says."""

    file: str
    """Its path from the folder."""
    what: What
    against: Literal["signature", "manifest"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The key a signature was verified with."""

    file: str
    kind: str
    """ECDSA P-256, Ed25519, …"""
    fingerprint: str
    """SHA-256 of its PEM text."""
    pinned_by: str | None = None
    """The settings file that names it; None where the command line does."""


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """What became of the signature."""

    status: SignatureStatus
    file: str | None
    """Where it is; None where there is none."""
    because: str
    """The status in a sentence."""
    key: KeyRecord | None = None
    name: str | None = None
    """What the signer called the folder."""
    digest: str | None = None
    """Over all that was signed."""
    files: tuple[str, ...] = ()
    """What was signed."""
    ignored: tuple[str, ...] = ()
    """What the signature leaves out."""


@dataclass(frozen=True, slots=True)
class ManifestCheck:
    """What became of the manifest."""

    status: ManifestStatus
    because: str
    kind: str | None = None
    """adapter, merged, fixed, converted."""
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    """Of the content, as the manifest says."""


@dataclass(frozen=True, slots=True)
class VersionVerification:
    """Whether what lies in a folder is what its signature and its manifest say."""

    given: str
    signature: SignatureCheck
    manifest: ManifestCheck
    differences: tuple[Difference, ...]
    not_fetched: tuple[str, ...]
    """Files of which only a Git LFS pointer is here: its SHA-256 and size were compared instead."""
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """verified: a signature says so. not signed: there is none and no key was given, and the manifest is right."""
        if self.signature.status in ("mismatch", "invalid", "missing") or self.manifest.status == "differs":
            return "not verified"
        if self.signature.status == "unchecked":
            return "unchecked"
        if self.signature.status == "verified":
            return "verified"
        return "not signed" if self.manifest.status == "agrees" else "unchecked"

    @property
    def exit_code(self) -> int:
        """0 where all that there is was verified, 1 where something is wrong, else 3."""
        return {"verified": 0, "not signed": 0, "not verified": 1, "unchecked": 3}[self.verdict]
