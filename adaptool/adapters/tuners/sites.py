"""Where a LoRA module's delta lands in the base: which tensor, which way round, which rows.

Names come first (archs/renames knows how runtime and checkpoint names differ), shapes decide the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptool.adapters.base import HEADS, BaseModel
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.names import projection_of
from adaptool.adapters.patches import Rounding
from adaptool.adapters.plan import Plan
from adaptool.archs.experts import IS_TRANSPOSED_EXPERTS, expert_parts
from adaptool.errors import MismatchError, UnsupportedError

PARAMETER_ORDER = ("gate_up_proj", "gate_proj", "up_proj", "w1", "w3", "down_proj", "w2")
"""How transformers' expert modules register their parameters: PEFT nests one wrapper per parameter in this order."""


@dataclass(frozen=True, slots=True)
class Site:
    """One base tensor a delta lands on."""

    tensor: str
    swapped: bool = False
    experts: int = 1
    """How many experts the factors hold."""
    expert: int | None = None
    """The one this tensor is of; None where it holds all of them, or there are none."""
    first_row: int = 0
    roundings: tuple[Rounding, ...] = ("asked",)
    """One delta for each: PEFT applies that of MHA's out_proj twice, in two ways."""
    by_expert: bool = False
    """Whether the tensor holds a matrix per expert, (E, d1, d2)."""
    pattern_name: str = ""
    """What rank_pattern and alpha_pattern are matched against, where it is not the module's own name."""


def dense_sites(module: str, a: tuple[int, ...], b: tuple[int, ...], plan: Plan, config: AdapterConfig) -> list[Site]:
    """The sites of a module saved as lora_A (shape ``a``) and lora_B (shape ``b``).

    Raises MismatchError where the base has no such module or its shape does not fit.
    """
    base = plan.base
    plain = ".".join(segment for segment in module.split(".") if segment != "base_layer")
    if plain.endswith(".out_proj") and module.endswith(".base_layer.out_proj"):
        return [_linear(plain, _require(base, f"{plain}.weight", module), a, b, plan, config, ("twice", "once"))]
    tensor = base.find(f"{plain}.weight")
    if tensor is None and (in_proj := base.find(f"{plain}.in_proj_weight")):
        return [_linear(plain, in_proj, a, b, plan, config, ("twice",))]
    if tensor is None and config.names("target_parameters"):
        return _parameter_sites(module, plain, a, b, base, config)
    if tensor is None and base.tied and projection_of(plain) in HEADS:
        tensor = plan.untie(f"{plain}.weight")
    if tensor is None:
        raise MismatchError(
            f"the adapter changes {plain}, and {base.path} has no such module",
            hint="is this the base it was trained on?",
            defect="no-module",
        )
    wraps_parameter = _targets(f"{plain}.weight", config)
    return [_linear(plain, tensor, a, b, plan, config, ("twice",) if wraps_parameter else ("asked",))]


def _require(base: BaseModel, parameter: str, module: str) -> str:
    tensor = base.find(parameter)
    if tensor is None:
        raise MismatchError(
            f"the adapter changes {module}, and {base.path} has no {parameter}",
            hint="is this the base it was trained on?",
            defect="no-module",
        )
    return tensor


def _linear(
    module: str,
    tensor: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    plan: Plan,
    config: AdapterConfig,
    roundings: tuple[Rounding, ...],
) -> Site:
    """A dense or convolutional weight."""
    shape = plan.info(tensor).shape
    if len(a) > 2:
        if len(shape) == len(a) and shape[1] != a[1] and shape[1] and a[1] % shape[1] == 0:
            raise UnsupportedError(
                f"{tensor} is a grouped convolution, which PEFT cannot merge either", hint="serve it as an adapter"
            )
        if shape != (b[0], a[1], *a[2:]):
            raise _misfit(module, tensor, shape, (b[0], a[1], *a[2:]))
        return Site(tensor, roundings=roundings)
    straight, swapped = shape == (b[0], a[1]), shape == (a[1], b[0])
    if straight and swapped:
        swapped = _square_is_conv1d(module, plan, config)
    elif not (straight or swapped):
        raise _misfit(module, tensor, shape, (b[0], a[1]))
    return Site(tensor, swapped=swapped, roundings=roundings)


