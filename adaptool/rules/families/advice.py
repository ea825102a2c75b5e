"""ADV001–ADV049: what practitioners would look at again in how an adapter is set up. Off unless selected.

None of it is a fault. Each rule says where its range comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.names import projection_of
from adaptool.rules.configs.scales import config_scale, modules, number
from adaptool.rules.draft import LAYERS, MODULES, PREFIX, Draft, fields, numbers
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

BLOCKS = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"q_proj", "k_proj", "v_proj", "out_proj"}, {"q", "k", "v", "o"},
          {"q_lin", "k_lin", "v_lin", "out_lin"}, {"qkv_proj", "o_proj"}, {"query_key_value", "dense"})  # fmt: skip
"""The projections of an attention block, as families of models call them."""

QUERY_VALUE = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("q_lin", "v_lin"))

LOW_SCALE, HIGH_SCALE = 0.5, 4.0
HIGHEST_DROPOUT = 0.3
LOW_RANK, HIGH_RANK, RANK_FOR_RSLORA = 4, 256, 64
PLAIN_ALPHA = 16.0
"""Of α/√r: a lora_alpha of 2r, which is plain LoRA's habit, gives it from rank 64 on."""

MANY_BYTES = 4 << 20
"""Below, an adapter's size is nobody's concern."""


def retargeted(rank: int, *names: str) -> Callable[[Draft], object]:
    """The mutation that has these projections adapted in place of the draft's own."""

    def mutate(draft: Draft) -> None:
        draft.tensors = {}
        for layer in range(LAYERS):
            for seed, name in enumerate(names):
                rows, columns = MODULES[name]
                key = f"{PREFIX}model.layers.{layer}.{name}"
                draft.tensors[f"{key}.lora_A.weight"] = numbers((rank, columns), 2 * seed + 20 * layer)
                draft.tensors[f"{key}.lora_B.weight"] = numbers((rows, rank), 2 * seed + 20 * layer + 1, 0.01)
        draft.config |= {"target_modules": [projection_of(name) for name in names], "r": rank, "lora_alpha": rank}

    return mutate


def projections(subject: Subject) -> set[str]:
    """The last names of all modules that LoRA wraps."""
    return {projection_of(module.name) for module in modules(subject)}


def rank_of(subject: Subject) -> int | None:
    """LoRA's own r, of a causal language model."""
    if subject.peft_type != "LORA" or subject.fields.get("task_type") != "CAUSAL_LM":
        return None
    rank = number(subject.fields.get("r"))
    return int(rank) if rank is not None and 0 < rank < 1e6 else None


@rule("ADV001", "info", "alpha/r outside what is usual", needs=("config",), default=False,
      breaks=fields(lora_alpha=80))  # fmt: skip
def unusual_scale(subject: Subject) -> Iterator[Problem]:
    """The scale works as a second learning rate. Practice keeps α/r from a half to 4, mostly at 1 or 2.

    QLoRA (arXiv 2305.14314) trains with 16/64; Microsoft's and unsloth's guides with α = r or 2r.

    Fix: nothing for a finished adapter; in the next training set lora_alpha to r or 2r and tune the learning rate.
    """
    scale = config_scale(subject)
    if subject.peft_type != "LORA" or subject.fields.get("use_rslora") or scale is None:
        return
    if not LOW_SCALE <= abs(scale) <= HIGH_SCALE:
        yield Problem(f"lora_alpha/r is {scale:.3g}, and {LOW_SCALE:g} to {HIGH_SCALE:g} is usual", CONFIG_NAME,
                      "lora_alpha")  # fmt: skip


@rule("ADV002", "info", "a high dropout", needs=("config",), default=False, breaks=fields(lora_dropout=0.5))
def high_dropout(subject: Subject) -> Iterator[Problem]:
    """QLoRA (arXiv 2305.14314) found 0.1 helpful up to 13B and 0.05 above; from 0.3 on updates starve.

    Fix: in the next training, 0 to 0.1.
    """
    for name, value in subject.fields.items():
        share = number(value) if name.endswith("dropout") else None
        if share is not None and HIGHEST_DROPOUT < share < 1:
            yield Problem(f"{name} is {share:g}, and up to 0.1 is usual", CONFIG_NAME, name)


