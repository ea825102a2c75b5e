"""What lies in an adapter, tensor by tensor: every saved key in exactly one role, every module in its place.

``inspect`` reads every PEFT type, also those that nothing here can merge; for that a grammar of the parts they
save is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import EMBEDDINGS, HEADS
from adaptool.adapters.config import AdapterConfig, matches_whole
from adaptool.adapters.factors import Factors
from adaptool.adapters.names import FULL, PREFIX, SHARED_PREFIX, Key, endings_of, parse, projection_of
from adaptool.adapters.tuners.full import name_ends_with as name_ends_with
from adaptool.adapters.tuners.full import saved_whole as saved_whole
from adaptool.adapters.tuners.lora import block_counts as bdlora_blocks
from adaptool.adapters.tuners.sites import PARAMETER_ORDER
from adaptool.adapters.tuners.unmergeable import PROMPTS
from adaptool.tensors.store import TensorInfo

STEMS = (
    "adamss adaption beft boft bone c3a deft delora fourierft frod glora gralora hada hira hra ia3 internal_xlora lily"
    " ln_tuning lokr lora miss oft osf peanut poly psoft pvera randlora road shadow shira supertuning tinylora"
    " trainable_tokens unilora vblora vera waveft"
)
"""How the names of PEFT types' own parameters begin: ``hada_w1_a``, ``ia3_l``, ``vera_lambda_b``, …"""

ANY_PART = re.compile(rf"base_layer\.(?:weight|bias)|(?:token_adapter\.)?(?:{STEMS.replace(' ', '|')})_[^.]+(?:\..+)?")

FROZEN_PART = re.compile(
    r"(?:shira|supertuning)_indices|(?:p?vera|randlora|tinylora)_[AB]|tinylora_P|frod_(?:V|s_indices|s_size)\..+"
    r"|delora_w_norm|glora_[A-E]\.zeros|vblora_topk_indices|boft_P|lora_velora_embed"
    r"|lora_monteclora_sampler\.(?:gaussian_var_prior|expert_weights)"
)
"""Saved because the adapter needs them, and never trained: random projections, indices, statistics."""

PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))

Role = Literal["trained", "fixed", "unfrozen", "copy", "carried", "frozen", "undeclared", "stray"]
"""What a saved tensor is.

trained: the adapter's own. fixed: the adapter's own parameter, not trained (MiCA's B). unfrozen: a bias of the base,
trained in place. copy: a module trained whole (modules_to_save), beside the base's original. carried: the base's own
weight, saved along (a resized vocabulary). frozen: a buffer the adapter needs. undeclared: in no way named by the
config. stray: without PEFT's prefix, so PEFT ignores it.
"""

NEEDED_FIELDS = {"lora_diag": "kasa_config", "lora_magnitude": "use_dora", "lora_velora": "velora_config",
                 "lora_monteclora": "monteclora_config", "lora_B.bias": "lora_bias",
                 "token_adapter.trainable": "trainable_token_indices"}  # fmt: skip
"""Parts that belong to an adapter only where its config sets a field."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module sits: ``model.layers`` · 3 · ``self_attn.q_proj``; ``layer`` is None outside every stack."""

    stack: str
    layer: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Saved:
    """One saved tensor, accounted for."""

    key: Key
    role: Role
    info: TensorInfo

    @property
    def place(self) -> Place:
        """Where its module sits."""
        return place_of(self.key.module)


@dataclass(frozen=True, slots=True)
class LowRankModule:
    """One module that LoRA wraps: its factors, and what its config declares for it."""

    name: str
    """The module, or for experts the parameter: ``…mlp.experts.gate_up_proj``."""
    declared_rank: int
    alpha: float
    scale: float
    factors: tuple[Factors, ...]
    """One per expert."""
    shape: tuple[int, int]
    """(out, in) of one matrix; a convolution's in is channels × kernel."""
    magnitude: str | None = None
    """DoRA's magnitude vector."""
    twice: bool = False
    """PEFT applies the update of an attention block's out_proj twice, in training as in its merge."""

    @property
    def applied_scale(self) -> float:
        """What B@A is multiplied with in all."""
        return self.scale * (2 if self.twice else 1)

    @property
    def rank(self) -> int:
        """The rank in the weights, whatever is declared."""
        return self.factors[0].rank


_LAYER = re.compile(r"(?:(.*?)\.)?(\d{1,9})\.(.+)")
_NUMBER = re.compile(r"(^|\.)\d+(?=\.|$)")


