"""``adaptool merge``."""

from __future__ import annotations

from collections.abc import Iterator
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
    parse_size,
    refuse_without_gguf,
    weighted,
)
from adaptool.cli.writing import carry_out
from adaptool.errors import UsageError

DEVICES = click.Choice(["cpu", "cuda", "torch-cpu"])
ROUNDINGS = click.Choice(["once", "safe"])


@click.command(epilog="Example:  adaptool merge ./adapter --base ./model --out merged/")
@click.argument("adapters", metavar="ADAPTER[:WEIGHT]...", nargs=-1, required=True)
@base_option(required=True, help="The model to merge into: a folder, a weights file, or an index file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--dtype", metavar="D", help="Convert the output: bfloat16, float16, float32 or float64.")
@click.option("--rounding", type=ROUNDINGS, default="once", help="once: PEFT's default; safe: as its safe_merge=True.")
@click.option("--onto-nf4", is_flag=True, help="Merge onto the NF4 round trip of a 16-bit base: what QLoRA trained on.")
@click.option("--double-quant", is_flag=True, help="With --onto-nf4: the block scales were quantised as well.")
@click.option("--verify", is_flag=True, help="Check every tensor before publishing, not only a sample.")
@click.option("--parity", type=click.Choice(["forward"]), help="Compare outputs with PEFT's (needs adaptool[parity]).")
@click.option("--prompt", "prompts", multiple=True, help="A prompt for --parity forward; may be repeated.")
@click.option("--shard-size", metavar="SIZE", help="Bytes per weights file, such as 5GB; default: the base's files.")
@click.option("--device", type=DEVICES, default="cpu", show_default=True, help="Where the arithmetic runs.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted merge of the same inputs.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, if adaptool wrote all that is in it.")
@click.option("--allow-remote-code-files", "remote_code", is_flag=True, help="Also copy the base's Python files.")
@click.option("--ignore", metavar="CODES", multiple=True, help="Merge in spite of these errors of validate: codes.")
@click.option("--digest-base", is_flag=True, help="Record the base's content digest (reads all of it once more).")
@click.option("--no-safetensors", is_flag=True, help="With --to-gguf: write the GGUF alone.")
@click.option("--ollama", is_flag=True, help="With --to-gguf: write a Modelfile too.")
@gguf_option_list
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@json_option
@click.pass_obj
def merge(console: Console, /, adapters: tuple[str, ...], base: str, out: Path, dry_run: bool, as_json: bool,
          **how: Any) -> int:  # fmt: skip
    """Merge adapters into a base model, in the order given, each at its weight (default 1).

    OUT is a complete model folder. Every merge checks a sample of its rows against float64; --verify checks all.
    """
    from adaptool import api
    from adaptool.reports import text_merge
    from adaptool.rules.prefixes import parse_codes

    store_options = {name: how.pop(name) for name in ("rounding", "device", "onto_nf4", "double_quant")}
    store_options["ignore"] = parse_codes(how.pop("ignore"))
    gguf = {name: how.pop(name) for name in ("types", "imatrix", "tensor_types", "pre", "split")}
    options = _options(gguf=gguf, **how)
    job = api.merge([weighted(item) for item in adapters], base, out, options=options, **store_options)
    return carry_out(
        console,
        job,
        "merge",
        plan=text_merge.plan,
        summary=text_merge.summary,
        dry_run=dry_run,
        as_json=as_json,
    )


def _options(*, dtype: str | None, shard_size: str | None, workers: int | None, verify: bool, parity: str | None,
             prompts: tuple[str, ...], gguf: dict[str, Any], no_safetensors: bool, ollama: bool,
             **same: bool) -> Any:  # fmt: skip
    from adaptool.jobs import default_workers
    from adaptool.merging.options import MergeOptions

    if no_safetensors and parity:
        raise UsageError(
            f"--parity {parity} runs the merged model, which --no-safetensors does not write",
            hint="leave one of them out, or use --verify",
        )
    checks = _checks(
        verify=verify,
        prompts=prompts if parity else None,
        safetensors=not no_safetensors,
        gguf=gguf["types"] is not None,
    )
    return MergeOptions(
        dtype=parse_dtype(dtype) if dtype else None,
        shard_size=parse_size(shard_size) if shard_size else None,
        workers=workers or default_workers(),
        safetensors=not no_safetensors,
        exports=_exports(gguf, no_safetensors=no_safetensors, ollama=ollama),
        checks=tuple(checks),
        **same,
    )


def _checks(*, verify: bool, prompts: tuple[str, ...] | None, safetensors: bool, gguf: bool) -> Iterator[Any]:
    """What is checked before anything is published: of what is written, all that was asked for."""
    from adaptool.parity.checks import forward_check, verify_check

    if verify and safetensors:
        yield verify_check
    if prompts is not None:
        yield forward_check(prompts)
    if gguf and (verify or prompts is not None):
        from adaptool.parity.gguf_checks import forward_gguf_check, verify_gguf_check

        if verify:
            yield verify_gguf_check
        if prompts is not None:
            yield forward_gguf_check(prompts)


def _exports(gguf: dict[str, Any], *, no_safetensors: bool, ollama: bool) -> tuple[Any, ...]:
    if gguf["types"] is None:
        refuse_without_gguf(**gguf, no_safetensors=no_safetensors, ollama=ollama)
        return ()
    from adaptool.gguf.merged import gguf_export

    return (gguf_export(gguf_options(**gguf), ollama=ollama),)
