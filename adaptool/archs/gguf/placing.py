"""From a checkpoint's tensors to a GGUF's: every tensor is placed, dropped by name, or an error."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placed import Placed
from adaptool.archs.gguf.spec import ArchSpec, Shape, Tensor
from adaptool.errors import MismatchError, UnsupportedError

EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight$")
"""One expert's matrix; GGUF holds a layer's experts as one tensor of three axes."""


def place(spec: ArchSpec, shapes: Mapping[str, Shape], hparams: Hparams) -> tuple[Placed, ...]:
    """What the GGUF of a checkpoint with tensors of these ``shapes`` holds, in the checkpoint's order.

    Raises UnsupportedError for a tensor the architecture has no place for, MismatchError where experts are missing or
    two tensors want one place.
    """
    result = tuple(_placed(spec, shapes, hparams))
    taken: dict[str, Placed] = {}
    for one in result:
        if (other := taken.setdefault(one.name, one)) is not one:
            raise MismatchError(f"{one.sources[0]} and {other.sources[0]} are both {one.name} in a GGUF")
    return result


def _placed(spec: ArchSpec, shapes: Mapping[str, Shape], hparams: Hparams) -> Iterator[Placed]:
    names = name_map(spec.name, hparams.layers)
    wanted = {source: name for source in shapes if not spec.compiled_dropped.search(name := spec.normalised(source))}
    experts = {name: found for name in wanted.values() if (found := EXPERT.match(name))}
    waiting = Counter(found[1] for found in experts.values())
    stacks: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for source, name in wanted.items():
        if found := experts.get(name):
            module = found[1]
            stacks[module][found[3]][int(found[2])] = source
            waiting[module] -= 1
            if not waiting[module]:
                for matrix, members in sorted(stacks.pop(module).items()):
                    yield _stacked(names, f"{module}.{matrix}.weight", members, shapes, spec)
            continue
        tensor = Tensor(name, source, shapes[source])
        rule = next((rule for pattern, rule in spec.compiled_rules if pattern.match(name)), None)
        for placed in rule(tensor, hparams) if rule else (Placed(name, tensor.shape, (source,)),):
            yield placed.renamed(_mapped(names, placed.name, source, spec))


def _stacked(names: Any, name: str, members: Mapping[int, str], shapes: Mapping[str, Shape], spec: ArchSpec) -> Placed:
    count = len(members)
    if set(members) != set(range(count)):
        missing = min(set(range(max(members) + 1)) - set(members))
        raise MismatchError(f"{name}: expert {missing} of {max(members) + 1} is missing")
    sources = tuple(members[number] for number in range(count))
    if len({shapes[source] for source in sources}) > 1:
        raise MismatchError(f"{name}: the experts are not all of one shape")
    return Placed(_mapped(names, name, sources[0], spec), (count, *shapes[sources[0]]), sources)


def _mapped(names: Any, name: str, source: str, spec: ArchSpec) -> str:
    mapped: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if mapped is None:
        raise UnsupportedError(f"{source}: {spec.name} has no such tensor in a GGUF")
    return mapped


@lru_cache(8)
def name_map(arch: str, layers: int) -> Any:
    """``gguf.TensorNameMap`` of an architecture: what checkpoints call a tensor → what llama.cpp does."""
    import gguf

    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    return gguf.get_tensor_name_map(number, layers)
