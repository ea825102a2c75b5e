"""An adapter as a GGUF LoRA, which llama.cpp applies to a GGUF of its base as it runs.

The runtime knows one scale, alpha/rank with one alpha for all tensors, so rsLoRA, ``alpha_pattern`` and weights have no
place in it: each module's own scale is multiplied into its B, and no alpha is written (which means 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.adapters.patches import LowRank, Patch
from adaptool.adapters.plan import Plan
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.tables import architecture_keys, hparams_of, spec_for, understood
from adaptool.errors import FormatError, MismatchError, UnsupportedError, UsageError
from adaptool.gguf.convert import gguf_stem
from adaptool.gguf.general import Ingredient, Lineage, general_keys
from adaptool.gguf.job import GgufJob, WriteOptions
from adaptool.gguf.output import PIECE_BYTES, GgufOutput
from adaptool.merging.merged import merge
from adaptool.merging.provenance import base_name, hub_id
from adaptool.tensors.dtypes import F32, Array, DType, Floats, narrow, widen
from adaptool.tensors.ggml.values import text, u32
from adaptool.tensors.gguf_writer import plan_gguf
from adaptool.tensors.store import Store, TensorInfo, into
from adaptool.versions import adapter_digest, header_digest

EMBEDDING = "token_embd.weight"
"""Looked up, not multiplied: the runtime wants its factors the other way round."""

PLAINLY_READ = re.compile(r"(?:position_embd|token_types|cls(?:\.output)?)\.weight$")
"""Matrices that the runtime reads without looking for an adapter. Source: src/models and llama-graph.cpp."""

TIED = "changes the embedding or the output head of a base that ties them, which llama.cpp has no LoRA for"
MERGE = "merge the adapter instead: adaptool merge --to-gguf"

FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


@dataclass(frozen=True)
class Pair:
    """One tensor's update: where it lands, and the low-rank patches of the checkpoint tensors it is made of."""

    placed: Placed
    patches: Mapping[str, LowRank]
    """Checkpoint tensor → its update."""
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def rank(self) -> int:
        """The largest of its parts': smaller ones are padded with zeros."""
        return max(min(f.load("float32")[1].shape[0] for f in patch.factors) for patch in self.patches.values())

    def factors(self) -> tuple[Floats, Floats]:
        """(A, B) with ΔW = B @ A, float32: A (r, in) and B (out, r), with an axis of experts before them if it has one.

        B holds the scale, and its rows lie as the weight's do in a GGUF.
        """
        if len(self.placed.shape) < 3:
            return self._dense()
        return self._stacked()

    def _dense(self) -> tuple[Floats, Floats]:
        (source,) = self.placed.sources
        patch = self.patches[source]
        left, right = patch.factors[0].load("float32")
        left = (left * np.float32(patch.scale))[: self.shapes[source][0]]
        if self.placed.transposed:
            left, right = right.T, left.T
        if self.placed.order is not None:
            left = left[self.placed.order]
        return right, left

    def _stacked(self) -> tuple[Floats, Floats]:
        experts, rows, columns = self.placed.shape
        a = np.zeros((experts, self.rank, columns), np.float32)
        b = np.zeros((experts, rows, self.rank), np.float32)
        for number, left, right in self._by_expert():
            a[number, : right.shape[0]] = right
            order = self.placed.order
            height = left.shape[0]
            wanted = slice(None) if order is None else order[number * rows : (number + 1) * rows] - number * height
            b[number, :, : left.shape[1]] = left[wanted]
        return a, b

    def _by_expert(self) -> Iterator[tuple[int, Floats, Floats]]:
        """(expert, left scaled, right) of every expert that has an update."""
        for position, source in enumerate(self.placed.sources):
            patch = self.patches.get(source)
            if patch is None:
                continue
            shape = self.shapes[source]
            for number, factors in enumerate(patch.factors):
                left, right = factors.load("float32")
                left = (left * np.float32(patch.scale))[: shape[-2]]
                yield (position if len(self.placed.sources) > 1 else number), left, right


@dataclass(frozen=True, eq=False)
class LoraTensors(Store):
    """The ``.lora_a`` and ``.lora_b`` tensors of an adapter, made when they are read."""

    pairs: Mapping[str, Pair]
    """GGUF name of the weight → its update."""
    dtype: DType = F32

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        result = {}
        for name in self.pairs:
            for suffix, values in zip(("lora_a", "lora_b"), self._oriented(name), strict=True):
                result[f"{name}.{suffix}"] = TensorInfo(f"{name}.{suffix}", self.dtype, values.shape)
        return result

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        weight, _, suffix = name.rpartition(".")
        values = self._oriented(weight)[suffix == "lora_b"]
        rows = np.ascontiguousarray(values.reshape(info.rows, info.columns)[start:stop])
        with np.errstate(over="ignore"):
            rounded = narrow(rows, info.dtype)
        if not np.isfinite(widen(rounded, info.dtype)).all():
            raise FormatError(
                f"{name} holds NaN or Inf" + (f" as {info.dtype}" if np.isfinite(rows).all() else ""),
                hint="convert to float32"
                if np.isfinite(rows).all()
                else "the adapter is damaged, or training diverged",
            )
        return into(out, rounded)

    def _oriented(self, name: str) -> tuple[Floats, Floats]:
        a, b = self.pairs[name].factors()
        return (b, np.ascontiguousarray(a.T)) if name == EMBEDDING else (a, b)

    def __str__(self) -> str:
        return "GGUF LoRA"


