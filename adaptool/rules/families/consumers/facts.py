"""What the rules about runtimes share: which version each was read from, and how an adapter looks from there.

Each runtime has its own loader for PEFT's files, and none is PEFT: most know one rank and one scale for the whole
adapter, take the factors they have a place for, and pass over the rest without a word.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import FULL, projection_of
from adaptool.adapters.tuners.lora import MUTATING_INITS
from adaptool.errors import FormatError
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.subject import Outcome, Subject, attempt
from adaptool.summary.contents import Saved, runtime_name
from adaptool.summary.settings import VARIANTS
from adaptool.tensors.store import TensorInfo

FACTOR_PARTS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")
"""What every loader takes; the embedding's by a few."""

MAGNITUDES = ("lora_magnitude_vector", "lora_magnitude_vector.weight")

TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_encoder", "audio_tower", "audio_encoder",
          "multi_modal_projector", "mm_projector", "aligner", "connector")  # fmt: skip
"""Segments of a module's name that say it sees or hears, or leads from there to the language model."""

PATTERN_BUDGET = 2.0
"""Seconds for all the patterns of a config on all of its modules."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A runtime, and the version its rules were read from."""

    title: str
    version: str
    default_rank: int | None = None
    """The largest rank it takes when started without saying more."""
    largest_rank: int | None = None
    """The largest it can be started for."""
    option: str = ""
    """What raises the former."""


CONSUMERS: Mapping[str, Consumer] = {
    "vllm": Consumer("vLLM", "0.33.0", 16, 512, "--max-lora-rank"),
    "sglang": Consumer("SGLang", "0.5.23", option="--max-lora-rank"),
    "lorax": Consumer("LoRAX", "main at a7394ba (May 2026)"),
    "tgi": Consumer("TGI", "3.3.7"),
    "tensorrt-llm": Consumer("TensorRT-LLM", "1.2 (lora_manager.py at 037d4ba)", 64, option="max_lora_rank"),
    "llama.cpp": Consumer("llama.cpp", "commit 0c1e57098 (October 2026)"),
    "ollama": Consumer("Ollama", "0.33.0-rc2 (fb30760)"),
    "mlx": Consumer("MLX-LM", "0.32.2"),
    "peft": Consumer("PEFT", "0.21.2"),
}
"""By the names of --for."""

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One module that LoRA wraps, from the header and the config."""

    module: str
    """As the saved key has it."""
    name: str
    """As PEFT's patterns see it: with the parameter where an expert's is wrapped."""
    a: TensorInfo | None
    b: TensorInfo | None
    rank: int
    """Declared."""
    alpha: float
    scale: float
    """What PEFT multiplies by."""

    @property
    def rows(self) -> int:
        """The rank in the weights, experts counted together; 0 where there is no A to tell."""
        return self.a.shape[0] if self.a is not None and self.a.shape else 0

    @property
    def own_rank(self) -> int:
        """The rank of one matrix, by which runtimes that look at the tensors divide."""
        return self.rank if self.name != self.module or not self.rows else self.rows

    @property
    def keys(self) -> tuple[str, ...]:
        """Its factors as they are saved."""
        return tuple(info.name for info in (self.a, self.b) if info is not None)


def is_lora(subject: Subject) -> bool:
    """Whether the config says LORA."""
    return subject.peft_type == "LORA"


def wrapped(subject: Subject) -> tuple[Wrapped, ...]:
    """Every module of a LoRA with a factor or two; none for other PEFT types. Raises FormatError on a broken config."""
    if not is_lora(subject):
        return ()
    found: Outcome[tuple[Wrapped, ...]] = subject.once(
        "wrapped", lambda: attempt(lambda: tuple(_wrapped(subject, subject.config)))
    )
    if found.error is not None:
        raise found.error
    return found.value or ()


def _wrapped(subject: Subject, config: AdapterConfig) -> Iterator[Wrapped]:
    store, end = subject.adapter.store, time.monotonic() + PATTERN_BUDGET
    for module, parts in subject.adapter.modules.items():
        a = parts.get("lora_A.weight", parts.get("lora_embedding_A"))
        b = parts.get("lora_B.weight", parts.get("lora_embedding_B"))
        if a is None and b is None:
            continue
        if time.monotonic() > end:
            raise FormatError(f"{config.where}: its patterns take too long to match")
        name = runtime_name(module, config)
        rank, alpha = config.rank_of(name), config.alpha_of(name)
        scale = alpha / (math.sqrt(rank) if config.flag("use_rslora") else rank)
        yield Wrapped(module, name, store[a] if a else None, store[b] if b else None, rank, alpha, scale)


def about(subject: Subject, found: Sequence[Wrapped], message: str) -> Problem:
    """The problem that ``message`` tells, of all the factors of the modules ``found``."""
    return Problem(message, subject.weights_name, tensors=tuple(key for one in found for key in one.keys))


def other_type(subject: Subject, consumer: str) -> Iterator[Problem]:
    """A PEFT type that a runtime which loads only LoRA does not load."""
    if subject.peft_type and not is_lora(subject):
        message = f"this is {subject.peft_type}, and {CONSUMERS[consumer].title} loads LORA only"
        yield Problem(message, "adapter_config.json", "peft_type")


def variants(
    subject: Subject, consumer: str, fields: Sequence[str], does: str = "takes it for a plain LoRA"
) -> Iterator[Problem]:
    """LoRA's variants that a runtime knows nothing of."""
    config = subject.config.fields
    for field in fields:
        value = config.get(field)
        if is_lora(subject) and (value or isinstance(value, dict)):
            message = f"{field} is set: {CONSUMERS[consumer].title} has no {VARIANTS[field]}, and {does}"
            yield Problem(message, "adapter_config.json", field)


