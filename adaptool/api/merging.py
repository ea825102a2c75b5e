"""Merging, converting, and the proof of either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.base import open_base
from adaptool.api.opening import Weighted, open_inputs
from adaptool.errors import UsageError
from adaptool.jobs import default_workers
from adaptool.tensors.locate import locate

if TYPE_CHECKING:
    from adaptool.gguf.back_job import BackJob
    from adaptool.gguf.export import GgufOptions
    from adaptool.gguf.job import GgufJob
    from adaptool.merging.folder import MergeJob
    from adaptool.merging.merged import Rounding
    from adaptool.merging.options import MergeOptions
    from adaptool.parity.gguf_verify import GgufVerifyJob
    from adaptool.parity.verify import VerifyJob
    from adaptool.tensors.dtypes import DType


def merge(
    adapters: Sequence[Weighted],
    base: Path | str,
    out: Path | str,
    *,
    options: MergeOptions | None = None,
    rounding: Rounding = "once",
    device: str = "cpu",
    onto_nf4: bool = False,
    double_quant: bool = False,
    ignore: Sequence[str] = (),
) -> MergeJob:
    """Plan a merge into the folder ``out``: nothing is written until the job is iterated.

    ``for nbytes in merge(...)`` runs it, ``job.report`` then tells what was done. An adapter in which ``validate``
    finds an error is refused, unless its code is in ``ignore``. Raises AdaptoolError.
    """
    from adaptool.merging.folder import MergeJob
    from adaptool.merging.merged import merge as merge_store
    from adaptool.merging.options import MergeOptions
    from adaptool.rules.gate import refuse_errors
    from adaptool.tensors.compute import compute_for

    inputs = open_inputs(adapters, base, onto_nf4=onto_nf4, double_quant=double_quant)
    merged = merge_store(inputs.base, inputs.adapters, rounding=rounding, compute=compute_for(device))
    unchecked = [note for adapter, _ in inputs.adapters for note in refuse_errors(adapter, ignore)]
    notes = (*inputs.notes, *unchecked)
    return MergeJob(merged, inputs.adapters, Path(out), options or MergeOptions(), notes=notes)


def gguf_options(
    types: str,
    *,
    tensor_types: Sequence[str] = (),
    imatrix: Path | str | None = None,
    pre: str | None = None,
    split_nbytes: int | None = None,
) -> GgufOptions:
    """What to write GGUFs as: ``types`` such as "q4" or "q4_k_m,q8_0", PATTERN=TYPE exceptions, an imatrix."""
    from adaptool.gguf.export import GgufOptions
    from adaptool.gguf.imatrix import open_imatrix
    from adaptool.gguf.recipe import parse_recipes

    measured = open_imatrix(locate(imatrix)) if imatrix is not None else None
    return GgufOptions(parse_recipes(types, overrides=tensor_types, imatrix=measured), pre, split_nbytes)


def convert(
    model: Path | str,
    out: Path | str,
    options: GgufOptions,
    *,
    dtype: DType | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> GgufJob:
    """Plan the conversion of a model to GGUF: nothing is written until the job is iterated.

    ``dtype`` is what the weights are rounded to before they are quantised; None keeps their own. Raises AdaptoolError.
    """
    from adaptool.gguf.convert import convert_model
    from adaptool.gguf.job import WriteOptions

    how = WriteOptions(workers or default_workers(), resume, overwrite)
    return convert_model(open_base(locate(model)), Path(out), options, how, dtype=dtype)


def convert_lora(
    adapter: Weighted,
    base: Path | str,
    out: Path | str,
    *,
    dtype: DType | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> GgufJob:
    """Plan an adapter's conversion to a GGUF LoRA, every module's scale baked in. Raises AdaptoolError."""
    from adaptool.gguf.job import WriteOptions
    from adaptool.gguf.lora import convert_lora as plan_lora

    path, weight = adapter
    how = WriteOptions(workers or default_workers(), resume, overwrite)
    return plan_lora(open_adapter(locate(path)), weight, open_base(locate(base)), Path(out), how, dtype=dtype)


def convert_back(
    gguf: Path | str,
    out: Path | str,
    *,
    dtype: DType | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> BackJob:
    """Plan the conversion of a GGUF back to a model folder: nothing is written until the job is iterated.

    ``dtype`` is what the weights are rounded to; None follows the file. Raises AdaptoolError.
    """
    from adaptool.gguf.back_job import BackJob
    from adaptool.gguf.job import WriteOptions

    how = WriteOptions(workers or default_workers(), resume, overwrite)
    return BackJob(locate(gguf), Path(out), how, dtype=dtype)


def verify(
    merged: Path | str,
    base: Path | str,
    adapters: Sequence[Weighted],
    *,
    rounding: Rounding = "once",
    workers: int | None = None,
    onto_nf4: bool = False,
    double_quant: bool = False,
) -> VerifyJob:
    """Plan the verification of a merged checkpoint, whoever made it: iterate the job to run it, then read ``report``.

    Raises AdaptoolError where it cannot be checked.
    """
    from adaptool.parity.verify import open_job

    inputs = open_inputs(adapters, base, onto_nf4=onto_nf4, double_quant=double_quant)
    return open_job(inputs.base, inputs.adapters, locate(merged), rounding=rounding, workers=workers)


def verify_gguf(
    gguf: Path | str,
    base: Path | str,
    adapters: Sequence[Weighted] = (),
    *,
    rounding: Rounding = "once",
    imatrix: Path | str | None = None,
    workers: int | None = None,
    onto_nf4: bool = False,
    double_quant: bool = False,
) -> GgufVerifyJob:
    """Plan the verification of a GGUF, whoever made it, against a merge, or without adapters against a model.

    ``imatrix`` is what it was quantised with. Raises AdaptoolError where it cannot be checked.
    """
    from adaptool.gguf.imatrix import open_imatrix
    from adaptool.merging.folder import MergeJob
    from adaptool.merging.merged import merge as merge_store
    from adaptool.merging.options import MergeOptions
    from adaptool.parity.gguf_model import merged_model_of, model_of
    from adaptool.parity.gguf_verify import open_gguf_job

    path = locate(gguf)
    measured = open_imatrix(locate(imatrix)) if imatrix is not None else None
    if adapters:
        inputs = open_inputs(adapters, base, onto_nf4=onto_nf4, double_quant=double_quant)
        merged = merge_store(inputs.base, inputs.adapters, rounding=rounding)
        job = MergeJob(merged, inputs.adapters, path.with_suffix(""), MergeOptions(), notes=inputs.notes)
        model, notes = merged_model_of(job), inputs.notes
    elif onto_nf4 or double_quant:
        raise UsageError("--onto-nf4 and --double-quant go with --adapter")
    else:
        model, notes = model_of(open_base(locate(base))), ()
    return open_gguf_job(model, path, imatrix=measured, workers=workers, notes=notes)
