"""A rule: one decorated generator whose docstring is its documentation.

    @rule("TEN101", "error", "half a pair of factors", needs=("adapter",), breaks=without_tensor("lora_B.weight"))
    def half_a_pair(subject: Subject) -> Iterator[Problem]:
        \"\"\"A module with lora_A and no lora_B (or the other way round) does nothing, and PEFT does not say so.

        Fix: save the adapter again; the save was cut off or filtered.
        \"\"\"
        yield from …

The docstring's paragraphs before ``Fix:`` say why, the one after what to do. ``breaks`` is the mutation of a good
adapter that must trigger the rule, and is what its test runs. Adding a rule is adding such a function; nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adaptool.rules.finding import Problem, Severity

if TYPE_CHECKING:
    from adaptool.rules.draft import Draft
    from adaptool.rules.subject import Subject

Need = Literal["config", "tensors", "adapter", "values", "base"]
"""config: a JSON object. tensors: the header. adapter: both, of a PEFT type. values: every byte. base: BASE."""

Check = Callable[["Subject"], Iterator[Problem]]
Mutation = Callable[["Draft"], object]

FAMILIES: Mapping[str, str] = {
    "FIL": "Files: what lies in the folder, and whether it is what it says",
    "CFG": "Config: adapter_config.json",
    "TEN": "Tensors: every saved tensor accounted for, from the header",
    "VAL": "Values: the numbers themselves",
    "BAS": "Base: against the model it is for (--base)",
    "ADV": "Advice: what practitioners would look at again (off unless selected)",
    "VLM": "vLLM (--for vllm)",
    "SGL": "SGLang (--for sglang)",
    "LRX": "LoRAX (--for lorax)",
    "TGI": "Text Generation Inference (--for tgi)",
    "TRT": "TensorRT-LLM (--for tensorrt-llm)",
    "LCP": "llama.cpp (--for llama.cpp)",
    "OLL": "Ollama (--for ollama)",
    "MLX": "MLX-LM (--for mlx)",
    "PFT": "PEFT itself (--for peft)",
}
"""The first three letters of a code, and what its rules are about."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Codes are stable: a retired one is not given out again."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    needs: tuple[Need, ...]
    default: bool
    """Whether it runs without being selected."""
    consumer: str | None
    """The runtime it is about: such a rule runs under ``--for`` that runtime, and only there."""
    push: Severity | None
    """Its severity before a push, where graver."""
    check: Check
    breaks: Mutation

    @property
    def family(self) -> str:
        """The three letters its code begins with."""
        return self.code[:3]


RULES: dict[str, Rule] = {}
"""Every rule that was imported, by its code: ``rules.catalogue`` has them all."""


def rule(
    code: str,
    severity: Severity,
    title: str,
    *,
    needs: tuple[Need, ...] = (),
    breaks: Mutation,
    default: bool = True,
    consumer: str | None = None,
    push: Severity | None = None,
) -> Callable[[Check], Check]:
    """Register a generator of Problems as the rule ``code``."""

    def register(check: Check) -> Check:
        if not re.fullmatch(r"[A-Z]{3}\d{3}", code) or code[:3] not in FAMILIES or code in RULES:
            raise ValueError(f"{code}: not a new code of a known family")
        why, fix = _documented(check, code)
        RULES[code] = Rule(code, severity, title, why, fix, needs, default, consumer, push, check, breaks)
        return check

    return register


def _documented(check: Check, code: str) -> tuple[str, str]:
    why, found, fix = inspect.cleandoc(check.__doc__ or "").partition("\n\nFix: ")
    if not (why and found and fix):
        raise ValueError(f"{code}: its docstring must say why, and after 'Fix:' what to do")
    return why, " ".join(fix.split())
