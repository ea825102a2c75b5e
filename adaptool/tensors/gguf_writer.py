"""Planning GGUF files: the header is known whole before a tensor is computed, as for safetensors.

A ``GgufPlan`` is to the piece writer what a safetensors ``FilePlan`` is: a name, a header, an offset for each tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from adaptool.errors import UnsupportedError
from adaptool.tensors.ggml.codec import encoded_text, encoded_value
from adaptool.tensors.ggml.types import id_of
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType
from adaptool.tensors.gguf import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MOST_AXES
from adaptool.tensors.store import Store, TensorInfo

LONGEST_NAME = 63
"""Bytes: ggml keeps names in a buffer of 64."""


@dataclass(frozen=True)
class GgufPlan:
    """One output file: its metadata, its tensors and where each goes."""

    name: str
    keys: KeyValues
    infos: tuple[TensorInfo, ...]

    @cached_property
    def alignment(self) -> int:
        """Tensors begin at multiples of this."""
        return int(self.keys[ALIGNMENT_KEY].data) if ALIGNMENT_KEY in self.keys else DEFAULT_ALIGNMENT

    @cached_property
    def header(self) -> bytes:
        """Everything before the first tensor, padded."""
        parts = [MAGIC, struct.pack("<IQQ", 3, len(self.infos), len(self.keys))]
        parts += [encoded_text(name) + encoded_value(value) for name, value in self.keys.items()]
        parts += [_encoded_info(info, self._relative[info.name]) for info in self.infos]
        header = b"".join(parts)
        return header + b"\0" * (-len(header) % self.alignment)

    @cached_property
    def _relative(self) -> Mapping[str, int]:
        result, offset = {}, 0
        for info in self.infos:
            result[info.name] = offset
            offset += self._padded(info)
        return result

    def _padded(self, info: TensorInfo) -> int:
        return info.nbytes + -info.nbytes % self.alignment

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Absolute byte offset of each tensor."""
        return {name: len(self.header) + offset for name, offset in self._relative.items()}

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, padding included: the last one is padded too."""
        return sum(self._padded(info) for info in self.infos)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.tensor_bytes


def _encoded_info(info: TensorInfo, offset: int) -> bytes:
    if len(info.name.encode()) > LONGEST_NAME or len(info.shape) > MOST_AXES:
        raise UnsupportedError(f"{info.name}: its name or its {len(info.shape)} axes do not fit a GGUF")
    axes = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
    return encoded_text(info.name) + axes + struct.pack("<IQ", id_of(info.dtype), offset)


def plan_gguf(stem: str, keys: KeyValues, store: Store, limit: int | None = None) -> list[GgufPlan]:
    """One file ``{stem}.gguf``, or several of at most ``limit`` bytes of tensors, named as llama.cpp names splits.

    Only the first of several files holds the metadata.
    """
    groups = _groups(store, limit)
    if len(groups) == 1:
        return [GgufPlan(f"{stem}.gguf", keys, groups[0])]
    return [
        GgufPlan(
            f"{stem}-{number + 1:05d}-of-{len(groups):05d}.gguf",
            {**(keys if number == 0 else {}), **_split_keys(number, len(groups), len(store))},
            group,
        )
        for number, group in enumerate(groups)
    ]


def _split_keys(number: int, count: int, tensors: int) -> dict[str, Value]:
    return {
        "split.no": Value(ValueType.UINT16, number),
        "split.count": Value(ValueType.UINT16, count),
        "split.tensors.count": Value(ValueType.INT32, tensors),
    }


def _groups(store: Store, limit: int | None) -> Sequence[tuple[TensorInfo, ...]]:
    if limit is None:
        return [tuple(store.infos.values())]
    groups: list[list[TensorInfo]] = [[]]
    size = 0
    for info in store.infos.values():
        if groups[-1] and size + info.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(info)
        size += info.nbytes
    return [tuple(group) for group in groups]
