"""TEN020–TEN049: LoRA's factors against each other and against what the config declares of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from adaptool.adapters.tuners.embeddings import token_indices
from adaptool.adapters.tuners.lora import block_counts
from adaptool.adapters.tuners.shapes import check_module_shapes
from adaptool.errors import MismatchError
from adaptool.rules.draft import PREFIX as ROOT
from adaptool.rules.draft import RANK, WIDTH, Draft, Q, extra, fields, numbers, tensors, together
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.leftovers import first_of
from adaptool.summary.contents import PAIRS, LowRankModule, orphans, runtime_name

UNGATHERED = "gather the shards before saving (ZeRO-3: stage3_gather_16bit_weights_on_model_save), and save again"
TOKENS = "token_adapter.trainable_tokens_delta"
EMBED = f"{ROOT}model.embed_tokens"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"

Fault = Literal["matrix", "turned", "ranks", "experts"]
"""matrix: not two matrices. turned: the rank is on the wrong axis. ranks: the two differ. experts: no whole number."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of one module by their saved keys, with their shapes and the rank declared for them."""

    module: str
    a: str
    b: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    declared: int
    fault: Fault | None

    def __str__(self) -> str:
        return f"{self.module} (A {list(self.a_shape)}, B {list(self.b_shape)})"


def pairs(subject: Subject) -> tuple[Pair, ...]:
    """Every module's factors, and what is wrong with their shapes; none for PEFT types other than LoRA."""
    return subject.once("pairs", lambda: tuple(_pairs(subject)) if subject.peft_type == "LORA" else ())


def _pairs(subject: Subject) -> Iterator[Pair]:
    adapter, config = subject.adapter, subject.config
    infos, broken = adapter.store.infos, set(subject.misshapen)
    for module, parts in adapter.modules.items():
        for a_part, b_part in PAIRS:
            if a_part in parts and b_part in parts:
                a, b = parts[a_part], parts[b_part]
                name = runtime_name(module, config)
                shapes, rank = (infos[a].shape, infos[b].shape), config.rank_of(name)
                blocks = block_counts(module, config)[1]
                experts = name != module.replace(".base_layer", "")
                fault = _fault(*shapes, rank, blocks, experts=experts) or ("experts" if a in broken else None)
                yield Pair(name, a, b, *shapes, rank, fault)


def _fault(a: tuple[int, ...], b: tuple[int, ...], rank: int, blocks: int, *, experts: bool) -> Fault | None:
    """A is (r, in, …) and B (out, r, …): a rank above both widths, or on the other axis, is a factor turned round."""
    if len(a) < 2 or len(b) < 2 or 0 in a or 0 in b:
        return "matrix"
    fits = a[0] == b[1] * blocks
    if fits and (experts or a[0] == rank or a[0] <= min(math.prod(a[1:]), b[0])):
        return None
    turned_a, turned_b = a[1] == rank != a[0], b[0] == rank != b[1]
    if turned_a or turned_b or (a[1] == b[0] < min(a[0], b[1])):
        return "turned"
    return None if fits else "ranks"


def _faulty(subject: Subject, fault: Fault) -> tuple[list[Pair], tuple[str, ...]]:
    found = [pair for pair in pairs(subject) if pair.fault == fault]
    return found, tuple(key for pair in found for key in (pair.a, pair.b))


@rule("TEN020", "error", "half a pair of factors", needs=("adapter",), breaks=lambda draft: draft.tensors.pop(B))
def half_a_pair(subject: Subject) -> Iterator[Problem]:
    """A factor without its other half does nothing: PEFT fills in a fresh one, whose product with it is no update.

    Fix: save the adapter again; the save was cut off or filtered.
    """
    if subject.peft_type == "LORA" and (alone := orphans(subject.adapter)):
        yield Problem(
            f"{len(alone)} factors have no other half: {first_of(alone)}", subject.weights_name, tensors=alone
        )


@rule("TEN021", "error", "factors that are no matrices", needs=("adapter",),
      breaks=tensors(lora_B=lambda B: B.reshape(-1)[:0]))  # fmt: skip
