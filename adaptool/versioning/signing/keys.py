"""Keys: a pair of PEM files, the private one to sign with, the public one to verify with.

``cryptography`` does the arithmetic; it is an extra, imported when a key is first read. ECDSA over P-256, P-384 and
P-521 (with SHA-256, 384 and 512, as Sigstore pairs them) is what model-signing has too; Ed25519 is adaptool's alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptool.errors import DiskError, FormatError, NotFoundError, UnsupportedError, UsageError

LIMIT = 64 << 10
"""Bytes of a key's file."""

HASHED_WITH = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
CALLED = {"secp256r1": "ECDSA P-256", "secp384r1": "ECDSA P-384", "secp521r1": "ECDSA P-521"}

BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
PRIVATE = ("PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
MAKE_KEYS = "make one: openssl ecparam -name prime256v1 -genkey -noout -out private.pem"
MAKE_PUBLIC = "its public half: openssl pkey -in private.pem -pubout -out public.pem"


@dataclass(frozen=True, eq=False)
class PublicKey:
    """What verifies."""

    key: Any
    where: str
    """The file it is from."""

    @property
    def kind(self) -> str:
        """ECDSA P-256, Ed25519, …"""
        return _kind(self.key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its PEM text, as a bundle's hint has it (``sha256sum`` of the file openssl writes)."""
        forms = _cryptography().serialization
        return hashlib.sha256(
            self.key.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest()

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's over ``message``. ECDSA's must be the DER of two numbers and no more."""
        tools = _cryptography()
        try:
            if self.kind == "Ed25519":
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, tools.ec.ECDSA(_hash(self.key)))
        except (tools.InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, eq=False)
class PrivateKey:
    """What signs; its secret is never shown, copied or written."""

    key: Any
    where: str

    def __repr__(self) -> str:
        return f"PrivateKey({self.where!r})"

    @property
    def public(self) -> PublicKey:
        """Its other half."""
        return PublicKey(self.key.public_key(), self.where)

    def sign(self, message: bytes) -> bytes:
        """A signature; where OpenSSL can (RFC 6979), the same each time, so that signing again changes nothing."""
        if self.public.kind == "Ed25519":
            signature: bytes = self.key.sign(message)
            return signature
        tools = _cryptography()
        chosen = _hash(self.key)
        try:
            signature = self.key.sign(message, tools.ec.ECDSA(chosen, deterministic_signing=True))
        except tools.UnsupportedAlgorithm:
            signature = self.key.sign(message, tools.ec.ECDSA(chosen))
        return signature


def read_public_key(path: Path) -> PublicKey:
    """A public key from its PEM file. Raises AdaptoolError; a private key is refused, as it should not lie about."""
    data, block = _read(path)
    if block in PRIVATE:
        raise UsageError(f"{path}: a private key, where the public one is asked for", hint=MAKE_PUBLIC)
    if block == "CERTIFICATE":
        raise UsageError(f"{path}: a certificate; only keys are supported",
                         hint=f"the key in it: openssl x509 -in {path} -pubkey -noout")  # fmt: skip
    if block != "PUBLIC KEY":
        raise UsageError(f"{path}: no public key in PEM but {_named(block)}", hint=MAKE_PUBLIC)
    tools = _cryptography()
    try:
        key = tools.serialization.load_pem_public_key(data)
    except (ValueError, tools.UnsupportedAlgorithm) as error:
        raise FormatError(f"{path}: the public key cannot be read: {_words(error)}") from None
    return PublicKey(_supported(key, path), str(path))


def read_private_key(path: Path, passphrase: str | None = None) -> PrivateKey:
    """A private key from its PEM file: PKCS #8 or SEC 1, with ``passphrase`` where it is encrypted."""
    data, block = _read(path)
    if block == "PUBLIC KEY":
        raise UsageError(f"{path}: a public key, which cannot sign", hint="give the private one of the pair")
    if block not in PRIVATE:
        raise UsageError(f"{path}: no private key in PEM but {_named(block)}", hint=MAKE_KEYS)
    encrypted = block.startswith("ENCRYPTED") or b"\nProc-Type: 4,ENCRYPTED" in data
    if encrypted and passphrase is None:
        raise UsageError(f"{path}: the private key is encrypted", hint="--passphrase-env VAR: where its passphrase is")
    if passphrase is not None and not encrypted:
        raise UsageError(f"{path}: the private key is not encrypted", hint="leave --passphrase-env out")
    tools = _cryptography()
    try:
        key = tools.serialization.load_pem_private_key(data, passphrase.encode("utf-8") if passphrase else None)
    except (ValueError, TypeError, tools.UnsupportedAlgorithm) as error:
        wrong = "the passphrase is wrong, or the file is broken" if encrypted else _words(error)
        raise UsageError(f"{path}: the private key cannot be read: {wrong}") from None
    return PrivateKey(_supported(key, path), str(path))


def readable_by_others(path: Path) -> bool:
    """Whether a private key's file is open to the group or to everyone."""
    return path.is_file() and bool(path.stat().st_mode & 0o077)


def _read(path: Path) -> tuple[bytes, str]:
    """The file and what its PEM block is called. A pipe will do: a secret need not be written to a disk."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint=MAKE_KEYS) from None
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > LIMIT:
        raise UsageError(f"{path}: too large for a key", hint=MAKE_KEYS)
    blocks = [name.decode("ascii") for name in BLOCK.findall(data)]
    blocks = [name for name in blocks if name != "EC PARAMETERS"]  # which openssl ecparam puts before the key
    if len(blocks) > 1:
        raise UsageError(
            f"{path}: {len(blocks)} keys or certificates in one file", hint="put each in a file of its own"
        )
    return data, blocks[0] if blocks else ""


def _named(block: str) -> str:
    if not block:
        return "something else"
    hint = {"OPENSSH PRIVATE KEY": " (ssh-keygen -p -m PKCS8 -f KEY rewrites it)"}.get(block, "")
    return f"what calls itself {block}{hint}"


def _supported(key: Any, path: Path) -> Any:
    if _kind(key) == "":
        raise UnsupportedError(f"{path}: neither an ECDSA key (P-256, P-384, P-521) nor an Ed25519 one", hint=MAKE_KEYS)
    return key


def _kind(key: Any) -> str:
    tools = _cryptography()
    if isinstance(key, tools.ed25519.Ed25519PublicKey | tools.ed25519.Ed25519PrivateKey):
        return "Ed25519"
    if isinstance(key, tools.ec.EllipticCurvePublicKey | tools.ec.EllipticCurvePrivateKey):
        return CALLED.get(key.curve.name, "")
    return ""


def _hash(key: Any) -> Any:
    return getattr(_cryptography().hashes, HASHED_WITH[key.curve.name])()


def _words(error: BaseException) -> str:
    """What a library says, in one short line."""
    return str(error).partition("\n")[0][:120] or type(error).__name__


@dataclass(frozen=True)
class _Tools:
    ec: Any
    ed25519: Any
    hashes: Any
    serialization: Any
    InvalidSignature: type[Exception]
    UnsupportedAlgorithm: type[Exception]


def _cryptography() -> _Tools:
    """The parts of ``cryptography`` used here; UnsupportedError where it is not installed."""
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    except ImportError as error:
        raise UnsupportedError(
            f"signatures need the package cryptography: {_words(error)}", hint="pip install 'adaptool[sign]'"
        ) from None
    return _Tools(ec, ed25519, hashes, serialization, exceptions.InvalidSignature, exceptions.UnsupportedAlgorithm)
