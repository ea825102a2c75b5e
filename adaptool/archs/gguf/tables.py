"""Every architecture that can be written as a GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.llama import LLAMA
from adaptool.archs.gguf.spec import ArchSpec
from adaptool.errors import UnsupportedError
from adaptool.tensors.ggml.values import Value

SPECS: tuple[ArchSpec, ...] = (LLAMA,)

BY_ARCHITECTURE: Mapping[str, ArchSpec] = {name: spec for spec in SPECS for name in spec.architectures}


def spec_for(config: Mapping[str, Any] | None, where: str) -> ArchSpec:
    """The table for a config.json; UnsupportedError names the architecture and those that are supported."""
    hparams = Hparams(config or {}, {})
    if spec := BY_ARCHITECTURE.get(hparams.architecture):
        return spec
    named = hparams.architecture or (config or {}).get("model_type") or "a model without config.json"
    known = ", ".join(sorted(BY_ARCHITECTURE))
    raise UnsupportedError(f"{where}: {named} cannot be converted to GGUF yet", hint=f"supported are {known}")


def hparams_of(spec: ArchSpec, config: Mapping[str, Any]) -> Hparams:
    """A config as the table reads it."""
    return Hparams(config, spec.defaults)


def architecture_keys(spec: ArchSpec, hparams: Hparams) -> dict[str, Value]:
    """The metadata an architecture's runtime reads: sizes, norms, rotary settings, experts."""
    result = {}
    for key in spec.keys:
        value = key.of(hparams)
        if value is not None:
            name = key.name if key.name.startswith("general.") else f"{spec.name}.{key.name}"
            result[name] = key.make(value)
    return result
