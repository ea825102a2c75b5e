"""Where a tensor stands in its model, and the conditions that mixtures put on that.

Source: src/llama-quant.cpp of llama.cpp b11434; the 70B are from its model loaders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adaptool.errors import FormatError
from adaptool.tensors.ggml.values import KeyValues

LARGE_LAYERS = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
"""How many layers make a model of these architectures a "70B" (a llama only with grouped queries)."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What mixtures ask of a model: its GGUF architecture, blocks, heads (of the first layer) and experts."""

    arch: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0

    @property
    def sharing(self) -> int:
        """How many query heads share a key and value head (0 where there are none)."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def large(self) -> bool:
        """Whether this is what llama.cpp calls a 70B."""
        if self.layers != LARGE_LAYERS.get(self.arch):
            return False
        return not self.arch.startswith("llama") or (self.heads != self.kv_heads and self.experts != 8)


def model_shape(keys: KeyValues) -> ModelShape:
    """The shape of a model by its GGUF metadata, read as llama.cpp does: missing value heads are as many as heads."""
    arch = keys.get("general.architecture")
    if arch is None or not isinstance(arch.data, str):
        raise FormatError("the metadata has no general.architecture")
    heads = _number(keys, f"{arch.data}.attention.head_count", 0)
    return ModelShape(
        arch.data,
        layers=_number(keys, f"{arch.data}.block_count"),
        heads=heads,
        kv_heads=_number(keys, f"{arch.data}.attention.head_count_kv", heads),
        experts=_number(keys, f"{arch.data}.expert_count", 0),
    )


def _number(keys: KeyValues, key: str, default: int | None = None) -> int:
    """A whole number, or the first layer's where every layer has its own."""
    value = keys.get(key)
    number = default if value is None else value.data
    if value is not None and value.element is not None:
        number = next(iter(value.data), default)
    if not isinstance(number, int):
        raise FormatError(f"the metadata's {key} is {'missing' if number is None else 'no whole number'}")
    return number


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor as a rule sees it: which of its role it is, in which layer, and whether its rows fill blocks."""

    model: ModelShape
    nth: int = 0
    """How many tensors of its role came before it."""
    layer: int = 0
    """``nth``, or the block's number in a mixture of experts, whose experts may be stored one by one."""
    of: int = 0
    """How many values there are for the values, how many layers else."""
    aligned: bool = True
    """Whether its columns are a multiple of the default type's block."""
    stacked: bool = False
    """Whether it holds several matrices: experts."""
    imatrix: bool = False


When = Callable[[Place], bool]


def always(place: Place) -> bool:
    """Every tensor of the role."""
    return True


def more_bits(place: Place) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = place.of // 8
    return place.layer < eighth or place.layer >= 7 * place.of // 8 or (place.layer - eighth) % 3 == 2


def middle_layers(place: Place) -> bool:
    """All but the first and last eighth of the layers."""
    return place.of // 8 <= place.layer < 7 * place.of // 8


def first_eighth(place: Place) -> bool:
    """The first eighth of the layers."""
    return place.layer < place.of // 8


def first_sixteenth(place: Place) -> bool:
    """The first sixteenth of the layers."""
    return place.layer < place.of // 16


def first_eighth_in_order(place: Place) -> bool:
    """The first eighth as many tensors as there are layers, experts or not."""
    return place.nth < place.of // 8


def first_two(place: Place) -> bool:
    """The first two tensors of the role."""
    return place.nth < 2


def first_four(place: Place) -> bool:
    """The first four tensors of the role."""
    return place.nth < 4


def shared_heads(place: Place) -> bool:
    """Four or more query heads to a value head: the values are small, so bits there cost little."""
    return place.model.sharing >= 4


def shared_or_experts(place: Place) -> bool:
    """Shared heads, or four and more experts: attention is a small part of the whole."""
    return shared_heads(place) or place.model.experts >= 4


def eight_experts(place: Place) -> bool:
    """Mixtral's shape."""
    return place.model.experts == 8


def falcon(place: Place) -> bool:
    """The first Falcon architecture."""
    return place.model.arch == "falcon"


def unaligned(place: Place) -> bool:
    """The default type's blocks do not divide the columns."""
    return not place.aligned


def flat(place: Place) -> bool:
    """One matrix, not a stack of experts."""
    return not place.stacked


def with_imatrix(place: Place) -> bool:
    """An imatrix is given."""
    return place.imatrix


def both(*conditions: When) -> When:
    """All of the conditions."""
    return lambda place: all(condition(place) for condition in conditions)


def not_(condition: When) -> When:
    """The opposite."""
    return lambda place: not condition(place)
