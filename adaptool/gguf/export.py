"""Planning GGUFs: from a model (tensors, config, files beside them) to outputs a job can write.

Everything a header holds is known here, before a tensor is read: that is what lets the writer stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.spec import ArchSpec
from adaptool.archs.gguf.tables import architecture_keys, hparams_of, spec_for
from adaptool.errors import FormatError
from adaptool.gguf.converted import Converted
from adaptool.gguf.general import Lineage, general_keys, in_order
from adaptool.gguf.mixtures import Choice, choose
from adaptool.gguf.places import ModelShape
from adaptool.gguf.quantised import Quantised, Shared
from adaptool.gguf.recipe import Recipe, quantized_keys
from adaptool.tensors.dtypes import BF16, F16, F32, DType, most_common
from adaptool.tensors.ggml.values import KeyValues
from adaptool.tensors.gguf import open_single
from adaptool.tensors.gguf_writer import GgufPlan, plan_gguf
from adaptool.tensors.store import Store
from adaptool.writing.job import Output

PIECE_BYTES = 2 << 20
"""Of 16-bit rows quantised at a time, per worker: in float32, with its blocks, some 6 MB."""


@dataclass(frozen=True)
class GgufOptions:
    """What is asked of a conversion to GGUF."""

    recipes: tuple[Recipe, ...]
    pre: str | None = None
    """The pre-tokenizer, where the user names it."""
    split_nbytes: int | None = None
    """Bytes of tensors per file; None writes one."""


@dataclass(frozen=True)
class GgufSource:
    """A model to be written as GGUF: its tensors, its config.json, and a folder with the files beside them."""

    store: Store
    config: Mapping[str, Any]
    folder: Path
    """Holds config.json, the tokenizer and the card; only read while planning."""
    label: str
    """What errors call it."""
    lineage: Lineage = field(default_factory=Lineage)


@dataclass(frozen=True)
class GgufSummary:
    """What one GGUF holds."""

    files: tuple[str, ...]
    recipe: str
    nbytes: int
    tensors: int
    types: tuple[tuple[str, int, int], ...]
    """(type, tensors of it, bytes), the largest first."""
    bits_per_weight: float
    departures: tuple[tuple[str, str, int], ...]
    """(type, why it is not the recipe's plain choice, tensors): fallbacks and overrides."""


@dataclass(frozen=True, eq=False)
class GgufOutput:
    """One GGUF, planned: its files and the tensors as they will lie in them."""

    recipe: Recipe
    store: Quantised
    plans: tuple[GgufPlan, ...]

    @cached_property
    def output(self) -> Output:
        """For a job to write."""
        return Output(self.store, self.plans, PIECE_BYTES)

    @property
    def summary(self) -> GgufSummary:
        """For the report."""
        infos = self.store.infos.values()
        counts, sizes = Counter[str](), Counter[str]()
        for info in infos:
            counts[info.dtype.name] += 1
            sizes[info.dtype.name] += info.nbytes
        reasons = Counter((c.dtype.name, c.reason) for c in self.store.choices.values() if told(c))
        return GgufSummary(
            tuple(plan.name for plan in self.plans),
            self.recipe.label,
            sum(plan.size for plan in self.plans),
            len(self.store),
            tuple((name, counts[name], size) for name, size in sizes.most_common()),
            sum(sizes.values()) * 8 / max(1, sum(info.size for info in infos)),
            tuple((name, str(reason), count) for (name, reason), count in reasons.most_common()),
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        summary = self.summary
        return {
            "files": list(summary.files),
            "type": summary.recipe,
            "tensor_types": {name: count for name, count, _ in summary.types},
        }

    def check(self, folder: Path) -> None:
        """Read the written files back and compare all that can be without the tensors; FormatError if one differs."""
        for plan in self.plans:
            found = open_single(folder / plan.name)
            same = found.offsets == dict(plan.offsets) and tuple(found.infos.values()) == plan.infos
            if not same or list(found.keys) != list(plan.keys):
                raise FormatError(f"{folder / plan.name}: what was written is not what was planned: please report it")


def told(choice: Choice) -> bool:
    """Whether a choice is worth telling: that norms are kept is not."""
    return choice.reason is not None and not choice.reason.startswith("kept")


def plan_exports(source: GgufSource, stem: str, options: GgufOptions, *, suffixed: bool = True) -> list[GgufOutput]:
    """One output per recipe, named ``{stem}-{TYPE}.gguf``, or ``{stem}.gguf`` where not ``suffixed``.

    Raises UnsupportedError for an architecture, a tensor or a tokenizer that cannot be converted, by name.
    """
    spec = spec_for(source.config, source.label)
    hparams = hparams_of(spec, source.config)
    shapes = {name: info.shape for name, info in source.store.infos.items()}
    converted = Converted(source.store, place(spec, shapes, hparams), spec.extras(hparams), _intermediate(source.store))
    keys = model_keys(spec, hparams, source, converted, options.pre)
    shared: Store = Shared(converted) if len(options.recipes) > 1 else converted
    shape = model_shape(spec, hparams)
    return [
        _planned(recipe, shared, keys, shape, f"{stem}-{recipe.label}" if suffixed else stem, options.split_nbytes)
        for recipe in options.recipes
    ]


def _planned(
    recipe: Recipe, converted: Store, keys: KeyValues, shape: ModelShape, stem: str, limit: int | None
) -> GgufOutput:
    choices = choose(list(converted.infos.values()), shape, recipe)
    if not recipe.quantises:  # converters keep the checkpoint's order
        choices = {name: choices[name] for name in converted}
    store = Quantised(converted, choices, recipe.imatrix)
    return GgufOutput(recipe, store, tuple(plan_gguf(stem, quantized_keys(keys, recipe), store, limit)))


def _intermediate(store: Store) -> DType:
    """The type matrices have before they are quantised: the checkpoint's own, where it is one of 16 bits."""
    main = most_common((info.dtype, info.size) for info in store.infos.values())
    return main if main in (F16, BF16) else F32


def model_keys(
    spec: ArchSpec, hparams: Hparams, source: GgufSource, converted: Store, pre: str | None
) -> Mapping[str, Any]:
    """All metadata but the file type: general, the architecture's, the tokenizer's, and where it came from."""
    from adaptool.tokenizers import Style, tokenizer_keys

    embedding = converted.infos.get("token_embd.weight")
    vocab = embedding.shape[0] if embedding is not None else hparams.vocab_size
    return in_order(
        general_keys(spec.name, source.folder, converted.infos.values()),
        architecture_keys(spec, hparams),
        tokenizer_keys(source.folder, vocab_size=vocab, style=Style(spec.tokenizer), pre=pre, config=source.config),
        source.lineage.keys,
    )


def model_shape(spec: ArchSpec, hparams: Hparams) -> ModelShape:
    """What mixtures depend on."""
    experts = hparams.find("num_local_experts", "num_experts", default=0)
    return ModelShape(spec.name, hparams.layers, hparams.heads, hparams.kv_heads, int(experts))
