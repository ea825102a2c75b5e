"""The two streams: results on stdout and nothing else there; notes, progress, hints and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click

from adaptool.tensors.locate import as_given

WIDEST = 110
"""Columns: beyond it the eye loses the row."""


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` with everything escaped that repaints, reorders or hides what a terminal shows; ``lines`` may stay.

    Names come from files: control and format characters, lone surrogates and unassigned ones are not shown raw.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


class Console:
    """What a command prints through."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, color: bool | None = None) -> None:
        self.quiet, self.verbose = quiet, verbose
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.color = (not plain) if color is None else color

    def result(self, text: str) -> None:
        """The result itself, on stdout."""
        click.echo(printable(as_given(text), lines=True))

    def result_json(self, value: Mapping[str, Any]) -> None:
        """The result as JSON, on stdout."""
        click.echo(json.dumps(value, indent=2))  # ASCII: what a name hides stays escaped

    def note(self, text: str) -> None:
        """Something worth knowing; silenced by -q."""
        if not self.quiet:
            click.echo(self._styled("note: ", "yellow") + printable(as_given(text)), err=True)

    def detail(self, text: str) -> None:
        """Something only -v asks for."""
        if self.verbose:
            click.echo(printable(as_given(text)), err=True)

    def say(self, text: str) -> None:
        """A line on stderr; silenced by -q."""
        if not self.quiet:
            click.echo(printable(as_given(text)), err=True)

    def fail(self, message: str, hint: str | None, *, code: int, cause: BaseException | None = None) -> int:
        """One line that says what is wrong, one that says what to try; the exit code."""
        click.echo(self._styled("error: ", "red") + printable(as_given(message)), err=True)
        while self.verbose and cause is not None:
            click.echo(printable(as_given(f"  because: {type(cause).__name__}: {cause}")), err=True)
            cause = cause.__cause__
        if hint:
            click.echo(self._styled("hint: ", "cyan") + printable(as_given(hint)), err=True)
        return code

    def _styled(self, text: str, colour: str) -> str:
        paints = self.color and sys.stderr is not None and sys.stderr.isatty()
        return click.style(text, fg=colour, bold=True) if paints else text

    @property
    def width(self) -> int:
        """Columns of the terminal stdout is, 80 where it is none."""
        try:
            return max(40, min(WIDEST, os.get_terminal_size(sys.stdout.fileno()).columns))
        except (OSError, AttributeError):  # no terminal, or closed (>&-)
            return 80

    @property
    def paints(self) -> bool:
        """Whether results may be coloured: stdout is a terminal, and nothing forbids it."""
        return self.color and sys.stdout is not None and sys.stdout.isatty()

    def progress(self, steps: Iterable[int], total: int) -> None:
        """Run ``steps``, each a number of bytes done, behind a bar where stderr is a terminal."""
        if self.quiet or sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            for _ in steps:
                pass
            return
        bar = Bar(total)
        try:
            for step in steps:
                bar.advance(step)
        finally:
            bar.clear()


class Bar:
    """A progress bar on one line of stderr: bytes, rate, time left; redrawn a few times a second."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._start, self._drawn = total, 0, time.monotonic(), 0.0

    def advance(self, nbytes: int) -> None:
        """``nbytes`` more are done."""
        self._done += nbytes
        now = time.monotonic()
        if now - self._drawn > 0.1:
            self._drawn = now
            self._draw(now - self._start)

    def _draw(self, seconds: float) -> None:
        share = self._done / self._total if self._total else 1.0
        rate = self._done / seconds if seconds else 0.0
        left = (self._total - self._done) / rate if rate else 0.0
        tail = f" {self._done / 1e9:.2f}/{self._total / 1e9:.2f} GB  {rate / 1e6:.0f} MB/s  {left:.0f} s left"
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            columns = 80
        width = max(0, min(40, columns - len(tail) - 1))
        filled = "█" * int(width * share)
        click.echo(f"\r\x1b[2K{filled}{'░' * (width - len(filled))}{tail}"[: columns + 6], nl=False, err=True)

    def clear(self) -> None:
        """Remove the bar."""
        click.echo("\r\x1b[2K", nl=False, err=True)
