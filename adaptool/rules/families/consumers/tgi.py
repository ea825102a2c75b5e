"""TGI001–TGI099: what TGI makes of an adapter. Read from TGI 3.3.7."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.rules.draft import WIDTH, fields, file, together
from adaptool.rules.families.consumers import stacked
from adaptool.rules.families.consumers.facts import (
    Wrapped,
    beside_factors,
    changed_base,
    is_lora,
    left_out,
    other_type,
    variants,
    wrong_scale,
)
from adaptool.rules.families.consumers.mutations import adapting, renamed, uneven_layers, with_tensor, without
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

CONFIG = "adapter_config.json"

SERVED = re.compile(
    r"model\.layers\.\d+\.(?:self_attn\.(?:[qkvo]|qkv)_proj|mlp\.(?:gate_proj|up_proj|down_proj|c_fc|c_proj))"
)
"""The modules TGI asks an adapter for, whatever the model calls its own."""


def served(one: Wrapped) -> bool:
    """Whether TGI asks for the module."""
    return SERVED.fullmatch(one.module) is not None


@rule("TGI001", "error", "TGI loads LORA only", needs=("config",), consumer="tgi", breaks=fields(peft_type="IA3"))
def only_lora(subject: Subject) -> Iterator[Problem]:
    """TGI reads r and lora_alpha of a LoraConfig, and fails on any other.

    Read from TGI 3.3.7: adapters/lora.py.

    Fix: merge the adapter into its base, and serve that.
    """
    yield from other_type(subject, "tgi")


@rule("TGI002", "error", "DoRA, taken for a plain LoRA", needs=("config",), consumer="tgi",
      breaks=fields(use_dora=True))  # fmt: skip
def dora(subject: Subject) -> Iterator[Problem]:
    """The magnitudes are left in the file, and B·A alone is served: another model than was trained, without a word.

    Read from TGI 3.3.7: LoraConfig.map_weights_for_model.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if is_lora(subject) and subject.fields.get("use_dora"):
        yield Problem("use_dora is set, and TGI serves it without its magnitudes", CONFIG, "use_dora")


@rule("TGI003", "error", "another scale in TGI", needs=("adapter",), consumer="tgi",
      breaks=fields(alpha_pattern={"q_proj": 3}))  # fmt: skip
def scale(subject: Subject) -> Iterator[Problem]:
    """TGI takes lora_alpha / r (or lora_alpha / √r) of the config for every module: the patterns are not read.

    Read from TGI 3.3.7: adapters/lora.py get_scaling_factor.

    Fix: adaptool validate ADAPTER --for tgi --fix --out FIXED multiplies each scale into lora_B, exactly.
    """
    config = subject.config
    root = config.flag("use_rslora") if is_lora(subject) else False
    yield from wrong_scale(subject, "tgi", lambda one: config.alpha / (config.rank**0.5 if root else config.rank))


@rule("TGI004", "error", "a rank that is padded", needs=("adapter",), consumer="tgi",
      breaks=adapting("q_proj", "v_proj", rank=4))  # fmt: skip
def padded_rank(subject: Subject) -> Iterator[Problem]:
    """Ranks other than 8 and multiples of 16 are padded, and the padded rank is kept as r for the scale that follows.

    So the first projection is right, and all later ones are served at r / padded of their update. With tensor
    parallelism the smallest rank is 8 per GPU: r=8 on two GPUs is padded too.
    Read from TGI 3.3.7: LoraWeights.prepare_weights, pad_rank; run,  alpha=16, r=4 gives q 4, k and v 2.

    Fix: pad the factors with zeros to rank 8 or a multiple of 16, and raise lora_alpha by the same factor.
    """
    yield from stacked.padded_ranks(subject, "tgi", served)


@rule("TGI005", "error", "a projection missing in one layer", needs=("adapter",), consumer="tgi",
      breaks=without("layers.1.self_attn.v_proj.lora_B.weight"))  # fmt: skip