def changed_base(subject: Subject, consumer: str) -> Iterator[Problem]:
    """Factors of an initialisation that also changed the base, where the runtime serves the unchanged one."""
    init = subject.config.fields.get("init_lora_weights")
    method = next((title for key, title in MUTATING_INITS.items() if str(init).lower().startswith(key)), None)
    if is_lora(subject) and isinstance(init, str) and method:
        message = f"init_lora_weights is {init!r}: {method} changed the base, and {CONSUMERS[consumer].title} does not"
        yield Problem(message, "adapter_config.json", "init_lora_weights")


def wrong_scale(subject: Subject, consumer: str, there: Callable[[Wrapped], float]) -> Iterator[Problem]:
    """Modules whose update is multiplied by another number ``there`` than in PEFT."""
    off = [(one, there(one)) for one in wrapped(subject) if not math.isclose(one.scale, there(one), rel_tol=1e-6)]
    if not off:
        return
    one, wrong = off[0]
    config = subject.config
    field = "use_rslora" if config.flag("use_rslora") else "alpha_pattern" if one.alpha != config.alpha else "r"
    field = "rank_pattern" if field == "r" and one.rank != config.rank else field
    field = "lora_alpha" if field == "r" else field
    yield Problem(
        f"{CONSUMERS[consumer].title} multiplies {one.name} by {wrong:g} where PEFT multiplies by {one.scale:g}"
        f"{and_more(off)}",
        "adapter_config.json", field, tuple(key for one, _ in off for key in one.keys),
    )  # fmt: skip


def and_more(found: Sequence[object], what: str = "modules") -> str:
    """The words for 23 further modules, or nothing."""
    more = len(found) - 1
    return f" (and {more} more {what if more > 1 else what.removesuffix('s')})" if more > 0 else ""


