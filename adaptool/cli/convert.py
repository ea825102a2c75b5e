"""``adaptool convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adaptool.cli.console import Console
from adaptool.cli.options import (
    base_option,
    gguf_option_list,
    gguf_options,
    json_option,
    parse_dtype,
    refuse_without_gguf,
    weighted,
)
from adaptool.cli.writing import carry_out
from adaptool.errors import UsageError


@click.command(epilog="Example:  adaptool convert ./merged --to-gguf q4 --out model.gguf")
@click.argument("source", metavar="MODEL|ADAPTER|FILE.gguf")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write; a folder for several.")
@gguf_option_list
@click.option("--to-gguf-lora", is_flag=True, help="Write an adapter as a GGUF LoRA, for llama-server --lora.")
@click.option("--to-safetensors", is_flag=True, help="Write a GGUF back as a model folder.")
@base_option(required=False, help="With --to-gguf-lora: the model the adapter was trained on.")
@click.option("--dtype", metavar="D", help="Round the weights first: bfloat16, float16 or float32.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted conversion of the same input.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, if adaptool wrote it.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@json_option
@click.pass_obj
def convert(console: Console, /, source: str, out: Path, dry_run: bool, as_json: bool, **how: Any) -> int:
    """Convert a model to GGUF, an adapter to a GGUF LoRA, or a GGUF back to a model folder.

    The GGUF is quantised as it is written, with no 16-bit file in between; its tensors are llama-quantize's, byte for
    byte.
    """
    from adaptool.reports import text_gguf

    job = _job(source, out, **how)
    return carry_out(
        console, job, "convert", plan=text_gguf.plan, summary=text_gguf.summary, dry_run=dry_run, as_json=as_json
    )


def _job(source: str, out: Path, *, types: str | None, to_gguf_lora: bool, to_safetensors: bool, base: Path | None,
         imatrix: Path | None, tensor_types: tuple[str, ...], pre: str | None, split: str | None, dtype: str | None,
         **common: Any) -> Any:  # fmt: skip
    from adaptool import api

    asked = [types is not None, to_gguf_lora, to_safetensors]
    if sum(asked) != 1:
        raise UsageError("say what to convert to, once", hint="--to-gguf q4, --to-gguf-lora, or --to-safetensors")
    if base is not None and not to_gguf_lora:
        raise UsageError("--base goes with --to-gguf-lora", hint="to merge an adapter: adaptool merge --to-gguf")
    kind = parse_dtype(dtype) if dtype else None
    if types is not None:
        options = gguf_options(types, imatrix, tensor_types, pre, split)
        return api.convert(source, out, options, dtype=kind, **common)
    refuse_without_gguf(imatrix=imatrix, tensor_types=tensor_types, pre=pre, split=split)
    if to_gguf_lora:
        if base is None:
            raise UsageError(
                "--to-gguf-lora needs --base, the model the adapter was trained on", hint="add --base MODEL"
            )
        return api.convert_lora(weighted(source), base, out, dtype=kind, **common)
    return api.convert_back(source, out, dtype=kind, **common)
