"""What the gate can find: stable codes, each with its severity, why it matters and the way out."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass

from adaptool.errors import UsageError
from adaptool.rules.finding import Severity
from adaptool.rules.prefixes import EVERYTHING, matched
from adaptool.versions import MANIFEST_NAME


@dataclass(frozen=True, slots=True)
class Code:
    """One thing that is looked for. Codes are stable: a retired one is not given out again."""

    code: str
    severity: Severity
    """error: the version does not say what is there. warning: it does, and something is untidy. info: worth knowing."""
    title: str
    why: str
    fix: str
    """``{path}`` is the adapter's folder, quoted for a shell."""


CODES: dict[str, Code] = {
    code.code: code
    for code in (
        Code("VER001", "error", "no manifest",
             "Without a record nothing says which version this is. A warning where no adapter here has one yet.",
             "adaptool version init {path}"),
        Code("VER002", "error", "the manifest cannot be read",
             "What cannot be read cannot be compared: a bad merge, a hand edit, a newer adaptool.",
             "adaptool version init {path}, or restore the file from Git"),
        Code("VER003", "error", "manifest and content disagree",
             "The weights, the effective config, or code and templates beside them are not those it was written for.",
             "adaptool version bump {path}"),
        Code("VER004", "warning", "files were saved again",
             "Bytes differ from the manifest's, the content is the same: no new version, but a new record.",
             "adaptool version bump {path}"),
        Code("VER005", "error", "files missing or extra",
             "The manifest lists what is shipped; a reader who checks it will miss a file or find one too many.",
             "adaptool version bump {path}"),
        Code("VER101", "error", "content changed without a new version",
             "Two adapters would go by one version, and whoever has the first will never fetch the second.",
             "adaptool version bump {path}"),
        Code("VER102", "error", "the version was raised too little",
             "The step tells users what to expect: major breaks them, minor adds, patch retrains.",
             "adaptool version bump {path}"),
        Code("VER103", "error", "the version goes backwards",
             "Whoever has the higher one will not take the lower for news.",
             "set a version above it: adaptool version bump {path}"),
        Code("VER104", "error", "the version is taken",
             "Two branches gave one version to different contents.",
             "adaptool version bump {path}"),
        Code("VER105", "error", "not a semantic version",
             "Only MAJOR.MINOR.PATCH can be compared (https://semver.org).",
             "adaptool version bump --to 1.0.0 {path}"),
        Code("VER201", "error", "a tag that moved",
             "A tag is a promise: whoever fetched it before has something else under that name.",
             "tag the commit that has this version, or give the new content a new one"),
        Code("VER301", "error", "the base is not pinned",
             "The base's branch moves on; an adapter fits the weights it was trained on, and no others.",
             "adaptool version bump --base-revision COMMIT {path} (the commit of the base it was trained on)"),
        Code("VER302", "error", "manifest and config name different bases",
             "A loader reads the config, a reader the manifest.",
             "adaptool version bump {path}"),
        Code("VER401", "error", "a parent that does not exist",
             "The lineage leads nowhere: no one can look up what this was made from.",
             "commit the parent, or correct parents in {path}/adaptool.json"),
        Code("VER402", "error", "a parent is not what it was",
             "What lies where the lineage points has another content than the one this was made from.",
             "name the parent's version by its commit or tag in {path}/adaptool.json"),
        Code("VER501", "info", "an adapter was removed", "Whoever loads it by path will miss it.", ""),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one adapter."""

    code: str
    severity: Severity
    title: str
    message: str
    """One sentence, with the names and the numbers in it."""
    fix: str
    """What to do: as a rule, a command."""
    file: str
    """The file it is about, by its path from the adapter's folder."""


def finding(
    code: str, path: str, message: str, *, file: str = MANIFEST_NAME, fix: str = "", severity: Severity | None = None
) -> Finding:
    """A finding of ``code`` about the adapter in ``path``; what is not said of it is as in ``CODES``.

    In ``fix``, ``{path}`` stands for the path as a shell takes it.
    """
    known = CODES[code]
    advice = (fix or known.fix).replace("{path}", shlex.quote(path))
    return Finding(code, severity or known.severity, known.title, message, advice, file)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which codes count: by prefixes ("VER1", "VER301"), the longest that matches decides; "ALL" matches any."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for prefix in (*self.select, *self.ignore):
            if prefix != EVERYTHING and not any(code.startswith(prefix) for code in CODES):
                near = difflib.get_close_matches(prefix, CODES, n=1, cutoff=0.5)
                hint = f"did you mean: {near[0]}" if near else f"one of: {', '.join(CODES)}"
                raise UsageError(f"no code begins with {prefix[:60]!r}", hint=hint)

    def __contains__(self, code: str) -> bool:
        chosen, dropped = matched(code, self.select), matched(code, self.ignore)
        return (not self.select or chosen >= 0) and dropped <= (chosen if self.select else -1)
