"""How many parameters were trained, of how many: what PEFT's ``print_trainable_parameters`` printed at training time.

PEFT counts every parameter of the wrapped model. So a module of modules_to_save counts twice in the total (the
trained copy and the frozen original), an unfrozen bias counts as trained and adds nothing, a tied head counts once,
and buffers (VeRA's projections, position ids) do not count.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import FULL
from adaptool.errors import UnsupportedError
from adaptool.summary.contents import saved_tensors

BUFFER = re.compile(
    r"(?:.*\.)?(?:position_ids|token_type_ids|inv_freq|masked_bias|num_batches_tracked|running_mean|running_var"
    r"|attn\.bias|attention\.bias|rotary_emb\.\w+)"
)
"""Tensors that checkpoints hold and models do not count as parameters."""

DUPLICATES = re.compile(r"(?:.*\.)?(?:encoder|decoder)\.embed_tokens\.weight")
"""What old checkpoints of encoder–decoders store beside ``shared.weight``, which it is."""

UNSAVED = {
    "P_TUNING": "the encoder that made the prompts was trained and is not saved",
    "LILY": "tensors that modules share are saved once for each",
    "CARTRIDGE": "some of the tokens may have been frozen, and the file does not say which",
    "XLORA": "its adapters lie in folders of their own",
}
"""PEFT types whose file does not hold what was trained, no more and no less."""


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Trained and total parameters; ``total`` and ``percent`` need a base. ``note`` says why a figure is None."""

    trainable: int | None
    total: int | None
    percent: float | None
    expected: bool
    """Whether the figures come from the configs alone, with no tensor of the adapter seen."""
    note: str | None = None


def count_parameters(adapter: Adapter, base: BaseModel | None = None) -> ParameterCount:
    """The figures of an adapter, by its tensors, or by what its config would make of the base where it has none."""
    config = adapter.config
    if not adapter.store:
        return _expected_count(adapter, base)
    if note := unsaved(config):
        return ParameterCount(None, None, None, expected=False, note=note)
    return _count(adapter, base, expected=False)


def unsaved(config: AdapterConfig) -> str | None:
    """Why the tensors of this PEFT type do not tell what was trained, if so."""
    if config.peft_type == "PREFIX_TUNING" and config.fields.get("prefix_projection"):
        return UNSAVED["P_TUNING"]
    return UNSAVED.get(config.peft_type)


def _expected_count(adapter: Adapter, base: BaseModel | None) -> ParameterCount:
    from adaptool.summary.expected import expected_adapter  # tables that a look at an adapter alone need not load

    if base is None or base.config is None:
        missing = "the adapter has no weights: give --base a model's config.json"
        return ParameterCount(None, None, None, expected=True, note=missing)
    try:
        expected = expected_adapter(adapter.config, base.config, adapter.path)
    except UnsupportedError as error:
        return ParameterCount(None, None, None, expected=True, note=error.message)
    return _count(expected, base, expected=True)


def _count(adapter: Adapter, base: BaseModel | None, *, expected: bool) -> ParameterCount:
    saved = saved_tensors(adapter)
    trained = sum(tensor.info.size for tensor in saved if tensor.role in ("trained", "unfrozen", "copy"))
    added = sum(tensor.info.size for tensor in saved if tensor.role in ("trained", "fixed", "copy"))
    if base is None:
        return ParameterCount(trained, None, None, expected)
    total = base_parameters(base, adapter) + added + _unsaved_parameters(adapter)
    return ParameterCount(trained, total, 100 * trained / total, expected)


def _unsaved_parameters(adapter: Adapter) -> int:
    """Frozen parameters that the wrapped model had and the file has not: AdaLoRA's rank counters, CPT's own prompt."""
    if adapter.config.peft_type == "CPT":
        return sum(info.size for info in adapter.store.infos.values())
    return sum(name.endswith(".lora_E") for name in adapter.store)


def base_parameters(base: BaseModel, adapter: Adapter | None = None) -> int:
    """Parameters of a model, or of what it became for an adapter's task: a resized vocabulary, another head.

    From the table of its family where there is one, since a checkpoint may hold buffers and lack heads; else from
    the checkpoint's tensors.
    """
    from adaptool.archs.shapes import parameter_shapes
    from adaptool.summary.expected import trained_config

    full = _full_shapes(adapter) if adapter is not None else {}
    config = base.config
    if config is not None and adapter is not None:
        config = trained_config(config, adapter.config, full)
    shapes = parameter_shapes(config) if config is not None else None
    if shapes is not None:
        return sum(map(math.prod, shapes.values()))
    sizes = {name: info.size for name, info in base.store.infos.items() if not _uncounted(name, base)}
    for name, shape in full.items():
        stored = base.find(name)
        if stored in sizes:
            sizes[stored] = math.prod(shape)
        elif stored is None and not base.tied:
            sizes[name] = math.prod(shape)
    return sum(sizes.values())


def _full_shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Parameters of the trained model that the adapter holds whole, by runtime name."""
    return {
        tensor.key.module if tensor.key.part == FULL else f"{tensor.key.module}.weight": tensor.info.shape
        for tensor in saved_tensors(adapter)
        if tensor.role in ("copy", "carried")
        and not tensor.key.text.endswith("bias")
        and not re.search(r"\.(?:original_module|modules_to_save)\.", tensor.key.text)
    }


def _uncounted(name: str, base: BaseModel) -> bool:
    """A buffer, or a tensor that is another's second name."""
    if BUFFER.fullmatch(name) or not base.store[name].dtype.floating:
        return True
    return (name == base.head and base.tied and base.embedding is not None) or (
        DUPLICATES.fullmatch(name) is not None and any(other.endswith("shared.weight") for other in base.store)
    )
