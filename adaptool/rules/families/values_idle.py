"""VAL010–VAL019: what does nothing, and what undoes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from adaptool.rules.draft import VOCABULARY, WIDTH, Draft, Q, numbers, tensors
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.untrained import MULTIPLIERS, ModuleState, and_more, is_neutral, module_states, trained
from adaptool.summary.contents import Saved

MAGNITUDE = re.compile(r"lora_magnitude_vector(?:\.weight)?")


def _middle(draft: Draft) -> None:
    """A third layer, and the second untrained."""
    for key in [key for key in draft.tensors if ".layers.1." in key]:
        draft.tensors[key.replace(".layers.1.", ".layers.2.")] = numbers(draft.tensors[key].shape, len(draft.tensors))
        if ".lora_B." in key:
            draft.tensors[key] = np.zeros_like(draft.tensors[key])


def _head(draft: Draft) -> None:
    """A head saved along, and empty."""
    draft.config["modules_to_save"] = ["lm_head"]
    draft.tensors["base_model.model.lm_head.weight"] = np.zeros((VOCABULARY, WIDTH), np.float32)


def with_magnitudes(value: float) -> Callable[[Draft], object]:
    """DoRA, whose first magnitude is ``value`` all over."""

    def mutate(draft: Draft) -> None:
        draft.config["use_dora"] = True
        for key in [key for key in draft.tensors if ".lora_B." in key]:
            magnitude = abs(numbers((draft.tensors[key].shape[0],), 7)) + 0.5
            draft.tensors[key.replace("lora_B.weight", "lora_magnitude_vector")] = magnitude
        draft.tensors[f"{Q}.lora_magnitude_vector"] = np.full(WIDTH, value, np.float32)

    return mutate


ALL_ZERO_KILLS = re.compile(rf"{MULTIPLIERS.pattern}|{MAGNITUDE.pattern}|hra_u|ln_tuning_layers\.weight")
"""Parts that multiply the output, or that are divided by their own norm."""


@rule("VAL010", "error", "the adapter does nothing", needs=("adapter", "values"), breaks=tensors(lora_B=np.zeros_like))
def does_nothing(subject: Subject) -> Iterator[Problem]:
    """PEFT begins most adapters as an identity: LoRA's B is all zeros, an IA³ vector all ones. Where all of them are
    still so, loading the adapter serves the base's own output, and nothing says so. It was saved before training, its
    gradients never arrived, or it was saved under ZeRO-3 or FSDP without gathering the parameters.

    Fix: save the adapter again after training; under ZeRO-3 gather the parameters first
    (stage3_gather_16bit_weights_on_model_save).
    """
    states, own = module_states(subject), trained(subject)
    zero = [saved for saved in own if is_neutral(saved, subject.statistics.tensors[saved.key.text])]
    if not own or not (all(state.off for state in states) if states else len(zero) == len(own)):
        return
    off = [saved for state in states for saved in state.off] or zero
    empty = len(zero) == len(own) and len({saved.key.part for saved in own}) > 1 and _value(off) == "all zeros"
    what = f"every trained tensor ({len(own)}) is" if empty else f"{_parts(off)} in every module ({len(states)})"
    why = "an empty save" if empty else "as before training"
    yield Problem(
        f"{what} {_value(off)}, {why}: the adapter does nothing{_but(subject)}", subject.weights_name,
        tensors=tuple(saved.key.text for saved in off),
    )  # fmt: skip


@rule("VAL011", "warning", "modules that do nothing", needs=("adapter", "values"), breaks=_middle)
def idle_modules(subject: Subject) -> Iterator[Problem]:
    """A module that is as it was before training, among others that are trained. Harmless where no gradient could
    reach it (info): the pooler of an embedding model, a vision tower in text-only training, experts no token met, the
    layers behind the one that is read. Between trained layers of the same make it is a sign of damage: a gradient
    reached those through it.

    Fix: if it is not meant, save the adapter again; if it is, leave those modules out of target_modules.
    """
    states = module_states(subject)
    idle = [state for state in states if state.off]
    if not idle or len(idle) == len(states) or subject.peft_type == "ADALORA":  # its pruning empties modules
        return
    spans = _trained_spans(states)
    damaged = [state for state in idle if _between_trained(state, spans)]
    unreached = [state for state in idle if not _between_trained(state, spans)]
    cases: tuple[tuple[list[ModuleState], Severity, str], ...] = (
        (damaged, "warning", " between layers that are trained"),
        (unreached, "info", ""),
    )
    for some, severity, where in cases:
        if some:
            off = [saved for state in some for saved in state.off]
            yield Problem(
                f"{len(some)} of {len(states)} modules do nothing{where}: {_parts(off)} {_value(off)} "
                f"in {some[0].name}{and_more(some)}",
                subject.weights_name, tensors=tuple(saved.key.text for saved in off),
                severity=severity,
            )  # fmt: skip


@rule("VAL012", "warning", "a whole matrix of zeros", needs=("adapter", "values"), breaks=_head)
def zero_matrix(subject: Subject) -> Iterator[Problem]:
    """A full tensor in the adapter replaces the base's. One of zeros replaces a head or an embedding by nothing.

    Fix: save the adapter again; under ZeRO-3 gather modules_to_save too.
    """
    zero = [
        saved
        for saved in subject.saved
        if saved.role in ("copy", "carried", "undeclared") and len(saved.info.shape) > 1
        and (moments := subject.statistics.tensors.get(saved.key.text)) is not None and moments.constant == 0
    ]  # fmt: skip
    if zero:
        keys = tuple(saved.key.text for saved in zero)
        yield Problem(f"{keys[0]}{and_more(keys)} is all zeros", subject.weights_name, tensors=keys)


@rule("VAL013", "error", "a multiplier of zeros", needs=("adapter", "values"), breaks=with_magnitudes(0.0))
def zero_multiplier(subject: Subject) -> Iterator[Problem]:
    """IA³'s and BOFT's vectors, DoRA's magnitudes and trained norms multiply what a layer puts out: all zeros switch
    the layer off. HRA divides by its vectors' norms: zeros become NaN.

    Fix: save the adapter again; the save was cut off, or the parameters were not gathered (ZeRO-3, FSDP).
    """
    tensors = subject.statistics.tensors
    keys = tuple(
        saved.key.text
        for saved in trained(subject)
        if ALL_ZERO_KILLS.fullmatch(saved.key.part) and tensors[saved.key.text].constant == 0
    )
    if keys:
        yield Problem(f"{keys[0]}{and_more(keys)} is all zeros, and multiplies", subject.weights_name, tensors=keys)


@rule("VAL014", "info", "DoRA magnitudes that are not positive", needs=("adapter", "values"),
      breaks=with_magnitudes(-0.5))  # fmt: skip
def odd_magnitudes(subject: Subject) -> Iterator[Problem]:
    """A magnitude begins as the norm of its row of the base's weight. One below zero turns the row round, which
    training rarely means; one of exactly zero removes the row.

    Fix: compare with an earlier checkpoint; a lower learning rate keeps magnitudes where they belong.
    """
    tensors = subject.statistics.tensors
    odd = {
        saved.key.text: tensors[saved.key.text]
        for saved in trained(subject)
        if MAGNITUDE.fullmatch(saved.key.part) and tensors[saved.key.text].constant != 0
        and (tensors[saved.key.text].smallest < 0 or tensors[saved.key.text].zeros)
    }  # fmt: skip
    if odd:
        first = next(iter(odd))
        yield Problem(
            f"{first}{and_more(odd)} has magnitudes down to {odd[first].smallest:.3g}, {odd[first].zeros} of them zero",
            subject.weights_name, tensors=tuple(odd),
        )  # fmt: skip


Kind = tuple[str, str, frozenset[str]]
"""Stack, name of the module in its layer, and names of all modules in the layer."""


def _between_trained(state: ModuleState, spans: Mapping[str, tuple[int, int]]) -> bool:
    """Whether layers before and after, with the same modules in them, are trained there."""
    first, last = spans.get(state.name, (0, 0))
    return state.place.layer is not None and first < state.place.layer < last and "expert" not in state.name


def _trained_spans(states: Sequence[ModuleState]) -> Mapping[str, tuple[int, int]]:
    """By module: the first and the last layer in which its like is trained."""
    layers: dict[tuple[str, int | None], set[str]] = {}
    for state in states:
        layers.setdefault((state.place.stack, state.place.layer), set()).add(state.place.name)
    made_of = {layer: frozenset(names) for layer, names in layers.items()}
    kinds = {
        state.name: (state.place.stack, state.place.name, made_of[state.place.stack, state.place.layer])
        for state in states
    }
    trained_in: dict[Kind, list[int]] = {}
    for state in states:
        if not state.off and state.place.layer is not None:
            trained_in.setdefault(kinds[state.name], []).append(state.place.layer)
    spans = {kind: (min(layers), max(layers)) for kind, layers in trained_in.items()}
    return {name: spans[kind] for name, kind in kinds.items() if kind in spans}


def _but(subject: Subject) -> str:
    """What acts all the same, being no update of a module."""
    acting = [saved for saved in subject.saved if saved.role in ("copy", "unfrozen") or
              saved.key.part.startswith(("token_adapter.", "lora_magnitude"))]  # fmt: skip
    return f", but for {acting[0].key.text}{and_more(acting)}" if acting else ""


def _parts(off: Sequence[Saved]) -> str:
    """ "lora_A and lora_B are"."""
    names = sorted({saved.key.part.removesuffix(".weight") for saved in off})
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _value(off: Sequence[Saved]) -> str:
    ones = [MULTIPLIERS.fullmatch(saved.key.part) is not None for saved in off]
    return "all ones" if all(ones) else "all zeros and ones" if any(ones) else "all zeros"
