"""Options and arguments that several commands share, parsed the same way everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adaptool.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from adaptool.gguf.export import GgufOptions
    from adaptool.tensors.dtypes import DType

NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII)

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON (see: adaptool schema).")(
        function
    )


def base_option(*, required: bool, help: str) -> Callable[[Function], Function]:
    """``--base``."""
    return click.option("--base", metavar="BASE", required=required, type=click.Path(path_type=Path), help=help)


def gguf_option_list(function: Function) -> Function:
    """What merge and convert are told about the GGUFs they write."""
    for option in reversed(
        (
            click.option("--to-gguf", "types", metavar="TYPE,...", help="Write GGUF: q4, q8_0, bf16, …"),
            click.option("--imatrix", type=click.Path(path_type=Path), help="What llama-imatrix measured."),
            click.option("--tensor-type", "tensor_types", metavar="PATTERN=TYPE", multiple=True,
                         help="Another type for some tensors, such as attn_v=q8_0; repeatable."),
            click.option("--pre", metavar="NAME", help="llama.cpp's name for a pre-tokenizer that is not recognised."),
            click.option("--split-max-size", "split", metavar="SIZE", help="Bytes per GGUF file, such as 4GB."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


GGUF_FLAGS = {
    "imatrix": "--imatrix",
    "tensor_types": "--tensor-type",
    "pre": "--pre",
    "split": "--split-max-size",
}


def refuse_without_gguf(**given: object) -> None:
    """A UsageError for an option of ``--to-gguf`` (its flag's name, and what was given) where that is not asked for."""
    for name, value in given.items():
        if value:
            flag = GGUF_FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{flag} goes with --to-gguf", hint="add --to-gguf q4, or leave it out")


def gguf_options(
    types: str, imatrix: Path | None, tensor_types: tuple[str, ...], pre: str | None, split: str | None
) -> GgufOptions:
    """Those options, parsed."""
    from adaptool import api

    limit = parse_size(split) if split else None
    return api.gguf_options(types, tensor_types=tensor_types, imatrix=imatrix, pre=pre, split_nbytes=limit)


def weighted(text: str) -> tuple[Path, float]:
    """``PATH`` or ``PATH:WEIGHT``: the tail after the last colon is a weight only if it reads as a number.

    The whole string is tried as a path first, so a folder named "a:2" keeps its name.
    """
    head, colon, tail = text.rpartition(":")
    if text and (not colon or not NUMBER.fullmatch(tail) or Path(text).exists()):
        return Path(text), 1.0
    if not head:
        raise UsageError(f"{text!r} names no adapter", hint="write it as ./adapter or ./adapter:0.5")
    weight = float(tail)
    if not math.isfinite(weight):
        raise UsageError(f"{text!r}: the weight must be a finite number", hint="write it as ./adapter:0.5")
    return Path(head), weight


def parse_dtype(text: str) -> DType:
    """A type weights can be written in, by its PyTorch or safetensors name."""
    from adaptool.tensors.dtypes import dtype

    try:
        kind = dtype(text)
    except UnsupportedError:
        kind = None
    if kind is None or not kind.mergeable:
        raise UsageError(
            f"{text!r} is not a type weights can be written in", hint="use one of: bfloat16, float16, float32, float64"
        )
    return kind


def parse_size(text: str) -> int:
    """``5GB``, ``500MB``, ``1GiB``, ``1048576`` as bytes; GB is decimal, as transformers reads it."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write it as 5GB or 500MB")
    number, unit, binary = match.groups()
    size = float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " ")
    if size < 1:
        raise UsageError(f"{text!r}: a file must be allowed at least one byte", hint="write it as 5GB or 500MB")
    return int(size)
