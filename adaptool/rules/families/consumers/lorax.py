"""LRX001–LRX099: what LoRAX makes of an adapter. Read from LoRAX main (a7394ba, May 2026)."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.adapters.names import projection_of
from adaptool.rules.draft import WIDTH, fields
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
from adaptool.rules.families.consumers.mutations import adapting, on_experts, uneven_layers, with_tensor, without
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

CONFIG = "adapter_config.json"

SERVED = frozenset((
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"),
    *("lm_head", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "Wqkv", "out_proj", "c_attn"),
    *("c_proj", "c_fc", "fc1", "fc2", "w1", "w2", "w3", "query", "key", "value"),
))  # fmt: skip
"""The projections that some model of LoRAX has in its list."""


def served(one: Wrapped) -> bool:
    """Whether a model of LoRAX asks for such a module; embeddings are never asked for."""
    return projection_of(one.module) in SERVED and not (one.a is not None and one.a.name.endswith("embedding_A"))


@rule("LRX001", "error", "LoRAX loads LORA only", needs=("config",), consumer="lorax", breaks=fields(peft_type="IA3"))
def only_lora(subject: Subject) -> Iterator[Problem]:
    """LoRAX reads r and lora_alpha of a LoraConfig, and fails on any other.

    Read from LoRAX main (a7394ba, May 2026): adapters/lora.py.

    Fix: merge the adapter into its base, and serve that.
    """
    yield from other_type(subject, "lorax")


@rule("LRX002", "error", "DoRA, taken for a plain LoRA", needs=("config",), consumer="lorax",
      breaks=fields(use_dora=True))  # fmt: skip
def dora(subject: Subject) -> Iterator[Problem]:
    """The magnitudes are left in the file, and B·A alone is served: another model than was trained, without a word.

    Read from LoRAX main (a7394ba, May 2026): LoraConfig.map_weights_for_model.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    if is_lora(subject) and subject.fields.get("use_dora"):
        yield Problem("use_dora is set, and LoRAX serves it without its magnitudes", CONFIG, "use_dora")


@rule("LRX003", "error", "another scale in LoRAX", needs=("adapter",), consumer="lorax",
      breaks=fields(alpha_pattern={"q_proj": 3}))  # fmt: skip
def scale(subject: Subject) -> Iterator[Problem]:
    """LoRAX divides lora_alpha by r for every module: patterns are not read, and rsLoRA is lost on the way.

    Its image installs PEFT 0.4, whose LoraConfig has no use_rslora field (lorax issue 700).

    Read from LoRAX main (a7394ba, May 2026): adapters/lora.py get_scaling_factor.

    Fix: adaptool validate ADAPTER --for lorax --fix --out FIXED multiplies each scale into lora_B, exactly.
    """
    yield from wrong_scale(subject, "lorax", lambda one: subject.config.alpha / subject.config.rank)


@rule("LRX004", "error", "a rank that is padded", needs=("adapter",), consumer="lorax",
      breaks=adapting("q_proj", "v_proj", rank=4))  # fmt: skip
def padded_rank(subject: Subject) -> Iterator[Problem]:
    """Ranks other than 8 and multiples of 16 are padded, and the padded rank is kept as r for the scale that follows.

    So the first projection is right, and all later ones are served at r / padded of their update. With tensor
    parallelism the smallest rank is 8 per GPU: r=8 on two GPUs is padded too.
    Read from LoRAX main (a7394ba, May 2026): LoraWeights.load, pad_rank; run,  alpha=16, r=4 gives q 4, k and v 2.

    Fix: pad the factors with zeros to rank 8 or a multiple of 16, and raise lora_alpha by the same factor.
    """
    yield from stacked.padded_ranks(subject, "lorax", served)


@rule("LRX005", "error", "a projection missing in one layer", needs=("adapter",), consumer="lorax",
      breaks=without("layers.1.self_attn.v_proj.lora_B.weight"))  # fmt: skip
