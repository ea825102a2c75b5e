"""Back: a GGUF as the model folder it could have been made from, so that it is converted to one, and is a base.

The architecture's table is read backwards. config.json comes from the metadata; it says which parameters there must be;
placing those says which rows of the GGUF each is. Whatever the GGUF holds besides, or lacks, is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptool.adapters.base import BaseModel
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.spec import ArchSpec, Shape
from adaptool.archs.gguf.tables import SPECS, hparams_of, spec_named
from adaptool.archs.layouts import LAYOUTS
from adaptool.archs.published import checkpoint_shapes
from adaptool.errors import AdaptoolError, FormatError, MismatchError, UnsupportedError
from adaptool.gguf.beside_back import files_beside
from adaptool.gguf.config_back import model_config
from adaptool.gguf.dequantized import Dequantized
from adaptool.gguf.metadata import Metadata
from adaptool.gguf.origins import origins_of
from adaptool.gguf.rope_back import FACTOR_TENSORS, Factors
from adaptool.tensors.dtypes import BF16, DType, most_common
from adaptool.tensors.ggml.types import GGMLType
from adaptool.tensors.gguf import GgufFile, SplitGguf, open_gguf
from adaptool.tensors.store import Store

FACTOR_ROUNDOFF = 1e-3
"""Relative: rotary factors are stored as float32, and their settings are fitted and rounded."""

NOT_STORED = ("Q8_1", "Q8_K")
"""Types that products are computed in, and no file holds."""

MOST_FACTORS = 1 << 16
"""Elements a tensor of rotary factors may have: half a head."""


@dataclass(frozen=True)
class ModelFolder:
    """What the GGUF ``source`` becomes: the tensors, config.json, and the other files beside the weights as bytes."""

    source: Store
    store: Store
    config: Mapping[str, Any]
    beside: Mapping[str, bytes]
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, bytes]:
        """Every file but the weights."""
        text = json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"
        return {"config.json": text.encode(errors="replace"), **self.beside}


def model_folder(path: Path, dtype: DType | None = None) -> ModelFolder:
    """The model folder a GGUF stands for; no tensor is read but the rotary factors.

    ``dtype`` is what it is rounded to: by default float16 where the file's unquantised matrices are, float32 where all
    its matrices are, else bfloat16. Raises FormatError for metadata and tensors that do not fit each other,
    UnsupportedError for an architecture that cannot be read back.
    """
    gguf = open_gguf(path)
    meta = Metadata(path, gguf.keys)
    target = dtype or default_dtype(gguf)
    spec = _spec(meta, gguf)
    with _told_of(path):
        factors = _factors(gguf)
        config = model_config(meta, spec, gguf, factors, target.torch_name)
        store = _checkpoint(gguf, spec, config, factors, target)
        beside, notes = files_beside(meta, config)
    return ModelFolder(gguf, store, config, beside, (*_lost(store, config), *notes))


def open_gguf_base(path: Path) -> BaseModel:
    """A GGUF as a base to merge into."""
    folder = model_folder(path)
    return BaseModel(path, folder.config, folder.store, folder.files)


def default_dtype(store: Store) -> DType:
    """What a GGUF's tensors are rounded to: the type most of its unquantised matrices have, bfloat16 if it has none."""
    matrices = [info for info in store.infos.values() if len(info.shape) > 1]
    plain = [info for info in matrices if info.dtype.name in ("F16", "BF16")]
    if not plain and not any(isinstance(info.dtype, GGMLType) for info in matrices):
        return most_common((info.dtype, info.size) for info in matrices)
    return most_common((info.dtype, info.size) for info in plain) if plain else BF16


def _spec(meta: Metadata, gguf: Store) -> ArchSpec:
    kind = meta.text("general.type") or "model"
    if kind != "model":
        raise UnsupportedError(f"{meta.path}: holds no model but a GGUF of the type {kind!r}")
    spec = spec_named(meta.arch, meta.keys, gguf, meta.text("tokenizer.ggml.model"))
    if spec is None or (spec.model_type or spec.name) not in LAYOUTS:
        known = sorted({spec.name for spec in SPECS if (spec.model_type or spec.name) in LAYOUTS})
        raise UnsupportedError(
            f"{meta.path}: the architecture {meta.arch!r} cannot be read back into a model folder yet",
            hint=f"those that can: {', '.join(known)}",
        )
    return spec


