"""What a verb is given, opened: adapters with their weights, and the base as the merge sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import adaptool.git  # noqa: F401 (makes Git revisions something that every verb can be given)
from adaptool.adapters.adapter import Adapter, open_adapter
from adaptool.adapters.base import OPENERS, BaseModel, open_base
from adaptool.errors import UnsupportedError, UsageError
from adaptool.tensors.locate import locate
from adaptool.tensors.sniff import sniff

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


def _open_gguf(path: Path) -> BaseModel | None:
    if not path.is_file() or sniff(path) != "gguf":
        return None
    from adaptool.gguf.back import open_gguf_base

    return open_gguf_base(path)


OPENERS.append(_open_gguf)