def gap(subject: Subject) -> Iterator[Problem]:
    """LoRAX stacks one projection over all layers, and where one layer has no LoRA drops it from every layer.

    Adapters made with layers_to_transform are such. Layers are counted in --base, or up to the last one adapted.
    Read from LoRAX main (a7394ba, May 2026): LoraWeights.load ("There is no LoRA weight for this layer type").

    Fix: add zero factors in the missing layers, or merge the adapter and serve the result.
    """
    yield from stacked.gaps(subject, "lorax", served)


@rule("LRX006", "error", "tensors that LoRAX leaves out", needs=("adapter",), consumer="lorax",
      breaks=with_tensor("model.norm.weight", WIDTH))  # fmt: skip
def beside(subject: Subject) -> Iterator[Problem]:
    """Trained biases, modules saved whole and token rows stay in the file: nothing looks for them.

    Read from LoRAX main (a7394ba, May 2026): LoraConfig.map_weights_for_model.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    yield from left_out(subject, "lorax", beside_factors(subject), "serves the adapter without this tensor")


@rule("LRX007", "error", "modules that LoRAX leaves out", needs=("adapter",), consumer="lorax",
      breaks=on_experts)  # fmt: skip
def unserved(subject: Subject) -> Iterator[Problem]:
    """Each model of LoRAX has its list of projections; a module of no list is passed over.

    Read from LoRAX main (a7394ba, May 2026): ADAPTER_LAYERS in models/*.py.

    Fix: merge the adapter (adaptool merge) and serve the result.
    """
    yield from stacked.unserved(subject, "lorax", served)


@rule("LRX008", "error", "ranks that cannot be stacked", needs=("adapter",), consumer="lorax", breaks=uneven_layers)
def uneven(subject: Subject) -> Iterator[Problem]:
    """The factors of one projection are stacked over the layers, so their ranks must be padded to the same one.

    Read from LoRAX main (a7394ba, May 2026): LoraWeights.__init__.

    Fix: adaptool validate ADAPTER --for lorax --fix --out FIXED pads the smaller factors with zeros.
    """
    yield from stacked.uneven(subject, "lorax", served)


@rule("LRX009", "error", "factors for a changed base", needs=("config",), consumer="lorax",
      breaks=fields(init_lora_weights="pissa"))  # fmt: skip
def initialisation(subject: Subject) -> Iterator[Problem]:
    """PiSSA and its kin take part of the base into the factors; LoRAX adds them to the whole base.

    Read from LoRAX main (a7394ba, May 2026): init_lora_weights is not read.

    Fix: convert it where it was trained: save_pretrained(…, path_initial_model_for_weight_conversion=…).
    """
    yield from changed_base(subject, "lorax")


@rule("LRX010", "error", "a variant of LoRA that LoRAX does not have", needs=("config",), consumer="lorax",
      breaks=fields(alora_invocation_tokens=[1, 2]))  # fmt: skip
def variant(subject: Subject) -> Iterator[Problem]:
    """LoRAX reads r, lora_alpha and nothing else; an aLoRA would act on every token, a router on none.

    Read from LoRAX main (a7394ba, May 2026): adapters/lora.py.

    Fix: merge it where the variant can be merged, or train a plain LoRA.
    """
    names = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora", "arrow_config", "kasa_config")
    yield from variants(subject, "lorax", names)


@rule("LRX011", "info", "a rank beyond the fast kernels", needs=("adapter",), consumer="lorax",
      breaks=adapting("q_proj", "v_proj", rank=144))  # fmt: skip
def large_rank(subject: Subject) -> Iterator[Problem]:
    """Ranks above 128 are served by a slower path.

    Read from LoRAX main (a7394ba, May 2026): MAX_RANK_CUSTOM, BGMV_MAX_RANK.

    Fix: reduce the rank if throughput matters.
    """
    yield from stacked.large_rank(subject, "lorax")
