"""DSSE: a payload, its type, and a signature over both.

What is signed is the pre-authentication encoding (PAE) of the type and of the payload's own bytes. So neither can be
exchanged, and no two parsers need to agree about what was signed.
Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.errors import FormatError, UnsupportedError

PAYLOAD_TYPE = "application/vnd.in-toto+json"

LONGEST_SIGNATURE = 1024
"""Bytes: one by P-521 has 139."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and the one signature over it, none of it believed yet."""

    payload: bytes
    signature: bytes
    payload_type: str = PAYLOAD_TYPE

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return encoded(self.payload_type, self.payload)

    def to_dict(self) -> dict[str, Any]:
        """As a bundle holds it."""
        return {
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": "", "sig": base64.b64encode(self.signature).decode("ascii")}],
        }


def encoded(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def read_envelope(value: Any, where: str) -> Envelope:
    """An envelope from parsed JSON. Raises FormatError, or UnsupportedError where it is of another kind.

    Several signatures are refused, as a Sigstore bundle has one: tools that look at different ones would disagree.
    """
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: the envelope is not a JSON object")
    kind, signatures = value.get("payloadType"), value.get("signatures")
    if kind != PAYLOAD_TYPE:
        raise UnsupportedError(f"{where}: the signed payload is of the type {str(kind)[:80]!r}, not {PAYLOAD_TYPE}")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], Mapping):
        number = len(signatures) if isinstance(signatures, list) else "no"
        raise FormatError(f"{where}: {number} signatures in the envelope, where a bundle has one")
    signature = decoded(signatures[0].get("sig"), f"{where}: the signature")
    if not 0 < len(signature) <= LONGEST_SIGNATURE:
        raise FormatError(f"{where}: a signature of {len(signature)} bytes")
    return Envelope(decoded(value.get("payload"), f"{where}: the payload"), signature)


def decoded(text: Any, where: str) -> bytes:
    """Base64 in its one canonical form: padded, without line breaks, no bits left over."""
    if not isinstance(text, str):
        raise FormatError(f"{where} is missing, or no text")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise FormatError(f"{where} is not base64: {error}") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise FormatError(f"{where} is not base64 as it is written by everyone")
    return data
