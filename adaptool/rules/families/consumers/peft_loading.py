"""PFT004, PFT005, PFT012: what PEFT 0.21.2 raises, or warns of, while it loads a LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.names import PREFIX, projection_of
from adaptool.errors import UnsupportedError
from adaptool.rules.draft import fields
from adaptool.rules.families.consumers.facts import and_more, is_lora, wrapped
from adaptool.rules.families.consumers.mutations import renamed, with_tensor
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Outcome, Subject, attempt
from adaptool.summary.contents import orphans, saved_whole
from adaptool.tensors.store import Store

CONFIG = "adapter_config.json"

INITS = ("gaussian", "orthogonal", "eva", "olora", "pissa", "loftq", "lora_ga", "mica")
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

OWN = ("lora_", "trainable_tokens_delta")
"""What PEFT's own parameters of a LoRA are called."""


@rule("PFT004", "error", "a config that PEFT 0.21 raises on", needs=("config",), consumer="peft",
      breaks=fields(init_lora_weights="corda"))  # fmt: skip
def refused(subject: Subject) -> Iterator[Problem]:
    """Values and combinations that LoraConfig or the injection of its modules refuses, so that nothing is loaded.

    Read from PEFT 0.21.2: tuners/lora/config.py __post_init__, layer.py; run with it.

    Fix: correct the field as the message says; the saved tensors tell what it was.
    """
    if not is_lora(subject):
        return
    for field, message in (*_values(subject.fields), *_contradictions(subject.fields)):
        yield Problem(message, CONFIG, field)


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    r, alpha, dropout = config.get("r", 8), config.get("lora_alpha", 8), config.get("lora_dropout", 0.0)
    if type(r) is not int or r < 1:
        yield "r", f"r is {r!r}, and must be a positive whole number"
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        yield "lora_alpha", f"lora_alpha is {alpha!r}, and must be a number"
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        yield "lora_dropout", f"lora_dropout is {dropout!r}, and must be between 0 and 1"
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        yield "bias", f"bias is {config.get('bias')!r}, and must be none, all or lora_only"
    if (task := config.get("task_type")) is not None and task not in TASKS:
        yield "task_type", f"task_type is {task!r}, and must be one of {', '.join(TASKS)}"
    init = config.get("init_lora_weights", True)
    if init == "corda":
        yield "init_lora_weights", "init_lora_weights is 'corda', which loads only after preprocess_corda on the base"
    elif isinstance(init, str) and init.lower() not in INITS and not init.startswith("pissa_niter_"):
        yield "init_lora_weights", f"init_lora_weights is {init!r}, which PEFT 0.21 does not know"
    if isinstance(config.get("target_parameters"), str):
        yield "target_parameters", "target_parameters is a string, and must be a list"