@lru_cache(maxsize=1 << 17)  # as many modules as any adapter has
def place_of(module: str) -> Place:
    """Take a module's name apart at its first number; further numbers (experts, T5's sub-layers) become ``*``.

    A number that ends the name ("body.0") is no layer: the module itself is numbered.
    """
    match = _LAYER.match(module)
    if match is None:
        return Place("", None, module)
    stack, layer, rest = match.groups()
    return Place(stack or "", int(layer), _NUMBER.sub(r"\1*", rest))


def saved_tensors(adapter: Adapter) -> tuple[Saved, ...]:
    """Every saved tensor with its role, in saved order."""
    config = adapter.config
    lora = config.peft_type == "LORA"
    keys = adapter.keys if lora else tuple(_parsed(text, config) for text in adapter.store)
    names, infos = {key.module for key in keys if key.part == FULL}, adapter.store.infos
    parts: dict[tuple[str, bool], Role] = {}

    def role(key: Key, info: TensorInfo) -> Role:
        if key.part == FULL:
            return "carried" if _is_second_copy(key, names) else _full_role(key.module, config)
        kind = key.part, info.dtype.floating
        if kind not in parts:
            parts[kind] = _role(key.part, config, floating=info.dtype.floating)
        return parts[kind]

    return tuple(Saved(key, role(key, infos[key.text]), infos[key.text]) for key in keys)


def _parsed(text: str, config: AdapterConfig) -> Key:
    """A saved key of another type than LoRA. Prompts wrap no module, so a whole one has one prefix less."""
    whole = config.peft_type in PROMPTS and text.startswith(SHARED_PREFIX) and not text.startswith(PREFIX)
    return Key(text, text.removeprefix(SHARED_PREFIX), FULL) if whole else parse(text, ANY_PART)


def _is_second_copy(key: Key, names: set[str]) -> bool:
    """Whether a wrapper's frozen original, or its trained copy under the wrapper's own name, is saved along."""
    plain = key.module.replace(".modules_to_save.", ".")
    return plain != key.module and plain in names


def _role(part: str, config: AdapterConfig, *, floating: bool) -> Role:
    if part == "":
        return "trained" if config.peft_type in PROMPTS else "stray"
    leaf = part.removeprefix("token_adapter.")
    if leaf == "base_layer.bias" and config.fields.get("bias", "none") != "none":
        return "unfrozen"
    if leaf.startswith("base_layer."):
        return "carried"
    if FROZEN_PART.fullmatch(part) or not floating:
        return "frozen"
    if part == "lora_B.weight" and config.fields.get("init_lora_weights") == "mica":
        return "fixed"
    field = next((field for begin, field in NEEDED_FIELDS.items() if part.startswith(begin)), None)
    return "undeclared" if field is not None and not config.fields.get(field) and _absent(config, field) else "trained"


def _absent(config: AdapterConfig, field: str) -> bool:
    """Whether a field is off; an empty ``kasa_config: {}`` is on."""
    return config.fields.get(field) is None or config.fields.get(field) is False


def _full_role(parameter: str, config: AdapterConfig) -> Role:
    """The role of a tensor that is no part of an adapter; ``bias="all"`` means every name with "bias" in it."""
    module, _, leaf = parameter.rpartition(".")
    all_biases = config.fields.get("bias") == "all" and "bias" in parameter
    if ".original_module." in parameter:
        return "carried"
    if saved_whole(parameter, config):
        return "copy"
    if all_biases or (leaf == "bias" and config.fields.get("bias", "none") != "none"):
        return "unfrozen"
    return "carried" if leaf == "weight" and projection_of(module) in (*EMBEDDINGS, *HEADS) else "undeclared"


def low_rank_modules(adapter: Adapter, broken: Sequence[str] | None = None) -> Iterator[LowRankModule]:
    """Every module with two factors that make a product; ``orphans`` and ``misshapen`` name the rest. Only for LORA.

    ``broken``: the misshapen ones, where the caller knows them.
    """
    faulty, infos = set(misshapen(adapter) if broken is None else broken), adapter.store.infos
    for module, parts in adapter.modules.items():
        magnitude = parts.get("lora_magnitude_vector", parts.get("lora_magnitude_vector.weight"))
        for a, b in _pairs(parts):
            if a in faulty or b in faulty:
                continue
            if a.endswith("lora_embedding_A"):
                (rank, tokens), width = infos[a].shape, infos[b].shape[0]
                factors = Factors(adapter.store, a, b, rank, swapped=True)
                yield _described(module, adapter.config, (factors,), (tokens, width), magnitude)
            else:
                yield _dense(adapter, module, parts, magnitude)


