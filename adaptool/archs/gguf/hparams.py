"""Hparams: a config.json as the tables ask for it, whichever transformers generation saved it.

The text model's part of a multimodal config is lifted to the top, what a config class assumes of a missing key is
filled in, and the rotary settings, which move between ``rope_theta``, ``rope_scaling`` and ``rope_parameters``, are one
mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adaptool.errors import FormatError

STRETCHED = ("llama3", "yarn", "longrope", "su")
"""Rope types that know the length trained with; where no setting tells it, it is the context length."""
NEEDED = object()
"""The default of ``find`` that means: there is none."""

MOST_LAYERS = 10_000
"""No model comes near; tables of tensor names grow with it."""


@dataclass(frozen=True)
class Hparams:
    """``raw`` is config.json, ``defaults`` what its class assumes of a missing key: a value, or how it is computed."""

    raw: Mapping[str, Any]
    defaults: Mapping[str, Any]
    pooling: str | None = None
    """How a sentence encoder pools, by the files beside its config: "mean", "cls" or "lasttoken"."""

    @cached_property
    def given(self) -> Mapping[str, Any]:
        """Every setting of the config, the text model's own above the shared ones."""
        nested = self.raw.get("text_config")
        return {**self.raw, **(nested if isinstance(nested, dict) else {})}

    def find(self, *names: str, default: Any = NEEDED) -> Any:
        """The first of ``names`` that is set (and not null), else the first that the class assumes.

        A null is a setting too: only a computed assumption takes its place.
        """
        for name in names:
            if (value := self.given.get(name)) is not None:
                return value
        for name in names:
            assumed = self.defaults.get(name)
            if callable(assumed):
                return assumed(self)
            if assumed is not None and name not in self.given:
                return assumed
        if default is NEEDED:
            raise FormatError(f"config.json: no {names[0]}", hint="compare it with the original model's config.json")
        return default

    def count(self, *names: str, least: int = 0, most: int = (1 << 31) - 1) -> int:
        """A whole number that must be there."""
        value = self.find(*names)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise FormatError(f"config.json: {names[0]} is {value!r}, where a count belongs")
        return value

    @property
    def layers(self) -> int:
        """How many blocks."""
        return self.count("num_hidden_layers", "n_layer", "n_layers", "num_layers", most=MOST_LAYERS)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.count("hidden_size", "n_embd", "n_embed", "dim", "d_model", least=1)

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.count("num_attention_heads", "n_head", "n_heads", least=1)

    @property
    def kv_heads(self) -> int:
        """Key and value heads: as many as query heads where nothing says otherwise."""
        names = ("num_key_value_heads", "n_kv_heads", "n_head_kv", "num_kv_heads")
        return self.heads if self.find(*names, default=None) is None else self.count(*names, least=1)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.count("head_dim") if self.find("head_dim", default=None) else self.hidden // self.heads

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, as the config has it."""
        return self.count("vocab_size")

    @property
    def architecture(self) -> str:
        """The class that loads it: "LlamaForCausalLM"."""
        named = self.raw.get("architectures") or [""]
        return str(named[0]) if isinstance(named, list) else ""

    @cached_property
    def rope(self) -> Mapping[str, Any]:
        """The rotary settings under their transformers 5 names: ``rope_theta``, ``rope_type``, ``factor``, …

        Models with two kinds of layers have them per kind: ``full_attention`` and ``sliding_attention``.
        """
        given = self.find("rope_parameters", "rope_scaling", default=None) or {}
        if not isinstance(given, dict):
            raise FormatError(f"config.json: rope_parameters is {type(given).__name__}, not an object")
        rope = dict(given)
        if "full_attention" in rope or "sliding_attention" in rope:
            return rope
        local = self.find("rope_local_base_freq", "local_rope_theta", default=None)
        if local is not None:
            rope["sliding_attention"] = {"rope_theta": local}
        rope.setdefault("rope_theta", self.find("rope_theta", "rotary_emb_base", "global_rope_theta", default=None))
        rope.setdefault("rope_type", rope.get("type"))
        rope.setdefault(
            "partial_rotary_factor", self.find("partial_rotary_factor", "rotary_pct", "rope_pct", default=None)
        )
        trained = ("original_max_position_embeddings",) + ("max_position_embeddings",) * (
            rope["rope_type"] in STRETCHED
        )
        rope.setdefault("original_max_position_embeddings", self.find(*trained, default=None))
        return {key: value for key, value in rope.items() if value is not None}