def beside_factors(subject: Subject) -> tuple[Saved, ...]:
    """Saved tensors that change the model and are no factor of a LoRA: heads, biases, magnitudes, token rows, norms.

    The base's own weight, saved along with an embedding's factors, changes nothing. DoRA's magnitudes are part of DoRA,
    which is another rule's.
    """
    if not is_lora(subject):
        return ()
    passed = (*FACTOR_PARTS, *MAGNITUDES) if subject.fields.get("use_dora") else FACTOR_PARTS
    return tuple(saved for saved in subject.saved if saved.key.part not in passed and not _is_copy(saved))


def _is_copy(saved: Saved) -> bool:
    if saved.key.part != FULL:
        return saved.key.part.endswith("base_layer.weight")
    return saved.role == "carried" and any(
        word in saved.key.text for word in (".original_module.", ".modules_to_save.")
    )


def left_out(subject: Subject, consumer: str, tensors: Sequence[Saved], does: str) -> Iterator[Problem]:
    """One problem for saved tensors that a runtime drops, refuses or misreads, as ``does`` says."""
    if tensors:
        keys = tuple(saved.key.text for saved in tensors)
        message = f"{CONSUMERS[consumer].title} {does}: {keys[0]}{and_more(keys, 'tensors')}"
        yield Problem(message, subject.weights_name, tensors=keys)


def largest_rank(subject: Subject) -> tuple[int, str]:
    """The largest rank, declared or in the weights, and whose it is; (0, "") where there is none."""
    found = [(one.rank, one.name) for one in wrapped(subject)]
    found += [(one.rows, one.name) for one in wrapped(subject) if one.name == one.module and one.rows < 1 << 20]
    declared = subject.config.rank if is_lora(subject) else 0
    return max([*found, (declared, "r")], key=lambda pair: pair[0])


def rank_above(subject: Subject, consumer: str) -> Iterator[Problem]:
    """A rank beyond what the runtime is started for: an error where the user said what that is."""
    facts = CONSUMERS[consumer]
    rank, name = largest_rank(subject)
    given = subject.max_rank or facts.default_rank
    if not is_lora(subject) or given is None or rank <= given:
        return
    limit, fix = f"{facts.option} is {given}", ""
    severity: Severity = "error"
    if facts.largest_rank is not None and rank > facts.largest_rank:
        limit, fix = f"{facts.option} can be {facts.largest_rank} at most", "merge the adapter, or reduce its rank."
    elif subject.max_rank is None:
        limit, severity = f"it is started for {given} unless told otherwise", "warning"
    yield Problem(
        f"{name} has rank {rank}, and {facts.title} refuses it: {limit}", "adapter_config.json",
        "r" if rank == subject.config.rank else "rank_pattern",
        fix=fix or f"start {facts.title} with {facts.option} {_next_rank(consumer, rank)}.",
        severity=severity,
    )  # fmt: skip


def _next_rank(consumer: str, rank: int) -> int:
    return next((choice for choice in MAX_LORA_RANKS if choice >= rank), rank) if consumer == "vllm" else rank


def in_tower(subject: Subject) -> tuple[Wrapped, ...]:
    """Modules of a vision or audio tower, or of what leads from it to the language model."""
    return tuple(one for one in wrapped(subject) if any(part in TOWERS for part in one.module.split(".")))


def architecture(subject: Subject) -> str | None:
    """The architecture's name in a GGUF of the base ("llama", "qwen2"); None where no base or no table tells."""
    from adaptool.archs.gguf.tables import BY_ARCHITECTURE

    named = (subject.base.config or {}).get("architectures") if subject.base is not None else None
    first = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    spec = BY_ARCHITECTURE.get(first)
    return spec.name if spec else None


def projections(subject: Subject) -> Mapping[str, tuple[Wrapped, ...]]:
    """Wrapped modules by the last part of their name."""
    grouped: dict[str, list[Wrapped]] = {}
    for one in wrapped(subject):
        grouped.setdefault(projection_of(one.module), []).append(one)
    return {name: tuple(modules) for name, modules in grouped.items()}
