"""Seeded transformers models with random numbers in every parameter, and what a conversion makes of their folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptool.adapters.base import open_base
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.tables import architecture_keys, hparams_of, spec_for
from adaptool.gguf.converted import Converted
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType

torch = pytest.importorskip("torch")


def randomised(model: Any, folder: Path, near_one: Callable[[str, Any], bool]) -> Any:
    """``model`` saved into ``folder`` with every parameter random, those that ``near_one`` picks around one."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = 0.3 if parameter.ndim == 1 else 0.12
            parameter.copy_(1 + 0.2 * noise if near_one(name, parameter) else spread * noise)
    model.tie_weights()
    model.save_pretrained(folder)
    return model


def made_once(folder: Path, save: Callable[[str, Path], Any]) -> Callable[[str], tuple[Any, Path]]:
    """A family's model and folder, made by ``save`` on first use; nobody may write into it."""
    models: dict[str, tuple[Any, Path]] = {}

    def model(name: str) -> tuple[Any, Path]:
        if name not in models:
            models[name] = save(name, folder / name), folder / name
        return models[name]

    return model


def converted(folder: Path) -> tuple[KeyValues, Converted]:
    """The architecture's keys and the tensors, as a conversion has them."""
    base = open_base(folder)
    spec = spec_for(base.config, str(folder))
    hparams = hparams_of(spec, base.config, folder)
    shapes = {name: info.shape for name, info in base.store.infos.items()}
    return architecture_keys(spec, hparams), Converted(base.store, place(spec, shapes, hparams), spec.extras(hparams))


def approximate(value: Value) -> Any:
    """A metadata value to compare with; float32 are compared as such."""
    return pytest.approx(value.data, rel=1e-6) if value.kind is ValueType.FLOAT32 else value.data