def _factors(gguf: GgufFile | SplitGguf) -> Factors:
    found = [gguf[name] for name in FACTOR_TENSORS if name in gguf]
    for info in found:
        if not 0 < info.size <= MOST_FACTORS or info.dtype.name != "F32":
            raise FormatError(f"{gguf}: {info.name} is {info.size} elements of {info.dtype}: no rotary factors")
    return {info.name: gguf.read(info.name).reshape(-1).astype(np.float32) for info in found}


def _checkpoint(
    gguf: GgufFile | SplitGguf, spec: ArchSpec, config: Mapping[str, Any], factors: Factors, target: DType
) -> Dequantized:
    """The GGUF's tensors under a checkpoint's names, each of them accounted for."""
    shapes = checkpoint_shapes(config)
    _refuse_larger(gguf, shapes)
    hparams = hparams_of(spec, config)
    placed = place(spec, shapes, hparams)
    expected = {one.name: one.shape for one in placed}
    for name, shape in expected.items():
        if name not in gguf:
            raise FormatError(f"{gguf}: no tensor {name}, which a model of its metadata has")
        kind = gguf[name].dtype
        if not (kind.mergeable or kind.blocked) or kind.name in NOT_STORED:
            raise UnsupportedError(f"{gguf}: {name} is {kind}, which is no type of weights")
        if _bare(gguf[name].shape) != _bare(shape):
            raise FormatError(f"{gguf}: {name} is {gguf[name].shape}, and by the metadata it would be {shape}")
    computed = spec.extras(hparams)
    left = [name for name in gguf if name not in expected and name not in computed and name not in factors]
    if left:
        raise MismatchError(
            f"{gguf}: {len(left)} of {len(gguf)} tensors have no place in a {config['model_type']} model: "
            f"{', '.join(left[:3])}{' …' if len(left) > 3 else ''}"
        )
    _check_factors(gguf, computed, factors)
    return Dequantized(gguf, origins_of(placed, shapes), target)


def _lost(store: Store, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the model has and llama.cpp no use for, in words."""
    lost = [name for name in checkpoint_shapes(config) if name not in store]
    if not lost:
        return ()
    return (f"a GGUF does not hold {', '.join(lost[:3])}: transformers will make {'them' if lost[1:] else 'it'} anew",)


def _refuse_larger(gguf: Store, shapes: Mapping[str, Shape]) -> None:
    """A tensor larger than all the file holds: found before anything is as long as it claims to be."""
    held = sum(info.size for info in gguf.infos.values())
    for name, shape in shapes.items():
        if math.prod(shape) > held:
            raise FormatError(f"{gguf}: by the metadata {name} would be {shape}, and the file holds {held} elements")


def _check_factors(gguf: Store, computed: Factors, factors: Factors) -> None:
    """The settings that were read back must give the factors that are stored."""
    for name, values in factors.items():
        again = computed.get(name)
        fits = again is not None and again.size == values.size
        if (values != 1).any() and not (fits and np.allclose(again.reshape(-1), values, rtol=FACTOR_ROUNDOFF)):  # type: ignore[union-attr]
            raise UnsupportedError(f"{gguf}: {name} is a rotary scaling that transformers has no settings for")


def _bare(shape: Shape) -> Shape:
    """A shape without leading ones: GGUF leaves them out, or puts them in."""
    first = next((place for place, axis in enumerate(shape) if axis != 1), len(shape))
    return shape[first:]


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """What is wrong with a config.json that was read from a GGUF is wrong with the GGUF."""
    try:
        yield
    except AdaptoolError as error:
        if str(path) in error.message:
            raise
        what = error.message.removeprefix("config.json").lstrip(": ")
        hint = "the file is damaged, or not what it says" if isinstance(error, FormatError) else error.hint
        raise type(error)(f"{path}: its metadata: {what}", hint=hint) from None
