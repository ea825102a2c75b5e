"""What happened to one adapter between two sides: what it asks of the version, and in words what it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.config import CONFIG_NAME
from adaptool.comparing.adapters import compare_adapters
from adaptool.comparing.level import level_of
from adaptool.comparing.result import Level
from adaptool.errors import AdaptoolError, NotFetchedError
from adaptool.versioning.kept.sides import Kept
from adaptool.versioning.record import Record
from adaptool.versioning.recording import contents_of_record

UNKNOWN = "changed, and not fetched"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an adapter."""

    words: str
    level: Level | None
    """None where what was, or what is, cannot be told."""
    reasons: tuple[str, ...] = ()
    certain: bool = True
    """Whether content was compared, and not manifests alone: those cannot tell a re-factorised update from another."""
    lacks: str = ""
    """What is not fetched, where that is why content was not compared."""
    relative: float | None = None
    """‖ΔW′ − ΔW‖ / ‖ΔW‖ where the content of two LoRAs was compared."""


NOTHING = Change("", "none")


def change_between(before: Kept, after: Kept, contents: tuple[Record | None, Record | None]) -> Change:
    """What happened; ``contents`` is the best that is known of what each holds. Both are opened only if they differ."""
    old, new = contents
    if old is not None and new is not None and _same(old, new):
        return _metadata(before, after)
    compared = _compared(before, after)
    if isinstance(compared, str) and (old is None or new is None):
        lacking = "what it was" if old is None else "what it is"
        return Change(UNKNOWN, None, (), certain=False, lacks=f"not fetched: {lacking} cannot be compared")
    if old is None or new is None:
        assert isinstance(compared, Change)
        return compared
    level, reasons = level_of(contents_of_record(old), contents_of_record(new), equal=None)
    if isinstance(compared, str):
        return Change(_told(level, reasons), level, reasons, certain=False, lacks=compared)
    if compared.level == "none" and level != "patch":  # what a manifest says beside the content: parents, a pinned base
        return replace(compared, level=level, reasons=reasons)
    return compared if level in ("none", "patch") else replace(compared, level=level, reasons=reasons)


def _same(old: Record, new: Record) -> bool:
    """Whether nothing that a level is judged by differs."""
    content = old.content == new.content and old.base == new.base and old.vocabulary == new.vocabulary
    return content and _parents(old) >= _parents(new)


def _parents(record: Record) -> frozenset[tuple[str, str]]:
    return frozenset((parent.relation, parent.name) for parent in record.parents)


def _compared(before: Kept, after: Kept) -> Change | str:
    """The two adapters themselves compared; else what is not fetched, "" where one of them cannot be read."""
    try:
        with before.opened() as one, after.opened() as two:
            found = compare_adapters(open_adapter(one), open_adapter(two))
            return Change(found.verdict, found.level, found.reasons, relative=found.relative)
    except NotFetchedError as error:
        return error.message
    except AdaptoolError:
        return ""


def _metadata(before: Kept, after: Kept) -> Change:
    """The same content: what else differs."""
    try:
        bytes_differ = _files(before) != _files(after)
    except AdaptoolError:
        bytes_differ = False
    if bytes_differ:
        return Change("re-saved", "none")
    return Change("record only", "none") if not before.unchanged(after) else NOTHING


def _files(kept: Kept) -> Mapping[str, object]:
    names = [name for name in kept.shipped if name == CONFIG_NAME or name.startswith("adapter_model")]
    return {name: kept.files[name] for name in names}


def _told(level: Level, reasons: tuple[str, ...]) -> str:
    return reasons[0] if reasons else ("changed" if level != "none" else "record only")
