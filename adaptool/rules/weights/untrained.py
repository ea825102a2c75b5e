"""What the parts of every PEFT type are before training, where that means that they change nothing.

Most types begin as an identity: one part of each module is all zeros (LoRA's B) or all ones (IA³'s multipliers). A
module whose part is still so does nothing, whatever its other parts hold. Left out are the types that do something
from the start (HRA, VB-LoRA, prompts) or whose identity depends on the base (OSF, DEFT, trained norms and tokens).

Source: the ``reset_*`` methods in peft/tuners/*/layer.py and model.py, PEFT 0.21.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass

from adaptool.rules.subject import Subject
from adaptool.rules.weights.moments import Moments
from adaptool.summary.contents import Place, Saved, place_of

MULTIPLIERS = re.compile(r"ia3_l|boft_s|road_alpha|psoft_R\.vector_[ab]")
"""Parts that multiply: 1 changes nothing."""

SWITCHES: Mapping[str, tuple[str, ...]] = {
    "LORA": (
        r"lora_A\.weight|lora_embedding_A|lora_B\.bias", r"lora_B\.weight|lora_embedding_B|lora_B\.bias",
        r"lora_diag|lora_B\.bias",
    ),
    "ADALORA": ("lora_A", "lora_B", "lora_E"), "ADAMSS": (r"adamss_A\.\d+", r"adamss_B\.\d+"),
    "ADAPTION_PROMPT": ("adaption_gate",), "BEFT": ("beft_bias",), "BOFT": ("boft_[Rs]",), "BONE": ("bone_block",),
    "C3A": ("c3a_kernel",), "DELORA": ("delora_A", "delora_B", "delora_lambda"), "FOURIERFT": ("fourierft_spectrum",),
    "FROD": ("frod_lambda_s_values",), "GLORA": (r"glora_[A-E]\.(?:Xd|X)",),
    "GRALORA": (r"gralora_A(?:_general\.weight)?", r"gralora_B(?:_general\.weight)?"),
    "HIRA": ("hira_A|hira_embedding_A", "hira_B|hira_embedding_B"), "IA3": ("ia3_l",),
    "LILY": (r"lily_A\.weight", r"lily_B\.weight"), "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
             "hada_t1", "hada_t2"),
    "LOKR": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "MISS": ("miss_block",), "OFT": (r"oft_R\.weight|oft_embedding_R\.weight",),
    "PEANUT": (r"peanut_A\.weight", r"peanut_B\.weight"), "POLY": ("poly_lora_A", "poly_lora_B"),
    "PSOFT": (r"psoft_R\..+",), "PVERA": ("pvera_lambda_b", "pvera_lambda_d"),
    "RANDLORA": ("randlora_lambda", "randlora_gamma"), "ROAD": ("road_.+",), "SHADOW": (r"shadow_up\..+",),
    "SHIRA": ("shira_weight",), "SUPERTUNING": (r"supertuning_values|supertuning_lora_A\.weight",
                                               r"supertuning_values|supertuning_lora_B\.weight"),
    "TINYLORA": (r"tinylora_v\..+",), "UNILORA": ("unilora_theta_d",), "VBLORA": ("vblora_vector_bank",),
    "VERA": ("vera_lambda_b", "vera_lambda_d"), "WAVEFT": ("waveft_spectrum",),
}  # fmt: skip
"""By PEFT type, what switches a module off: where all its parts that match one of the patterns are neutral."""


@dataclass(frozen=True, slots=True)
class ModuleState:
    """One module of the adapter, and what switches it off: saved keys, none where it acts."""

    name: str
    off: tuple[Saved, ...]

    @property
    def place(self) -> Place:
        """Where it sits."""
        return place_of(self.name)


def trained(subject: Subject) -> tuple[Saved, ...]:
    """The adapter's own parameters whose values are known."""
    return subject.once("trained tensors", lambda: _trained(subject))


def _trained(subject: Subject) -> tuple[Saved, ...]:
    known = subject.statistics.tensors
    return tuple(saved for saved in subject.saved if saved.role in ("trained", "fixed") and saved.key.text in known)


def module_states(subject: Subject) -> tuple[ModuleState, ...]:
    """Every module that a switch of its type belongs to."""
    return subject.once("module states", lambda: _states(subject))


def _states(subject: Subject) -> tuple[ModuleState, ...]:
    switches = tuple(re.compile(switch) for switch in SWITCHES.get(subject.peft_type, ()))
    modules: dict[str, list[Saved]] = {}
    names = {saved.key.part for saved in trained(subject)}
    parts = {part for part in names if any(switch.fullmatch(part) for switch in switches)}
    for saved in trained(subject):
        if saved.key.part in parts:
            modules.setdefault(saved.key.module, []).append(saved)
    tensors = subject.statistics.tensors
    return tuple(ModuleState(name, _off(parts, switches, tensors)) for name, parts in modules.items())


def _off(
    parts: list[Saved], switches: tuple[re.Pattern[str], ...], tensors: Mapping[str, Moments]
) -> tuple[Saved, ...]:
    """What switches a module off: every neutral part, where some switch has only such."""
    neutral = {saved.key.text: saved for saved in parts if is_neutral(saved, tensors[saved.key.text])}
    if not neutral:
        return ()
    for switch in switches:
        matching = [saved for saved in parts if switch.fullmatch(saved.key.part)]
        if matching and all(saved.key.text in neutral for saved in matching):
            return tuple(neutral.values())
    return ()


def is_neutral(saved: Saved, moments: Moments) -> bool:
    """Whether a part changes nothing: all zeros, or of a multiplier all ones; an empty one cannot."""
    constant = moments.constant
    return not moments.size or (
        constant is not None and constant == (1.0 if MULTIPLIERS.fullmatch(saved.key.part) else 0.0)
    )


def and_more(items: Sized) -> str:
    """After the first of ``items``: " and 27 more"."""
    return f" and {len(items) - 1} more" if len(items) > 1 else ""
