"""What init and bump are told of an adapter, parsed the same way for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adaptool.cli.console import Console
from adaptool.cli.options import NUMBER
from adaptool.errors import AdaptoolError, UsageError

if TYPE_CHECKING:
    from adaptool.versioning.beginning import Said
    from adaptool.versioning.planned import Changes, Planned

Function = TypeVar("Function", bound=Callable[..., Any])


def said_options(function: Function) -> Function:
    """What cannot be read from an adapter."""
    for option in reversed(
        (
            click.option("--base-revision", metavar="COMMIT", help="The commit of the base model: pins it."),
            click.option("--base-digest", metavar="MODEL|SHA256",
                         help="The base itself, to be hashed (1 GB a second), or the digest of its tensors."),
            click.option("--parent", "parents", metavar="[RELATION=]ADAPTER", multiple=True,
                         help="What it was made from: a folder, REV:PATH or hub:ORG/NAME. RELATION: trained_from "
                              "(default), composed_of, merged_into, fixed_from."),
            click.option("--metric", "metrics", metavar="NAME=VALUE", multiple=True, help="A number to keep."),
            click.option("--description", metavar="TEXT", help="What the adapter is."),
            click.option("--license", metavar="SPDX", help="Its licence: Apache-2.0."),
            click.option("--message", "-m", metavar="TEXT", help="What this version brings."),
            click.option("--dry-run", is_flag=True, help="Say what would be written."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def said_of(folder: Path, *, name: str | None = None, version: str | None = None, base_revision: str | None,
            base_digest: str | None, parents: Sequence[str], metrics: Sequence[str], description: str | None,
            license: str | None, message: str | None) -> Said:  # fmt: skip
    """Those options, of one adapter: parents are looked up from where it lies."""
    from adaptool.versioning.beginning import Said
    from adaptool.versioning.parents import parent_from

    return Said(
        name=name, version=version, base_revision=_commit(base_revision), base_digest=base_digest,
        parents=tuple(parent_from(text, folder) for text in parents), metrics=_metrics(metrics),
        description=description, license=license, message=message,
    )  # fmt: skip


def digest_of_base(text: str | None) -> str | None:
    """``--base-digest``: a digest as it is, a model hashed."""
    from adaptool.versioning.record import SHA256

    if text is None or SHA256.fullmatch(text.lower()):
        return text and text.lower()
    from adaptool.adapters.base import open_base
    from adaptool.tensors.locate import locate
    from adaptool.versions import content_digest

    return content_digest(open_base(locate(text)).store)


def _commit(text: str | None) -> str | None:
    from adaptool.comparing.base_names import COMMIT

    if text is None or COMMIT.fullmatch(text.lower()):
        return text and text.lower()
    raise UsageError(
        f"--base-revision {text[:60]}: not a whole commit hash", hint="a branch or tag may move; 40 hex digits do not"
    )


def _metrics(texts: Sequence[str]) -> Mapping[str, float | str]:
    found: dict[str, float | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value:
            raise UsageError(f"--metric {text}: must be NAME=VALUE", hint="such as: --metric accuracy=0.83")
        found[name.strip()] = _number(value) if NUMBER.fullmatch(value) else value
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UsageError(f"--metric: {text} is not a finite number")
    return int(text) if text.lstrip("+-").isdigit() else value


def folders_of(texts: Sequence[str]) -> list[Path]:
    """The adapters in the working tree that ``texts`` name, or lie below them: those that can be written to."""
    from adaptool.rules.locate import find_adapters
    from adaptool.tensors.locate import LAID_OUT, locate

    found: list[Path] = []
    for text in texts or ["."]:
        place = locate(text)
        if any(str(top) in LAID_OUT for top in (place, *place.parents)):
            raise UsageError(f"{text}: is a revision, which cannot be changed", hint="check it out, or name a folder")
        found += [target.folder for target in find_adapters(place)]
    return list(dict.fromkeys(found))


def carry_out(
    console: Console, kind: str, folders: Sequence[Path], plan: Callable[[Path], Planned | None], *, dry_run: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Plan every adapter, and write those that could be planned; one that could not spoils nothing for the others."""
    from adaptool.reports.json import to_json
    from adaptool.versioning.planned import Changes, Failure

    done, failures = list["Planned"](), list[Failure]()
    for folder in folders:
        try:
            step = plan(folder)
            if step is not None and not dry_run:
                step.write()
        except AdaptoolError as error:
            failures.append(Failure(str(folder), error.message, error.hint, error.exit_code))
        else:
            done += [] if step is None else [step]
    changes = Changes(dry_run, tuple(step.change for step in done), tuple(failures))
    if as_json:
        console.result_json(to_json(kind, changes))
    else:
        _tell(console, kind, changes)
    for failure in failures:
        console.fail(failure.message, failure.hint, code=failure.exit_code)
    return changes.exit_code


def _tell(console: Console, kind: str, changes: Changes) -> None:
    """On stdout the path of each new manifest, or each version's step; the rest is for a person."""
    from adaptool.reports.version_text import begun, moved

    for change in changes.adapters:
        if kind == "version-init":
            console.say(begun(change, dry_run=changes.dry_run))
            console.result(str(change.manifest))
        else:
            console.result(moved(change))
            for reason in change.reasons:
                console.say(f"  {reason}")
            console.detail(f"  compared with {change.since}; content {change.digest}")
        for note in change.notes:
            console.note(note)
    if changes.dry_run:
        console.say("nothing was written")
