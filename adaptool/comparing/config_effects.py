"""What a changed field does, in a practitioner's words, and whether it can change what the adapter computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.canonical import PATTERNS, explicit_fields, inert, peft_type_of
from adaptool.adapters.schema import fields_of, homes_of, newest_peft
from adaptool.adapters.tuners.lora import MUTATING_INITS
from adaptool.comparing import targeted
from adaptool.comparing.base_names import bases_changed
from adaptool.comparing.scales import FIELDS, Scales, scales_of
from adaptool.errors import AdaptoolError
from adaptool.tensors.jsons import shown

SWITCHES: Mapping[str, str] = {
    "use_dora": "DoRA: the columns of W + ΔW are scaled to learned magnitudes",
    "use_qalora": "QA-LoRA: the input is pooled by groups",
    "lora_bias": "a bias is added behind lora_B",
    "bias": "which of the base's biases are replaced by trained ones",
    "layer_replication": "which of the base's layers the model is built from, and how often",
    "alora_invocation_tokens": "the tokens after which the adapter acts (aLoRA)",
    "ensure_weight_tying": "whether embedding and head that share weights are adapted as one",
    "use_bdlora": "BD-LoRA: the factors are read as block-diagonal",
    "kasa_config": "KaSA: a learned diagonal stands between B and A",
    "arrow_config": "Arrow: adapters are chosen token by token",
    "megatron_config": "the layers are Megatron's parallel ones",
    "task_type": "which head the base is loaded with, and is saved whole",
}
"""Fields whose meaning a user should read in other words than the schema's."""

TOKENS = ("trainable_token_indices", "token_indices")
SHOWN_TOKENS = 6


@dataclass(frozen=True)
class Effects:
    """What fields do, asked of the two adapters."""

    before: Adapter
    after: Adapter

    @cached_property
    def kind(self) -> str:
        """The PEFT type; of two, the one that is now."""
        return peft_type_of(self.after.config)

    @cached_property
    def scales(self) -> Scales | None:
        """Ranks and scales of both, where both are LoRA's."""
        lora = self.kind == peft_type_of(self.before.config) == "LORA"
        return scales_of(self.before, self.after) if lora else None

    @cached_property
    def sides(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Every field of both, defaults written out, in normal form."""
        return explicit_fields(self.before.config), explicit_fields(self.after.config)

    def of(self, name: str, key: str | None, old: Any, new: Any) -> tuple[str, bool]:
        """The effect of a field, of ``key`` in the object it holds, and whether it matters."""
        if name in ("base_model_name_or_path", "revision"):
            return self._base(name)
        if name not in fields_of(self.kind) and not inert(name, self.kind, self.sides[1]):
            return self._unknown(name, old, new)
        reasons = [inert(name, self.kind, side) if name in side else "" for side in self.sides]
        if all(reasons):
            return _idle_words(reasons[1]), False
        if name in FIELDS and self.kind == "LORA":
            return self._scale(name, key)
        if name in targeted.FIELDS:
            return targeted.effect(self.before, self.after, name)
        if name == "modules_to_save":
            return targeted.kept(self.before, self.after)
        if name in TOKENS:
            return self._tokens(name)
        if name == "init_lora_weights":
            return _init(old, new), True
        return self._described(name), True

    def _scale(self, name: str, key: str | None) -> tuple[str, bool]:
        if self.scales is None:
            return "its effect cannot be told: ranks and alphas are not declared in order", True
        if key is None and name in PATTERNS:
            effect, matters = self.scales.effect(name, None)
            return f"the first pattern that matches counts, and their order changed: {effect}", matters
        return self.scales.effect(name, key)

    def _base(self, name: str) -> tuple[str, bool]:
        try:
            sides = [(side.config.base_model, side.config.revision) for side in (self.before, self.after)]
        except AdaptoolError:
            return "which model it is for", True
        change, words = bases_changed(sides[0], sides[1])
        if name == "revision":
            return {
                "revision": ("another revision of the base", True),
                "other": ("of another base", True),
                "pinned": ("the base's revision is pinned", False),
                "unpinned": ("the base's revision is no longer pinned", False),
            }.get(change, ("the same revision", False))
        if change == "other":
            return "another base model", True
        return f"the same model: {words}" if words else "the same model", "copy" in words

    def _unknown(self, name: str, old: Any, new: Any) -> tuple[str, bool]:
        told = f"not known to PEFT {newest_peft()}"
        if homes_of(name):
            told = f"a field of other PEFT types, not of {self.kind or 'this one'}"
        off = all(value is None or value is False for value in (old, new))
        return f"{told}: " + ("off" if off else "effect unknown"), not off

    def _tokens(self, name: str) -> tuple[str, bool]:
        """Which rows of the vocabulary are trained: lists, or lists by the embedding's name."""
        old, new = (_all_tokens(side.config.fields.get(name)) for side in (self.before, self.after))
        if old is None or new is None:
            return "which rows of the vocabulary are trained", True
        gone, come = [t for t in old if t not in set(new)], [t for t in new if t not in set(old)]
        said = [f"{word} {_first(tokens)}" for word, tokens in (("trains", come), ("no longer trains", gone)) if tokens]
        if said:
            return "; ".join(said), True
        return ("the same tokens in another order" if old != new else "the same tokens, otherwise written"), old != new

    def _described(self, name: str) -> str:
        known = fields_of(self.kind).get(name, {})
        words = str(SWITCHES.get(name) or known.get("description", "")).rstrip(".")
        plain = words.partition(" ")[0][1:].islower()  # not DoRA:, nor A
        return words[:1].lower() + words[1:] if plain else words


def _idle_words(reason: str) -> str:
    return f"{reason}: no effect on the result"


def _init(old: Any, new: Any) -> str:
    said = []
    for value, when in ((old, "before"), (new, "now")):
        method = next((title for key, title in MUTATING_INITS.items() if str(value).lower().startswith(key)), None)
        if method is not None:
            said.append(f"{method} {when}: its factors belong on a base that it changed")
        elif isinstance(value, str):
            said.append(f"{shown(value)} {when}")
    return "; ".join(said)


def _all_tokens(value: Any) -> list[int] | None:
    if value is None:
        return []
    lists = list(value.values()) if isinstance(value, dict) else [value]
    if not all(isinstance(rows, list) and all(type(row) is int for row in rows) for rows in lists):
        return None
    return [row for rows in lists for row in rows]


def _first(tokens: list[int]) -> str:
    many = "token" if len(tokens) == 1 else f"{len(tokens)} tokens:"
    return f"{many} {', '.join(map(str, tokens[:SHOWN_TOKENS]))}{' …' * (len(tokens) > SHOWN_TOKENS)}"
