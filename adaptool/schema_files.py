"""Where the JSON Schemas lie: in the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path


def schema_folder() -> Path:
    """The folder of ``<name>.json``."""
    package = Path(__file__).parent
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent / "schemas"
