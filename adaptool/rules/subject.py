"""What rules look at: one adapter, opened as far as it can be, every part of it read at most once.

A broken part does not hide the others: where the config is no JSON the tensors are still looked at. A rule says what
it needs; the parts it needs are there when it runs, and where one is not, the rule is not checked, and that is said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME, Adapter, open_weights
from adaptool.adapters.base import BaseModel
from adaptool.adapters.config import CONFIG_LIMIT, CONFIG_NAME, AdapterConfig, read_config
from adaptool.errors import AdaptoolError, NotFoundError
from adaptool.summary.contents import LowRankModule, Saved, low_rank_modules, misshapen, saved_tensors
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import is_deep
from adaptool.tensors.store import Store

if TYPE_CHECKING:
    from adaptool.rules.rule import Need
    from adaptool.rules.weights.statistics import Statistics

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Value]):
    """A part of an adapter, or why it could not be read."""

    value: Value | None
    error: AdaptoolError | None = None


def attempt(read: Callable[[], Value]) -> Outcome[Value]:
    """``read()``, or the deliberate error it raised."""
    try:
        return Outcome(read())
    except AdaptoolError as error:
        return Outcome(None, error)


@dataclass(frozen=True)
class Subject:
    """One adapter under validation."""

    folder: Path
    weights_file: Path | None = None
    """The weights, where the user named a file; else what PEFT would load from the folder."""
    base: BaseModel | None = None
    consumers: frozenset[str] = frozenset()
    """The runtimes it must work in."""
    max_rank: int | None = None
    """What the runtime will be started with."""
    facts: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """For ``once``: what several rules share."""

    @cached_property
    def config_bytes(self) -> Outcome[bytes]:
        """adapter_config.json as it lies on disk."""
        return attempt(lambda: open_file(self.folder / CONFIG_NAME).read_all(CONFIG_LIMIT))

    @cached_property
    def strict_config(self) -> Outcome[AdapterConfig]:
        """The config by the strict parser, whose error tells what JSON it is not."""
        return attempt(lambda: read_config(self.folder / CONFIG_NAME))

    @cached_property
    def config_read(self) -> Outcome[AdapterConfig]:
        """The config: strictly, or as lenient parsers read it, so that the other rules still see it."""
        if self.strict_config.value is not None or self.config_bytes.value is None:
            return self.strict_config
        fields = _lenient_json(self.config_bytes.value)
        if not isinstance(fields, dict):
            return self.strict_config
        return Outcome(AdapterConfig(fields, str(self.folder / CONFIG_NAME)))

    @cached_property
    def weights_path(self) -> Path | None:
        """The file PEFT would load, None where there is none."""
        if self.weights_file is not None:
            return self.weights_file
        names = (WEIGHTS_NAME, PICKLE_NAME)
        return next((self.folder / name for name in names if os.path.lexists(self.folder / name)), None)

    @property
    def weights_name(self) -> str:
        """What findings call the weights' file."""
        return self.weights_path.name if self.weights_path is not None else WEIGHTS_NAME

    @cached_property
    def store_opened(self) -> Outcome[Store]:
        """The tensors, none of them read."""
        return attempt(self._open_store)

    def _open_store(self) -> Store:
        from adaptool.rules.weights.bounds import refuse_a_flood

        if self.weights_path is not None:
            refuse_a_flood(self.weights_path)
        return open_weights(self.folder, self.weights_path)

    @cached_property
    def adapter_opened(self) -> Outcome[Adapter]:
        """Config and tensors together, of a PEFT type."""
        return attempt(self._open_adapter)

    def _open_adapter(self) -> Adapter:
        config, store = self.config_read, self.store_opened
        for part in (config, store):
            if part.error is not None:
                raise part.error
        assert config.value is not None
        assert store.value is not None
        _ = config.value.peft_type  # a FormatError where there is none
        return Adapter(self.weights_file or self.folder, config.value, store.value)

    @cached_property
    def statistics_taken(self) -> Outcome[Statistics]:
        """What the values say, from one pass over the weights."""
        from adaptool.rules.weights.statistics import measure

        return attempt(lambda: measure(self))

    @property
    def config(self) -> AdapterConfig:
        """For rules that need the config."""
        return _there(self.config_read)

    @property
    def fields(self) -> Mapping[str, Any]:
        """The config's fields as they are written."""
        return self.config.fields

    @property
    def store(self) -> Store:
        """For rules that need the tensors."""
        return _there(self.store_opened)

    @property
    def adapter(self) -> Adapter:
        """For rules that need the adapter."""
        return _there(self.adapter_opened)

    @property
    def statistics(self) -> Statistics:
        """For rules that need the values."""
        return _there(self.statistics_taken)

    @property
    def model(self) -> BaseModel:
        """For rules that need the base."""
        assert self.base is not None
        return self.base

    @property
    def peft_type(self) -> str:
        """LORA, IA3, …; "" where the config does not say."""
        value = self.config_read.value
        named = value.fields.get("peft_type") if value is not None else None
        return named.upper() if isinstance(named, str) else ""

    @cached_property
    def saved(self) -> tuple[Saved, ...]:
        """Every saved tensor with its role."""
        return saved_tensors(self.adapter)

    @cached_property
    def low_rank(self) -> tuple[LowRankModule, ...]:
        """Every LoRA module with two factors that make a product; none for other PEFT types."""
        return tuple(low_rank_modules(self.adapter, self.misshapen)) if self.peft_type == "LORA" else ()

    @cached_property
    def misshapen(self) -> tuple[str, ...]:
        """LoRA's factors that make no product."""
        return misshapen(self.adapter)

    def once(self, name: str, work: Callable[[], Value]) -> Value:
        """``work()``, done once for this subject, whoever asks under ``name``."""
        if name not in self.facts:
            self.facts[name] = work()
        return self.facts[name]

    def lacks(self, needs: tuple[Need, ...]) -> AdaptoolError | None:
        """Why one of ``needs`` cannot be had; None where all are there."""
        parts: dict[str, Callable[[], Outcome[Any]]] = {
            "config": lambda: self.config_read,
            "tensors": lambda: self.store_opened,
            "adapter": lambda: self.adapter_opened,
            "values": lambda: self.statistics_taken,
            "base": lambda: Outcome(self.base, None if self.base else NotFoundError("no --base given")),
        }
        return next((error for need in needs if (error := parts[need]().error) is not None), None)


def _there(outcome: Outcome[Value]) -> Value:
    if outcome.error is not None:
        raise outcome.error
    assert outcome.value is not None
    return outcome.value


def _lenient_json(data: bytes) -> Any:
    """What a parser that takes anything makes of it: the last of two equal keys, NaN, a byte order mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        value = json.loads(data.decode(encoding, "replace"))
    except (ValueError, RecursionError):
        return None
    return None if is_deep(value) else value
