"""Which tensors of a checkpoint are weights of linear layers, by their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptool.tensors.store import TensorInfo

NOT_LINEAR = re.compile(
    r"wte|wpe|shared|relative_attention_bias|\w*embed\w*|\w*norm\w*|\w*position\w*|score|classifier"
)


def quantised_by_training(infos: Mapping[str, TensorInfo], head: str | None) -> Iterator[str]:
    """What ``load_in_4bit`` quantises: the linear layers' weights, and neither embeddings nor the output head."""
    for name, info in infos.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "weight" or len(info.shape) != 2 or name == head or not info.dtype.mergeable:
            continue
        if not NOT_LINEAR.fullmatch(module.rpartition(".")[2]):
            yield name
