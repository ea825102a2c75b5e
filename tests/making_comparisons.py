"""Comparisons made by hand: what the reports of ``diff`` are given, without two adapters and their geometry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from adaptool.comparing.groups import by_layer, by_projection, distance, layers_of, total
from adaptool.comparing.result import Comparison, ConfigChange, ModuleChange, Place, Side, TensorChange

PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"]
HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202e`|\\|\"'<!-- -->@all #1 http://evil.example www.evil.example\n"
CONFIG = (
    ConfigChange("lora_alpha", 16, 32, "scale 1 → 2 on every module", True),
    ConfigChange("target_modules", ["q_proj"], ["k_proj", "q_proj"], "also adapts k_proj", True),
    ConfigChange("use_rslora", False, True, "scale is α/√r", True, "before"),
    ConfigChange("peft_version", "0.18.0", "0.21.2", "", False),
    ConfigChange("inference_mode", False, True, "", False),
)


def side(given: str, version: str | None, **fields: object) -> Side:
    """An adapter called sql."""
    made = Side(given, "adapter", "sql", "LORA", "org/base", "a" * 40, 45_000_000, 448, ("F32",), "16", version)
    return replace(made, **fields)


def module(name: str, place: Place, relative: float, state: str = "changed", rank: int = 4) -> ModuleChange:
    """A module that moved by ``relative``, or was added or removed."""
    cosine, angles = max(-1.0, 1 - relative**2 / 2), tuple(min(90.0, 60 * relative * i) for i in range(rank))
    same = state == "same"
    before, after = (None if state == "added" else 1.0), (None if state == "removed" else 1.0 + relative)
    one, two = (None if state == "added" else rank), (None if state == "removed" else rank)
    both = state in ("same", "changed")
    return ModuleChange(
        name, place, state, before, before if same else after, 0.0 if same else relative if both else 1.0,
        0.0 if same else None if state == "added" else relative if both else 1.0, cosine if both else None,
        angles if both else (), angles if both else (), one, two, one, two,
        None if one is None else 1.0, None if two is None else 1.0, same,
    )  # fmt: skip


def modules(layers: int, stack: str = "model.layers", seed: int = 0) -> Iterator[ModuleChange]:
    """Every projection in every layer, moved a little or a lot."""
    spread = np.random.default_rng(seed)
    for layer in range(layers):
        for projection in PROJECTIONS:
            share = float(10 ** spread.uniform(-3, 0))
            yield module(f"{stack}.{layer}.{projection}", Place(stack, layer, projection), share)


def experts(layers: int, each: int) -> Iterator[ModuleChange]:
    """A mixture's experts: in the last layer they are new."""
    for layer in range(layers):
        for expert in range(each):
            name = f"model.layers.{layer}.mlp.experts.{expert}.up_proj"
            state = "added" if layer == layers - 1 else "changed"
            yield module(name, Place("model.layers", layer, "mlp.experts.*.up_proj"), (expert + 1) / each / 10, state)


def tensors(layers: int, stack: str = "model.layers") -> Iterator[TensorChange]:
    """A head that grew, an embedding that came, and a magnitude in every layer."""
    head, embedding = Place("", None, "lm_head.weight"), Place("", None, "model.embed_tokens.weight")
    yield TensorChange("lm_head.weight", head, "changed", "F32", "F32", (40, 64), (48, 64), None, None, None, None)
    yield TensorChange(
        "model.embed_tokens.weight", embedding, "added", None, "BF16", None, (40, 64), None, None, None, None
    )
    for layer in range(layers):
        place = Place(stack, layer, "self_attn.q_proj.lora_magnitude_vector")
        name = f"{stack}.{layer}.{place.projection}"
        yield TensorChange(name, place, "changed", "F32", "BF16", (64,), (64,), 10.0, 0.3, 0.03, 0.99955)


