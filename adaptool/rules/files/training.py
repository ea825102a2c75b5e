"""What the files beside an adapter tell of its training: the Trainer's own log, and the card's header."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.rules.files.listing import listing
from adaptool.rules.subject import Subject, attempt
from adaptool.tensors.files import open_file

STATE_NAME, CARD_NAME = "trainer_state.json", "README.md"
LIMIT = 16 << 20
"""Bytes: a log of a million steps."""


@dataclass(frozen=True, slots=True)
class Training:
    """A run of transformers' Trainer."""

    steps: int
    epochs: float
    examples: int
    """At least: steps × the batch of one device, which leaves out accumulation and further devices."""
    losses: tuple[float, ...]
    """As logged: NaN among them."""
    evaluated: tuple[float, ...]
    """Losses on held-out data, in order."""


def training(subject: Subject) -> Training | None:
    """The run that trainer_state.json in the folder describes; None where there is none, or it makes no sense."""
    return subject.once("training", lambda: _training(_beside(subject, STATE_NAME)))


def _beside(subject: Subject, name: str) -> bytes | None:
    entry = next((entry for entry in listing(subject).files if entry.name == name), None)
    return None if entry is None else attempt(lambda: open_file(entry.path).read_all(LIMIT)).value


def _training(data: bytes | None) -> Training | None:
    state = _json(data) if data is not None else None
    steps = _number(state.get("global_step")) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or steps is None or steps < 1:
        return None
    log = state.get("log_history")
    entries = [entry for entry in log if isinstance(entry, Mapping)] if isinstance(log, list) else []
    return Training(
        int(steps), _number(state.get("epoch")) or 0.0, int(steps * (_number(state.get("train_batch_size")) or 1)),
        tuple(_logged(entries, "loss")), tuple(filter(math.isfinite, _logged(entries, "eval_loss"))),
    )  # fmt: skip


def _json(data: bytes) -> Any:
    """The log as Python's parser takes it: the Trainer writes NaN."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _logged(entries: list[Mapping[str, Any]], name: str) -> Iterator[float]:
    values = (entry.get(name) for entry in entries)
    return (float(v) for v in values if isinstance(v, float) or (type(v) is int and abs(v) < LIMIT))


def _number(value: object) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if real and math.isfinite(value) else None  # type: ignore[arg-type, return-value]


def card_fields(subject: Subject) -> frozenset[str] | None:
    """The names in the header of README.md, which the hub reads; None where there is no card."""
    data = subject.once("card", lambda: _beside(subject, CARD_NAME))
    if data is None:
        return None
    header = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(?:\n|$)", data.decode("utf-8", "replace")[:100_000], re.DOTALL)
    found = re.findall(r"^([A-Za-z_]+):[ \t]*\S", header[1], re.MULTILINE) if header else []
    lists = re.findall(r"^([A-Za-z_]+):[ \t]*\n[ \t]*-", header[1], re.MULTILINE) if header else []
    return frozenset(found) | frozenset(lists)
