"""Mixture-of-experts weights: one 3-D parameter per layer at run time, a matrix per expert on disk.

Since transformers 5 ``mlp.experts.gate_up_proj`` is (experts, 2·intermediate, hidden), while the checkpoints of most
families still hold ``experts.3.gate_proj.weight``, ``experts.3.up_proj.weight``. A LoRA on the fused parameter is a
change to rows of those. Families that are fused on disk too, under the same name, have no entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.archs.renames import model_types, published_name


@dataclass(frozen=True, slots=True)
class FusedExperts:
    """What one expert's matrix is made of: on-disk names, in the order of its rows, ``{e}`` for the expert's number."""

    templates: tuple[str, ...]

    def names(self, expert: int) -> tuple[str, ...]:
        """The tensors of one expert."""
        return tuple(template.replace("{e}", str(expert)) for template in self.templates)

    def rows(self, total: int) -> tuple[slice, ...]:
        """Which of the fused matrix's ``total`` rows each tensor is: equal shares."""
        share = total // len(self.templates)
        return tuple(slice(start, start + share) for start in range(0, share * len(self.templates), share))


# What the fused parameters are made of, by the names used on disk.
_W = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
_GATE_UP_DOWN = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_UP_DOWN = {"up_proj": ("up_proj",), "down_proj": ("down_proj",)}
_FC = {"gate_up_proj": ("fc1", "fc3"), "down_proj": ("fc2",)}

_STYLES = (
    (
        _W,
        """mixtral minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text phimoe lfm2_moe deepseek_v4 kimi_linear
        mistral_large4_text""",
    ),
    (
        _GATE_UP_DOWN,
        """qwen2_moe qwen3_moe qwen3_next qwen3_omni_moe qwen3_omni_moe_thinker qwen3_omni_moe_text
        qwen3_omni_moe_talker_text qwen3_5_moe_text qwen4_exp_text deepseek_v2 deepseek_v3 deepseek_v32 deepseek_ocr2
        deepseek_ocr2_text unlimited_ocr unlimited_ocr_text dots1 dots3_note_text ernie4_5_moe glm4_moe glm4_moe_lite
        glm_moe_dsa glm4v_moe glm4v_moe_text glm5_next glm5_next_text longcat_flash solar_open mellum beam afmoe
        hunyuan_v1_moe flex_olmo olmoe exaone_moe cohere2_moe axk1 axk2 hy_v3 laguna mimo_v2_flash flint kolibri1
        bailing_hybrid kimi_k25 jamba""",
    ),
    (_UP_DOWN, "nemotron_h"),
    (_FC, "dots3_note_vision_encoder"),
)
EXPERT_PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    model_type: style for style, names in _STYLES for model_type in names.split()
}

CONV1D_MODEL_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"})
"""Model types with transformers' Conv1D layers, whose weight is (in, out): LoRA's ΔW is added transposed."""

IS_TRANSPOSED_EXPERTS = frozenset({"gpt_oss", "aria", "aria_text", "openai_privacy_filter"})
"""Model types whose experts are marked ``is_transposed``, (experts, in, out), which PEFT from 0.19 on heeds.

Llama 4's are laid out so too, but unmarked: to PEFT their last axis is ``in``, and so it must be to whoever merges.
"""

TRANSPOSED_ON_DISK = frozenset({"qwen3_vl_moe", "qwen3_vl_moe_text"})
"""Model types published with fused experts as (experts, in, out), which transformers 5 turns to (experts, out, in) on
load but not back on save: the shape tells which a checkpoint has, and nothing does where in = out."""


def expert_parts(param: str, config: Mapping[str, Any] | None) -> FusedExperts | None:
    """What a runtime expert parameter (``….experts.gate_up_proj``) is on disk, if that is one tensor per expert.

    None for any other parameter, and for experts that are fused on disk too. A checkpoint saved under the runtime names
    is fused as well: look for ``disk_names(param)`` first. Names may lack or have the base model's prefix, so put each
    through ``disk_names``.
    """
    module, _, leaf = param.rpartition(".")
    if config is None or not module.endswith(".experts"):
        return None
    for model_type in model_types(config):
        parts = EXPERT_PARTS.get(model_type, {}).get(leaf)
        if parts:
            return FusedExperts(tuple(published_name(f"{module}.{{e}}.{part}.weight", config) for part in parts))
    return None
