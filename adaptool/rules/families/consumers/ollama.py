"""OLL001–OLL099: what Ollama makes of a safetensors adapter. Read from Ollama 0.33.0-rc2 (convert/, server/create.go).

Ollama converts it to a GGUF itself, and runs llama.cpp with that. A GGUF adapter it takes as it is, so
``adaptool convert ADAPTER --base BASE --to-gguf-lora`` and ``ADAPTER lora.gguf`` in the Modelfile is the way out of all
of these. One Modelfile takes one adapter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.names import projection_of
from adaptool.rules.draft import fields, file, together
from adaptool.rules.families.consumers.facts import (
    Wrapped,
    and_more,
    architecture,
    beside_factors,
    changed_base,
    is_lora,
    left_out,
    other_type,
    variants,
    wrapped,
    wrong_scale,
)
from adaptool.rules.families.consumers.mutations import adapting, on_head
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

CONFIG = "adapter_config.json"

CONVERTED = ("llama", "gemma2")
"""GGUF architectures that Ollama converts adapters for; Mistral's is llama."""

PLACE = re.compile(r"model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)")
"""The modules that get a GGUF name."""

LARGEST_ALPHA = 2**32 - 1


@rule("OLL001", "error", "Ollama takes LORA only", needs=("config",), consumer="ollama", breaks=fields(peft_type="IA3"))
def only_lora(subject: Subject) -> Iterator[Problem]:
    """Ollama renames lora_A and lora_B and hands every tensor to llama.cpp, which refuses all others.

    Read from Ollama 0.33.0-rc2: convert/convert_llama_adapter.go.

    Fix: merge the adapter into its base, and create the model from the result.
    """
    yield from other_type(subject, "ollama")


@rule("OLL002", "error", "a base that Ollama converts no adapters for", needs=("config",), consumer="ollama",
      breaks=lambda draft: draft.base_config.update(architectures=["Qwen2ForCausalLM"]))  # fmt: skip
def base_architecture(subject: Subject) -> Iterator[Problem]:
    """Safetensors adapters are converted for bases whose GGUF says llama (Llama, Mistral, Mixtral) or gemma2.

    Where no --base tells, this is for information.
    Read from Ollama 0.33.0-rc2: convert/convert.go ConvertAdapter ("unsupported architecture").

    Fix: adaptool convert ADAPTER --base BASE --to-gguf-lora, and give Ollama the GGUF.
    """
    named = architecture(subject)
    if named is None:
        message = "Ollama converts safetensors adapters for Llama, Mistral and Gemma 2 only, and no --base tells which"
        yield Problem(message, CONFIG, "base_model_name_or_path", severity="info")
    elif named not in CONVERTED:
        message = f"the base is {named}, and Ollama converts safetensors adapters for llama and gemma2 only"
        yield Problem(message, CONFIG, "base_model_name_or_path")


@rule("OLL003", "error", "q_proj and k_proj, which Ollama scrambles", needs=("adapter",), consumer="ollama",
      breaks=adapting("q_proj", "k_proj"))  # fmt: skip
def scrambled(subject: Subject) -> Iterator[Problem]:
    """A Llama's GGUF has the rows of q and k in another order, which is an order of lora_B's rows.

    Ollama reorders lora_A instead, and reads it as (in, r) where PEFT saved (r, in): its numbers change places
    between ranks. The adapter loads, and acts at random there. A warning where no --base tells that it is a Llama.
    Read from Ollama 0.33.0-rc2: convert/convert_llama_adapter.go repack.

    Fix: adaptool convert ADAPTER --base BASE --to-gguf-lora, and give Ollama the GGUF.
    """
    named = architecture(subject)
    found = [one for one in wrapped(subject) if PLACE.fullmatch(one.module)]
    found = [one for one in found if projection_of(one.module) in ("q_proj", "k_proj")]
    if found and named in (None, "llama"):
        keys = tuple(one.a.name for one in found if one.a is not None)
        where = "" if named else ", if the base is a Llama or Mistral"
        message = f"Ollama scrambles lora_A of {found[0].name}{and_more(found)}{where}"
        yield Problem(message, subject.weights_name, tensors=keys, severity=None if named else "warning")


@rule("OLL004", "error", "lora_alpha that Ollama cannot read", needs=("config",), consumer="ollama",
      breaks=fields(lora_alpha=16.0))  # fmt: skip
