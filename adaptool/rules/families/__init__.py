"""Every family of rules; a new file is named here."""

from __future__ import annotations

from adaptool.rules.families import (
    files,
    layout,
    pickled,
    secrets,
    templates,
    config_json,
    config_fields,
    config_scales,
    config_names,
    config_origin,
    tensors,
    tensor_forms,
    values,
    base,
    advice,
    consumers,
)  # isort: skip

__all__ = [
    "advice",
    "base",
    "config_fields",
    "config_json",
    "config_names",
    "config_origin",
    "config_scales",
    "consumers",
    "files",
    "layout",
    "pickled",
    "secrets",
    "templates",
    "tensor_forms",
    "tensors",
    "values",
]
