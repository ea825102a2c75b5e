"""``adaptool merge``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from adaptool.cli.console import Console
from adaptool.cli.options import base_option, json_option, weighted


@click.command(epilog="Example:  adaptool merge ./adapter --base ./model --out merged/")
@click.argument("adapters", metavar="ADAPTER[:WEIGHT]...", nargs=-1, required=True)
@base_option(required=True, help="The model to merge into: a folder, a weights file, or an index file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--dtype", metavar="D", help="Convert the output: bfloat16, float16, float32 or float64.")
@click.option(
    "--rounding",
    type=click.Choice(["once", "safe"]),
    default="once",
    show_default=True,
    help="once: PEFT's default. safe: as its safe_merge=True.",
)
@click.option("--onto-nf4", is_flag=True, help="Merge onto the NF4 round trip of a 16-bit base: what QLoRA trained on.")
@click.option("--verify", is_flag=True, help="Check every tensor afterwards, not only a sample.")
@click.option("--parity", type=click.Choice(["forward"]), help="Compare logits with PEFT's (needs adaptool[parity]).")
@click.option("--prompt", "prompts", multiple=True, help="A prompt for --parity forward; may be repeated.")
@click.option(
    "--shard-size", metavar="SIZE", help="Bytes per weights file, such as 5GB; default: the base's own files."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "torch-cpu"]),
    default="cpu",
    show_default=True,
    help="Where the arithmetic runs.",
)
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted merge of the same inputs.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, if adaptool wrote all that is in it.")
@click.option("--allow-remote-code-files", is_flag=True, help="Also copy the base's Python files.")
@click.option("--digest-base", is_flag=True, help="Record the base's full content digest (reads all of it once more).")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@json_option
@click.pass_obj
def merge(
    console: Console,
    adapters: tuple[str, ...],
    base: Path,
    out: Path,
    dtype: str | None,
    rounding: str,
    onto_nf4: bool,
    verify: bool,
    parity: str | None,
    prompts: tuple[str, ...],
    shard_size: str | None,
    device: str,
    workers: int | None,
    resume: bool,
    overwrite: bool,
    allow_remote_code_files: bool,
    digest_base: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Merge adapters into a base model, in the order given, each at its weight (default 1).

    OUT is a complete model folder. Every merge checks a sample of its rows against float64; --verify checks all.
    """  # fmt: skip
    from adaptool import commands
    from adaptool.jobs import default_workers
    from adaptool.merge_folder import MergeOptions, parse_size
    from adaptool.reports import text
    from adaptool.reports.json import to_json
    from adaptool.tensors.dtypes import dtype as dtype_named

    options = MergeOptions(
        dtype=dtype_named(dtype) if dtype else None, shard_size=parse_size(shard_size) if shard_size else None,
        workers=workers or default_workers(), resume=resume, overwrite=overwrite,
        remote_code=allow_remote_code_files, digest_base=digest_base, command=_command_line(),
    )  # fmt: skip
    job, notes = commands.prepare_merge(
        [weighted(item) for item in adapters], base, out, options, rounding=rounding, device=device, onto_nf4=onto_nf4
    )
    for note in [*notes, *job.notes]:
        console.note(note)
    if dry_run:
        job.check()
        estimate = commands.estimate(job)
        console.result_json(to_json("merge-plan", estimate)) if as_json else console.result(text.merge_plan(estimate))
        return 0
    console.progress(job, job.nbytes)
    report = job.report
    console.say(text.merge_summary(report))
    code = 0
    if verify:
        code = commands.verify_folder(console, report.out, job)
    if parity and code == 0:
        code = commands.forward_parity(console, report.out, job, prompts)
    console.result_json(to_json("merge", report)) if as_json else console.result(str(report.out))
    return code


def _command_line() -> str:
    """What the card says made the model, with folders' names in place of this machine's paths."""
    words = [
        Path(word).name if "/" in word and Path(word.partition(":")[0]).exists() else word for word in sys.argv[1:]
    ]
    return shlex.join(["adaptool", *words])
