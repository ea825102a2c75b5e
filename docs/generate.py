"""Regenerates what the documentation takes from the program: the README's picture and the command reference.

    python docs/generate.py [BASE]

BASE is the demo's model (build/demo/SmolLM2-135M-Instruct, which `make demo` fetches). The picture is real output: the
commands run in a pseudo-terminal 80 columns wide, and rich turns what they printed into an SVG.
"""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
WIDTH = 80


def main() -> None:
    base = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/demo/SmolLM2-135M-Instruct").resolve()
    write_reference(ROOT / "docs" / "cli.md")
    write_rules(ROOT / "docs" / "rules.md")
    if base.is_dir():
        write_picture(base, ROOT / "docs" / "demo.svg")
    else:
        sys.exit(f"{base}: not there; run `make demo` first to make the picture")


def write_reference(path: Path) -> None:
    """docs/cli.md: every command's --help, verbatim."""
    from adaptool.cli.lazy import every_command
    from adaptool.cli.main import cli

    parts = ["# The commands\n\nGenerated from `--help` by `make docs`.\n"]
    for command in ((), *(words for words, _ in every_command(cli))):
        words = ["adaptool", *command, "--help"]
        text = subprocess.run([*program(), *words[1:]], capture_output=True, text=True, check=True).stdout
        parts.append(f"## `{' '.join(words[:-1])}`\n\n```\n{text.rstrip()}\n```\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def write_rules(path: Path) -> None:
    """docs/rules.md: every rule of validate, from the rules themselves."""
    from adaptool.reports.rules_text import rules_page
    from adaptool.rules.catalogue import catalogue

    path.write_text(rules_page(catalogue()), encoding="utf-8")


def write_picture(base: Path, path: Path) -> None:
    """docs/demo.svg: inspect, merge to GGUF and verify, as a terminal shows them."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "SmolLM2-135M-Instruct").symlink_to(base)
        (folder / "smollm2-lora").symlink_to(ROOT / "fixtures" / "smollm2-lora")
        console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
        for line in (
            "adaptool inspect ./smollm2-lora",
            "adaptool merge ./smollm2-lora --base ./SmolLM2-135M-Instruct --out json --to-gguf q4",
            "adaptool verify json/json-Q4_K_M.gguf --base ./SmolLM2-135M-Instruct --adapter ./smollm2-lora",
        ):
            console.print(Text.assemble(("$ ", "bold green"), (line, "bold")))
            console.print(Text.from_ansi("".join(in_terminal(line.split(), folder)).rstrip()))
            console.print()
        # a picture in a README should fetch nothing: the reader's own monospace font will do
        svg = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="adaptool"), flags=re.DOTALL)
        path.write_text(svg, encoding="utf-8")


def program() -> list[str]:
    """How to run adaptool with this interpreter."""
    return [sys.executable, "-c", "from adaptool.cli.main import run; run()"]


def in_terminal(words: list[str], folder: Path) -> Iterator[str]:
    """What a command prints on a terminal of WIDTH columns, progress bars wiped as a terminal would."""
    parent, child = pty.openpty()
    ioctl(child, TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*program(), *words[1:]], stdout=child, stderr=child, cwd=folder, env=environment)
    os.close(child)
    output = b""
    while True:
        ready, _, _ = select.select([parent], [], [], 60)
        try:
            data = os.read(parent, 65536) if ready else b""
        except OSError:
            break
        if not data:
            break
        output += data
    process.wait()
    for line in output.decode("utf-8", "replace").replace("\r\n", "\n").splitlines(keepends=True):
        yield re.sub(r"^.*\r\x1b\[2K", "", line)


if __name__ == "__main__":
    main()