def gap(subject: Subject) -> Iterator[Problem]:
    """TGI stacks one projection over all layers, and where one layer has no LoRA drops it from every layer.

    Adapters made with layers_to_transform are such. Layers are counted in --base, or up to the last one adapted.
    Read from TGI 3.3.7: LoraWeights.prepare_weights ("There is no LoRA weight for this layer type").

    Fix: add zero factors in the missing layers, or merge the adapter and serve the result.
    """
    yield from stacked.gaps(subject, "tgi", served)


@rule("TGI006", "error", "tensors that TGI leaves out", needs=("adapter",), consumer="tgi",
      breaks=with_tensor("model.norm.weight", WIDTH))  # fmt: skip
def beside(subject: Subject) -> Iterator[Problem]:
    """Trained biases, modules saved whole and token rows stay in the file: nothing looks for them.

    Read from TGI 3.3.7: LoraConfig.map_weights_for_model.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    yield from left_out(subject, "tgi", beside_factors(subject), "serves the adapter without this tensor")


@rule("TGI007", "error", "modules that TGI leaves out", needs=("adapter",), consumer="tgi",
      breaks=renamed("model.layers", "language_model.model.layers"))  # fmt: skip
def unserved(subject: Subject) -> Iterator[Problem]:
    """TGI looks in model.layers.N for q, k, v, o, gate, up and down_proj (StarCoder 2: c_fc, c_proj), nothing else.

    Embeddings, the head, experts, GPT-2's names and a language_model. prefix are passed over.

    Read from TGI 3.3.7: utils/adapter.py get_attn_weights, get_mlp_weights; models/__init__.py.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    yield from stacked.unserved(subject, "tgi", served)


@rule("TGI008", "error", "ranks that cannot be stacked", needs=("adapter",), consumer="tgi", breaks=uneven_layers)
def uneven(subject: Subject) -> Iterator[Problem]:
    """The factors of one projection are stacked over the layers, so their ranks must be padded to the same one.

    Read from TGI 3.3.7: LoraWeights.__init__.

    Fix: adaptool validate ADAPTER --for tgi --fix --out FIXED pads the smaller factors with zeros.
    """
    yield from stacked.uneven(subject, "tgi", served)


@rule("TGI009", "error", "factors for a changed base", needs=("config",), consumer="tgi",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; TGI adds them to the whole base.

    Read from TGI 3.3.7: init_lora_weights is not read.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "tgi")


@rule("TGI010", "error", "a variant of LoRA that TGI does not have", needs=("config",), consumer="tgi",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """TGI reads r, lora_alpha and use_rslora; an aLoRA would act on every token, a router on none.

    Read from TGI 3.3.7: adapters/lora.py.

    Fix: merge it where the variant can be merged, or train a plain LoRA.
    """
    names = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "tgi", names)


@rule("TGI011", "info", "a rank beyond the fast kernels", needs=("adapter",), consumer="tgi",
      breaks=adapting("q_proj", "v_proj", rank=144))  # fmt: skip
def large_rank(subject: Subject) -> Iterator[Problem]:
    """Ranks above 128 are served by a slower path.

    Read from TGI 3.3.7: MAX_RANK_CUSTOM, BGMV_MAX_RANK.

    Fix: reduce the rank if throughput matters.
    """
    yield from stacked.large_rank(subject, "tgi")


@rule("TGI012", "error", "no safetensors file", consumer="tgi",
      breaks=together(lambda draft: draft.removed.add(WEIGHTS_NAME), file(PICKLE_NAME, b"PK\x03\x04")))  # fmt: skip
def not_safetensors(subject: Subject) -> Iterator[Problem]:
    """TGI reads the .safetensors files of an adapter's folder, and finds no weights in one with a .bin.

    Read from TGI 3.3.7: utils/adapter.py load_module_map.

    Fix: save it as safetensors: adaptool validate ADAPTER --fix --out FIXED.
    """
    path = subject.weights_path
    if path is not None and path.suffix != ".safetensors":
        yield Problem(f"the weights are in {path.name}, and TGI reads .safetensors only", path.name)
