"""What an adapter is, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.errors import UsageError
from adaptool.jobs import default_workers
from adaptool.tensors.locate import locate

if TYPE_CHECKING:
    from adaptool.adapters.base import BaseModel
    from adaptool.fixing.job import FixJob
    from adaptool.rules.engine import Options as ValidationOptions
    from adaptool.rules.engine import Validation
    from adaptool.rules.finding import Severity
    from adaptool.rules.settings import Settings
    from adaptool.summary.summary import Summary


def inspect(path: Path | str, base: Path | str | None = None, *, weights: bool = False) -> Summary:
    """What an adapter (or a model) is, from headers; with ``weights`` every update's spectrum, exactly.

    ``base`` (a model, or its config.json) adds coverage and parameter figures.
    """
    from adaptool.summary.summary import inspect_path, open_model

    return inspect_path(locate(path), None if base is None else open_model(locate(base)), weights=weights)


def validation_options(
    *,
    consumers: Sequence[str] = (),
    max_rank: int | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: Severity | None = None,
    baseline: Path | str | None = None,
    settings: Settings | Path | str | None = None,
    today: date = date.max,
    workers: int | None = None,
) -> ValidationOptions:
    """How to validate: what is given here goes before what the ``settings`` file says. Raises UsageError.

    ``today`` is what an allow-list's expiry is measured against: unless it is given, nothing is allowed.
    """
    from adaptool.rules.engine import Options
    from adaptool.rules.prefixes import parse_codes
    from adaptool.rules.selection import Selection
    from adaptool.rules.settings import Settings, read_settings
    from adaptool.rules.waivers import Waivers, read_baseline

    found = Settings() if settings is None else settings
    if not isinstance(found, Settings):
        found = read_settings(Path(found))
    named = [name.strip().lower() for text in consumers for name in text.split(",") if name.strip()]
    selection = Selection(
        parse_codes(select) or found.select, parse_codes(ignore) or found.ignore, frozenset(named or found.consumers)
    )
    known = Path(baseline) if baseline is not None else found.baseline
    waivers = Waivers(None if known is None else read_baseline(known), found.allowances, today)
    return Options(
        selection, fail_on or found.fail_on or "error", max_rank or found.max_rank, waivers,
        workers=workers or default_workers(),
    )  # fmt: skip


def validate(
    paths: Sequence[Path | str], base: Path | str | None = None, options: ValidationOptions | None = None
) -> Validation:
    """Check every adapter at or below ``paths``; nothing is executed, and nothing written.

    Raises AdaptoolError where the base cannot be opened; what is wrong with an adapter is in the result.
    """
    from adaptool.rules.engine import validate as run_rules

    return run_rules(list(map(str, paths)), _base_for_rules(base), options)


def fix(
    adapter: Path | str,
    out: Path | str,
    base: Path | str | None = None,
    *,
    consumers: Iterable[str] = (),
    workers: int | None = None,
    overwrite: bool = False,
) -> FixJob:
    """Plan the correction of what has one faithful answer: nothing is written until the job is iterated.

    ``consumers`` are the runtimes it must work in. Raises AdaptoolError where the adapter cannot be read.
    """
    from adaptool.fixing.job import FixJob
    from adaptool.rules.locate import find_adapters
    from adaptool.rules.subject import Subject

    targets = list(find_adapters(locate(adapter)))
    if len(targets) != 1:
        raise UsageError(f"{adapter}: {len(targets)} adapters below it", hint="name one of them")
    subject = Subject(targets[0].folder, targets[0].weights, _base_for_rules(base), frozenset(consumers))
    return FixJob(subject, Path(out), workers=workers or default_workers(), overwrite=overwrite)


def _base_for_rules(base: Path | str | None) -> BaseModel | None:
    """A base of which headers, or only a config, are enough."""
    from adaptool.summary.summary import open_model

    return None if base is None else open_model(locate(base))
