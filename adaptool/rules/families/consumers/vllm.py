"""VLM001–VLM099: what vLLM makes of an adapter. Read from vLLM 0.33.0 (vllm/lora, vllm/config/lora.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.rules.draft import fields
from adaptool.rules.families.consumers.facts import (
    and_more,
    is_lora,
    other_type,
    rank_above,
    variants,
)
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

HEADS = ("classifier", "score")
"""The names vLLM knows a classification head by."""

HEAD_KEY = re.compile(rf".*\.(?:{'|'.join(HEADS)})\.(?:weight|bias)")

INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of init_lora_weights, besides booleans, that vLLM takes."""

NEEDED = ("r", "lora_alpha", "target_modules")

CONFIG = "adapter_config.json"


@rule("VLM001", "error", "vLLM loads LORA only", needs=("config",), consumer="vllm", breaks=fields(peft_type="IA3"))
def only_lora(subject: Subject) -> Iterator[Problem]:
    """vLLM reads r, lora_alpha and lora_A/lora_B keys, whatever the PEFT type, and refuses what has none of them.

    Read from vLLM 0.33.0: vllm/lora/peft_helper.py, lora_model.py.

    Fix: merge the adapter into its base, and serve that.
    """
    yield from other_type(subject, "vllm")


@rule("VLM002", "error", "DoRA, which vLLM does not have", needs=("config",), consumer="vllm",
      breaks=fields(use_dora=True))  # fmt: skip
def dora(subject: Subject) -> Iterator[Problem]:
    """DoRA rescales every row of the merged weight; vLLM only adds B·A, and says so and stops.

    Read from vLLM 0.33.0: PEFTHelper._validate_features.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if is_lora(subject) and subject.fields.get("use_dora"):
        yield Problem("use_dora is set, and vLLM refuses DoRA", CONFIG, "use_dora")


@rule("VLM003", "error", "trained biases, which vLLM does not load", needs=("config",), consumer="vllm",
      breaks=fields(bias="lora_only"))  # fmt: skip
def biases(subject: Subject) -> Iterator[Problem]:
    """Neither bias= other than "none" nor lora_bias is loaded: the adapter is refused.

    Read from vLLM 0.33.0: PEFTHelper.validate_legal, _validate_features.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if not is_lora(subject):
        return
    bias = subject.fields.get("bias", "none")
    if bias != "none":
        yield Problem(f"bias is {bias!r}, and vLLM loads no trained biases", CONFIG, "bias")
    if subject.fields.get("lora_bias"):
        yield Problem("lora_bias is set, and vLLM loads no biases of lora_B", CONFIG, "lora_bias")


@rule("VLM004", "error", "modules trained whole, which vLLM does not load", needs=("config",), consumer="vllm",
      breaks=fields(modules_to_save=["lm_head"]))  # fmt: skip
def whole_modules(subject: Subject) -> Iterator[Problem]:
    """Of modules_to_save vLLM takes one classification head called classifier or score, of a pooling model.

    Read from vLLM 0.33.0: PEFTHelper._validate_features, LoRAModel.from_lora_tensors.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if not is_lora(subject):
        return
    other = [name for name in subject.config.names("modules_to_save") if name not in HEADS]
    if other:
        message = f"modules_to_save names {other[0]!r}{and_more(other, 'names')}, and vLLM takes classifier or score"
        yield Problem(message, CONFIG, "modules_to_save")
    if subject.adapter_opened.value is None:
        return
    found = [key for key in subject.store if HEAD_KEY.fullmatch(key)]
    names = sorted({key.split(".")[-2] for key in found})
    if len(names) > 1:
        message = f"two heads are saved, {' and '.join(names)}, and vLLM takes one"
        yield Problem(message, subject.weights_name, tensors=tuple(found))


@rule("VLM005", "error", "an initialisation that vLLM refuses", needs=("config",), consumer="vllm",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA, OLoRA, CorDA and LoftQ change the base too, so vLLM loads no adapter that says it began with one.

    Read from vLLM 0.33.0: PEFTHelper._init_is_supported.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    init = subject.fields.get("init_lora_weights", True)
    if is_lora(subject) and isinstance(init, str) and init.lower() not in INITS:
        yield Problem(f"init_lora_weights is {init!r}, which vLLM refuses", CONFIG, "init_lora_weights")


@rule("VLM006", "error", "a variant of LoRA that vLLM does not have", needs=("config",), consumer="vllm",
      breaks=fields(use_bdlora={"nblocks": 2}))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """aLoRA, layer replication, BD-LoRA and QA-LoRA are refused; Arrow's router is not looked at.

    Read from vLLM 0.33.0: PEFTHelper._validate_features.

    Fix: serve a merged model where the variant can be merged, or train a plain LoRA.
    """
    refused = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
    yield from variants(subject, "vllm", refused, "refuses it")
    yield from variants(subject, "vllm", ("arrow_config",))


@rule("VLM008", "warning", "a rank above --max-lora-rank", needs=("adapter",), consumer="vllm", breaks=fields(r=64))
def rank(subject: Subject) -> Iterator[Problem]:
    """vLLM is started for one largest rank, 16 unless told otherwise and 512 at most, and refuses larger ones.

    An error where --max-rank says what it is started with, or where no --max-lora-rank is large enough.
    Read from vLLM 0.33.0: vllm/config/lora.py, PEFTHelper.validate_legal.

    Fix: start vLLM with --max-lora-rank as large as the adapter's rank.
    """
    yield from rank_above(subject, "vllm")


@rule("VLM013", "error", "fields that vLLM needs are missing", needs=("config",), consumer="vllm",
      breaks=lambda draft: draft.config.pop("lora_alpha"))  # fmt: skip
def missing_fields(subject: Subject) -> Iterator[Problem]:
    """PEFT fills r, lora_alpha and target_modules with defaults; vLLM refuses a config without them.

    Read from vLLM 0.33.0: PEFTHelper.from_dict.

    Fix: write the field into adapter_config.json; PEFT's defaults are r 8 and lora_alpha 8.
    """
    absent = [name for name in NEEDED if name not in subject.fields]
    if is_lora(subject) and absent:
        yield Problem(f"adapter_config.json has no {', no '.join(absent)}", CONFIG, absent[0])