def _contradictions(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    targets, init = config.get("target_modules"), config.get("init_lora_weights", True)
    if targets == [] and not config.get("target_parameters"):
        yield "target_modules", "target_modules is empty, and there are no target_parameters"
    if isinstance(targets, str):
        for name in ("layers_to_transform", "layers_pattern"):
            if config.get(name) is not None:
                yield name, f"{name} is set, which needs target_modules as a list and not a pattern"
    elif config.get("layers_pattern") and config.get("layers_to_transform") is None:
        yield "layers_pattern", "layers_pattern is set without layers_to_transform"
    if config.get("use_dora") and config.get("megatron_config"):
        yield "megatron_config", "megatron_config and use_dora exclude each other"
    if config.get("lora_bias") and config.get("use_dora"):
        yield "lora_bias", "lora_bias and use_dora exclude each other"
    if config.get("lora_bias") and not isinstance(init, bool):
        yield "lora_bias", f"lora_bias is set, which excludes init_lora_weights={init!r}"
    if init == "loftq" and not config.get("loftq_config"):
        yield "loftq_config", "init_lora_weights is 'loftq' without a loftq_config"
    if config.get("arrow_config") is not None:
        yield "arrow_config", "arrow_config is set: a router is made by create_arrow_model, not loaded"


@rule("PFT005", "error", "keys that PEFT misses or ignores", needs=("adapter",), consumer="peft",
      breaks=renamed("model.layers.1", "model.layers.7"))  # fmt: skip
def keys(subject: Subject) -> Iterator[Problem]:
    """PEFT loads with strict=False: a missing key leaves a random factor and a warning, one too many is ignored.

    With --base, the config is laid on it as PEFT would; else by what the file and the config say alone.
    Read from PEFT 0.21.2: peft_model.py load_adapter; run with it.

    Fix: save the adapter again, or rename its keys to the model's modules.
    """
    if not is_lora(subject):
        return
    expected = _expected(subject)
    if _matches_nothing(subject):
        message = "target_modules (less exclude_modules) names no module of the base, and PEFT raises"
        yield Problem(message, CONFIG, "target_modules")
        return
    missing = _missing(subject, expected)
    if missing:
        message = f"PEFT looks for {missing[0]}{and_more(missing, 'keys')}, which is not there, and goes on without"
        yield Problem(message, subject.weights_name, tensors=missing)
    ignored = tuple(subject.adapter.strangers)
    if expected is not None:
        ignored += tuple(key for one in wrapped(subject) for key in one.keys if key not in expected)
    if ignored:
        message = f"PEFT has no place for {ignored[0]}{and_more(ignored, 'keys')}, and ignores it"
        yield Problem(message, subject.weights_name, tensors=ignored)


def _expected(subject: Subject) -> Store | None:
    """The tensors PEFT would look for on the base; None where no base is given, or no table has its shapes."""
    from adaptool.summary.expected import expected_adapter, trained_config

    if subject.base is None or subject.base.config is None:
        return None
    heads = {
        parameter: subject.store[key].shape
        for parameter, key in subject.adapter.full_tensors.items()
        if not _is_vocabulary(key)
    }
    # a task's head has as many labels as were trained, whatever the base's config says
    base = trained_config(subject.base.config, subject.config, heads)

    found: Outcome[Adapter] = subject.once(
        "expected by peft", lambda: attempt(lambda: expected_adapter(subject.config, base, subject.folder))
    )
    if found.error is not None and not isinstance(found.error, UnsupportedError):
        raise found.error
    return found.value.store if found.value is not None else None


def _matches_nothing(subject: Subject) -> bool:
    found = subject.facts.get("expected by peft")
    return found is not None and found.error is not None and found.error.defect == "matches-nothing"


def _missing(subject: Subject, expected: Store | None) -> tuple[str, ...]:
    if expected is not None:
        return tuple(key for key in expected if key not in subject.store and _looked_for(key, subject))
    return (*_halves(subject), *_parts(subject))


def _looked_for(key: str, subject: Subject) -> bool:
    """PEFT warns of its own parameters, and raises KeyError for a module to be saved whole; biases it does not miss."""
    return any(part in key for part in OWN) or saved_whole(key.removeprefix(PREFIX), subject.config)


def _halves(subject: Subject) -> Iterator[str]:
    """The other half of each factor that is alone."""
    for key in orphans(subject.adapter):
        for one, other in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            if f".{one}" in key or f".{other}" in key:
                yield key.replace(f".{one}", f".{other}") if f".{one}" in key else key.replace(f".{other}", f".{one}")


def _parts(subject: Subject) -> Iterator[str]:
    """What a variant saves beside the factors of each module."""
    config = subject.fields
    wanted = (
        ("lora_magnitude_vector", bool(config.get("use_dora"))),
        ("lora_diag", isinstance(config.get("kasa_config"), dict)),
        ("lora_B.bias", bool(config.get("lora_bias"))),
    )
    for module, parts in subject.adapter.modules.items():
        if "lora_A.weight" in parts or "lora_embedding_A" in parts:
            for part, on in wanted:
                if on and not any(name.startswith(part) for name in parts):
                    yield f"base_model.model.{module}.{part}"


@rule("PFT012", "error", "tensors of another shape than PEFT makes", needs=("adapter", "base"), consumer="peft",
      breaks=with_tensor("model.norm.weight", 65))  # fmt: skip
def shapes(subject: Subject) -> Iterator[Problem]:
    """A tensor that does not fit its module ends the load with a size mismatch.

    A vocabulary resized in training is a warning: the base must be resized before the adapter is loaded.
    Read from PEFT 0.21.2: utils/save_and_load.py; run with it.

    Fix: give PEFT the model that was trained on; for a vocabulary, call resize_token_embeddings on the base first.
    """
    if not is_lora(subject):
        return
    expected = _expected(subject)
    wanted = {key: info.shape for key, info in expected.infos.items()} if expected is not None else {}
    for parameter, key in subject.adapter.full_tensors.items():
        if (name := subject.model.find(parameter)) is not None:
            wanted.setdefault(key, subject.model.store[name].shape)
    for key, info in subject.store.infos.items():
        shape = wanted.get(key, info.shape)
        if shape != info.shape:
            message = f"{key} is {list(info.shape)}, and PEFT's is {list(shape)}"
            grown: Severity | None = "warning" if _is_vocabulary(key) else None
            yield Problem(message, subject.weights_name, tensors=(key,), severity=grown)
            return


def _is_vocabulary(key: str) -> bool:
    return projection_of(key.removesuffix(".weight")) in (*EMBEDDINGS, *HEADS)