def _square_is_conv1d(module: str, plan: Plan, config: AdapterConfig) -> bool:
    """Shapes cannot tell a square (out, in) from (in, out): the architecture can, else the config's word is taken."""
    if plan.base.has_conv1d is not None:
        return plan.base.has_conv1d and projection_of(module) not in (*HEADS, "score", "classifier")
    stated = config.flag("fan_in_fan_out")
    plan.note(
        f"{module} is square and the base has no config.json: fan_in_fan_out={str(stated).lower()} "
        f"in the adapter's config decides that weights are stored ({'in, out' if stated else 'out, in'})"
    )
    return stated


def _misfit(module: str, tensor: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> MismatchError:
    return MismatchError(
        f"{module}: the adapter's update is {list(wanted)} and the base's {tensor} is {list(shape)}",
        hint="is this the base it was trained on?",
        defect="shape",
    )


def _targets(parameter: str, config: AdapterConfig) -> bool:
    """Whether ``target_parameters`` names this parameter, by PEFT's suffix rule."""
    return any(parameter == key or parameter.endswith(f".{key}") for key in config.names("target_parameters"))


def _parameter_sites(
    module: str, plain: str, a: tuple[int, ...], b: tuple[int, ...], base: BaseModel, config: AdapterConfig
) -> list[Site]:
    """Expert parameters wrapped by ``target_parameters``: the key says how deep the wrapper is, not which one it is."""
    names = {key.rpartition(".")[2] for key in config.names("target_parameters")}
    ordered = sorted(
        names, key=lambda n: (PARAMETER_ORDER.index(n) if n in PARAMETER_ORDER else len(PARAMETER_ORDER), n)
    )
    present = [
        name
        for name in ordered
        if _targets(f"{plain}.{name}", config) and _parameter_shape(f"{plain}.{name}", base) is not None
    ]
    depth = module.count(".base_layer")
    if depth >= len(present):
        raise MismatchError(
            f"the adapter changes a parameter of {plain}, and {base.path} has none that target_parameters names",
            hint="is this the base it was trained on?",
            defect="no-module",
        )
    parameter = f"{plain}.{present[len(present) - 1 - depth]}"
    shape = _parameter_shape(parameter, base)
    assert shape is not None
    experts = shape[0] if len(shape) == 3 else 1
    swapped = _experts_swapped(parameter, shape[-2:], a, b, base, config)
    tensor = base.find(parameter)
    if tensor is not None:
        by_expert = len(shape) == 3
        return [Site(tensor, swapped, experts, roundings=("twice",), by_expert=by_expert, pattern_name=parameter)]
    return [
        Site(name, swapped, experts, expert, first_row, roundings=("twice",), pattern_name=parameter)
        for expert, names in enumerate(_expert_tensors(parameter, base))
        for name, first_row in names
    ]


def _parameter_shape(parameter: str, base: BaseModel) -> tuple[int, ...] | None:
    """The runtime shape of a parameter that the checkpoint stores whole or expert by expert."""
    tensor = base.find(parameter)
    if tensor is not None:
        return base.store[tensor].shape
    experts = _expert_tensors(parameter, base)
    if not experts:
        return None
    last, first_row = experts[0][-1]
    rows, columns = base.store[last].shape
    return len(experts), first_row + rows, columns


def _expert_tensors(parameter: str, base: BaseModel) -> list[list[tuple[str, int]]]:
    """For each expert the tensors its fused matrix is stored as, each with the row it begins at."""
    fused = expert_parts(parameter, base.config)
    experts: list[list[tuple[str, int]]] = []
    while fused is not None:
        found = [base.find(name) for name in fused.names(len(experts))]
        if None in found:
            break
        total = sum(base.store[name].shape[0] for name in found if name)
        cuts = fused.rows(total)
        experts.append([(name, cut.start) for name, cut in zip(found, cuts, strict=True) if name])
    return experts


def _experts_swapped(
    parameter: str,
    shape: tuple[int, ...],
    a: tuple[int, ...],
    b: tuple[int, ...],
    base: BaseModel,
    config: AdapterConfig,
) -> bool:
    """Whether an expert's matrix is (in, out): from shapes, else the architecture, else the PEFT that trained it."""
    straight, swapped = shape == (b[0], a[1]), shape == (a[1], b[0])
    if straight != swapped:
        return swapped
    if not straight:
        raise MismatchError(
            f"{parameter}: the adapter's update is {[b[0], a[1]]} per expert and the base's is {list(shape)}",
            hint="is this the base it was trained on?",
            defect="shape",
        )
    if base.model_type in IS_TRANSPOSED_EXPERTS:
        return True
    return config.peft_version is None or tuple(map(int, config.peft_version.split(".")[:2])) < (0, 19)