def no_matrices(subject: Subject) -> Iterator[Problem]:
    """Under ZeRO-3 or FSDP each process holds a piece: saved ungathered, tensors are empty or flat, the training lost.

    Fix: gather the shards before saving, and save again.
    """
    empty = [t.key.text for t in subject.saved if not t.info.size and subject.peft_type != "ADALORA"]
    flat = [key for p in pairs(subject) if p.fault == "matrix"
            for key, shape in ((p.a, p.a_shape), (p.b, p.b_shape)) if len(shape) < 2]  # fmt: skip
    keys = tuple(dict.fromkeys([*empty, *flat]))
    if keys:
        shape = list(subject.store[keys[0]].shape)
        yield Problem(
            f"{len(keys)} of {len(subject.store)} tensors are empty or no matrices: {first_of(keys)}, which is {shape}",
            subject.weights_name, tensors=keys, fix=UNGATHERED,
        )  # fmt: skip


@rule("TEN022", "error", "lora_A and lora_B of different ranks", needs=("adapter",),
      breaks=lambda draft: draft.tensors.update({B: numbers((WIDTH, RANK + 2), 5)}))  # fmt: skip
def two_ranks(subject: Subject) -> Iterator[Problem]:
    """A is (r, in) and B is (out, r): where the two r differ there is no product, and every library fails on loading.

    Fix: save it again, or take both factors from the same checkpoint.
    """
    found, keys = _faulty(subject, "ranks")
    if found:
        yield Problem(
            f"the two factors differ in rank in {first_of([str(pair) for pair in found])}", subject.weights_name,
            tensors=keys,
        )  # fmt: skip


def _turned(draft: Draft) -> None:
    draft.tensors[A], draft.tensors[B] = draft.tensors[B], draft.tensors[A]


