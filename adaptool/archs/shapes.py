"""Every parameter of a model, from its config.json alone.

What PEFT's ``print_trainable_parameters`` needs a model in memory for, a table can tell: the names are
those of transformers 5 and PEFT (``model.layers.0.self_attn.q_proj.weight``), a tied ``lm_head`` is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.archs.encoders import SIGLIP_VISION
from adaptool.archs.layouts import LAYOUTS
from adaptool.archs.sizes import Sizes, sizes_of, whole

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """One module that holds parameters.

    ``kind`` is linear, conv1d, embed, norm, or raw: one parameter, which ``name`` then names.
    """

    kind: str
    name: str
    shape: Shape
    bias: bool

    @property
    def features(self) -> tuple[int, int]:
        """(in, out) of a linear or conv1d module."""
        first, second = self.shape
        return (first, second) if self.kind == "conv1d" else (second, first)

    def parameters(self) -> Iterator[tuple[str, Shape]]:
        """Names and shapes of what it holds."""
        if self.kind == "raw":
            yield self.name, self.shape
            return
        yield f"{self.name}.weight", self.shape
        if self.bias:
            yield f"{self.name}.bias", self.shape[-1:] if self.kind == "conv1d" else self.shape[:1]


def parameter_shapes(config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Every parameter of the model a config describes, by runtime name; None for a model this version has no table for.

    Mixture-of-experts weights are fused, as transformers 5 holds them: (experts, out, in).
    Raises FormatError for a config whose sizes contradict each other.
    """
    modules = model_modules(config)
    if modules is None:
        return None
    return dict(parameter for module in modules for parameter in module.parameters())


def linear_modules(config: Mapping[str, Any]) -> dict[str, tuple[int, int]] | None:
    """(in, out) of every linear layer; LoRA of rank r costs r·(in + out) on each.

    The output head is among them, which PEFT's ``all-linear`` leaves out; fused experts and their routers are not.
    """
    modules = model_modules(config)
    if modules is None:
        return None
    return {module.name: module.features for module in modules if module.kind in ("linear", "conv1d")}


def model_modules(config: Mapping[str, Any]) -> tuple[Module, ...] | None:
    """Every module that holds parameters, or None for a model this version has no table for."""
    model_type = config.get("model_type")
    if model_type == "gemma3":
        return _gemma3(config)
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        return None
    layout = LAYOUTS[model_type]
    ending = _ending(config, layout.heads)
    if ending is None:
        return None
    size = sizes_of(model_type, config)
    prefix = "" if ending.endswith("Model") and ending != "LMHeadModel" else layout.prefix
    return (*_modules(layout.body, size, prefix), *_modules(layout.heads[ending], size))


def _ending(config: Mapping[str, Any], heads: Mapping[str, str]) -> str | None:
    """The head the config's class has, known by the end of its name; longest first, since LMHeadModel ends in Model."""
    architectures = config.get("architectures") or [""]
    named = str(architectures[0])
    if not named:
        return ""
    return next((ending for ending in sorted(heads, key=len, reverse=True) if ending and named.endswith(ending)), None)


def _gemma3(config: Mapping[str, Any]) -> tuple[Module, ...]:
    """Gemma 3 with its eyes: a SigLIP tower, a projector, and the text model under its own prefix."""
    text = sizes_of("gemma3_text", config.get("text_config") or {})
    vision = {**sizes_of("siglip_vision_model", config.get("vision_config") or {}), "X": text["H"]}
    layout = LAYOUTS["gemma3_text"]
    tied = {"tie_word_embeddings": config.get("tie_word_embeddings", True)}
    return (
        *_modules(SIGLIP_VISION, vision, "model"),
        *_modules(layout.body, text, "model.language_model"),
        *_modules(layout.heads[""], {**text, **tied}),
    )


def _modules(table: str, size: Sizes, prefix: str = "") -> Iterator[Module]:
    for line in filter(None, table.splitlines()):
        kind, name, *words = line.split()
        dims = [word for word in words if word[0].isdigit() or word[0].isupper()]
        conditions = words[len(dims) :]
        for layer, place in _places(name, size):
            if all(_holds(condition, size, layer) for condition in conditions if ":" in condition):
                shape = tuple(_dimension(dim, size) for dim in dims)
                bias = any(_holds(word, size, layer) for word in conditions if word.startswith("bias"))
                yield Module(kind, f"{prefix}.{place}" if prefix else place, shape, bias)


def _places(name: str, size: Sizes) -> Iterator[tuple[int, str]]:
    """Each layer's number with its module's name: ``layers.{L}.mlp`` once for each of the L layers."""
    before, brace, after = name.partition("{")
    if not brace:
        yield 0, name
        return
    symbol, _, after = after.partition("}")
    rest = [place for _, place in _places(after, size)]
    for layer in range(whole(size, symbol)):
        yield from ((layer, f"{before}{layer}{place}") for place in rest)


def _dimension(word: str, size: Sizes) -> int:
    """``H``, ``3H`` or ``2`` as a number."""
    symbol = word.lstrip("0123456789")
    count = int(word[: len(word) - len(symbol)] or 1)
    return count * whole(size, symbol) if symbol else count


def _holds(condition: str, size: Sizes, layer: int) -> bool:
    """Whether ``if:flag``, ``unless:flag``, ``bias`` or ``bias?flag`` is true in a layer."""
    if condition == "bias":
        return True
    word, _, flag = condition.replace("?", ":").partition(":")
    value = size.get(flag)
    present = layer in value if isinstance(value, frozenset) else bool(value)
    return present != (word == "unless")
