"""The verbs as functions: what ``from adaptool import …`` gives, and what the commands call.

They take paths and options, and return the values the commands print; nothing here prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.adapters.adapter import Adapter, open_adapter
from adaptool.adapters.base import OPENERS, BaseModel, open_base
from adaptool.errors import UnsupportedError, UsageError
from adaptool.jobs import default_workers
from adaptool.tensors.locate import locate
from adaptool.tensors.sniff import sniff

if TYPE_CHECKING:  # what a verb needs is imported when it is called: the others start without it
    from adaptool.fixing.job import FixJob
    from adaptool.gguf.back_job import BackJob
    from adaptool.gguf.export import GgufOptions
    from adaptool.gguf.job import GgufJob
    from adaptool.merging.folder import MergeJob
    from adaptool.merging.merged import Rounding
    from adaptool.merging.options import MergeOptions
    from adaptool.parity.gguf_verify import GgufVerifyJob
    from adaptool.parity.verify import VerifyJob
    from adaptool.rules.engine import Options as ValidationOptions
    from adaptool.rules.engine import Validation
    from adaptool.rules.finding import Severity
    from adaptool.rules.settings import Settings
    from adaptool.summary.summary import Summary
    from adaptool.tensors.dtypes import DType

Weighted = tuple[Path | str, float]


@dataclass(frozen=True)
class Inputs:
    """What a merge is made of, opened: adapters with their weights, and the base as the merge sees it."""

    base: BaseModel
    adapters: tuple[tuple[Adapter, float], ...]
    notes: tuple[str, ...]


def open_inputs(
    adapters: Sequence[Weighted], base: Path | str, *, onto_nf4: bool = False, double_quant: bool = False
) -> Inputs:
    """Open adapters and base, and say how the base relates to what each adapter was trained on."""
    from adaptool.merging.provenance import origin_note
    from adaptool.tensors.bnb import Bnb4bit

    if not adapters:
        raise UsageError("no adapter given")
    opened = tuple((open_adapter(locate(path)), weight) for path, weight in adapters)
    model = open_base(locate(base))
    notes = [note for adapter, _ in opened if (note := origin_note(adapter, model, onto_nf4=onto_nf4))]
    if isinstance(model.store, Bnb4bit):
        notes.append("the base is 4-bit: it is dequantised as training saw it, and the result is a 16-bit model")
    if model.beside is not None:
        notes.append("the base is a GGUF: what is quantised in it is dequantised, and the merge is onto those weights")
    if double_quant and not onto_nf4:
        raise UsageError("--double-quant goes with --onto-nf4")
    if onto_nf4:
        model = _onto_nf4(model, double_quant=double_quant)
        notes.append("merging onto the NF4 round trip of the base: what a 4-bit training saw, not the original weights")
    return Inputs(model, opened, tuple(notes))


def _onto_nf4(base: BaseModel, *, double_quant: bool) -> BaseModel:
    from adaptool.archs.linear import quantised_by_training
    from adaptool.tensors.bnb import Bnb4bit, NF4RoundTrip

    if isinstance(base.store, Bnb4bit):
        raise UsageError(f"{base.path} is 4-bit already", hint="leave --onto-nf4 out")
    if base.has_conv1d:
        raise UnsupportedError(f"--onto-nf4: {base.model_type} stores its layers transposed, which is not supported")
    names = frozenset(quantised_by_training(base.store.infos, base.head))
    return replace(base, store=NF4RoundTrip(base.store, names, double_quant=double_quant))


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


def inspect(path: Path | str, base: Path | str | None = None, *, weights: bool = False) -> Summary:
    """What an adapter (or a model) is, from headers; with ``weights`` every update's spectrum, exactly.

    ``base`` (a model, or its config.json) adds coverage and parameter figures.
    """
    from adaptool.summary.summary import inspect_path, open_model

    return inspect_path(locate(path), None if base is None else open_model(locate(base)), weights=weights)


def validation_options(
    *,
    consumers: Sequence[str] = (),
    max_rank: int | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: Severity | None = None,
    baseline: Path | str | None = None,
    settings: Settings | Path | str | None = None,
    today: date = date.max,
    workers: int | None = None,
) -> ValidationOptions:
    """How to validate: what is given here goes before what the ``settings`` file says. Raises UsageError.

    ``today`` is what an allow-list's expiry is measured against: unless it is given, nothing is allowed.
    """
    from adaptool.rules.engine import Options
    from adaptool.rules.selection import Selection, parse_codes
    from adaptool.rules.settings import Settings, read_settings
    from adaptool.rules.waivers import Waivers, read_baseline

    found = Settings() if settings is None else settings
    if not isinstance(found, Settings):
        found = read_settings(Path(found))
    named = [name.strip().lower() for text in consumers for name in text.split(",") if name.strip()]
    selection = Selection(
        parse_codes(select) or found.select, parse_codes(ignore) or found.ignore, frozenset(named or found.consumers)
    )
    known = Path(baseline) if baseline is not None else found.baseline
    waivers = Waivers(None if known is None else read_baseline(known), found.allowances, today)
    return Options(
        selection, fail_on or found.fail_on or "error", max_rank or found.max_rank, waivers,
        workers=workers or default_workers(),
    )  # fmt: skip


def validate(
    paths: Sequence[Path | str], base: Path | str | None = None, options: ValidationOptions | None = None
) -> Validation:
    """Check every adapter at or below ``paths``; nothing is executed, and nothing written.

    Raises AdaptoolError where the base cannot be opened; what is wrong with an adapter is in the result.
    """
    from adaptool.rules.engine import validate as run_rules

    return run_rules(list(map(str, paths)), _base_for_rules(base), options)


def fix(
    adapter: Path | str,
    out: Path | str,
    base: Path | str | None = None,
    *,
    consumers: Iterable[str] = (),
    workers: int | None = None,
    overwrite: bool = False,
) -> FixJob:
    """Plan the correction of what has one faithful answer: nothing is written until the job is iterated.

    ``consumers`` are the runtimes it must work in. Raises AdaptoolError where the adapter cannot be read.
    """
    from adaptool.fixing.job import FixJob
    from adaptool.rules.locate import find_adapters
    from adaptool.rules.subject import Subject

    targets = list(find_adapters(locate(adapter)))
    if len(targets) != 1:
        raise UsageError(f"{adapter}: {len(targets)} adapters below it", hint="name one of them")
    subject = Subject(targets[0].folder, targets[0].weights, _base_for_rules(base), frozenset(consumers))
    return FixJob(subject, Path(out), workers=workers or default_workers(), overwrite=overwrite)


def _base_for_rules(base: Path | str | None) -> BaseModel | None:
    """A base of which headers, or only a config, are enough."""
    from adaptool.summary.summary import open_model

    return None if base is None else open_model(locate(base))


def _open_gguf(path: Path) -> BaseModel | None:
    if not path.is_file() or sniff(path) != "gguf":
        return None
    from adaptool.gguf.back import open_gguf_base

    return open_gguf_base(path)


OPENERS.append(_open_gguf)
