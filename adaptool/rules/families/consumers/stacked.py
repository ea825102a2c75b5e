"""What LoRAX and TGI share: one stack of factors per projection, over all layers, padded to the kernel's ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from adaptool.adapters.names import projection_of
from adaptool.rules.families.consumers.facts import CONSUMERS, Wrapped, about, and_more, wrapped
from adaptool.rules.finding import Problem
from adaptool.rules.subject import Subject
from adaptool.summary.contents import place_of

ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""In which they are loaded; others follow."""

SMALLEST, BLOCK, LARGEST = 8, 16, 128
"""Ranks below 8 are padded to 8, others to multiples of 16; beyond 128 the fast kernels do not go."""

MOST_MISSING = 128
"""Layers of one projection: more than any model has."""

Served = Callable[[Wrapped], bool]


def padded(rank: int) -> int:
    """The rank the kernels see, on one GPU."""
    return SMALLEST if rank <= SMALLEST else -(-rank // BLOCK) * BLOCK


def stacks(subject: Subject, served: Served) -> dict[tuple[str, str], dict[int, Wrapped]]:
    """(stack of layers, module's name in a layer) → layer → module, of what is served."""
    found: dict[tuple[str, str], dict[int, Wrapped]] = {}
    for one in wrapped(subject):
        place = place_of(one.module)
        if served(one):  # an output head is a stack of one
            found.setdefault((place.stack, place.name), {})[place.layer or 0] = one
    return found


def complete(subject: Subject, served: Served) -> list[dict[int, Wrapped]]:
    """The projections that have a LoRA in every layer, in the order they are loaded."""
    found = stacks(subject, served)
    depth = _depths(subject, found)
    kept = [(name, layers) for (stack, name), layers in found.items() if not _missing(depth[stack], layers)]
    return [layers for _, layers in sorted(kept, key=lambda pair: _position(pair[0]))]


def _position(name: str) -> int:
    last = projection_of(name)
    return ORDER.index(last) if last in ORDER else len(ORDER)


def _depths(subject: Subject, found: dict[tuple[str, str], dict[int, Wrapped]]) -> dict[str, int]:
    """How many layers each stack has: in the base where it is there, else up to the last one adapted."""
    from adaptool.summary.coverage import layers_of

    depths: dict[str, int] = {}
    for (stack, _), layers in found.items():
        depths[stack] = max(depths.get(stack, 0), max(layers) + 1)
    for stack, seen in depths.items() if subject.base is not None else ():
        depths[stack] = max(seen, (layers_of(subject.base, stack) if subject.base and stack else None) or 0)
    return depths


def _missing(depth: int, layers: dict[int, Wrapped]) -> list[int]:
    """Layers of a stack without this projection, the first ones: a name can have any number in it."""
    return list(islice((layer for layer in range(depth) if layer not in layers), MOST_MISSING))


def gaps(subject: Subject, consumer: str, served: Served) -> Iterator[Problem]:
    """Projections missing in a layer: the whole stack is dropped."""
    found = stacks(subject, served)
    depth = _depths(subject, found)
    for (stack, name), there in found.items():
        layers = {layer: one for layer, one in there.items() if one.a is not None and one.b is not None}
        missing = _missing(depth[stack], layers)
        if missing and layers:
            keys = tuple(key for one in layers.values() for key in one.keys)
            yield Problem(
                f"{name} has no LoRA in layer {missing[0]} of {stack}{and_more(missing, 'layers')}, so "
                f"{CONSUMERS[consumer].title} drops it from the {len(layers)} where it has one",
                subject.weights_name, tensors=keys,
            )  # fmt: skip


def padded_ranks(subject: Subject, consumer: str, served: Served) -> Iterator[Problem]:
    """A rank that is padded: after the first projection, lora_alpha is divided by the padded rank."""
    kept = complete(subject, served)
    if len(kept) < 2:
        return
    first = kept[0][min(kept[0])]
    if not first.rows or padded(first.rows) == first.rows:
        return
    later = [one for layers in kept[1:] for one in layers.values()]
    keys = tuple(key for one in later for key in one.keys)
    yield Problem(
        f"rank {first.rows} is padded to {padded(first.rows)}, by which {CONSUMERS[consumer].title} then divides "
        f"lora_alpha: {later[0].name}{and_more(later)} gets {first.rows / padded(first.rows):.3g} of its update",
        "adapter_config.json", "r", keys,
    )  # fmt: skip


def uneven(subject: Subject, consumer: str, served: Served) -> Iterator[Problem]:
    """One projection with different ranks in different layers: they cannot be stacked."""
    for layers in stacks(subject, served).values():
        ranks = {padded(one.rows): one for one in layers.values() if one.rows}
        if len(ranks) > 1:
            one, other = list(ranks.values())[:2]
            keys = tuple(key for module in layers.values() for key in module.keys)
            message = (
                f"{one.name} has rank {one.rows} and {other.name} rank {other.rows}: "
                f"{CONSUMERS[consumer].title} cannot stack them"
            )
            yield Problem(message, subject.weights_name, tensors=keys)


def unserved(subject: Subject, consumer: str, served: Served) -> Iterator[Problem]:
    """Modules the runtime has no place for."""
    lost: Sequence[Wrapped] = [one for one in wrapped(subject) if not served(one)]
    if lost:
        yield about(subject, lost, f"{CONSUMERS[consumer].title} leaves out {lost[0].name}{and_more(lost)}")


def large_rank(subject: Subject, consumer: str) -> Iterator[Problem]:
    """Beyond the fast kernels."""
    large = [one for one in wrapped(subject) if one.name == one.module and one.rows > LARGEST]
    if large:
        message = f"{large[0].name} has rank {large[0].rows}{and_more(large)}; the fast kernels end at {LARGEST}"
        yield Problem(message, "adapter_config.json", "r")
