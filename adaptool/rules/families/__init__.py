"""Every family of rules; a new file is named here."""

from __future__ import annotations

from adaptool.rules.families import (
    advice,
    base,
    config_fields,
    config_imports,
    config_json,
    config_names,
    config_origin,
    config_scales,
    config_type,
    consumers,
    files,
    layout,
    pickled,
    secrets,
    templates,
    tensor_factors,
    tensor_forms,
    tensor_keys,
    tensors,
    values,
)

__all__ = [
    "advice",
    "base",
    "config_fields",
    "config_imports",
    "config_json",
    "config_names",
    "config_origin",
    "config_scales",
    "config_type",
    "consumers",
    "files",
    "layout",
    "pickled",
    "secrets",
    "templates",
    "tensor_factors",
    "tensor_forms",
    "tensor_keys",
    "tensors",
    "values",
]
