"""``adaptool git textconv``."""

from __future__ import annotations

from pathlib import Path

import click

from adaptool.cli.console import Console


@click.command(epilog="Example:  adaptool git textconv adapter/adapter_model.safetensors")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def textconv(console: Console, file: Path) -> int:
    """Print FILE (safetensors, a PyTorch file, GGUF, an LFS pointer) as text: a line for each module or tensor.

    Git runs it on every version of a file, without the config beside it: |BA| is the norm of an update before its
    scale. The same weights always make the same text. What cannot be read is said in one line, and is no error.
    """
    from adaptool.git.textconv import textconv as told

    console.result("\n".join(told(file)))
    return 0
