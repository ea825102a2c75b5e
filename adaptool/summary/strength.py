"""How strong an adapter's updates are: module by module, layer by layer, and against the base's own weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.summary.contents import low_rank_modules, place_of
from adaptool.summary.coverage import base_norms
from adaptool.summary.expected import Shapes
from adaptool.summary.spectrum import ModuleSpectrum, module_spectrum, not_finite
from adaptool.tensors.compute import single_threaded_blas


@dataclass(frozen=True, slots=True)
class LayerEnergy:
    """One layer's share of Σ‖ΔW‖_F²."""

    stack: str
    layer: int | None
    """None for all the modules outside every stack."""
    energy: float
    share: float


@dataclass(frozen=True, slots=True)
class Broken:
    """A tensor with NaN or Inf in it."""

    key: str
    not_finite: int


@dataclass(frozen=True)
class Strength:
    """What the weights say. Spectra are worked out for LoRA; of other types only broken numbers are told."""

    modules: tuple[ModuleSpectrum, ...]
    layers: tuple[LayerEnergy, ...]
    frobenius: float | None
    """√Σ‖ΔW‖_F² over all modules."""
    relative: float | None
    """That over the ‖W‖_F of the weights they land on."""
    zero: tuple[str, ...]
    """Modules whose update is exactly zero: never trained."""
    broken: tuple[Broken, ...]


def measure(adapter: Adapter, base: BaseModel | None = None) -> Strength:
    """Read every tensor of the adapter, and of a base with weights the tensors it changes."""
    broken = tuple(Broken(key, count) for key, count in not_finite(adapter.store).items())
    if adapter.config.peft_type != "LORA":
        return Strength((), (), None, None, (), broken)
    wrapped = tuple(low_rank_modules(adapter))
    norms = base_norms(adapter, base) if base is not None and base.store and not isinstance(base.store, Shapes) else {}
    with single_threaded_blas():  # thin QRs are too small to share, and threads that wait burn the time
        measured = [module_spectrum(module, adapter.store) for module in wrapped]
    spectra, squares, weights = [], 0.0, 0.0
    for module, spectrum in zip(wrapped, measured, strict=True):
        norm = norms.get(module.factors[0].a)
        if norm and spectrum.frobenius is not None:
            squares, weights = squares + spectrum.frobenius**2, weights + norm**2
            spectrum = replace(spectrum, relative=spectrum.frobenius / norm)
        spectra.append(spectrum)
    total = sum(spectrum.frobenius**2 for spectrum in spectra if spectrum.frobenius is not None)
    return Strength(
        tuple(spectra), layer_energies(spectra), total**0.5, (squares / weights) ** 0.5 if weights else None,
        tuple(spectrum.module for spectrum in spectra if spectrum.state == "zero"), broken,
    )  # fmt: skip


def layer_energies(spectra: Sequence[ModuleSpectrum]) -> tuple[LayerEnergy, ...]:
    """The energy of each layer of each stack, in order."""
    energies: dict[tuple[str, int | None], float] = {}
    for spectrum in spectra:
        place = place_of(spectrum.module)
        key = (place.stack, place.layer)
        energies[key] = energies.get(key, 0.0) + (spectrum.frobenius or 0.0) ** 2
    total = sum(energies.values())
    ordered = sorted(energies.items(), key=lambda item: (item[0][0], -1 if item[0][1] is None else item[0][1]))
    return tuple(
        LayerEnergy(stack, layer, energy, energy / total if total else 0.0) for (stack, layer), energy in ordered
    )
