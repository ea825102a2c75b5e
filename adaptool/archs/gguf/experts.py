"""Mixtures of experts: what their tables share.

A checkpoint has a layer's experts one by one, or fused: gate above up, all experts in one tensor. GGUF has three
tensors a layer, each with the experts on its first axis. Placing stacks the former; these rules split the latter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placed import Order, Placed
from adaptool.archs.gguf.spec import Tensor, setting
from adaptool.errors import MismatchError
from adaptool.tensors.ggml.values import u32

EXPERT_FEED_FORWARD = setting("expert_feed_forward_length", u32, "moe_intermediate_size")


def halves(tensor: Tensor, hp: Hparams, names: tuple[str, str]) -> Sequence[Placed]:
    """The upper and the lower half of a matrix (2·i, h), or of every expert's (e, 2·i, h), under two ``names``."""
    *stack, rows, columns = tensor.shape
    if rows % 2 or columns != hp.hidden:
        raise MismatchError(f"{tensor.source}: {tensor.shape} is not two halves of {hp.hidden} columns")
    shape, count = (*stack, rows // 2, columns), math.prod(stack)
    return [Placed(name, shape, (tensor.source,), _half(count, rows, half)) for half, name in enumerate(names)]


@lru_cache(8)
def _half(matrices: int, rows: int, half: int) -> Order:
    """Which rows are the upper (0) or lower (1) halves of matrices laid after one another; the same in every layer."""
    return np.arange(matrices * rows).reshape(matrices, 2, rows // 2)[:, half].reshape(-1)


def split_gate_up(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """experts.gate_up_proj (e, 2·i, h) → gate and up, (e, i, h) each."""
    module = tensor.name.removesuffix(".weight").removesuffix(".gate_up_proj")
    return halves(tensor, hp, (f"{module}.gate_proj.weight", f"{module}.up_proj.weight"))


def stacked_down(tensor: Tensor, hp: Hparams) -> Sequence[Placed]:
    """experts.down_proj (e, h, i): as it is."""
    if tensor.shape[-2] != hp.hidden:
        raise MismatchError(f"{tensor.source}: {tensor.shape} does not give {hp.hidden} rows for every expert")
    return [Placed(tensor.name.removesuffix(".weight") + ".weight", tensor.shape, (tensor.source,))]


FUSED_EXPERTS = {r"experts\.gate_up_proj(?:\.weight)?": split_gate_up, r"experts\.down_proj(?:\.weight)?": stacked_down}
