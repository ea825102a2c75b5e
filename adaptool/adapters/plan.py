"""A merge plan: what happens to each tensor of the base, collected from the adapters before a byte is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from adaptool.adapters.base import BaseModel
from adaptool.adapters.patches import Patch
from adaptool.errors import MismatchError
from adaptool.tensors.dtypes import DType
from adaptool.tensors.store import Store, TensorInfo


@dataclass(frozen=True)
class Source:
    """A tensor taken whole from an adapter, rounded to ``dtype``."""

    store: Store
    key: str
    dtype: DType

    def info(self, name: str) -> TensorInfo:
        """What the tensor will be under ``name``."""
        return TensorInfo(name, self.dtype, self.store[self.key].shape)


@dataclass
class Plan:
    """Collected by the tuners, adapter by adapter in order; read by ``merge``."""

    base: BaseModel
    patches: dict[str, list[Patch]] = field(default_factory=dict)
    """Base tensor → what is done to it, in order."""
    replaced: dict[str, Source] = field(default_factory=dict)
    """Base tensor → the adapter's tensor that takes its place."""
    added: dict[str, Source] = field(default_factory=dict)
    """New tensor → where it comes from: task heads."""
    copied: dict[str, str] = field(default_factory=dict)
    """New tensor → the base tensor it starts as: the output head of a model that is no longer tied."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, each said once."""
    untied_head: str | None = None
    head_dirty: bool = False
    """A change that reaches the embedding or the head alone: a tied model must be untied."""

    def patch(self, name: str, *patches: Patch) -> None:
        """Add patches to a tensor (of the base, replaced or copied)."""
        self.patches.setdefault(name, []).extend(patches)

    def replace(self, name: str, source: Source) -> None:
        """Take a tensor from an adapter; what earlier adapters did to it is overwritten, and that is said."""
        if self.patches.pop(name, None) or name in self.replaced:
            self.note(f"{name}: saved whole by a later adapter, which overwrites what an earlier one did to it")
        self.replaced[name] = source

    def note(self, text: str) -> None:
        """Remember something the user should know."""
        if text not in self.notes:
            self.notes.append(text)

    def info(self, name: str) -> TensorInfo:
        """The shape and type a tensor will have before its patches."""
        if name in self.replaced:
            return self.replaced[name].info(name)
        if name in self.added:
            return self.added[name].info(name)
        return self.base.store[self.copied.get(name, name)]

    def describe(self, name: str) -> str:
        """What happens to a tensor, in a few words."""
        steps = ["taken from the adapter"] if name in self.replaced else ["new"] if name in self.added else []
        steps += ["copied from the embedding"] if name in self.copied else []
        return " + ".join([*steps, *(patch.label for patch in self.patches.get(name, ()))])

    @property
    def touched(self) -> Iterable[str]:
        """Every tensor that will not be the base's own bytes."""
        return {**self.replaced, **self.added, **dict.fromkeys(self.copied), **self.patches}

    def untie(self, head: str, source: Source | None = None) -> str:
        """Give a tied model an output head of its own (``source``, else a copy of the base's embedding); its name."""
        if head in self.base.store:
            self.head_dirty = True
            if source is not None:
                self.replace(head, source)
        elif source is not None:
            self.added[head] = source
        elif self.base.embedding is None:
            raise MismatchError(f"{self.base.path}: no embedding to take the output head {head!r} from")
        elif head not in self.added:
            self.copied[head] = self.base.embedding
        self.untied_head = head
        self.note(
            f"the base ties its output head to its embedding and the adapter changes one of them alone: "
            f"the merged model stores {head} of its own, and tie_word_embeddings becomes false"
        )
        return head

    @property
    def unties(self) -> bool:
        """Whether the merged model's head is no longer its embedding."""
        return self.untied_head is not None or self.head_dirty
