"""An adapter as an immutable value: its config, its tensors, and its tensors grouped by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptool.adapters.config import CONFIG_NAME, AdapterConfig, read_config
from adaptool.adapters.names import FULL, Key, parse
from adaptool.errors import FormatError, NotFoundError
from adaptool.tensors.safetensors import open_safetensors
from adaptool.tensors.store import Store

WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """One adapter: where it lies, what it says of itself, and its tensors (none of them read yet)."""

    path: Path
    config: AdapterConfig
    store: Store

    @property
    def name(self) -> str:
        """The folder's name: what reports call it."""
        return self.path.resolve().name

    @property
    def folder(self) -> Path:
        """Where the config and the files beside it lie."""
        return self.path.parent if self.path.is_file() else self.path

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Every saved key, taken apart by the grammar of its PEFT type."""
        from adaptool.adapters.tuners import tuner_for

        part = tuner_for(self.config).part
        return tuple(parse(text, part) for text in self.store)

    @cached_property
    def modules(self) -> Mapping[str, Mapping[str, str]]:
        """Runtime module name → {part: saved key}, in saved order; full tensors are not modules."""
        grouped: dict[str, dict[str, str]] = {}
        for key in self.keys:
            if key.part not in (FULL, ""):
                grouped.setdefault(key.module, {})[key.part] = key.text
        return grouped

    @cached_property
    def full_tensors(self) -> Mapping[str, str]:
        """Runtime parameter name → saved key, of the tensors that replace the base's whole."""
        return {key.module: key.text for key in self.keys if key.part == FULL}

    @cached_property
    def strangers(self) -> tuple[str, ...]:
        """Saved keys outside the grammar: no PEFT prefix."""
        return tuple(key.text for key in self.keys if key.part == "")


def open_adapter(path: Path) -> Adapter:
    """Open an adapter: the folder ``save_pretrained`` wrote, or its weights file (the config lies beside it).

    Only headers are read. Raises NotFoundError or FormatError in words.
    """
    folder, weights = (path, None) if path.is_dir() else (path.parent, path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder")
    if not (folder / CONFIG_NAME).exists():
        raise NotFoundError(f"{folder}: no {CONFIG_NAME}", hint=_elsewhere(folder))
    config = read_config(folder / CONFIG_NAME)
    return Adapter(folder if weights is None else path, config, open_weights(folder, weights))


def open_weights(folder: Path, weights: Path | None = None) -> Store:
    """The tensors of an adapter folder: safetensors, else a PyTorch file through the allow-list reader."""
    from adaptool.tensors.sniff import sniff

    if weights is None:
        present = [folder / name for name in (WEIGHTS_NAME, PICKLE_NAME) if (folder / name).exists()]
        if not present:
            raise NotFoundError(
                f"{folder}: a config but no weights ({WEIGHTS_NAME})",
                hint="was the download or the save cut off?",
                defect="no-weights",
            )
        weights = present[0]
    if sniff(weights).startswith("torch"):
        from adaptool.tensors.pickles import open_pickle

        store: Store = open_pickle(weights)
    else:
        store = open_safetensors(weights)
    if not store:
        raise FormatError(
            f"{weights}: no tensors at all",
            hint="an empty save is typical of ZeRO-3 without gathering: save again",
            defect="no-tensors",
        )
    return store


def _elsewhere(folder: Path) -> str:
    below = sorted(child.parent.name for child in folder.glob(f"*/{CONFIG_NAME}"))
    if below:
        return f"there are adapters in: {', '.join(str(folder / name) for name in below[:4])}"
    if (folder / "config.json").exists():
        return "this looks like a model, not an adapter"
    return "point at the folder that save_pretrained wrote"
