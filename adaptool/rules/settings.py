"""A project's own settings: ``[validate]`` of adaptool.toml, or ``[tool.adaptool.validate]`` of pyproject.toml.

[validate]
ignore = ["ADV"]
fail-on = "warning"
for = ["vllm"]
max-rank = 64
baseline = "baseline.json"        # from the settings' own folder

[[validate.allow]]
digest = "9f2c…"                  # adaptool inspect --weights
rule = "VAL004"
reason = "layer 3 is frozen on purpose"
expires = 2027-01-31
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

from adaptool.errors import UsageError
from adaptool.rules.finding import SEVERITIES, Severity
from adaptool.rules.prefixes import parse_codes
from adaptool.rules.waivers import Allowance
from adaptool.tensors.files import open_file

FILE_NAME, PROJECT_NAME = "adaptool.toml", "pyproject.toml"
LIMIT = 4 << 20
TABLES = {"validate", "version"}


@dataclass(frozen=True)
class Settings:
    """What a settings file says; a field that it leaves out is None or empty."""

    path: Path | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    max_rank: int | None = None
    fail_on: Severity | None = None
    baseline: Path | None = None
    allowances: tuple[Allowance, ...] = ()


def find_settings(folder: Path) -> Settings:
    """The settings of the project ``folder`` lies in: of it or the nearest folder above, up to the repository's top."""
    for place in (folder, *folder.parents):
        if (place / FILE_NAME).is_file():
            return read_settings(place / FILE_NAME)
        if (place / PROJECT_NAME).is_file() and (found := read_settings(place / PROJECT_NAME)).path is not None:
            return found
        if (place / ".git").exists():
            break
    return Settings()


def find_table(folder: Path, name: str) -> tuple[Path, Mapping[str, Any]] | None:
    """Another table of those files, such as ``version``, and the file it is in: found where ``find_settings`` looks."""
    for place in (folder, *folder.parents):
        for file in (place / FILE_NAME, place / PROJECT_NAME):
            table = _document(file).get(name) if file.is_file() else None
            if table is not None and not isinstance(table, dict):
                raise UsageError(f"{file}: {name} must be a table")
            if table is not None:
                return file, table
        if (place / FILE_NAME).is_file() or (place / ".git").exists():
            break
    return None


def read_settings(path: Path) -> Settings:
    """The settings in one file; UsageError says what in it is wrong. A pyproject.toml without any gives none."""
    document = _document(path)
    table = document.get("validate")
    if table is None:
        return Settings()
    if not isinstance(table, dict):
        raise UsageError(f"{path}: validate must be a table")
    where = f"{path}: validate"
    _known(table, {"select", "ignore", "for", "max-rank", "fail-on", "baseline", "allow"}, where)
    baseline = table.get("baseline")
    if baseline is not None and not isinstance(baseline, str):
        raise UsageError(f"{where}: baseline must be a path")
    return Settings(
        path,
        parse_codes(_texts(table, "select", where)), parse_codes(_texts(table, "ignore", where)),
        tuple(_texts(table, "for", where)), _max_rank(table, where), _fail_on(table, where),
        None if baseline is None else path.parent / baseline, tuple(_allowances(table, where)),
    )  # fmt: skip


def _document(path: Path) -> Mapping[str, Any]:
    """The tables of one file that are adaptool's, by their names."""
    try:
        document = tomllib.loads(open_file(path).read_all(LIMIT).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    if path.name != PROJECT_NAME:
        _known(document, TABLES, f"{path}")
        return document
    tool = document.get("tool", {})
    own = tool.get("adaptool", {}) if isinstance(tool, dict) else {}
    return own if isinstance(own, dict) else {}


def _known(table: Mapping[str, Any], names: set[str], where: str) -> None:
    for name in table:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UsageError(
                f"{where}: no setting is called {name!r}",
                hint=f"did you mean: {near[0]}" if near else f"there are: {', '.join(sorted(names))}",
            )


def _texts(table: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = table.get(name, [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UsageError(f"{where}: {name} must be a list of texts")
    return items


def _max_rank(table: Mapping[str, Any], where: str) -> int | None:
    value = table.get("max-rank")
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{where}: max-rank must be a positive whole number")
    return value


def _fail_on(table: Mapping[str, Any], where: str) -> Severity | None:
    value = table.get("fail-on")
    if value is not None and value not in SEVERITIES:
        raise UsageError(f"{where}: fail-on must be one of {', '.join(SEVERITIES)}")
    return cast("Severity | None", value)


def _allowances(table: Mapping[str, Any], where: str) -> list[Allowance]:
    entries = table.get("allow", [])
    if not isinstance(entries, list):
        raise UsageError(f"{where}: allow must be a list of tables", hint="write each as [[validate.allow]]")
    return [_allowance(entry, f"{where}.allow[{number}]") for number, entry in enumerate(entries)]


def _allowance(entry: Any, where: str) -> Allowance:
    """One entry: all four are asked for, so that nobody wonders later who allowed what, and for how long."""
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: must be a table")
    _known(entry, {"digest", "rule", "reason", "expires"}, where)
    for name in ("digest", "rule", "reason"):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise UsageError(f"{where}: {name} is missing, or no text")
    expires = entry.get("expires")
    if isinstance(expires, datetime) or not isinstance(expires, date):
        raise UsageError(f"{where}: expires must be a date", hint="write it without quotes: expires = 2027-01-31")
    from adaptool.rules.catalogue import RULES

    if entry["rule"] not in RULES:
        near = difflib.get_close_matches(entry["rule"], RULES, n=1)
        raise UsageError(f"{where}: no rule {entry['rule']!r}", hint=f"did you mean: {near[0]}" if near else None)
    digest = entry["digest"].strip().lower().removeprefix("sha256:")
    if len(digest) != 64:
        raise UsageError(f"{where}: digest must be 64 hex digits", hint="see: adaptool inspect --weights ADAPTER")
    return Allowance(digest, entry["rule"], entry["reason"].strip(), expires)
