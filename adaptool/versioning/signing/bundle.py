"""The file a signature is kept in: a Sigstore bundle of a DSSE envelope, as OpenSSF model-signing writes it.

Whatever key a bundle names or holds is a hint and never trusted: who may sign is for the one who verifies to say.
Source: https://docs.sigstore.dev/about/bundle/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptool.errors import FormatError, NotFetchedError, UnsupportedError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.tensors.pointers import parse_pointer
from adaptool.versioning.signing.dsse import Envelope, read_envelope

SIGNATURE_NAME = "model.sig"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
OTHER_VERSION = re.compile(r"application/vnd\.dev\.sigstore\.bundle(?:\.v\d+(?:\.\d+)?)?\+json(?:;version=[\d.]+)?")

LIMIT = 16 << 20
"""Bytes: ten thousand files take three million."""

CERTIFICATES = ("certificate", "x509CertificateChain")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature's file."""

    envelope: Envelope
    hint: str = ""
    """The fingerprint of the key that signed, as the file says: good for a message, for nothing else."""


def bundle_text(bundle: Bundle) -> str:
    """The file's text."""
    value = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": bundle.hint}, "tlogEntries": []},
        "dsseEnvelope": bundle.envelope.to_dict(),
    }
    return json.dumps(value, indent=2) + "\n"


def read_bundle(path: Path) -> Bundle:
    """Read a signature's file: FormatError where it is broken, UnsupportedError where no key alone can check it."""
    data = open_file(path).read_all(LIMIT)
    if parse_pointer(data) is not None:
        raise NotFetchedError(f"{path}: a pointer of Git LFS, not the signature", hint="fetch it with: git lfs pull")
    value = parse_json(data, str(path), what="signature")
    if not isinstance(value, Mapping):
        raise FormatError(f"{path}: the signature is not a JSON object")
    _check_media_type(value.get("mediaType"), path)
    if "messageSignature" in value:
        raise UnsupportedError(f"{path}: a signature over one digest, not over a statement about a folder")
    return Bundle(read_envelope(value.get("dsseEnvelope"), str(path)), _hint(value.get("verificationMaterial"), path))


def _check_media_type(kind: Any, path: Path) -> None:
    if kind == MEDIA_TYPE:
        return
    if isinstance(kind, str) and OTHER_VERSION.fullmatch(kind):
        raise UnsupportedError(
            f"{path}: a Sigstore bundle of another version, {kind}", hint=f"written here: {MEDIA_TYPE}"
        )
    raise FormatError(f"{path}: not a Sigstore bundle", hint="--signature names what `adaptool version sign` wrote")


def _hint(material: Any, path: Path) -> str:
    if not isinstance(material, Mapping):
        raise FormatError(f"{path}: the bundle does not say what the signature is verified with")
    if any(name in material for name in CERTIFICATES):
        raise UnsupportedError(
            f"{path}: made with a certificate, valid or expired; only signatures by a key are checked here",
            hint="model_signing verify certificate (or: verify sigstore) checks it",
        )
    key = material.get("publicKey")
    if not isinstance(key, Mapping):
        raise FormatError(f"{path}: the bundle does not say what the signature is verified with")
    hint = key.get("hint")
    return hint if isinstance(hint, str) else ""
