"""What ``inspect`` knows: an adapter or a model as one immutable value, from headers unless weights are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME, Adapter, open_adapter
from adaptool.adapters.base import BaseModel, open_base, read_base_config
from adaptool.adapters.config import CONFIG_NAME, AdapterConfig, read_config
from adaptool.adapters.tuners import tuner_for
from adaptool.adapters.tuners.tuner import Refusal
from adaptool.errors import NotFoundError, UnsupportedError
from adaptool.summary.beside import FileBeside, files_beside
from adaptool.summary.contents import low_rank_modules, saved_tensors
from adaptool.summary.parameters import ParameterCount, base_parameters, count_parameters
from adaptool.summary.settings import Setting, settings, variants
from adaptool.summary.targets import (
    DTypeShare,
    FullTensors,
    Scaling,
    Target,
    dtype_shares,
    full_tensors,
    scalings,
    targets,
)
from adaptool.summary.unaccounted import Unaccounted, unaccounted
from adaptool.tensors.safetensors import INDEX_NAME, open_safetensors, open_sharded
from adaptool.tensors.sniff import sniff
from adaptool.tensors.store import MemoryStore, Store
from adaptool.versions import adapter_digest, canonical_config, content_digest, header_digest

if TYPE_CHECKING:
    from adaptool.summary.coverage import Coverage
    from adaptool.summary.gguf import GgufFileSummary
    from adaptool.summary.strength import Strength

Weights = Literal["read", "expected", "absent"]
"""read: there are tensors. expected: there are none, and they are what the config would make of the base."""


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter. Figures that need a base, or weights, are None without."""

    name: str
    path: Path
    peft_type: str
    variants: tuple[str, ...]
    task_type: str | None
    base_model: str | None
    revision: str | None
    peft_version: str | None
    target_modules: tuple[str, ...]
    """As the config has them: names, or one regular expression."""
    modules_to_save: tuple[str, ...]
    settings: tuple[Setting, ...]
    weights: Weights
    tensors: int
    elements: int
    """Numbers stored, of every tensor together."""
    nbytes: int
    dtypes: tuple[DTypeShare, ...]
    scalings: tuple[Scaling, ...]
    targets: tuple[Target, ...]
    full_tensors: tuple[FullTensors, ...]
    parameters: ParameterCount
    header_digest: str
    """SHA-256 over names, types, shapes and the config."""
    content_digest: str | None
    """The same with every byte: under --weights."""
    files: tuple[FileBeside, ...]
    metadata: tuple[Setting, ...]
    """The weights file's ``__metadata__``."""
    refusal: Refusal | None
    """Why no merge could be faithful, whatever the base."""
    unaccounted: tuple[Unaccounted, ...]
    coverage: Coverage | None
    strength: Strength | None
    kind: Literal["adapter"] = "adapter"


@dataclass(frozen=True)
class ModelSummary:
    """One model, in short."""

    name: str
    path: Path
    model_type: str | None
    architectures: tuple[str, ...]
    layers: int | None
    vocabulary: int | None
    tied: bool
    quantised: str | None
    weights: Weights
    tensors: int
    parameters: int
    """As a model in memory has them: no buffers, a tied head once."""
    nbytes: int
    dtypes: tuple[DTypeShare, ...]
    header_digest: str
    content_digest: str | None
    files: tuple[FileBeside, ...]
    metadata: tuple[Setting, ...]
    notes: tuple[str, ...]
    kind: Literal["model"] = "model"


Summary: TypeAlias = "AdapterSummary | ModelSummary | GgufFileSummary"


@dataclass(frozen=True)
class Failure:
    """A path that could not be inspected."""

    path: str
    message: str
    hint: str | None


@dataclass(frozen=True)
class Inspection:
    """What ``adaptool inspect`` found, path by path."""

    results: tuple[Summary, ...]
    failures: tuple[Failure, ...]


def inspect_path(path: Path, base: BaseModel | None = None, *, weights: bool = False) -> Summary:
    """Open what lies at ``path`` and summarise it. Raises AdaptoolError where it cannot be read."""
    if path.is_file() and sniff(path) == "gguf":
        from adaptool.summary.gguf import inspect_gguf

        return inspect_gguf(path)
    return summarise(open_subject(path), base, weights=weights)


def open_subject(path: Path) -> Adapter | BaseModel:
    """An adapter where there is an adapter_config.json, with weights or without; else a model, or only its config."""
    folder = path if path.is_dir() else path.parent
    if path.name != "config.json" and (folder / CONFIG_NAME).exists():
        if path.name == CONFIG_NAME:
            path = folder
        if path.is_dir() and not any((folder / name).exists() for name in (WEIGHTS_NAME, PICKLE_NAME)):
            return Adapter(folder, read_config(folder / CONFIG_NAME), MemoryStore({}))
        return open_adapter(path)
    if path.is_dir() and not (path / "config.json").exists() and not any(path.glob("*.safetensors")):
        try:
            return open_base(path)
        except NotFoundError:
            return open_adapter(path)  # fails too, and says where there is one
    return open_model(path)


def open_model(path: Path) -> BaseModel:
    """A model for its figures: as ``open_base``, and also one that is only a config, or quantised beyond reading."""
    if path.is_file() and sniff(path) == "gguf":
        from adaptool.gguf.back import open_gguf_base

        return open_gguf_base(path)
    try:
        return open_base(path) if path.name != "config.json" else _config_only(path)
    except UnsupportedError:
        index = path / INDEX_NAME
        if not path.is_dir() or not (index.exists() or (path / "model.safetensors").exists()):
            raise
        store: Store = open_sharded(index) if index.exists() else open_safetensors(path / "model.safetensors")
        return BaseModel(path, read_base_config(path), store)
    except NotFoundError:
        if not (path / "config.json").is_file():
            raise
        return _config_only(path)


