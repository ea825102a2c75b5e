"""The model an adapter is applied to: its config (if any), its tensors, and how its names map to the adapter's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaptool.archs.experts import CONV1D_MODEL_TYPES
from adaptool.archs.renames import disk_names
from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.tensors.safetensors import INDEX_NAME, open_safetensors, open_sharded
from adaptool.tensors.store import Store

SINGLE_NAME = "model.safetensors"
PICKLE_INDEX_NAME = "pytorch_model.bin.index.json"
PICKLE_NAME = "pytorch_model.bin"

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tok_embeddings", "embeddings")
HEADS = ("lm_head", "embed_out", "output", "decoder")


@dataclass(frozen=True)
class BaseModel:
    """A base checkpoint: ``config`` is config.json, or None where there is none."""

    path: Path
    config: Mapping[str, Any] | None
    store: Store
    beside: Mapping[str, bytes] | None = None
    """The model's other files by name, where the weights' own file holds them too (a GGUF); None: they lie apart."""

    @property
    def folder(self) -> Path:
        """Where the files beside the weights lie; those from inside a file are laid out while this object lives."""
        if self.beside is not None:
            return Path(self._unpacked.name) / self.path.stem
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _unpacked(self) -> TemporaryDirectory[str]:
        place = TemporaryDirectory(prefix="adaptool-")
        folder = Path(place.name) / self.path.stem
        folder.mkdir()
        for name, content in (self.beside or {}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return place

    @property
    def model_type(self) -> str | None:
        """transformers' name for the architecture."""
        named = self.config.get("model_type") if self.config else None
        return named if isinstance(named, str) else None

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config that speaks of the language model: nested in multimodal ones."""
        config = self.config or {}
        nested = config.get("text_config")
        return nested if isinstance(nested, dict) else config

    def find(self, parameter: str) -> str | None:
        """The checkpoint's name for a runtime parameter ("model.layers.0.self_attn.q_proj.weight"), if it has it."""
        return next((name for name in disk_names(parameter, self.config) if name in self.store), None)

    @cached_property
    def embedding(self) -> str | None:
        """The tensor of the input embedding: what a tied output head shares."""
        found = [name for name in self.store if name.removesuffix(".weight").rpartition(".")[2] in EMBEDDINGS]
        found = [name for name in found if name.endswith(".weight") and len(self.store[name].shape) == 2]
        return min(found, key=len) if found else None

    @cached_property
    def head(self) -> str | None:
        """The tensor of the output head, where the checkpoint stores one."""
        return next((name for name in self.store if name.removesuffix(".weight").rpartition(".")[2] in HEADS[:2]), None)

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding: as the config says, else whether no head is stored."""
        for config in (self.config or {}, self.text_config):
            if isinstance(config.get("tie_word_embeddings"), bool):
                return bool(config["tie_word_embeddings"])
        return self.head is None and self.embedding is not None

    @property
    def has_conv1d(self) -> bool | None:
        """Whether its dense layers store (in, out), as GPT-2's Conv1D does; None where there is no config to tell."""
        return None if self.model_type is None else self.model_type in CONV1D_MODEL_TYPES


Opener = Callable[[Path], BaseModel | None]
"""Opens a path as a base, or gives None where it is not its kind."""

OPENERS: list[Opener] = []
"""For kinds of files that a higher room reads, which registers them: GGUF."""


def open_base(path: Path) -> BaseModel:
    """Open a base: a model folder (sharded or not, an HF-cache snapshot), a weights file, an index file, or a GGUF.

    Quantised checkpoints that can be read are read as the 16-bit model they stand for.
    """
    from adaptool.tensors.bnb import Bnb4bit
    from adaptool.tensors.quantized import quantization_of

    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder", hint="give --base the folder of the downloaded model")
    path = _snapshot(path)
    for opener in OPENERS:
        if (base := opener(path)) is not None:
            return base
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder / "config.json")
    store = _open_weights(path)
    method = quantization_of(config, store)
    if method == "bnb-4bit" and config is not None and config.get("model_type") in CONV1D_MODEL_TYPES:
        raise UnsupportedError(
            f"{path}: a 4-bit {config['model_type']}, whose Conv1D layers were transposed to be quantised",
            hint="give --base the 16-bit model it was made from",
        )
    if method == "bnb-4bit":
        store = Bnb4bit(store)
    elif method is not None:
        raise UnsupportedError(
            f"{path}: quantised with {method}, which cannot be merged into",
            hint="give --base the 16-bit model it was made from",
        )
    return BaseModel(path, config, store)


def read_base_config(path: Path) -> Mapping[str, Any] | None:
    """The config.json of a base folder (or the file itself), without needing its weights; None where there is none."""
    return _read_config(path if path.is_file() else path / "config.json")


def _snapshot(path: Path) -> Path:
    """A repository folder of the HF cache means the snapshot its ``main`` points at."""
    ref = path / "refs" / "main"
    if path.is_dir() and ref.is_file() and (path / "snapshots").is_dir():
        commit = ref.read_bytes()[:100].decode("ascii", "replace").strip()
        if not re.fullmatch(r"[\w-]+", commit):
            raise FormatError(f"{ref}: names no commit", hint="give --base the snapshot's folder itself")
        return path / "snapshots" / commit
    return path


def _read_config(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    config = parse_json(open_file(path).read_all(16 << 20), str(path), what="config")
    if not isinstance(config, dict):
        raise FormatError(f"{path}: the config is not a JSON object")
    return config


def _open_weights(path: Path) -> Store:
    from adaptool.tensors.pickles import open_pickle, open_pickle_sharded
    from adaptool.tensors.sniff import sniff

    if path.is_file():
        if path.name.endswith(".index.json"):
            return open_sharded(path) if "safetensors" in path.name else open_pickle_sharded(path)
        return open_pickle(path) if sniff(path).startswith("torch") else open_safetensors(path)
    # transformers' own order of preference
    for name, opener in (
        (SINGLE_NAME, open_safetensors),
        (INDEX_NAME, open_sharded),
        (PICKLE_NAME, open_pickle),
        (PICKLE_INDEX_NAME, open_pickle_sharded),
    ):
        if (path / name).exists():
            return opener(path / name)
    loose = sorted(path.glob("*.safetensors"))
    if len(loose) == 1:
        return open_safetensors(loose[0])
    raise NotFoundError(f"{path}: no model weights ({SINGLE_NAME} or {INDEX_NAME})", hint=_what_is_there(path, loose))


def _what_is_there(path: Path, loose: list[Path]) -> str:
    if loose:
        return f"several files and no index: name one of {', '.join(file.name for file in loose[:4])}"
    if (path / "adapter_config.json").exists():
        return "this is an adapter: --base takes the model it was trained on"
    if ggufs := sorted(path.glob("*.gguf")):
        return f"name a file: {', '.join(file.name for file in ggufs[:4])}"
    return "give --base the folder of the downloaded model"
