"""What the weights say, for people: norms and ranks by projection, energy by layer, what is untrained or broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from adaptool.reports.figures import count, listed, number, percent, plural
from adaptool.reports.layout import INDENT, LABEL, Column, Line, Span, elided, fact, table, under_stacks, visible, wrap
from adaptool.reports.sparkline import sparkline
from adaptool.summary.contents import place_of

if TYPE_CHECKING:
    from adaptool.summary.spectrum import ModuleSpectrum
    from adaptool.summary.strength import LayerEnergy, Strength
    from adaptool.summary.summary import AdapterSummary

SPARK = 16
"""Columns of a sparkline in a table."""

LEGEND = "mean ranks: stable = ‖ΔW‖²/σmax², effective = exp(entropy of σ/Σσ)"

MEASURES = [
    Column("UPDATES", elastic=True),
    Column("‖ΔW‖", right=True, keep=8),
    Column("σ max", right=True, keep=6),
    Column("OF ‖W‖", right=True, keep=7),
    Column("STABLE", right=True, keep=3),
    Column("EFFECT.", right=True, keep=4),
]


def strength_lines(summary: AdapterSummary, width: int, *, verbose: bool) -> list[Line]:
    """The section on an adapter's updates; with ``verbose`` every module has its row."""
    strength = summary.strength
    assert strength is not None
    lines: list[Line] = []
    if strength.modules:
        lines += _by_module(strength, width) if verbose else _by_projection(strength, width)
        lines += [(Span(INDENT), Span(text, "dim")) for text in wrap(LEGEND, width - len(INDENT))]
        lines += [(), *_by_layer(strength, width), *_totals(strength, width)]
    else:
        lines += fact("updates", "spectra are worked out for LoRA only", width, "dim")
    if strength.zero:
        text = f"{plural(len(strength.zero), 'module')} with an update of exactly zero: {listed(strength.zero, 4)}"
        lines += fact("untrained", text, width, "warn")
    if strength.broken:
        names = [f"{broken.key} ({count(broken.not_finite)})" for broken in strength.broken]
        lines += fact("broken", f"NaN or Inf in {listed(names, 4)}", width, "bad")
    return lines


def _by_projection(strength: Strength, width: int) -> list[Line]:
    groups: dict[tuple[str, str], list[ModuleSpectrum]] = {}
    for spectrum in strength.modules:
        place = place_of(spectrum.module)
        groups.setdefault((place.stack, place.name), []).append(spectrum)
    rows = []
    for (stack, name), spectra in sorted(groups.items()):
        layered = ((place_of(spectrum.module).layer, (spectrum.frobenius or 0.0) ** 2) for spectrum in spectra)
        rows.append((stack, [name, *_measures(spectra), sparkline(_summed(layered), SPARK) if stack else ""]))
    return table([*MEASURES, Column("BY LAYER", keep=5, style="spark")], under_stacks(rows), width)


def _by_module(strength: Strength, width: int) -> list[Line]:
    rows = []
    for spectrum in strength.modules:
        place = place_of(spectrum.module)
        number = "" if place.layer is None else f"{place.layer:>3} "
        rows.append((place.stack, [f"{number}{place.name}", *_measures([spectrum])]))
    return table(MEASURES, under_stacks(rows), width)


def _measures(spectra: Sequence[ModuleSpectrum]) -> list[str]:
    """The norm of all, the largest σ, the mean ranks; relative to all the weights they land on."""
    known = [s.frobenius for s in spectra if s.frobenius is not None]
    norm = sum(value**2 for value in known) ** 0.5 if known else None
    weights = [(s.frobenius / s.relative) ** 2 for s in spectra if s.frobenius and s.relative]
    against = norm / sum(weights) ** 0.5 if weights and norm is not None else None
    largest = max((s.spectral for s in spectra if s.spectral is not None), default=None)
    return [
        number(norm) if known else "not finite", number(largest), percent(against),
        number(_mean(s.stable_rank for s in spectra), 3), number(_mean(s.effective_rank for s in spectra), 3),
    ]  # fmt: skip


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _summed(layered: Iterable[tuple[int | None, float]]) -> list[float | None]:
    """Energies by layer from 0 to the last; None where there is no module."""
    sums: dict[int, float] = {}
    for layer, energy in layered:
        if layer is not None:
            sums[layer] = sums.get(layer, 0.0) + energy
    return [sums.get(layer) for layer in range(max(sums) + 1)] if sums else []


def _by_layer(strength: Strength, width: int) -> list[Line]:
    stacks: dict[str, list[LayerEnergy]] = {}
    for energy in strength.layers:
        if energy.layer is not None:
            stacks.setdefault(energy.stack, []).append(energy)
    lines: list[Line] = []
    for stack, energies in stacks.items():
        label = "energy by layer" if len(stacks) == 1 else elided(visible(stack), 18)
        top = max(energies, key=lambda energy: energy.energy)
        note = f"most in layer {top.layer}: {percent(top.share)}"
        values = _summed((energy.layer, energy.energy) for energy in energies)
        line = sparkline(values, max(SPARK, width - 50))
        lines.append((Span(f"{INDENT}{label}  ".ljust(LABEL), "label"), Span(line, "spark"), Span(f"  {note}", "dim")))
    return lines


def _totals(strength: Strength, width: int) -> list[Line]:
    relative = f", {percent(strength.relative)} of the weights it changes" if strength.relative is not None else ""
    text = f"‖ΔW‖ = {number(strength.frobenius)} over {plural(len(strength.modules), 'module')}{relative}"
    lines = fact("in all", text, width)
    if scaled := [spectrum.magnitudes for spectrum in strength.modules if spectrum.magnitudes is not None]:
        low, high = min(m.smallest for m in scaled), max(m.largest for m in scaled)
        text = f"magnitudes from {number(low)} to {number(high)}; the figures above are of the low-rank part"
        lines += fact("DoRA", text, width)
    return lines
