"""LoRA and its variants: what each saved tensor does to the base, as PEFT's ``merge_and_unload`` does it.

W ← W + s·B@A (arXiv 2106.09685), s from the config per module; rsLoRA, DoRA, BD-LoRA, KaSA and MiCA change
s, the norm, the factors' layout, the base or the rounding. VeLoRA and MonteCLoRA train differently and merge plainly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from adaptool.adapters.base import HEADS
from adaptool.adapters.factors import Factors
from adaptool.adapters.names import projection_of
from adaptool.adapters.patches import AddVector, LowRank
from adaptool.adapters.plan import Plan, Source
from adaptool.adapters.tuners.embeddings import plan_embedding, plan_tokens, shares_embedding
from adaptool.adapters.tuners.full import main_dtype, plan_full_tensors
from adaptool.adapters.tuners.shapes import check_module_shapes
from adaptool.adapters.tuners.sites import dense_sites
from adaptool.adapters.tuners.tuner import Refusal, Tuner
from adaptool.adapters.tuners.variants import check_ranks, magnitude_keys, variant_patches, variant_rounds_twice
from adaptool.errors import FormatError, MismatchError

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter
    from adaptool.adapters.config import AdapterConfig

PART = re.compile(
    r"lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?|lora_diag"
    r"|lora_velora_embed|lora_monteclora_sampler\..+|base_layer\.(?:weight|bias)"
    r"|token_adapter\.(?:trainable_tokens_delta|base_layer\.weight)"
)

MUTATING_INITS = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA", "loftq": "LoftQ"}
HARMLESS_INITS = ("gaussian", "orthogonal", "eva", "mica")

REFUSED_FIELDS = {
    "layer_replication": ("it repeats the base's layers, which PEFT's own merge silently gets wrong",
                          "build the deeper base first, and train or rename the adapter for it"),
    "alora_invocation_tokens": ("an aLoRA acts only after its invocation tokens, so no single weight equals it",
                                "serve it as an adapter"),
    "use_qalora": ("QA-LoRA pools its input, which a merge into float weights does not do", "serve it as an adapter"),
    "arrow_config": ("an Arrow router picks among adapters per token", "merge the adapters it routes to, one by one"),
}  # fmt: skip


class Lora(Tuner):
    """``peft_type: LORA``."""

    part = PART

    def refusal(self, config: AdapterConfig) -> Refusal | None:
        for name, (reason, way_out) in REFUSED_FIELDS.items():
            if config.fields.get(name):
                return Refusal(f"{name} is set: {reason}", way_out)
        init = config.fields.get("init_lora_weights", True)
        if init is None or isinstance(init, bool) or init in HARMLESS_INITS:
            return None
        method = next((title for key, title in MUTATING_INITS.items() if str(init).startswith(key)), None)
        if method is None:
            return Refusal(f"init_lora_weights={init!r} is not known here", "is adaptool up to date?")
        return Refusal(
            f"{method} initialisation changes the base's weights: the saved factors do not belong on the original",
            "convert it where it was trained: save_pretrained(path_initial_model_for_weight_conversion=…)",
        )

    def plan(self, adapter: Adapter, weight: float, plan: Plan) -> set[str]:
        used: set[str] = set()
        for module, parts in adapter.modules.items():
            used |= _plan_module(adapter, module, parts, weight, plan)
        return used | plan_full_tensors(adapter, plan)


def _plan_module(adapter: Adapter, module: str, parts: Mapping[str, str], weight: float, plan: Plan) -> set[str]:
    """One wrapped module: its base tensors first (a resized embedding, trained biases), then its deltas."""
    check_module_shapes(adapter, module, parts)
    if shares_embedding(adapter, module):
        return set(parts.values())
    used = {key for part, key in parts.items() if part.startswith(_passive_parts(adapter.config))}
    used |= _plan_base_layer(adapter, module, parts, plan)
    if "token_adapter.trainable_tokens_delta" in parts:
        used |= plan_tokens(adapter, module, parts, plan)
    for a_part, b_part, planner in (
        ("lora_A.weight", "lora_B.weight", _plan_dense),
        ("lora_embedding_A", "lora_embedding_B", plan_embedding),
    ):
        if a_part in parts and b_part in parts:
            used |= planner(adapter, module, parts, weight, plan)
        elif a_part in parts or b_part in parts:
            alone, missing = (a_part, b_part) if a_part in parts else (b_part, a_part)
            raise MismatchError(
                f"{adapter.path}: {module} has {alone} and no {missing}",
                hint="the save is incomplete: save it again",
                defect="half-pair",
            )
    return used


def _passive_parts(config: AdapterConfig) -> tuple[str, ...]:
    """Parts that training used and a merge does not, where the config says they belong."""
    parts = {"velora_config": "lora_velora_embed", "monteclora_config": "lora_monteclora_sampler"}
    return tuple(part for name, part in parts.items() if config.fields.get(name) is not None)


def _plan_base_layer(adapter: Adapter, module: str, parts: Mapping[str, str], plan: Plan) -> set[str]:
    """``base_layer.weight`` (a resized vocabulary) and ``base_layer.bias`` (bias="lora_only"): values that replace."""
    used = set()
    for part, key in parts.items():
        parameter = part.rpartition(".")[2]
        if part not in ("base_layer.weight", "base_layer.bias", "token_adapter.base_layer.weight"):
            continue
        plain = module.replace(".base_layer", "")
        tensor = plan.base.find(f"{plain}.{parameter}")
        if tensor is None and parameter == "weight" and plan.base.tied and projection_of(plain) in HEADS:
            # a tied head, saved with its LoRA: the weights that LoRA was trained on
            plan.untie(f"{plain}.weight", Source(adapter.store, key, main_dtype(plan.base)))
            used.add(key)
            continue
        if tensor is None:
            raise MismatchError(
                f"{adapter.path}: {key} replaces {plain}.{parameter}, which the base does not have",
                defect="no-parameter",
            )
        old, new = plan.base.store[tensor], adapter.store[key]
        if old.shape != new.shape and (len(old.shape) < 2 or old.shape[1:] != new.shape[1:] or not new.size):
            raise MismatchError(
                f"{adapter.path}: {key} is {list(new.shape)} and the base's {tensor} {list(old.shape)}",
                defect="full-shape",
            )
        plan.replace(tensor, Source(adapter.store, key, old.dtype))
        used.add(key)
    return used


def _plan_dense(adapter: Adapter, module: str, parts: Mapping[str, str], weight: float, plan: Plan) -> set[str]:
    """lora_A and lora_B of a linear layer, a convolution, an attention block or fused experts."""
    config, store = adapter.config, adapter.store
    a, b = store[parts["lora_A.weight"]], store[parts["lora_B.weight"]]
    blocks_a, blocks_b = block_counts(module, config)
    a_shape = (a.shape[0], *[n * blocks_a for n in a.shape[1:2]], *a.shape[2:])
    used = {a.name, b.name}
    sites = dense_sites(module, a_shape, b.shape, plan, config)
    for site in sites:
        name = site.pattern_name or module.replace(".base_layer", "")
        rank = config.rank_of(name)
        check_ranks(adapter, name, rank * site.experts, a.shape[0], b.shape[1] * blocks_b)
        factors = Factors(
            store, a.name, b.name, rank, swapped=site.swapped, blocks_a=blocks_a, blocks_b=blocks_b,
            diagonal=parts.get("lora_diag"), experts=site.experts, expert=site.expert or 0, first_row=site.first_row,
        )  # fmt: skip
        delta = LowRank(
            factors.each() if site.by_expert else (factors,),
            weight * config.scale_of(name),
            "twice" if variant_rounds_twice(config) else site.roundings[0],
            by_expert=site.by_expert,
        )
        plan.patch(site.tensor, *variant_patches(adapter, site, delta, parts))
    used |= {parts[part] for part in ("lora_diag",) if part in parts and config.fields.get("kasa_config") is not None}
    used |= magnitude_keys(adapter, module, parts)
    if "lora_B.bias" in parts:
        used.add(_plan_lora_bias(adapter, module, parts["lora_B.bias"], weight, plan))
    if plan.base.tied and sites[0].tensor in (plan.base.head, plan.base.embedding):
        plan.head_dirty = True
    return used


def block_counts(module: str, config: AdapterConfig) -> tuple[int, int]:
    """BD-LoRA's block counts for A and B: its patterns match any part of the module's last name."""
    settings = config.fields.get("use_bdlora")
    if not isinstance(settings, Mapping):
        return 1, 1
    count = settings.get("nblocks", 1)
    sides = [settings.get(f"target_modules_bd_{side}") or [] for side in "ab"]
    if type(count) is not int or count < 1 or not all(isinstance(side, list) for side in sides):
        raise FormatError(f"{config.where}: use_bdlora must hold nblocks and lists of target modules")
    in_a, in_b = (any(str(pattern) in projection_of(module) for pattern in side) for side in sides)
    return count if in_a else 1, count if in_b and not in_a else 1


def _plan_lora_bias(adapter: Adapter, module: str, key: str, weight: float, plan: Plan) -> str:
    bias = plan.base.find(f"{module}.bias")
    if bias is None:
        raise MismatchError(
            f"{adapter.path}: lora_bias adds to {module}.bias, which the base does not have",
            hint="PEFT cannot either",
            defect="no-bias",
        )
    plan.patch(bias, AddVector(adapter.store, key, weight * adapter.config.scale_of(module)))
    return key