@rule("TEN023", "error", "lora_A and lora_B swapped or transposed", needs=("adapter",), breaks=_turned)
def turned_round(subject: Subject) -> Iterator[Problem]:
    """PEFT keeps A as (r, in) and B as (out, r); with the rank on the other axis the product is another matrix.

    On square layers such factors even multiply, and give nonsense.

    Fix: exchange the two factors where they are swapped, transpose them where they come from a tool that keeps (in, r).
    """
    found, keys = _faulty(subject, "turned")
    if found:
        first = found[0]
        yield Problem(
            f"the rank {first.declared} is on the wrong axis in {first_of([str(pair) for pair in found])}",
            subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN024", "error", "another rank than the config declares", needs=("adapter",), breaks=fields(r=2 * RANK))
def undeclared_rank(subject: Subject) -> Iterator[Problem]:
    """The scale is alpha/r with the declared r: whoever trusts the config scales these updates wrongly.

    PEFT fails on loading; runtimes that take the rank from the weights and alpha/r from the config are silently wrong.

    Fix: set r, or an entry of rank_pattern, to the rank in the weights.
    """
    faulty = {key for pair in pairs(subject) if pair.fault for key in (pair.a, pair.b)}
    groups: dict[tuple[int, int], list[LowRankModule]] = {}
    for module in subject.low_rank:
        if module.rank != module.declared_rank and module.factors[0].a not in faulty:
            groups.setdefault((module.rank, module.declared_rank), []).append(module)
    for (rank, declared), modules in groups.items():
        ratio = math.sqrt(rank / declared) if subject.config.flag("use_rslora") else rank / declared
        whole = len(groups) == 1 and len(modules) == len(subject.low_rank)
        where = "rank_pattern" if not whole or subject.fields.get("rank_pattern") else "r"
        yield Problem(
            f"{len(modules)} of {len(subject.low_rank)} modules have rank {rank} and the config declares {declared}, "
            f"which scales them ×{ratio:.3g}: {first_of([module.name for module in modules])}",
            subject.weights_name, tensors=tuple(key for m in modules for key in (m.factors[0].a, m.factors[0].b)),
            fix=f"set {where} to {rank}" + (" for these modules" if where == "rank_pattern" else ""),
        )  # fmt: skip
    uneven, keys = _faulty(subject, "experts")
    if uneven:
        first = uneven[0]
        yield Problem(
            f"{first} holds {first.a_shape[0]} rows, no multiple of the declared rank {first.declared}",
            subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("TEN025", "error", "a part of a shape no LoRA has", needs=("adapter",),
      breaks=together(fields(use_dora=True), lambda draft: [
          extra(key.replace("lora_A.weight", "lora_magnitude_vector"), 7)(draft)
          for key in list(draft.tensors) if "lora_A" in key]))  # fmt: skip
def odd_shapes(subject: Subject) -> Iterator[Problem]:
    """A magnitude or bias has one number per output, a diagonal one per rank, a convolution's B ends in 1 × 1.

    Fix: save it again; the file is damaged, or a tool has cut it wrongly.
    """
    if subject.peft_type != "LORA":
        return
    faulty = {pair.a for pair in pairs(subject) if pair.fault}
    wrong: dict[str, tuple[str, ...]] = {}
    infos, right = subject.store.infos, set[tuple[tuple[str, tuple[int, ...]], ...]]()
    for module, parts in subject.adapter.modules.items():
        shapes = tuple((part, infos[key].shape) for part, key in parts.items())
        if shapes in right:
            continue
        if faulty.isdisjoint(parts.values()) and not any(0 in shape for _, shape in shapes):
            try:
                check_module_shapes(subject.adapter, module, parts)
                right.add(shapes)
            except MismatchError as error:
                wrong[error.message.removeprefix(f"{subject.adapter.path}: ")] = tuple(parts.values())
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        keys = tuple(key for found in wrong.values() for key in found)
        yield Problem(f"{next(iter(wrong))}{more}", subject.weights_name, tensors=keys)


PROMISED = (
    ("use_dora", "lora_magnitude_vector", ("lora_A.weight", "lora_embedding_A")),
    ("kasa_config", "lora_diag", ("lora_A.weight",)),
    ("lora_bias", "lora_B.bias", ("lora_B.weight",)),
)
"""A field, the part that every module must then have, and the parts by which it is such a module."""


@rule("TEN026", "error", "a variant without its tensors", needs=("adapter",), breaks=fields(use_dora=True))
def lost_parts(subject: Subject) -> Iterator[Problem]:
    """DoRA without magnitudes, lora_bias without biases: PEFT fills in fresh ones, and what was trained is lost.

    Fix: save it again with all its tensors; if it was never trained so, unset the field.
    """
    if subject.peft_type != "LORA":
        return
    for field, part, owners in PROMISED:
        value = subject.fields.get(field)
        if value is None or value is False:
            continue
        wrapped = {m: p for m, p in subject.adapter.modules.items() if any(owner in p for owner in owners)}
        lacking = [module for module, parts in wrapped.items() if not any(found.startswith(part) for found in parts)]
        if lacking:
            keys = tuple(wrapped[module][owner] for module in lacking for owner in owners if owner in wrapped[module])
            yield Problem(
                f"{field} is set, and {len(lacking)} of {len(wrapped)} modules have no {part}: {first_of(lacking)}",
                subject.weights_name, field, keys,
            )  # fmt: skip


@rule("TEN027", "error", "trained tokens that do not add up", needs=("adapter",),
      breaks=together(fields(trainable_token_indices=[1, 2]), extra(f"{EMBED}.{TOKENS}", 3, WIDTH)))  # fmt: skip
def token_rows(subject: Subject) -> Iterator[Problem]:
    """Row i of the saved rows is token i of the list: with another count, or a token twice, rows land on wrong tokens.

    Fix: set trainable_token_indices to the list that was trained, in its order.
    """
    if subject.peft_type != "LORA":
        return
    saved = {m: p[TOKENS] for m, p in subject.adapter.modules.items() if TOKENS in p}
    field = "trainable_token_indices"
    if subject.fields.get(field) and not saved:
        yield Problem(f"{field} is set and no trained rows are saved", subject.weights_name, field)
    for module, key in saved.items():
        rows, indices = (*subject.store[key].shape, 0)[0], token_indices(subject.config, module)
        if indices is None:
            if subject.fields.get(field):
                yield Problem(f"{field} names no list of tokens for {module}", subject.weights_name, field, (key,))
            continue
        faults = [f"{rows} rows for {len(indices)} tokens"] if rows != len(indices) else []
        twice = sorted({index for index in indices if indices.count(index) > 1})
        faults += [f"token {twice[0]} twice"] if twice else []
        faults += [f"a negative token, {min(indices)}"] if indices and min(indices) < 0 else []
        if faults:
            yield Problem(f"{key} has {', '.join(faults)}", subject.weights_name, field, (key,))