def _pairs(parts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((parts[a], parts[b]) for a, b in PAIRS if a in parts and b in parts)


def _dense(adapter: Adapter, module: str, parts: Mapping[str, str], magnitude: str | None) -> LowRankModule:
    config, infos = adapter.config, adapter.store.infos
    a, b = infos[parts["lora_A.weight"]], infos[parts["lora_B.weight"]]
    name, experts = runtime_name(module, config), _experts(module, a.shape[0], config)
    blocks_a, blocks_b = bdlora_blocks(module, config)
    factors = Factors(
        adapter.store, a.name, b.name, a.shape[0] // experts, blocks_a=blocks_a, blocks_b=blocks_b, experts=experts,
        diagonal=parts.get("lora_diag") if config.fields.get("kasa_config") is not None else None,
    )  # fmt: skip
    shape = b.shape[0], a.size // a.shape[0] * blocks_a
    each, twice = factors.each() if experts > 1 else (factors,), module.endswith(".base_layer.out_proj")
    return _described(name, config, each, shape, magnitude, twice=twice)


def _experts(module: str, rows: int, config: AdapterConfig) -> int:
    """How many experts A's rows are of, by the rank declared for one."""
    if not config.fields.get("target_parameters"):
        return 1
    name = runtime_name(module, config)
    return max(1, rows // config.rank_of(name)) if name != module.replace(".base_layer", "") else 1


def misshapen(adapter: Adapter) -> tuple[str, ...]:
    """Factors that are no matrices (saved under ZeRO-3 without gathering), or whose product does not exist."""
    infos, config = adapter.store.infos, adapter.config
    return tuple(
        key
        for module, parts in adapter.modules.items()
        for pair in _pairs(parts)
        for a, b in ((infos[pair[0]].shape, infos[pair[1]].shape),)
        if not _multiply(module, a, b, config) or (pair[0].endswith("lora_embedding_A") and (len(a), len(b)) != (2, 2))
        for key in pair
    )


def _multiply(module: str, a: tuple[int, ...], b: tuple[int, ...], config: AdapterConfig) -> bool:
    if len(a) < 2 or len(b) < 2 or 0 in a or 0 in b:
        return False
    blocks = bdlora_blocks(module, config)[1]
    return a[0] == b[1] * blocks and a[0] % (_experts(module, a[0], config) * blocks) == 0


def _described(
    name: str, config: AdapterConfig, factors: tuple[Factors, ...], shape: tuple[int, int], magnitude: str | None, *,
    twice: bool = False,
) -> LowRankModule:  # fmt: skip
    rank, alpha = config.rank_of(name), config.alpha_of(name)
    return LowRankModule(name, rank, alpha, config.scale(rank, alpha), factors, shape, magnitude, twice)


def runtime_name(module: str, config: AdapterConfig) -> str:
    """A wrapped module's own name: without PEFT's wrappers, and with the parameter where it wraps an expert's.

    ``target_parameters`` nests one wrapper per parameter, the first registered innermost; the key only says how deep.
    """
    wrapped = ".base_layer" in module
    plain = module.replace(".base_layer", "") if wrapped else module
    if not config.fields.get("target_parameters"):
        return plain
    depth = module.count(".base_layer")
    endings = endings_of(plain)
    owners = endings if _is_target(plain, endings, config) else endings | {""}
    names = {leaf for owner in owners & config.wrapped_parameters.keys() for leaf in config.wrapped_parameters[owner]}
    ordered = sorted(names - {"weight"}, key=_registered)
    return f"{plain}.{ordered[len(ordered) - 1 - depth]}" if depth < len(ordered) else plain


def _is_target(module: str, endings: set[str], config: AdapterConfig) -> bool:
    """Whether target_modules names it: a layer then, of which a bare "down_proj" in target_parameters is no part."""
    names = config.fields.get("target_modules")
    if isinstance(names, str):
        return "" in config.wrapped_parameters and matches_whole(names, module, config.where)
    return not endings.isdisjoint(config.names("target_modules"))


def _registered(parameter: str) -> tuple[int, str]:
    known = parameter in PARAMETER_ORDER
    return (PARAMETER_ORDER.index(parameter) if known else len(PARAMETER_ORDER), parameter)


def orphans(adapter: Adapter) -> tuple[str, ...]:
    """Factors without their other half."""
    return tuple(
        parts[one]
        for parts in adapter.modules.values()
        for pair in PAIRS
        for one, other in (pair, pair[::-1])
        if one in parts and other not in parts
    )
