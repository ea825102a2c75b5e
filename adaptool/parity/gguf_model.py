"""The model a GGUF is held against: its tensors under a GGUF's names, merged, merged without rounding, and unmerged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.spec import ArchSpec
from adaptool.archs.gguf.tables import hparams_of, spec_for
from adaptool.errors import AdaptoolError, UnsupportedError
from adaptool.gguf.converted import Converted
from adaptool.gguf.export import intermediate
from adaptool.gguf.staging import staged
from adaptool.merging.folder import MergeJob
from adaptool.merging.merged import Merged
from adaptool.parity.judging import converted_first
from adaptool.tensors.dtypes import F32, DType
from adaptool.tensors.ggml.values import KeyValues
from adaptool.tensors.store import Store
from adaptool.tensors.views import Selected
from adaptool.tokenizers import Style, tokenizer_keys


@dataclass(frozen=True, eq=False)
class Merging:
    """The merge behind a model: what is patched, and by what."""

    merged: Merged
    names: Mapping[str, str]
    """Checkpoint name → name in the merge."""
    adapters: Sequence[tuple[Adapter, float]]


@dataclass(frozen=True, eq=False)
class GgufModel:
    """A model as its GGUF must have it."""

    label: str
    """What messages call it."""
    source: Store
    """The checkpoint: final names and types."""
    spec: ArchSpec
    hparams: Hparams
    tokenizer: KeyValues | None
    """The ``tokenizer.*`` keys it gives; None where they could not be made."""
    float_type: DType
    """What its matrices are rounded to before they are quantised."""
    notes: tuple[str, ...] = ()
    merging: Merging | None = None

    @cached_property
    def placed(self) -> Mapping[str, Placed]:
        """What each GGUF tensor is made of."""
        shapes = {name: info.shape for name, info in self.source.infos.items()}
        return {one.name: one for one in place(self.spec, shapes, self.hparams)}

    @cached_property
    def converted(self) -> Converted:
        """The tensors, in the types a converter gives them."""
        return self.view(*self.placed.values())

    def view(self, *placed: Placed) -> Converted:
        """The checkpoint's tensors where ``placed`` says, which need not be where they belong."""
        return Converted(self.source, placed, self.spec.extras(self.hparams), self.float_type)

    def by_way_of(self, float_type: DType) -> GgufModel:
        """The same, converted to another type before it is quantised."""
        return replace(self, float_type=float_type)

    @cached_property
    def unrounded(self) -> Converted | None:
        """The merge in float32, unrounded; None where nothing was merged."""
        if self.merging is None:
            return None
        source = Selected(converted_first(self.merging.merged, F32), self.merging.names)
        return replace(self.converted, source=source, float_type=F32)

    @cached_property
    def unmerged(self) -> Converted | None:
        """The tensors of ``touched`` as the base has them; None where nothing was merged."""
        if self.merging is None:
            return None
        source = Selected(self._base, {new: old for new, old in self.merging.names.items() if old in self._base})
        return replace(self.converted, source=source, placed=tuple(self.placed[name] for name in self.touched))

    @cached_property
    def touched(self) -> frozenset[str]:
        """GGUF tensors that the merge changes, and the base has in the same shape."""
        if self.merging is None:
            return frozenset()
        merged, names = self.merging.merged, self.merging.names
        return frozenset(
            placed.name
            for placed in self.placed.values()
            if any(names[source] in merged.changed for source in placed.sources)
            and all(
                names[source] in self._base and self._base[names[source]].shape == self.source[source].shape
                for source in placed.sources
            )
        )

    @property
    def _base(self) -> Store:
        assert self.merging is not None
        return self.merging.merged.plan.base.store


def model_of(base: BaseModel) -> GgufModel:
    """A model as it is. Raises UnsupportedError for an architecture that has no GGUF."""
    if base.config is None:
        raise UnsupportedError(
            f"{base.path}: there is no config.json beside the weights, which a GGUF is made by",
            hint="give --base the model's folder",
        )
    return _model(str(base.path), base.store, base.config, base.folder)


def merged_model_of(job: MergeJob) -> GgufModel:
    """The model a merge gives, whether or not the job has run."""
    base = job.merged.plan.base
    if job.config is None:
        raise UnsupportedError(
            f"{base.path}: there is no config.json beside the weights, which a GGUF is made by",
            hint="give --base the model's folder",
        )
    with staged(job) as folder:
        model = _model(f"{base.path} merged", job.output, job.config, folder)
    return replace(model, merging=Merging(job.merged, job.names, job.adapters))


def _model(label: str, store: Store, config: Mapping[str, Any], folder: Path) -> GgufModel:
    spec = spec_for(config, label)
    hparams = hparams_of(spec, config, folder)
    model = GgufModel(label, store, spec, hparams, None, intermediate(store))
    embedding = model.converted.infos.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else hparams.vocab_size
    try:
        keys = tokenizer_keys(folder, vocab_size=rows, style=Style(spec.tokenizer), config=config)
    except AdaptoolError as error:
        return replace(model, notes=(f"the tokenizer was not compared: {error.message}",))
    return replace(model, tokenizer=keys)
