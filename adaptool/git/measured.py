"""A weights file measured without its config: which tensors are two factors of one update, their norms, their digests.

‖B@A‖² = ⟨BᵀB, AAᵀ⟩: two r×r matrices, so ΔW is never formed. Every byte is read once.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from adaptool.adapters.names import PREFIX
from adaptool.tensors.dtypes import Array, Floats, bytes_of, widen
from adaptool.tensors.store import Store, TensorInfo
from adaptool.versions import CHUNK_BYTES, canonical_json

FACTOR = re.compile(r"(.+?)\.lora_(?:embedding_)?([AaBb])(\.(?!weight$)[\w-]+)?(?:\.weight)?", re.DOTALL)
"""PEFT's ``…q_proj.lora_A.weight``, a training checkpoint's ``…lora_A.default.weight``, GGUF's ``….weight.lora_a``."""

FUSED = re.compile(r"(?:.*\.)?experts(?:\.base_layer)*", re.DOTALL)
"""Modules whose factors are those of many experts: which rows are whose is the config's to say."""

LARGEST_RANK = 1024
"""Of an update whose norm is told: the work and the memory grow with its square, and a file can claim any."""


@dataclass(frozen=True, slots=True)
class Update:
    """Two factors of one module: A (rank, columns), B (rows, rank), and the norm of their product."""

    module: str
    rank: int
    rows: int
    columns: int
    dtype: str
    norm: float
    norm_a: float
    norm_b: float
    digest_a: str
    digest_b: str


@dataclass(frozen=True, slots=True)
class Measured:
    """All updates of a file, and its other tensors with their norms and digests where those were taken."""

    updates: tuple[Update, ...]
    others: tuple[TensorInfo, ...]
    norms: Mapping[str, float]
    digests: Mapping[str, str]

    @property
    def norm(self) -> float:
        """√Σ‖B@A‖²."""
        return math.sqrt(sum(update.norm**2 for update in self.updates))

    @property
    def digest(self) -> str:
        """``versions.content_digest`` of the tensors."""
        each = dict(self.digests)
        whole = hashlib.sha256()
        for name in sorted(each):
            whole.update(bytes.fromhex(each[name]))
        return whole.hexdigest()


def measure(store: Store) -> Measured:
    """Read every tensor once; a pair of factors whose product exists is an update, everything else stands alone."""
    digests: dict[str, str] = {}
    pairs = dict(_pairs(store))
    updates = tuple(_update(store, module, *pair, digests) for module, pair in pairs.items())
    paired = {name for pair in pairs.values() for name in pair}
    others = tuple(info for name, info in store.infos.items() if name not in paired)
    norms = {}
    for info in others:
        digests[info.name], norm = _measured(store, info)
        if norm is not None:
            norms[info.name] = norm
    return Measured(updates, others, norms, digests)


def _pairs(store: Store) -> Iterator[tuple[str, tuple[str, str]]]:
    """Module → its A and B, where both are matrices (or convolutions) that can be multiplied."""
    halves: dict[str, dict[str, str]] = {}
    for name in store:
        if found := FACTOR.fullmatch(name):
            module, half, adapter = found.groups()
            halves.setdefault(f"{module.removeprefix(PREFIX)}{adapter or ''}", {}).setdefault(half.upper(), name)
    for module, both in halves.items():
        if len(both) == 2 and _multiply(store[both["A"]], store[both["B"]]) and not FUSED.fullmatch(module):
            yield module, (both["A"], both["B"])


def _multiply(a: TensorInfo, b: TensorInfo) -> bool:
    ranks = len(a.shape) > 1 and len(b.shape) > 1 and a.shape[0] == b.shape[1] and a.size and b.size
    return (
        bool(ranks)
        and a.shape[0] <= LARGEST_RANK
        and a.dtype.mergeable
        and b.dtype.mergeable
        and math.prod(b.shape[2:]) == 1
    )


def _update(store: Store, module: str, a: str, b: str, digests: dict[str, str]) -> Update:
    rank = store[a].shape[0]
    left, digests[a] = _whole(store, a)
    right, digests[b] = _whole(store, b)
    left, right = left.reshape(rank, -1), right.reshape(-1, rank)
    with np.errstate(all="ignore"):  # NaN and infinity are told as they are
        gram_a, gram_b = left @ left.T, right.T @ right
        product, norm_a, norm_b = (float(x) for x in ((gram_a * gram_b).sum(), gram_a.trace(), gram_b.trace()))
    kinds = {store[a].dtype.name: None, store[b].dtype.name: None}
    return Update(
        module, rank, right.shape[0], left.shape[1], "/".join(kinds),
        _root(product), _root(norm_a), _root(norm_b), digests[a], digests[b],
    )  # fmt: skip


def _root(square: float) -> float:
    return math.sqrt(max(square, 0.0)) if not math.isnan(square) else math.nan


def _whole(store: Store, name: str) -> tuple[Floats, str]:
    """A factor in float64, and its digest."""
    info, raw = store[name], store.read(name)
    digest = _begun(info)
    digest.update(bytes_of(np.ascontiguousarray(raw)))
    return widen(raw, info.dtype).astype(np.float64, copy=False), digest.hexdigest()


def _measured(store: Store, info: TensorInfo) -> tuple[str, float | None]:
    """The digest of a tensor and, of floats that can be read one by one, its norm; a few MB are held at a time."""
    digest, square = _begun(info), 0.0
    is_float = info.dtype.floating and not info.dtype.blocked and info.dtype.bits >= 8
    for start, stop in store.spans(info.name, CHUNK_BYTES):
        raw = np.ascontiguousarray(store.read(info.name, start, stop))
        digest.update(bytes_of(raw))
        if is_float:
            square += _square(raw, info)
    return digest.hexdigest(), _root(square) if is_float else None


def _square(raw: Array, info: TensorInfo) -> float:
    values = widen(raw, info.dtype).astype(np.float64, copy=False).ravel()
    with np.errstate(all="ignore"):
        return float(values @ values)


def _begun(info: TensorInfo) -> hashlib._Hash:
    """``versions.tensor_digest``, before the bytes."""
    return hashlib.sha256(canonical_json([info.name, info.dtype.name, list(info.shape)]))