def comparison(
    changes: Iterable[ModuleChange] = (), others: Iterable[TensorChange] = (), config: Iterable[ConfigChange] = (),
    **fields: object,
) -> Comparison:  # fmt: skip
    """A continued training with these changes."""
    changes, others = tuple(changes), tuple(others)
    whole, layers = total(changes), layers_of((*changes, *others))
    made = Comparison(
        side("v1.2.0:adapters/sql", "1.2.0"), side("adapters/sql", "1.3.0"), "continued training",
        "ΔW grew out of the old one", False, "patch", ("48 tensors changed",), whole.norm_before, whole.norm_after,
        distance(changes), whole.relative, whole.cosine, tuple(config), changes, others, 4,
        by_projection(changes, layers), layers, by_layer(changes, layers),
    )  # fmt: skip
    return replace(made, **fields)


def usual() -> Comparison:
    """Everything at once."""
    changes = list(modules(4))
    changes[1] = module(changes[1].module, changes[1].place, 0.0, "same")
    changes[6] = module(changes[6].module, changes[6].place, 1.0, "added")
    changes[-1] = module(changes[-1].module, changes[-1].place, 1.0, "removed")
    return comparison(changes, tensors(4), CONFIG, notes=("tokenizer.json is not the same beside the two",))


def several_stacks() -> Comparison:
    """A vision tower and a language model, and a module in neither."""
    head = module("lm_head", Place("", None, "lm_head"), 0.5)
    return comparison([*modules(3, "vision_tower.layers"), *modules(30, "language_model.layers", 1), head])


def hostile() -> Comparison:
    """Names that would paint, break out of, or be taken for something else, wherever a name may stand."""
    changes = [
        replace(one, module=f"{HOSTILE}.{one.module}", place=replace(one.place, stack=HOSTILE, projection=HOSTILE * 9))
        for one in modules(3)
    ]
    others = [replace(one, name=HOSTILE * 50) for one in tensors(2)]
    config = [ConfigChange(HOSTILE, {HOSTILE: 1}, [HOSTILE], HOSTILE * 20, matters) for matters in (True, False)]
    named = {"name": HOSTILE, "peft_type": HOSTILE, "base_model": HOSTILE, "revision": HOSTILE,
             "rank": HOSTILE, "dtypes": (HOSTILE,)}  # fmt: skip
    return comparison(
        changes, others, config, before=side(HOSTILE, HOSTILE, **named), after=side(HOSTILE, HOSTILE + "2", **named),
        because=HOSTILE, reasons=(HOSTILE,), notes=(HOSTILE,),
    )  # fmt: skip


def equal() -> Comparison:
    """The same ΔW of other factors."""
    changes = [module(one.module, one.place, 0.0, "same") for one in modules(4)]
    return comparison(
        changes, (), CONFIG[3:], verdict="re-factorised", because="every ΔW is the same", equal=True, level="none",
        reasons=(),
    )  # fmt: skip


def models() -> Comparison:
    """Two models: tensors, and no modules."""
    fields = {"kind": "model", "peft_type": None, "base_model": None, "revision": None, "rank": ""}
    return comparison(
        (), tensors(3), norm_before=10.0, norm_after=10.1, distance=0.5, relative=0.05, cosine=0.999,
        verdict="changed", because="5 of 9 tensors differ", before=side("a", None, **fields),
        after=side("b", None, **fields),
    )  # fmt: skip


def unknown() -> Comparison:
    """Modules of which nothing could be measured: not finite, or of another shape."""
    blank = {"norm_before": None, "norm_after": None, "distance": None, "relative": None, "cosine": None,
             "column_angles": (), "row_angles": (), "used_before": None, "used_after": None}  # fmt: skip
    return comparison([replace(one, **blank) for one in modules(2)], verdict="other base", level="major")


def untrained() -> Comparison:
    """From zero."""
    zero = {"norm_before": 0.0, "relative": None, "cosine": None, "column_angles": (), "row_angles": ()}
    return comparison([replace(one, **zero) for one in modules(2)])


EXAMPLES = {made.__name__: made for made in (usual, several_stacks, hostile, equal, models, unknown, untrained)}
