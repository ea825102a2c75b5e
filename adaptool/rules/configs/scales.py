"""The ranks, alphas and scales a config declares, under the names each PEFT type has for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adaptool.adapters.config import LARGEST_ALPHA
from adaptool.rules.subject import Subject, attempt
from adaptool.summary.contents import LowRankModule

ALPHAS: Mapping[str, tuple[str, str]] = {
    "LORA": ("lora_alpha", "r"), "ADALORA": ("lora_alpha", "init_r"), "SUPERTUNING": ("lora_alpha", "r"),
    "LOHA": ("alpha", "r"), "LOKR": ("alpha", "r"), "GRALORA": ("alpha", "r"), "DEFT": ("alpha", "r"),
    "PSOFT": ("psoft_alpha", "r"), "RANDLORA": ("randlora_alpha", "r"), "SHADOW": ("shadow_alpha", ""),
    "FOURIERFT": ("scaling", ""), "WAVEFT": ("scaling", ""), "LILY": ("scaling", ""), "PEANUT": ("scaling", ""),
    "DELORA": ("delora_lambda", ""),
}  # fmt: skip
"""By PEFT type, the field that scales its update, and the rank that divides it ("" where none does)."""

RANKS = ("r", "init_r", "target_r", "effective_rank", "subspace_rank", "hybrid_r", "mini_r", "num_ranks")
"""Fields that say how wide an adapter's factors are."""

RANK_PATTERNS = ("rank_pattern", "n_frequency_pattern", "block_size_pattern")
ALPHA_PATTERNS = ("alpha_pattern", "lambda_pattern")
"""Fields that map patterns of modules to other ranks, sizes and alphas."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the config, and where it stands: ``r``, or ``rank_pattern.q_proj``."""

    field: str
    value: float

    @property
    def of_pattern(self) -> bool:
        """Whether it is of some modules only."""
        return "." in self.field


def number(value: object) -> float | None:
    """A JSON number as it is; None of anything else, truth values among it."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def ranks(subject: Subject) -> Iterator[Number]:
    """Every rank declared."""
    yield from _numbers(subject, RANKS, RANK_PATTERNS)


def alphas(subject: Subject) -> Iterator[Number]:
    """Every alpha, or what the type has for one."""
    field, _ = ALPHAS.get(subject.peft_type, ("", ""))
    yield from _numbers(subject, (field,), ALPHA_PATTERNS)


def _numbers(subject: Subject, names: tuple[str, ...], patterns: tuple[str, ...]) -> Iterator[Number]:
    for name in names:
        if (value := number(subject.fields.get(name))) is not None:
            yield Number(name, value)
    for name in patterns:
        entries = subject.fields.get(name)
        for key, entry in entries.items() if isinstance(entries, dict) else ():
            if (value := number(entry)) is not None:
                yield Number(f"{name}.{key}", value)


def finite(value: float) -> bool:
    """Whether an alpha is a number to float32."""
    return abs(value) <= LARGEST_ALPHA  # NaN is not <= anything


def modules(subject: Subject) -> tuple[LowRankModule, ...]:
    """LoRA's modules with what is declared for each; none where the config does not say it in order."""
    if subject.peft_type != "LORA" or subject.store_opened.value is None:
        return ()
    return subject.once("scales_modules", lambda: attempt(lambda: subject.low_rank).value or ())


def config_scale(subject: Subject) -> float | None:
    """What the config's own alpha and rank make of each other, patterns aside; None where it does not say."""
    field, divisor = ALPHAS.get(subject.peft_type, ("", ""))
    alpha = number(subject.fields.get(field))
    rank = number(subject.fields.get(divisor, 8)) if divisor else 1
    if alpha is None or rank is None or not finite(alpha) or not 0 < rank <= LARGEST_ALPHA:
        return None
    rooted = subject.peft_type == "LORA" and subject.fields.get("use_rslora") is True
    return alpha / (math.sqrt(rank) if rooted else rank)


def module_scales(subject: Subject) -> Mapping[str, float]:
    """The scale of every LoRA module, by name."""
    return {module.name: module.scale for module in modules(subject)}