def convert_lora(
    adapter: Adapter, weight: float, base: BaseModel, out: Path, how: WriteOptions, *, dtype: DType | None = None
) -> GgufJob:
    """An adapter as a GGUF LoRA for GGUFs of ``base``, in float32 unless ``dtype`` says otherwise.

    Raises UnsupportedError, with the reason, for what the runtime cannot apply: DoRA, trained biases, saved heads.
    """
    kind = dtype or F32
    if kind.name not in FILE_TYPES:
        raise UsageError(f"a GGUF LoRA holds no {kind}", hint="choose float32, float16 or bfloat16")
    if base.config is None:
        raise UnsupportedError(
            f"{base.path}: there is no config.json beside the weights, which tells how they lie in a GGUF",
            hint="give --base the model's folder",
        )
    spec = spec_for(base.config, str(base.path))
    hparams = hparams_of(spec, base.config)
    plan = merge(base, [(adapter, weight)]).plan
    shapes = {name: info.shape for name, info in base.store.infos.items()}
    with understood("which tensors its GGUF has"):
        placed = place(spec, shapes, hparams)
    causal = architecture_keys(spec, hparams).get(f"{spec.name}.attention.causal")
    is_head = all(one.name != "output.weight" for one in placed) and (causal is None or causal.data)
    pairs = {pair.placed.name: pair for pair in _pairs(adapter, plan, placed, shapes, is_head=is_head)}
    store = LoraTensors(pairs, kind)
    named = hub_id(adapter.config.base_model) or base_name(base)
    digest = adapter_digest(adapter)
    keys = {
        **general_keys(spec.name, adapter.folder, store.infos.values(), kind="adapter"),
        "adapter.type": text("lora"),
        **Lineage(named, header_digest(base.store), [Ingredient(adapter.name, weight, digest)]).keys,
        "general.quantization_version": u32(2),
        "general.file_type": u32(FILE_TYPES[kind.name]),
    }
    planned = GgufOutput(f"LoRA {kind}", store, tuple(plan_gguf(gguf_stem(out), keys, store)))
    return GgufJob([planned], out, {adapter.path: adapter.store, base.path: base.store}, how, plan.notes)


def _pairs(
    adapter: Adapter, plan: Plan, placed: Sequence[Placed], shapes: Mapping[str, tuple[int, ...]], *, is_head: bool
) -> Iterator[Pair]:
    """``is_head``: the embedding is the output head too."""
    _refuse_whole_tensors(adapter, plan)
    updates = {name: _only_low_rank(adapter, name, patches) for name, patches in plan.patches.items()}
    landed: set[str] = set()
    for one in placed:
        own = {source: updates[source] for source in one.sources if source in updates}
        if not own:
            continue
        if len(one.shape) < 2 or PLAINLY_READ.match(one.name):
            raise UnsupportedError(
                f"{adapter.path}: changes {one.sources[0]}, which is {one.name} in a GGUF, and llama.cpp applies no "
                "LoRA to it",
                hint=MERGE,
            )
        if one.name == EMBEDDING and is_head:
            raise UnsupportedError(f"{adapter.path}: {TIED}", hint=MERGE)
        landed |= set(own)
        yield Pair(one, own, shapes)
    if lost := sorted(set(updates) - landed):
        raise MismatchError(f"{adapter.path}: {lost[0]} has no place in a GGUF", hint=MERGE)


def _refuse_whole_tensors(adapter: Adapter, plan: Plan) -> None:
    if plan.unties:
        raise UnsupportedError(f"{adapter.path}: {TIED}", hint=MERGE)
    whole = [*(name for name in plan.replaced if not _is_the_bases(plan, name)), *plan.added]
    if whole:
        raise UnsupportedError(
            f"{adapter.path}: holds {whole[0]} whole (modules_to_save, a resized vocabulary or trained biases), which "
            "a GGUF LoRA has no place for",
            hint=MERGE,
        )


def _is_the_bases(plan: Plan, name: str) -> bool:
    """Whether a tensor saved whole is the base's own: PEFT saves an embedding with the LoRA trained on it."""
    store, source = plan.base.store, plan.replaced[name]
    saved, kind = source.store[source.key], store[name].dtype
    if saved.shape != store[name].shape:
        return False
    return all(
        np.array_equal(
            narrow(widen(source.store.read(source.key, start, stop), saved.dtype), kind), store.read(name, start, stop)
        )
        for start, stop in store.spans(name, PIECE_BYTES)
    )


def _only_low_rank(adapter: Adapter, name: str, patches: Sequence[Patch]) -> LowRank:
    if len(patches) == 1 and isinstance(patches[0], LowRank):
        return patches[0]
    label = next((patch.label for patch in patches if not isinstance(patch, LowRank)), "two updates at once")
    raise UnsupportedError(
        f"{adapter.path}: {name} is changed by {label}, which a GGUF LoRA cannot say: it holds A and B alone",
        hint=MERGE,
    )
