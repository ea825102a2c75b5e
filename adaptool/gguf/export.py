"""Planning GGUFs: from a model (tensors, config, files beside them) to outputs a job can write.

Everything a header holds is known here, before a tensor is read: that is what lets the writer stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.spec import ArchSpec
from adaptool.archs.gguf.tables import architecture_keys, cautions, hparams_of, spec_for, understood
from adaptool.errors import FormatError, MismatchError
from adaptool.gguf.converted import Converted
from adaptool.gguf.general import Lineage, general_keys
from adaptool.gguf.mixtures import choose
from adaptool.gguf.output import GgufOutput
from adaptool.gguf.places import ModelShape, model_shape
from adaptool.gguf.quantised import Quantised, Shared
from adaptool.gguf.recipe import Recipe, quantized_keys
from adaptool.tensors.dtypes import BF16, F16, F32, DType, most_common
from adaptool.tensors.ggml.values import KeyValues
from adaptool.tensors.gguf_writer import plan_gguf
from adaptool.tensors.store import Store
from adaptool.versions import canonical_json, header_digest


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
class Exports:
    """The GGUFs of one model, planned, and what the user should know of them."""

    outputs: tuple[GgufOutput, ...]
    notes: tuple[str, ...]


def plan_exports(source: GgufSource, stem: str, options: GgufOptions, *, suffixed: bool = True) -> Exports:
    """One output per recipe, named ``{stem}-{TYPE}.gguf``, or ``{stem}.gguf`` where not ``suffixed``.

    Raises UnsupportedError for an architecture, a tensor or a tokenizer that cannot be converted, by name.
    """
    spec = spec_for(source.config, source.label)
    hparams = hparams_of(spec, source.config, source.folder)
    shapes = {name: info.shape for name, info in source.store.infos.items()}
    with understood("which tensors its GGUF has"):
        placed, extras = place(spec, shapes, hparams), spec.extras(hparams)
    _check_whole(source, hparams, placed, extras)
    converted = Converted(source.store, placed, extras, intermediate(source.store))
    keys = model_keys(spec, hparams, source, converted, options.pre)
    shared: Store = Shared(converted) if len(options.recipes) > 1 else converted
    shape = model_shape(keys)
    names = [f"{stem}-{recipe.label}" if suffixed else stem for recipe in options.recipes]
    outputs = [
        _planned(recipe, shared, keys, shape, name, options.split_nbytes, _mark(converted, recipe))
        for recipe, name in zip(options.recipes, names, strict=True)
    ]
    return Exports(tuple(outputs), tuple(cautions(spec, hparams)))


def _mark(converted: Converted, recipe: Recipe) -> str:
    """A digest of what no header tells: the types before quantising, tensors made of settings, the imatrix as it is."""
    facts: list[Any] = [header_digest(converted.source), header_digest(converted)]
    facts += [[name, values.tolist()] for name, values in converted.extras.items()]
    if recipe.imatrix is not None:
        stamp = recipe.imatrix.path.stat()
        facts.append([str(recipe.imatrix.path), stamp.st_size, stamp.st_mtime_ns])
    return sha256(canonical_json(facts)).hexdigest()


BLOCK = re.compile(r"blk\.(\d+)\.")


def _check_whole(
    source: GgufSource, hparams: Hparams, placed: Sequence[Placed], extras: Mapping[str, NDArray[np.float32]]
) -> None:
    """Refuse a config.json that is another model's: llama.cpp would not load what the two make."""
    found = {int(block[1]) for one in placed if (block := BLOCK.match(one.name))}
    if missing := set(range(hparams.layers)) - found:
        raise MismatchError(
            f"{source.label}: config.json has {hparams.layers} layers, and layer {min(missing)} has no tensors",
            hint="is a file of the weights missing, or is it another model's config.json?",
        )
    embedding = next((one for one in placed if one.name == "token_embd.weight"), None)
    if embedding is not None and embedding.shape[-1] != hparams.hidden:
        raise MismatchError(
            f"{source.label}: config.json has a width of {hparams.hidden}, and {embedding.sources[0]} one of "
            f"{embedding.shape[-1]}",
            hint="is it another model's config.json?",
        )
    for name, values in extras.items():
        if not ((values > 0) & np.isfinite(values)).all():
            raise FormatError(
                f"{source.label}: by config.json's rotary settings {name} holds what no frequency can be divided by",
                hint="compare it with the original model's config.json",
            )


def _planned(
    recipe: Recipe, converted: Store, keys: KeyValues, shape: ModelShape, stem: str, limit: int | None, mark: str
) -> GgufOutput:
    choices = choose(list(converted.infos.values()), shape, recipe)
    if not recipe.quantises:  # converters keep the checkpoint's order
        choices = {name: choices[name] for name in converted}
    store = Quantised(converted, choices, recipe.imatrix)
    told = [(c.dtype.name, c.reason) for c in choices.values() if c.reason and not c.reason.startswith("kept")]
    plans = tuple(plan_gguf(stem, quantized_keys(keys, recipe), store, limit))
    return GgufOutput(recipe.label, store, plans, told, mark)


def intermediate(store: Store) -> DType:
    """The type matrices have before they are quantised: the checkpoint's own, where it is one of 16 bits."""
    main = most_common((info.dtype, info.size) for info in store.infos.values())
    return main if main in (F16, BF16) else F32


def model_keys(spec: ArchSpec, hparams: Hparams, source: GgufSource, converted: Store, pre: str | None) -> KeyValues:
    """All metadata but the file type: general, the architecture's, the tokenizer's, and where it came from."""
    from adaptool.tokenizers import Style, tokenizer_keys

    embedding = converted.infos.get("token_embd.weight")
    vocab = embedding.shape[0] if embedding is not None else hparams.vocab_size
    return {
        **general_keys(spec.name, source.folder, converted.infos.values()),
        **architecture_keys(spec, hparams),
        **tokenizer_keys(source.folder, vocab_size=vocab, style=Style(spec.tokenizer), pre=pre, config=source.config),
        **source.lineage.keys,
    }
