"""The shapes a LoRA module's tensors must have, checked before anything indexes them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from adaptool.errors import MismatchError

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter

Shape = tuple[int, ...]

AXES = {
    "lora_A.weight": (2, 3, 4, 5),
    "lora_B.weight": (2, 3, 4, 5),
    "lora_embedding_A": (2,),
    "lora_embedding_B": (2,),
    "lora_diag": (1,),
    "lora_B.bias": (1,),
    "token_adapter.trainable_tokens_delta": (2,),
}
"""How many axes each part may have; lora_magnitude_vector is counted, whatever its shape."""


def check_module_shapes(adapter: Adapter, module: str, parts: Mapping[str, str]) -> None:
    """Raise MismatchError where a part has the wrong number of axes, is empty, or does not fit the module's others."""
    shapes = {part: adapter.store[key].shape for part, key in parts.items()}
    for part, shape in shapes.items():
        if part in AXES and (len(shape) not in AXES[part] or 0 in shape):
            raise _wrong(adapter, module, part, shape)
    a, b = shapes.get("lora_A.weight"), shapes.get("lora_B.weight")
    if a is not None and b is not None and len(a) != len(b):
        raise _wrong(adapter, module, "lora_B.weight", b)
    if b is not None and prod(b[2:]) != 1:  # conv: B is (out, r, 1, 1)
        raise _wrong(adapter, module, "lora_B.weight", b)
    outputs = b[0] if b is not None else shapes.get("lora_embedding_B", (None,))[0]
    for part in ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_B.bias"):
        if part in shapes and prod(shapes[part]) != outputs:
            raise _wrong(adapter, module, part, shapes[part])
    if "lora_diag" in shapes and a is not None and shapes["lora_diag"] != a[:1]:
        raise _wrong(adapter, module, "lora_diag", shapes["lora_diag"])


def _wrong(adapter: Adapter, module: str, part: str, shape: Shape) -> MismatchError:
    return MismatchError(
        f"{adapter.path}: {module}.{part} has the shape {list(shape)}, which no LoRA of this module has",
        hint="the save is damaged: save it again",
    )
