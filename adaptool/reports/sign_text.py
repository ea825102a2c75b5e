"""Signing and verifying for people: the verdict, what it rests on, and every file that is not as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptool.reports.figures import plural
from adaptool.reports.layout import BLANK, Line, Span, Style, fact, heading, plain, visible

if TYPE_CHECKING:
    from adaptool.versioning.signing.signing import Signing
    from adaptool.versioning.signing.verification import SignatureCheck, VersionVerification

MOST = 20
"""Files shown without -v."""

STYLES: dict[str, Style] = {"verified": "good", "not signed": "warn", "not verified": "bad", "unchecked": "bad"}
SHOUTED = {"not verified": "NOT VERIFIED", "unchecked": "NOT CHECKED", "not signed": "NOT SIGNED"}


def signing_report(signing: Signing, width: int, *, dry_run: bool, verbose: bool) -> list[str]:
    """What was signed, or would be, in lines."""
    done = "would sign" if dry_run else "signed"
    lines = [f"{done} {plural(len(signing.files), 'file')} of {signing.name} with {signing.key_kind}"]
    facts = fact("key", signing.key_fingerprint, width)
    if dry_run or verbose:
        for file in signing.files:
            facts += fact("file", f"{file.name}  {file.sha256[:16]}…", width)
        facts += fact("left out", ", ".join(signing.ignored), width)
    return [*lines, *plain(facts).split("\n")]


def verification_report(found: VersionVerification, width: int, *, verbose: bool = False) -> list[Line]:
    """What verifying found, in lines of at most ``width`` columns."""
    name, version = found.manifest.name, found.manifest.version
    title = f"{name} {version}" if name and version else found.given
    verdict = Span(SHOUTED.get(found.verdict, found.verdict), STYLES[found.verdict])
    lines: list[Line] = [(Span(visible(title), "title"), Span("  "), verdict), BLANK]
    lines += fact("signature", found.signature.because, width, _style(found.signature.status))
    lines += _of_key(found.signature, width)
    lines += fact("manifest", found.manifest.because, width, _style(found.manifest.status))
    if verbose and found.manifest.digest:
        lines += fact("content", found.manifest.digest, width)
    for file in found.not_fetched:
        lines += fact("not fetched", f"{file}: the SHA-256 and size in its pointer were compared instead", width)
    for note in found.notes:
        lines += fact("note", note, width, "dim")
    if found.differences:
        lines += [BLANK, heading("NOT AS IT SHOULD BE")]
        shown = found.differences if verbose else found.differences[:MOST]
        for one in shown:
            detail = f": {one.detail}" if one.detail else ""
            lines += fact(one.what, f"{one.file}{detail} ({one.against})", width, "bad")
        if len(shown) < len(found.differences):
            lines += fact("", f"and {len(found.differences) - len(shown)} more; -v shows them", width, "dim")
    return lines


def _of_key(check: SignatureCheck, width: int) -> list[Line]:
    if check.key is None:
        return []
    pinned = f", pinned by {check.key.pinned_by}" if check.key.pinned_by else ""
    lines = fact("key", f"{check.key.file} ({check.key.kind}, {check.key.fingerprint[:16]}…){pinned}", width)
    free = [name for name in check.ignored if not name.startswith(".") and not name.endswith(".sig")]
    return lines + (fact("not covered", ", ".join(free), width, "dim") if free else [])


def _style(status: str) -> Style:
    return {"verified": "good", "agrees": "good", "none": "dim"}.get(status, "warn")  # type: ignore[return-value]
