"""How many parameters were trained, of how many: what PEFT's ``print_trainable_parameters`` printed at training time.

PEFT counts every parameter of the wrapped model. So a module of modules_to_save counts twice in the total (the
trained copy and the frozen original), an unfrozen bias counts as trained and adds nothing, a tied head counts once,
and buffers (VeRA's projections, position ids) do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS, BaseModel
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import projection_of
from adaptool.archs.shapes import Shape, parameter_shapes
from adaptool.contents import Saved, saved_tensors
from adaptool.errors import AdaptoolError, UnsupportedError
from adaptool.expected import expected_tensors, shapes_store
from adaptool.model_folder import TASK_CLASSES
from adaptool.tensors.store import Store

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
    """Trained and total parameters; ``total`` and ``percent`` need a base, and None is said to be unknown in ``note``."""

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
        return _expected_count(config, base)
    if note := unsaved(config):
        return ParameterCount(None, None, None, expected=False, note=note)
    return _count(config, saved_tensors(adapter), base, expected=False)


def unsaved(config: AdapterConfig) -> str | None:
    """Why the tensors of this PEFT type do not tell what was trained, if so."""
    if config.peft_type == "PREFIX_TUNING" and config.fields.get("prefix_projection"):
        return UNSAVED["P_TUNING"]
    return UNSAVED.get(config.peft_type)


def _expected_count(config: AdapterConfig, base: BaseModel | None) -> ParameterCount:
    if base is None or base.config is None:
        missing = "the adapter has no weights: give --base a model's config.json"
        return ParameterCount(None, None, None, expected=True, note=missing)
    try:
        saved = expected_saved(config, base.config)
    except UnsupportedError as error:
        return ParameterCount(None, None, None, expected=True, note=error.message)
    return _count(config, saved, base, expected=True)


def expected_adapter(config: AdapterConfig, base_config: Mapping[str, Any], like: Adapter) -> Adapter:
    """The adapter ``config`` would train on this base, as shapes without bytes."""
    shapes = expected_tensors(config, trained_config(base_config, config))
    return Adapter(like.path, config, shapes_store(shapes, str(like.path)))


def expected_saved(config: AdapterConfig, base_config: Mapping[str, Any]) -> tuple[Saved, ...]:
    """The tensors of ``expected_adapter``, with their roles; heads that PEFT adds for the task are whole modules too."""
    shapes = expected_tensors(config, trained_config(base_config, config))
    from adaptool.expected import kept_whole

    fields = {**config.fields, "modules_to_save": list(kept_whole(config)) or None}
    whole = AdapterConfig(fields, config.where)
    from pathlib import Path

    return saved_tensors(Adapter(Path(config.where), whole, shapes_store(shapes, config.where)))