def _config_only(path: Path) -> BaseModel:
    return BaseModel(path if path.is_dir() else path.parent, read_base_config(path), MemoryStore({}))


def summarise(
    subject: Adapter | BaseModel, base: BaseModel | None = None, *, weights: bool = False
) -> AdapterSummary | ModelSummary:
    """Everything ``inspect`` shows, from headers.

    With ``weights`` every tensor of the subject is read, and those of the base that the adapter changes.
    """
    if isinstance(subject, BaseModel):
        return summarise_model(subject, weights=weights)
    return summarise_adapter(subject, base, weights=weights)


def summarise_adapter(adapter: Adapter, base: BaseModel | None = None, *, weights: bool = False) -> AdapterSummary:
    """One adapter, against a base where one is given."""
    config, store = adapter.config, adapter.store
    shown, has = _shown(adapter, base)
    saved = saved_tensors(shown)
    modules = tuple(low_rank_modules(shown)) if config.peft_type == "LORA" else ()
    coverage, layers_of = _laid_on(shown, base)
    return AdapterSummary(
        name=adapter.name, path=adapter.path, peft_type=config.peft_type, variants=variants(config),
        task_type=config.task_type, base_model=config.base_model, revision=config.revision,
        peft_version=config.peft_version, target_modules=config.names("target_modules"),
        modules_to_save=config.names("modules_to_save"), settings=settings(config), weights=has, tensors=len(store),
        elements=sum(info.size for info in store.infos.values()), nbytes=store.nbytes, dtypes=dtype_shares(store),
        scalings=scalings(modules) or _declared(config), targets=targets(saved, modules, config, layers_of),
        full_tensors=full_tensors(saved), parameters=count_parameters(adapter, base),
        header_digest=header_digest(store, canonical_config(config)),
        content_digest=adapter_digest(adapter) if weights and store else None,
        files=files_beside(adapter.folder), metadata=_metadata(store), refusal=tuner_for(config).refusal(config),
        unaccounted=unaccounted(adapter, saved if store else (), modules if store else ()), coverage=coverage,
        strength=_strength(adapter, base) if weights and store else None,
    )  # fmt: skip


def _shown(adapter: Adapter, base: BaseModel | None) -> tuple[Adapter, Weights]:
    """The adapter, or where it has no weights what its config would make of the base."""
    if adapter.store:
        return adapter, "read"
    if base is not None and base.config is not None:
        from adaptool.summary.expected import expected_adapter

        try:
            return expected_adapter(adapter.config, base.config, adapter.path), "expected"
        except UnsupportedError:
            pass  # count_parameters says why
    return adapter, "absent"


def _laid_on(adapter: Adapter, base: BaseModel | None) -> tuple[Coverage | None, Callable[[str], int | None]]:
    if base is None or not adapter.store:
        return None, lambda stack: None
    from adaptool.summary.coverage import cover, layers_of, with_shapes

    shaped = with_shapes(base, adapter)
    return (cover(adapter, shaped) if shaped.store else None), lambda stack: layers_of(shaped, stack)


def _strength(adapter: Adapter, base: BaseModel | None) -> Strength:
    from adaptool.summary.strength import measure

    return measure(adapter, base)


def _declared(config: AdapterConfig) -> tuple[Scaling, ...]:
    """Rank and alpha as the config has them, of a type whose scale nothing here works out or that has no weights."""
    if config.peft_type == "LORA":
        return (Scaling(config.rank, config.alpha, config.scale_of(""), 0),)
    rank, alpha = config.fields.get("r"), config.fields.get("lora_alpha", config.fields.get("alpha"))
    if type(rank) is not int:
        return ()
    known = alpha if isinstance(alpha, int | float) and not isinstance(alpha, bool) else None
    divides = config.peft_type in ("LOHA", "LOKR") and known is not None and rank > 0
    return (Scaling(rank, known, known / rank if divides and known is not None else None, 0),)


def summarise_model(model: BaseModel, *, weights: bool = False) -> ModelSummary:
    """One model; a config alone is counted by the table of its family."""
    from adaptool.tensors.bnb import Bnb4bit
    from adaptool.tensors.quantized import label, quantization_of

    config, store = model.config or {}, model.store
    method = "bnb-4bit" if isinstance(store, Bnb4bit) else quantization_of(model.config, store) if store else None
    lost = any(".lora_" in name for name in store)
    notes = ("these are an adapter's tensors, and there is no adapter_config.json beside them",) if lost else ()
    layers = next((config[key] for key in LAYER_KEYS if isinstance(config.get(key), int)), None)
    return ModelSummary(
        name=model.path.resolve().name, path=model.path, model_type=model.model_type,
        architectures=tuple(map(str, config.get("architectures") or ())), layers=layers,
        vocabulary=model.text_config.get("vocab_size"), tied=model.tied,
        quantised=label(method) if method else None,
        weights="read" if store else "absent", tensors=len(store), parameters=base_parameters(model),
        nbytes=store.nbytes, dtypes=dtype_shares(store), header_digest=header_digest(store),
        content_digest=content_digest(store) if weights and store else None, files=files_beside(model.folder),
        metadata=_metadata(store), notes=notes,
    )  # fmt: skip


LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


def _metadata(store: Store) -> tuple[Setting, ...]:
    return tuple(Setting(name, value) for name, value in store.metadata.items())
