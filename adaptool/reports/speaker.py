"""Who a report is told to."""

from __future__ import annotations

from typing import Protocol


class Speaker(Protocol):
    """The console: ``say`` writes a line to stderr, ``result`` to stdout."""

    def say(self, text: str) -> None: ...

    def result(self, text: str) -> None: ...