@rule("ADV003", "info", "attention adapted whole, and no MLP", needs=("adapter",), default=False,
      breaks=retargeted(8, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"))  # fmt: skip
def attention_only(subject: Subject) -> Iterator[Problem]:
    """With the same number of weights, LoRA on the MLPs learns more than LoRA on attention.

    LoRA Without Regret (Thinking Machines, 2025) measures it, and QLoRA (arXiv 2305.14314) needs all linear layers to
    match full finetuning.

    Fix: in the next training add gate_proj, up_proj and down_proj, or target "all-linear", at a lower rank.
    """
    found = projections(subject)
    if rank_of(subject) is not None and any(found == block for block in BLOCKS):
        yield Problem(f"{', '.join(sorted(found))} are adapted, and nothing of the MLPs", CONFIG_NAME, "target_modules")


@rule("ADV004", "info", "queries adapted without values", needs=("adapter",), default=False,
      breaks=retargeted(8, "self_attn.q_proj"))  # fmt: skip
def no_values(subject: Subject) -> Iterator[Problem]:
    """Of attention's four projections, adapting queries and values together does best for the same size.

    That is LoRA's own finding (arXiv 2106.09685, table 5); queries alone, or keys alone, do worst.

    Fix: in the next training add the values' projection.
    """
    found = projections(subject)
    for query, value in QUERY_VALUE:
        if query in found and value not in found:
            yield Problem(f"{query} is adapted and {value} is not", CONFIG_NAME, "target_modules")
            return


@rule("ADV005", "info", "one layer of many adapted", needs=("adapter",), default=False, breaks=lambda draft: (
    [draft.tensors.pop(key) for key in list(draft.tensors) if ".layers.1." in key],
    draft.config.update(layers_to_transform=[0])))  # fmt: skip
def one_layer(subject: Subject) -> Iterator[Problem]:
    """An adapter in a single layer is a probe more often than a model: LoRA adapts every layer (arXiv 2106.09685).

    Fix: if it was not meant so, set layers_to_transform to null and train again.
    """
    places = {saved.place.layer for saved in subject.saved if saved.role == "trained"}
    if subject.peft_type == "LORA" and len(places - {None}) == 1 and None not in places:
        yield Problem(f"only layer {places.pop()} has tensors", subject.weights_name)


@rule("ADV006", "info", "a very high rank", needs=("config",), default=False, breaks=retargeted(
    320, "self_attn.q_proj", "self_attn.v_proj"))  # fmt: skip
def high_rank(subject: Subject) -> Iterator[Problem]:
    """Ranks up to 256 match full finetuning on instruction data (LoRA Learns Less and Forgets Less, arXiv 2405.09673).

    Above, most of the singular values stay near zero, and vLLM serves ranks up to 512 at a cost in memory.

    Fix: see with adaptool inspect how much of the rank is used; train with a lower one.
    """
    rank = rank_of(subject)
    if rank is not None and rank > HIGH_RANK:
        yield Problem(f"r is {rank}, and up to {HIGH_RANK} is usual", CONFIG_NAME, "r")


@rule("ADV007", "info", "a very low rank", needs=("config",), default=False, breaks=retargeted(
    2, "self_attn.q_proj", "self_attn.v_proj"))  # fmt: skip
def low_rank(subject: Subject) -> Iterator[Problem]:
    """Ranks below 4 have room for a style or a format and little else.

    Reinforcement learning is the exception: rank 1 suffices there (LoRA Without Regret, Thinking Machines, 2025).

    Fix: if it underfits, train with r = 8 or 16.
    """
    rank = rank_of(subject)
    if rank is not None and rank < LOW_RANK:
        yield Problem(f"r is {rank}, and {LOW_RANK} or more is usual", CONFIG_NAME, "r")


def _embedding_only(draft: Draft) -> None:
    key = f"{PREFIX}model.embed_tokens"
    draft.tensors = {f"{key}.lora_embedding_A": numbers((8, 40), 1), f"{key}.lora_embedding_B": numbers((64, 8), 2)}
    draft.config["target_modules"] = ["embed_tokens"]


@rule("ADV008", "info", "nothing but embeddings adapted", needs=("adapter",), default=False, breaks=_embedding_only)
def embeddings_only(subject: Subject) -> Iterator[Problem]:
    """New tokens need trained embeddings; a new behaviour needs the layers in between.

    Fix: if more than new tokens was to be learnt, target the layers too; for new tokens alone, trainable_token_indices
    is smaller.
    """
    found = projections(subject)
    if found and found <= {*EMBEDDINGS, *HEADS}:
        yield Problem(f"only {', '.join(sorted(found))} has an adapter", CONFIG_NAME, "target_modules")


@rule("ADV009", "info", "a high rank without rsLoRA", needs=("config",), default=False, breaks=retargeted(
    64, "self_attn.q_proj", "self_attn.v_proj"))  # fmt: skip
def unstabilised(subject: Subject) -> Iterator[Problem]:
    """Under α/r the gradients shrink as the rank grows, so that high ranks train no better than low ones.

    α/√r keeps them alike (rsLoRA, arXiv 2312.03732). Setting α = 2r has much the same effect.

    Fix: in the next training set use_rslora with a lora_alpha of about 16.
    """
    rank, scale = rank_of(subject), config_scale(subject)
    plain = subject.fields.get("use_rslora") is not True and scale is not None and scale < 2
    if plain and rank is not None and rank >= RANK_FOR_RSLORA:
        yield Problem(f"r is {rank} and updates are multiplied by {scale:.3g}", CONFIG_NAME, "use_rslora")


@rule("ADV010", "info", "rsLoRA with plain LoRA's alpha", needs=("config",), default=False,
      breaks=fields(use_rslora=True, lora_alpha=64))  # fmt: skip
def alpha_of_plain_lora(subject: Subject) -> Iterator[Problem]:
    """With use_rslora updates are multiplied by α/√r (arXiv 2312.03732): an α of 2r, harmless before, is then 2√r.

    Fix: in the next training use the lora_alpha that a low rank would get, about 16, or a lower learning rate.
    """
    scale = config_scale(subject)
    rooted = subject.peft_type == "LORA" and subject.fields.get("use_rslora") is True
    if rooted and scale is not None and scale >= PLAIN_ALPHA:
        yield Problem(f"lora_alpha/√r is {scale:.3g}", CONFIG_NAME, "lora_alpha")


@rule("ADV011", "info", "an adapter in float32", needs=("tensors",), default=False, breaks=retargeted(
    1700, "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"))  # fmt: skip
def wide_numbers(subject: Subject) -> Iterator[Problem]:
    """PEFT trains in float32 and saves so; to a 16-bit base, 16 bits of the factors make no difference that is seen.

    Runtimes (vLLM, SGLang) turn them into the model's type when they load them. A merge rounds once either way.

    Fix: save it in the base's type (model.to(torch.bfloat16) before save_pretrained): half the size.
    """
    total = sum(subject.store[key].nbytes for key in subject.store if subject.store[key].dtype.name == "F32")
    if total >= MANY_BYTES:
        yield Problem(f"{total / 1e6:.0f} MB are in float32, and would be {total / 2e6:.0f} in bfloat16",
                      subject.weights_name)  # fmt: skip
