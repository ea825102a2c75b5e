"""What ``adaptool convert`` plans: a model as GGUF, an adapter as a GGUF LoRA."""

from __future__ import annotations

from pathlib import Path

from adaptool.adapters.base import BaseModel
from adaptool.errors import UnsupportedError, UsageError
from adaptool.gguf.export import GgufOptions, GgufSource, plan_exports
from adaptool.gguf.general import Lineage
from adaptool.gguf.job import GgufJob, WriteOptions
from adaptool.merging.provenance import base_name
from adaptool.tensors.dtypes import DType
from adaptool.tensors.store import Store
from adaptool.tensors.views import Cast
from adaptool.versions import header_digest

ADAPTER_PREFIX = "base_model.model."
"""How the tensors of a PEFT adapter begin."""


def convert_model(
    model: BaseModel, out: Path, options: GgufOptions, how: WriteOptions, *, dtype: DType | None = None
) -> GgufJob:
    """A model as GGUF: the file OUT, or for several types or parts the folder OUT."""
    if any(name.startswith(ADAPTER_PREFIX) for name in model.store):
        raise UsageError(
            f"{model.path}: an adapter, and not a model",
            hint="merge it: adaptool merge --to-gguf; or keep it apart: --to-gguf-lora --base MODEL",
        )
    if model.config is None:
        raise UnsupportedError(
            f"{model.path}: there is no config.json beside the weights, which a GGUF is made by",
            hint="give the model's folder",
        )
    store: Store = Cast(model.store, dtype) if dtype is not None else model.store
    lineage = Lineage(base_name(model), header_digest(model.store))
    source = GgufSource(store, model.config, model.folder, str(model.path), lineage)
    alone = len(options.recipes) == 1 and options.split_nbytes is None
    stem = gguf_stem(out) if alone else out.absolute().name
    planned = plan_exports(source, stem, options, suffixed=not alone)
    return GgufJob(planned.outputs, out, {model.path: model.store}, how, planned.notes)


def gguf_stem(out: Path) -> str:
    """The name of the file OUT without ``.gguf``, which it must have."""
    if out.suffix != ".gguf":
        raise UsageError(f"{out}: --out names the file to write, which ends in .gguf", hint=f"try --out {out}.gguf")
    return out.name.removesuffix(".gguf")