def alpha(subject: Subject) -> Iterator[Problem]:
    """lora_alpha must be a whole number written as one: 16.0, 16.5 and -1 end the conversion.

    Read from Ollama 0.33.0-rc2: convert/convert.go AdapterParameters (uint32).

    Fix: write 16 for 16.0; for another scale, adaptool convert ADAPTER --base BASE --to-gguf-lora.
    """
    value = subject.fields.get("lora_alpha")
    if is_lora(subject) and value is not None and not (type(value) is int and 0 <= value <= LARGEST_ALPHA):
        yield Problem(f"lora_alpha is {value!r}, and Ollama reads whole numbers only", CONFIG, "lora_alpha")


@rule("OLL005", "error", "another scale in Ollama", needs=("adapter",), consumer="ollama",
      breaks=fields(use_rslora=True))  # fmt: skip
def scale(subject: Subject) -> Iterator[Problem]:
    """The GGUF gets lora_alpha, which llama.cpp divides by each tensor's rank: no rsLoRA, no alpha_pattern.

    Where lora_alpha is 0 or missing, llama.cpp's scale is 1.
    Read from Ollama 0.33.0-rc2: convert/convert.go AdapterParameters.KV.

    Fix: adaptool convert ADAPTER --base BASE --to-gguf-lora, and give Ollama the GGUF.
    """
    if not is_lora(subject):
        return
    written = subject.fields.get("lora_alpha")
    given = subject.config.alpha if written is not None else 0
    yield from wrong_scale(subject, "ollama", lambda one: given / one.own_rank if given else 1.0)


@rule("OLL006", "error", "DoRA, which Ollama does not have", needs=("config",), consumer="ollama",
      breaks=fields(use_dora=True))  # fmt: skip
def dora(subject: Subject) -> Iterator[Problem]:
    """The magnitudes are written into the GGUF, and llama.cpp refuses to load it.

    Read from Ollama 0.33.0-rc2: convert/convert_llama_adapter.go.

    Fix: merge the adapter: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    if is_lora(subject) and subject.fields.get("use_dora"):
        yield Problem("use_dora is set, and Ollama has no DoRA", CONFIG, "use_dora")


@rule("OLL007", "error", "tensors without a name in the GGUF", needs=("adapter",), consumer="ollama", breaks=on_head)
def unnamed(subject: Subject) -> Iterator[Problem]:
    """Only q, k, v, o, gate, up and down_proj of model.layers get llama.cpp's names; it refuses a file with others.

    The model is created, and fails to load.
    Read from Ollama 0.33.0-rc2: convert/convert_llama_adapter.go Replacements.

    Fix: adaptool convert ADAPTER --base BASE --to-gguf-lora, or merge the adapter where that refuses too.
    """
    factors = {key for one in wrapped(subject) if _unplaced(one) for key in one.keys}
    tensors = [saved for saved in subject.saved if saved.key.text in factors] if is_lora(subject) else []
    yield from left_out(subject, "ollama", [*tensors, *beside_factors(subject)], "writes a GGUF that cannot be loaded")


def _unplaced(one: Wrapped) -> bool:
    return PLACE.fullmatch(one.module) is None


@rule("OLL008", "error", "no safetensors file", consumer="ollama",
      breaks=together(lambda draft: draft.removed.add(WEIGHTS_NAME), file(PICKLE_NAME, b"PK\x03\x04")))  # fmt: skip
def not_safetensors(subject: Subject) -> Iterator[Problem]:
    """Ollama looks for *.safetensors in an adapter's folder; adapter_model.bin is an unknown format to it.

    Read from Ollama 0.33.0-rc2: convert/reader.go parseTensors.

    Fix: save it as safetensors: adaptool validate ADAPTER --fix --out FIXED.
    """
    path = subject.weights_path
    if path is not None and path.suffix != ".safetensors":
        yield Problem(f"the weights are in {path.name}, and Ollama reads .safetensors only", path.name)


@rule("OLL009", "error", "factors for a changed base", needs=("config",), consumer="ollama",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; Ollama adds them to the whole base.

    Read from Ollama 0.33.0-rc2: init_lora_weights is not read.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "ollama")


@rule("OLL010", "error", "a variant of LoRA that Ollama does not have", needs=("config",), consumer="ollama",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """Of the config Ollama reads lora_alpha; an aLoRA would act on every token, a router on none.

    Read from Ollama 0.33.0-rc2: convert/convert.go AdapterParameters.

    Fix: merge it where the variant can be merged: adaptool merge ADAPTER --base BASE --to-gguf.
    """
    names = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "ollama", names)
